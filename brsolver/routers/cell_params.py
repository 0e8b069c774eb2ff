"""Parameters of cells of workers, apart from the router: the command line needs no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from brsolver._limits import MAX_WORKERS, require_one_of, require_whole
from brsolver.errors import ParameterError
from brsolver.options import POLICY, option

if TYPE_CHECKING:
    from brsolver.registry import PolicySpec

CELLS = "cells"
"""Name of the policy, which cannot be a cell's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsParams:
    """Parameters of cells of workers.

    Attributes
    ----------
    size : int
        Workers of a cell; the last may have fewer.
    d : int
        Cells that are drawn for every arrival, of which the least loaded gets it. 1 is any cell;
        as many as there are, or more, is the least loaded of all.
    inner : str
        Policy within each cell, as ``NAME`` or ``NAME:KEY=VALUE;KEY=VALUE``, with semicolons,
        since commas separate the parameters of cells.
    by : {"both", "load", "requests"}
        What is compared between cells. ``load``: the mean load of a live worker, with what waits
        in the cell's pool spread over its workers. ``requests``: running, queued and waiting
        requests per slot. ``both``: load, while slots are free for all that wait; else requests,
        with longer ones to lighter cells.

    Raises
    ------
    ParameterError
        A value is out of range, or `inner` names cells, or a policy that asks a predictor itself.
    UnknownNameError
        `inner` names no policy, or has a parameter which that has not.
    """

    size: int = field(default=64, metadata=option("Workers of a cell.", metavar="N", panel=POLICY))
    d: int = field(
        default=2,
        metadata=option(
            "Cells drawn for every arrival, of which the least loaded gets it.",
            metavar="N",
            panel=POLICY,
        ),
    )
    inner: str = field(
        default="br-ramp",
        metadata=option(
            "Policy within each cell; semicolons separate its parameters.",
            metavar="POLICY",
            panel=POLICY,
        ),
    )
    by: Literal["both", "load", "requests"] = field(
        default="both",
        metadata=option(
            "What is compared between cells: loads of workers, requests per slot, or both.",
            panel=POLICY,
        ),
    )

    def __post_init__(self) -> None:
        require_whole("size", self.size, 1, MAX_WORKERS)
        require_whole("d", self.d, 1, MAX_WORKERS)
        require_one_of("by", self.by, "both", "load", "requests")
        spec = self.spec
        if spec.name == CELLS:
            raise ParameterError(f"inner is {self.inner!r}, must be a policy other than cells")
        if spec.asks_predictor:
            raise ParameterError(
                f"inner is {self.inner!r}, must be a policy that does not ask a predictor itself"
            )

    @property
    def spec(self) -> PolicySpec:
        """The policy within each cell, read."""
        from brsolver.registry import PolicySpec

        return PolicySpec.parse(self.inner.replace(";", ","))

    @property
    def horizon(self) -> int:
        """Steps that the policy within each cell looks ahead."""
        return self.spec.horizon
