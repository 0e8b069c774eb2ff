"""Parameters of moving running requests from worker to worker, which engines do not offer.

What each field says of itself stands with it: the command line, TOML and reports follow from that
(`brsolver.options`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brsolver._limits import MAX_COUNT, MAX_SECONDS, require, require_number, require_whole
from brsolver.options import CLUSTER, option

if TYPE_CHECKING:
    from brsolver.simulator.prefill import Prefill

MAX_KV_BYTES = 1e9
"""A thousand times what any model has."""


def why_not_moved(prefill: Prefill) -> str:
    """Say why requests whose prompts are computed so cannot be moved; empty if they can."""
    if prefill.cache:
        return "ranks have prefix caches, of which a move would take a request's blocks along"
    if prefill.delayer != "none":
        return f"prefill is held back by {prefill.delayer}, whose rule knows of no moves"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """Moves of running requests between workers, and what a move costs.

    A counterfactual: it tells what is lost because a request stays where it was placed. Every
    `every` steps at most one request moves, from the worker whose running requests load it most
    to the one with a slot that is loaded least: the one whose move lowers the larger of these two
    loads most, if any lowers it. It generates nothing until its KV tokens are there.

    Attributes
    ----------
    every : int
        Steps from one move to the next; 0 is none.
    kv_bytes : float
        Bytes that a KV token takes, keys and values of all layers. The default is
        MiniMax-M2.7's, ``2·62·8·128`` at a byte each (its ``config.json`` and an FP8 cache).
    gb_s : float
        Gigabytes (10^9) per second that pass between two workers. The default is one port of
        400 Gb/s, as servers of H200 have one per GPU.
    setup_ms : float
        Milliseconds that a move takes besides, whatever it moves.
    """

    every: int = field(
        default=0,
        metadata=option(
            "Move a running request to another worker every N steps, which engines do not "
            "offer; 0 is never.",
            label="a running request moves every",
            unit="steps",
            metavar="N",
            panel=CLUSTER,
            flag="migrate-every",
        ),
    )
    kv_bytes: float = field(
        default=126_976.0,
        metadata=option(
            "Bytes of a KV token, all layers; 0 makes moves free.",
            label="KV token that is moved",
            unit="bytes",
            metavar="BYTES",
            panel=CLUSTER,
            flag="migrate-kv-bytes",
        ),
    )
    gb_s: float = field(
        default=50.0,
        metadata=option(
            "GB per second between two workers.",
            label="link between two workers",
            unit="GB/s",
            metavar="X",
            panel=CLUSTER,
            flag="migrate-gb-s",
        ),
    )
    setup_ms: float = field(
        default=0.0,
        metadata=option(
            "Milliseconds of a move besides its transfer.",
            label="move besides its transfer",
            unit="ms",
            metavar="MS",
            panel=CLUSTER,
            flag="migrate-setup-ms",
        ),
    )

    def __post_init__(self) -> None:
        require_whole("every", self.every, 0, MAX_COUNT, " steps")
        require_number("kv_bytes", self.kv_bytes, 0, MAX_KV_BYTES, " bytes")
        require_number("gb_s", self.gb_s, 1e-6, 1e9, " GB/s")
        require_number("setup_ms", self.setup_ms, 0, MAX_SECONDS * 1e3, " ms")

    @property
    def active(self) -> bool:
        """Whether requests move at all."""
        return self.every > 0

    @property
    def token_s(self) -> float:
        """Seconds that a KV token is under way."""
        return self.kv_bytes / (self.gb_s * 1e9)

    @property
    def setup_s(self) -> float:
        """Seconds that a move takes besides."""
        return self.setup_ms / 1000

    def check_prefill(self, prefill: Prefill) -> None:
        """Raise `ParameterError` if requests are to move where that is not modelled."""
        reason = why_not_moved(prefill) if self.active else ""
        require(not reason, f"migration: every is {self.every}, must be 0: {reason}")
