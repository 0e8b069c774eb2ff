"""Shadow routers: what other policies would have cost on the traffic that is served.

Every shadow has a cluster session with a policy of its own and `LiveRanks` as its ranks, the model
that the picker itself has. It lives through the requests that came, at the times at which they
came, on a clock of its own that follows behind: a request is replayed when its length is known,
which is when it has ended. The clock waits for the oldest request that has not, but no longer
than `patience_s`; then that request is replayed without a length and leaves the shadow at its
own, or, if it has had that many tokens there before, as soon as its end is known.

What shadows say is to be compared with each other, the one of the policy that routes among them:
all have the same requests and the same model, and what the model has wrong they have in common.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver._limits import require, require_number
from brsolver.wiring import read_policies
from integration.admin.replay import Replay, Replayed
from integration.picker.events import Ended, Refusal, Requested, Stepped

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.admin.replay import ShadowCluster
    from integration.picker.events import Event

PAUSE_S = 0.05
REST = 0.2
"""How fast the share of a measured step that lasts longer or shorter than modelled is followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowParams:
    """Which routers run in the shadow, and on how much of the processor.

    Attributes
    ----------
    policies : tuple of str
        Besides the one that routes: policies as on the command line.
    share : float
        Of one processor that all shadows together may use, in slices.
    slice_ms : float
        Longest time that they use it at once, but for a single step or decision of one of them.
    window_s : float
        Span of their own clock that figures are of.
    patience_s : float
        Longest wait for a request's length.
    behind_s : float
        With more to catch up than that, a shadow begins anew with what comes.
    """

    policies: tuple[str, ...] = ("vllm", "jsq-load")
    share: float = 0.05
    slice_ms: float = 1.0
    window_s: float = 120.0
    patience_s: float = 60.0
    behind_s: float = 600.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", tuple(self.policies))
        if self.policies:
            read_policies(self.policies)
        require_number("share", self.share, 0.001, 1)
        require_number("slice_ms", self.slice_ms, 0.05, 1_000, " ms")
        require_number("window_s", self.window_s, 1, 3_600, " seconds")
        require_number("patience_s", self.patience_s, 0.1, 3_600, " seconds")
        require_number("behind_s", self.behind_s, 1, 86_400, " seconds")
        require(
            self.behind_s > self.patience_s,
            f"behind_s is {self.behind_s:g}, must be above patience_s, {self.patience_s:g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowFigures:
    """What a shadow router has found, over its window.

    Attributes
    ----------
    policy : str
    routes : bool
        Whether it is the policy that routes.
    requests : int
        That have ended in the window.
    tpot_s, ttft_s : float or None
        Means over these of time per token after the first, and to the first.
    tokens_per_s : float or None
        Output tokens per second in which the ranks stepped.
    lost_share : float or None
        Share of step time lost at the barrier.
    behind_s : float
        How far its clock is behind.
    note : str
        What is to be known besides; empty if nothing is.
    """

    policy: str
    routes: bool
    requests: int
    tpot_s: float | None
    ttft_s: float | None
    tokens_per_s: float | None
    lost_share: float | None
    behind_s: float
    note: str = ""
