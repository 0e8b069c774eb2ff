"""Hindsight: the best possible run of a whole trace, exactly or between certified bounds."""

from brsolver.oracles.hindsight.anytime import hindsight_anytime
from brsolver.oracles.hindsight.cp_sat import hindsight_cp_sat
from brsolver.oracles.hindsight.dp import dp_reaches, hindsight_dp, partition_count
from brsolver.oracles.hindsight.entry import hindsight
from brsolver.oracles.hindsight.follow import FollowAssignment, Replay, replay
from brsolver.oracles.hindsight.free import hindsight_free
from brsolver.oracles.hindsight.free_search import hindsight_free_search
from brsolver.oracles.hindsight.result import CurvePoint, HindsightResult, Outcome
from brsolver.oracles.hindsight.weights import FreeWeights
from brsolver.oracles.schedule import Schedule, fcfs_schedule

__all__ = [
    "CurvePoint",
    "FollowAssignment",
    "FreeWeights",
    "HindsightResult",
    "Outcome",
    "Replay",
    "Schedule",
    "dp_reaches",
    "fcfs_schedule",
    "hindsight",
    "hindsight_anytime",
    "hindsight_cp_sat",
    "hindsight_dp",
    "hindsight_free",
    "hindsight_free_search",
    "partition_count",
    "replay",
]
