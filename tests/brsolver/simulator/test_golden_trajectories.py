"""Two thousand runs in all regimes, to the last bit as they were when recorded.

The figures are of the code before it was restructured. Energies are left out: the power function
differs between C libraries.
"""

from __future__ import annotations

import pytest
from golden_runs import RUNS, Run, draw, outcome, recorded

CHUNKS = 24
_SHOWN = 5


def test_every_run_is_on_record() -> None:
    assert list(recorded()) == list(range(RUNS))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_runs_are_what_they_were(chunk: int) -> None:
    expected = recorded()
    changed = []
    for number in range(RUNS * chunk // CHUNKS, RUNS * (chunk + 1) // CHUNKS):
        run = draw(number)
        found = outcome(run)
        if found != expected[number]:
            changed.append(_difference(run, expected[number], found))
    shown = "\n\n".join(changed[:_SHOWN])
    assert not changed, f"{len(changed)} runs of this chunk are others now:\n\n{shown}"


def _difference(run: Run, expected: tuple[str, str], found: tuple[str, str]) -> str:
    if "" in (expected[1], found[1]):
        parts = ["whether, or what, it raises"]
    else:
        names = ("integer trajectory", "times in seconds")
        parts = [name for name, a, b in zip(names, expected, found, strict=True) if a != b]
    return f"{' and '.join(parts)}: {expected} became {found} in\n{run!r}"
