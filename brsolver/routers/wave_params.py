"""Parameters of BR-T, apart from the router: the command line needs no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from brsolver._limits import MAX_TIME_S, require_number, require_one_of, require_whole
from brsolver.options import POLICY, Search, option
from brsolver.routers.params import check_patience

_MAX_MS = MAX_TIME_S * 1000.0
MAX_KAPPA = 1e6
"""What `kappa` may be, set or adapted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BRTParams:
    """Parameters of BR-T.

    Attributes
    ----------
    kappa : float
        Seconds of holding, summed over those held, that a second which a wave costs each of
        those that run is worth. 1 minimises the sum of all their delays where slots are short,
        and the sum of delays over durations where they are not; less brings first tokens
        earlier, at the cost of throughput. 0 never holds.
    hold_s : float
        Longest time, in seconds, for which it may hold requests that could run.
    slo_ttft_ms : float or None
        Promised time to the first token: who could still have it in time is held no longer than
        that. None takes what the run or the server promises, if anything.
    slo_tpot_ms : float or None
        Promised time per token after it. With a promised first token holding rises beyond
        `kappa` where it is in danger; without, holding falls below `kappa` as long as it is kept.
        None as above.
    patience : int
        Decode steps after which a waiting request is passed over by nobody: it has a place
        before others, and while it has no room, none is given to these. 0 is no limit.
    growth : {"ramp", "survival"}
        How loads go on from now. ``ramp``: as they are until the next departure. ``survival``: by
        forecasts, every running request with the probability that it still runs, a token longer
        in every step; the weight until the next departure is spread over the steps as BR-H does.
    horizon : int
        Of ``survival``: steps H that are looked ahead.
    """

    kappa: float = field(
        default=1.0,
        metadata=option(
            "Seconds of holding per second that a wave costs those that run; 0 never holds.",
            metavar="X",
            panel=POLICY,
            search=Search(low=0.05, high=20.0, log=True),
        ),
    )
    hold_s: float = field(
        default=30.0,
        metadata=option(
            "Longest time for which requests that could run are held.",
            metavar="S",
            unit="s",
            panel=POLICY,
        ),
    )
    slo_ttft_ms: float | None = field(
        default=None,
        metadata=option(
            "Time to the first token that holding keeps to.",
            unset="as promised by the run",
            metavar="MS|none",
            unit="ms",
        ),
    )
    slo_tpot_ms: float | None = field(
        default=None,
        metadata=option(
            "Time per token beyond which holding rises.",
            unset="as promised by the run",
            metavar="MS|none",
            unit="ms",
        ),
    )
    patience: int = field(
        default=2500,
        metadata=option(
            "Steps after which a waiting request is placed before all others; 0 is no limit.",
            metavar="N",
            panel=POLICY,
        ),
    )

    growth: Literal["ramp", "survival"] = field(
        default="ramp",
        metadata=option(
            "Loads as they are until the next departure, or projected by survival forecasts.",
            panel=POLICY,
            search=Search(choices=("ramp", "survival")),
        ),
    )
    horizon: int = field(
        default=80,
        metadata=option(
            "Steps of projection, of growth survival.",
            metavar="H",
            panel=POLICY,
            search=Search(low=10, high=320, log=True, within=("growth", ("survival",))),
        ),
    )

    def __post_init__(self) -> None:
        require_one_of("growth", self.growth, "ramp", "survival")
        require_whole("horizon", self.horizon, 1, 100_000, " steps")
        require_number("kappa", self.kappa, 0, MAX_KAPPA)
        require_number("hold_s", self.hold_s, 0, MAX_TIME_S, " seconds")
        for name in ("slo_ttft_ms", "slo_tpot_ms"):
            value = getattr(self, name)
            if value is not None:
                require_number(name, value, 1e-3, _MAX_MS, " ms")
        check_patience(self.patience)
