"""Faults that can be switched on per rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from brsolver._limits import require_number, require_one_of, require_whole
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["hang", "slow", "reset", "half-close", "garbage", "error", "die"]
KINDS: tuple[str, ...] = get_args(Kind)
STRIKES = ("reset", "half-close", "garbage")
"""Kinds that spoil an answer under way."""
MAX_TIMES = 2**31


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a rank.

    Attributes
    ----------
    kind : str
        ``hang``: no token of it is handed out until the fault is lifted. ``slow``: its steps, and
        with them those of all ranks, last `factor` times as long. ``reset``, ``half-close``,
        ``garbage``: an answer's connection is reset, closed in the middle of a chunk, or has
        bytes written to it that are no chunk, after `after` tokens. ``error``: requests are
        answered with `status`. ``die``: all that is there is lost, and its own port is closed.
    after : int
        Tokens of an answer before it is spoilt; one without streaming is spoilt at its end.
    times : int
        Answers that are spoilt, or refused, before the fault is over.
    status : int
        From 400 to 599.
    factor : float
        At least 1.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    kind: Kind
    after: int = 0
    times: int = MAX_TIMES
    status: int = 500
    factor: float = 4.0

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, *KINDS)
        require_whole("after", self.after, 0, MAX_TIMES, " tokens")
        require_whole("times", self.times, 1, MAX_TIMES)
        require_whole("status", self.status, 400, 599)
        require_number("factor", self.factor, 1, 1e6)


class Faults:
    """The faults of all ranks, at most one each.

    Attributes
    ----------
    any : bool
        Whether there is one.
    """

    def __init__(self, ranks: int) -> None:
        self._faults: list[Fault | None] = [None] * ranks
        self._left = [0] * ranks
        self.any = False

    def __getitem__(self, rank: int) -> Fault | None:
        return self._faults[rank]

    def set(self, rank: int, fault: Fault | None) -> None:
        """Give a rank a fault, or lift the one that it has."""
        self._faults[rank] = fault
        self._left[rank] = fault.times if fault else 0
        self.any = any(self._faults)

    @property
    def slowness(self) -> float:
        """How many times as long steps last: what the slowest rank says."""
        slow = [fault.factor for fault in self._faults if fault and fault.kind == "slow"]
        return max(slow, default=1.0)

    def hangs(self, rank: int) -> bool:
        """Tell whether nothing of a rank is handed out."""
        fault = self._faults[rank]
        return fault is not None and fault.kind == "hang"

    def refusal(self, rank: int) -> int | None:
        """Return the status that a rank answers a new request with, None for none."""
        fault = self._faults[rank]
        if fault is None or fault.kind not in {"error", "die"}:
            return None
        if fault.kind == "error":
            self._spend(rank)
        return fault.status

    def strike(self, rank: int, tokens: int) -> Fault | None:
        """Return the fault that spoils an answer of so many tokens now, if one does."""
        fault = self._faults[rank]
        if fault is None or fault.kind not in STRIKES or tokens < fault.after:
            return None
        self._spend(rank)
        return fault

    def as_dict(self) -> dict[str, Any]:
        """Return the kind of every rank's fault, None for none."""
        return {str(g): fault.kind if fault else None for g, fault in enumerate(self._faults)}

    def _spend(self, rank: int) -> None:
        self._left[rank] -= 1
        if self._left[rank] == 0:
            self.set(rank, None)


def read_fault(body: Mapping[str, Any], ranks: int) -> tuple[range, Fault | None]:
    """Return ranks and the fault that they get, from what was posted.

    ``rank`` is one of them, all if it is missing; ``kind`` is one of `KINDS`, or ``none``, which
    lifts what there is.

    Raises
    ------
    ParameterError
        Something of it is out of range, or unknown.
    """
    known = {"rank", *Fault.__dataclass_fields__}
    for name in body:
        if name not in known:
            raise ParameterError(f"unknown key {name!r}, must be one of {', '.join(sorted(known))}")
    values = dict(body)
    rank = values.pop("rank", None)
    if rank is not None:
        require_whole("rank", rank, 0, ranks - 1)
    if values.get("kind") != "none":
        require_one_of("kind", values.get("kind"), *KINDS, "none")
        fault: Fault | None = Fault(**values)
    else:
        fault = None
    return (range(ranks) if rank is None else range(rank, rank + 1)), fault
