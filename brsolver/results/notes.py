"""Notes of many runs as few lines: equal ones once, those that differ in numbers as one range.

And what became of runs that failed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    from brsolver.results.comparison import Comparison

    Holder = TypeVar("Holder")

# Digits that belong to a name, as in minimax-m2.7-h200-dp4, are no number.
_NUMBER = re.compile(r"(?<![\w.:=-])\d[\d,]*(?:\.\d+)?(?![\w-])")


def folded(
    holders: Mapping[str, Sequence[Holder]], place: Mapping[Holder, object]
) -> list[tuple[str, list[Holder]]]:
    """Fold notes of runs in one place that differ in nothing but numbers.

    Parameters
    ----------
    holders : mapping of str to sequence
        By note, the runs that have it.
    place : mapping
        By run, where it stands in the grid, its seed left out.

    Returns
    -------
    list of (str, list)
        Lines, in order of their first note, and the runs that each holds for.
    """
    alike: dict[object, list[str]] = {}
    for note, runs in holders.items():
        where = frozenset(place[run] for run in runs)
        alike.setdefault((_NUMBER.sub("#", note), where), []).append(note)
    return [(merged(notes), [run for n in notes for run in holders[n]]) for notes in alike.values()]


def merged(notes: Sequence[str]) -> str:
    """Write notes that differ in numbers only as one, with ``LOW to HIGH`` where they differ."""
    if len(notes) == 1:
        return notes[0]
    found = [_NUMBER.findall(note) for note in notes]
    spans = iter([_span(values) for values in zip(*found, strict=True)])
    return _NUMBER.sub(lambda _: next(spans), notes[0])


def _span(values: Sequence[str]) -> str:
    ordered = sorted(values, key=lambda text: float(text.replace(",", "")))
    low, high = ordered[0], ordered[-1]
    return low if low == high else f"{low} to {high}"


def failures_told(comparison: Comparison) -> tuple[str, ...]:
    """Say in one line per policy that failed where it did, and why."""
    first = {failure.policy: failure for failure in reversed(comparison.failures)}
    lines = []
    for policy in dict.fromkeys(failure.policy for failure in comparison.failures):
        failed, count = first[policy], sum(f.policy == policy for f in comparison.failures)
        runs = "1 run" if count == 1 else f"{count} runs"
        reason = failed.reason.removeprefix(f"{policy}: ")
        lines.append(
            f"{policy} failed in {runs} and is left out; the first, on "
            f"{_workers(failed.workers)} with seed {failed.seed}: {reason}"
        )
    return tuple(lines)


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"
