"""What oracles give, as bytes and back again, and campaigns whose rows have it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from brsolver.campaign import FAILED, run_campaign
from brsolver.executors import executor_of
from brsolver.executors.inline import InlineExecutor
from brsolver.results.kept import from_bytes, kinds_of, to_bytes
from brsolver.results.result import SimulationResult

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.campaign import Campaign
    from brsolver.campaign.run import Progress
    from brsolver.executors import ExecutorParams
    from brsolver.results.kept import Kinds
    from brsolver.simulator.params import SimulationParams

RESULT = "result"
"""Column of all that was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a cell gave.

    Attributes
    ----------
    value : object or None
        Unpacked.
    failure : str or None
        Why there is none.
    """

    value: Any
    failure: str | None


def answers(
    campaign: Campaign,
    *,
    executor: ExecutorParams | None,
    resume: str | Path | None,
    progress: Progress | None,
) -> list[Answer]:
    """Carry out a campaign whose rows have `RESULT`, as `packed` made it.

    Parameters
    ----------
    campaign : Campaign
    executor : ExecutorParams or None
        None is this process, one cell after the other.
    resume, progress
        As of `brsolver.campaign.run_campaign`.

    Returns
    -------
    list of Answer
        In the order of the cells.
    """
    most = len(campaign.cells)
    where = InlineExecutor() if executor is None else executor_of(executor, most=most)
    table = run_campaign(campaign, resume, executor=where, progress=progress)
    # Where all failed there is none.
    names = [name for name in (RESULT, FAILED) if name in table.column_names]
    return [
        Answer(
            value=None if row[FAILED] is not None else unpacked(row[RESULT]), failure=row[FAILED]
        )
        for row in table.select(names).to_pylist()
    ]


@lru_cache(maxsize=1)
def _kinds() -> Kinds:
    from brsolver.oracles._goal import Bounds
    from brsolver.oracles._time_goal import TimeBounds
    from brsolver.oracles._time_hindsight import ShortestRun
    from brsolver.oracles._watching import Watched
    from brsolver.oracles.bounds.as_loads import Totals
    from brsolver.oracles.bounds.rank_prefill import RankPrefill
    from brsolver.oracles.bounds.result import BoundResult, PhaseSplit, Window
    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.oracles.hindsight.result import CurvePoint, HindsightResult
    from brsolver.oracles.result import SolveResult, Status
    from brsolver.oracles.step.instance import StepInstance
    from brsolver.oracles.step.judge import Judgement
    from brsolver.results.logs import LoadSamples, RequestLog, StepLog
    from brsolver.results.metrics import Metrics

    return kinds_of(
        (
            *(SimulationResult, Metrics, RequestLog, StepLog, LoadSamples),
            *(Bounds, BoundResult, PhaseSplit, Window),
            *(TimeBounds, TimeBound, Totals, RankPrefill),
            *(HindsightResult, ShortestRun, CurvePoint, Status),
            *(Watched, StepInstance, Judgement, SolveResult),
        )
    )


def packed(value: Any) -> bytes:
    """Return a part's result as bytes; of a run all but its parameters, which the caller knows."""
    if isinstance(value, SimulationResult):
        value = replace(value, params=None)  # type: ignore[arg-type] # `unpacked` puts them back
    return to_bytes(value, _kinds())


def unpacked(data: bytes, params: SimulationParams | None = None) -> Any:
    """Return what `packed` was given.

    Parameters
    ----------
    data : bytes
    params : SimulationParams, optional
        Of runs.

    Raises
    ------
    ModelError
        The bytes are damaged.
    """
    value = from_bytes(data, _kinds())
    if isinstance(value, SimulationResult) and params is not None:
        return replace(value, params=params)
    return value
