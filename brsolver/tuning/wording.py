"""What came out, in words: for the terminal and the page alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from brsolver.tuning.study import CALLED, PROJECT, PUBLISHED, TUNED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.tuning.goals import Gain
    from brsolver.tuning.result import TuneResult, Validated


def sentences(result: TuneResult) -> tuple[str, ...]:
    """Say what to run, what that is worth, and what is left to gain."""
    return tuple(_sentences(result))


def _sentences(result: TuneResult) -> Iterator[str]:
    chosen = result.chosen
    if chosen is None:
        yield (
            "The search was interrupted, and nothing is validated. What was tried is kept: the "
            "same command goes on with it."
        )
    else:
        yield _verdict(result, chosen)
        if result.goal.name == "goodput" and not chosen.mean(result.goal.metric):
            yield "No request of the later part meets the objectives with it."
        yield from _compared(result)
        yield from _gap(result)
    yield _effort(result)


def _verdict(result: TuneResult, chosen: Validated) -> str:
    if chosen.role == PUBLISHED:
        return f"Keep {CALLED[PUBLISHED]}, {chosen.candidate}: nothing beats it for certain."
    figure = result.goal.told(chosen.gains[PUBLISHED], CALLED[PUBLISHED])
    return f"Run {CALLED[chosen.role]}, {chosen.candidate}: {figure} ({_over(result)})."


def _over(result: TuneResult) -> str:
    starts = len(result.validated[0].figures)
    return f"95 % interval over {starts} starts of the later part, paired"


def _compared(result: TuneResult) -> Iterator[str]:
    """Say how the others fared."""
    for role, other in ((PROJECT, PUBLISHED), (TUNED, PUBLISHED), (TUNED, PROJECT)):
        each = result.by_role(role)
        if each is None or other not in each.gains:
            continue
        if (role, other) == (result.recommended, PUBLISHED):
            continue
        gain = each.gains[other]
        what = f", {each.candidate}" if role != result.recommended and other == PUBLISHED else ""
        figure = result.goal.told(gain, CALLED[other])
        yield f"{CALLED[role].capitalize()}{what}: {figure}{_means(gain)}."
    if result.by_role(TUNED) is None:
        yield "The search found nothing better than the two defaults."


def _means(gain: Gain) -> str:
    if gain.sure or math.isnan(gain.mean):
        return ""
    if gain.high < 0:
        return ", worse for certain"
    return ", an interval with zero in it: not better for certain"


def _gap(result: TuneResult) -> Iterator[str]:
    gap = result.gap
    if gap is None:
        return
    if gap.gap is None:
        yield f"How much is left to gain is not certified: {gap.reason}."
        return
    yield (
        f"On {gap.requests:,} requests of the later part it takes {gap.seconds:,.1f} s, and no run "
        f"less than {gap.lower_bound_s:,.1f} s: no router gets it done more than "
        f"{100 * gap.gap:.1f} % faster with these engines (certified for {gap.valid_for})."
    )
    if not result.base.arrivals.by_events:
        yield "That bound does not know when requests come: by arrivals it is loose."


def _effort(result: TuneResult) -> str:
    counts = result.counts()
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return (
        f"{sum(counts.values())} trials on the first {result.requests[0]:,} requests: "
        f"{counts['complete']} in full, {counts['pruned']} given up on a prefix{failed}; "
        f"{result.spent_s:.0f} s of search, {result.wall_s:.0f} s in all."
    )


def failures_told(result: TuneResult) -> tuple[str, ...]:
    """Name what failed, each policy and reason once."""
    found: dict[tuple[str, str], list[int]] = {}
    for each in result.failures:
        found.setdefault((each.policy, each.reason), []).append(each.number)
    return tuple(
        f"failed: {policy}: {reason}" + (f" ({len(numbers)} trials)" if len(numbers) > 1 else "")
        for (policy, reason), numbers in found.items()
    )
