"""Bounds in seconds of given steps: what routing alone could have saved of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.oracles.bounds import _step_kernels as sk
from brsolver.oracles.bounds.fixed import FixedRuns
from brsolver.oracles.bounds.seconds import experts_seconds
from brsolver.oracles.bounds.time_case import prefill_case, time_bound

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.oracles.bounds.rank_prefill import RankPrefill
    from brsolver.oracles.bounds.seconds import Case, Proofs
    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StepContents:
    """What every step of a run with prefill on the ranks computed, whichever rank did.

    Attributes
    ----------
    prefilled_from, decoded_from : ndarray of int64, shape (n,)
        First step that computed of a request's prompt, and the step after the one that ended
        it. The request decodes from there on, in consecutive steps of those with `decodes`.
    prefill_tokens : ndarray of int64, shape (K,)
        Prefill tokens computed at each step by all ranks.
    decodes : ndarray of bool, shape (K,)
        Whether sequences decode at the step; where they do not, all wait for others' prefill.
    """

    prefilled_from: IntArray
    decoded_from: IntArray
    prefill_tokens: IntArray
    decodes: NDArray[np.bool_]

    @property
    def places(self) -> IntArray:
        """How many steps with `decodes` come before each, and in all, shape (K + 1,)."""
        return np.concatenate(([0], np.cumsum(self.decodes)))


def steps_time_bound(
    trace: Trace,
    prefill: RankPrefill,
    contents: StepContents,
    *,
    workers: int,
    slots: int,
    step_time: StepTime | None = None,
) -> TimeBound:
    """Bound the seconds of the same steps, whichever rank each request is on.

    For a policy's own run it says what *routing* alone could have saved: who is prefilled
    together was decided by when requests were released.

    Parameters
    ----------
    trace : Trace
    prefill : RankPrefill
    contents : StepContents
    workers, slots, step_time
        As in `fcfs_time_bound`.
    """
    began = time.perf_counter()
    _check_contents(trace, contents)
    steps = contents.prefill_tokens.size
    case = prefill_case(trace, prefill, steps, workers, slots, step_time)
    proofs = _contents_proofs(case, contents)
    return time_bound("steps", trace, case, proofs, began, budget=prefill.budget)


def _check_contents(trace: Trace, contents: StepContents) -> None:
    steps = contents.prefill_tokens.size
    late = np.flatnonzero(contents.prefilled_from >= contents.decoded_from)
    if late.size:
        i = int(late[0])
        raise ParameterError(
            f"decoded_from[{i}] is {contents.decoded_from[i]}, must be after its prompt's first "
            f"step, {contents.prefilled_from[i]}"
        )
    if contents.prefilled_from.min() < 0 or contents.decoded_from.max() > steps:
        raise ParameterError(f"decoded_from and prefilled_from must lie within {steps} steps")
    last = int((contents.places[contents.decoded_from] + trace.output_tokens - 1).max())
    if last > contents.places[-1]:
        raise ParameterError(
            f"decoded_from has a request decode {last} steps into the run, must be at most "
            f"{contents.places[-1]}, all that decode"
        )


def _contents_proofs(case: Case, contents: StepContents) -> Proofs:
    m, (whole, part) = case.loads, case.weight
    table = _decoding_table(case, contents, whole)
    prompts = _running(contents.prefilled_from, contents.decoded_from, case.steps)
    tokens = table.work - whole * table.active
    drawn = experts_seconds(m, table.active + contents.prefill_tokens)
    case = replace(case, drawn_s=float(drawn.sum()))
    chunk = m.per_prefill_token * contents.prefill_tokens
    mean = m.per_sequence * table.active + m.per_token * tokens + chunk
    steps = np.maximum.reduce(
        [
            mean / case.workers,
            m.per_token * (table.bound + part * (table.active > 0)),
            m.per_sequence * -(-table.active // case.workers),
            # Of so many prompts one has the largest piece, and one rank computes it.
            chunk / np.maximum(np.minimum(prompts, case.workers), 1),
        ]
    )
    return {
        "total work": case.total_work_s,
        "step by step": case.always_s + float(steps.sum()),
    }


def _decoding_table(case: Case, contents: StepContents, kappa: int) -> sk.StepTable:
    """Return what is known of each step's decoding sequences, K entries each."""
    chosen = np.flatnonzero(case.decodes > 0)
    begin = contents.places[contents.decoded_from]
    order = chosen[np.argsort(begin[chosen], kind="stable")]
    every = sk.StepTable(*(np.zeros(case.steps, np.int64) for _ in range(3)))
    if order.size:
        runs = FixedRuns(
            prompt=case.prompt[order] + case.born + kappa,
            start=begin[order],
            end=begin[order] + case.decodes[order],
            workers=case.workers,
            slots=case.slots,
        )
        _check_room(runs)
        at = np.flatnonzero(contents.decodes)
        for column, known in zip(every, sk.step_table(runs), strict=True):
            column[at[: known.size]] = known
    return every


def _check_room(runs: FixedRuns) -> None:
    most = int(_running(runs.start, runs.end, int(runs.end.max())).max())
    if most > runs.workers * runs.slots:
        raise ParameterError(
            f"decoded_from has {most} requests decode at once, must have at most "
            f"{runs.workers * runs.slots}, one per slot"
        )


def _running(first: IntArray, end: IntArray, steps: int) -> IntArray:
    change = np.bincount(first, minlength=steps + 1) - np.bincount(end, minlength=steps + 1)
    running: IntArray = np.cumsum(change)[:steps]
    return running
