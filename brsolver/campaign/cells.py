"""What a campaign is made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from brsolver._code import of_function, own_code
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.executors import Function

Plain = str | int | float | bool | None

FAILED = "failed"
"""Column of the reason why a cell has no figures; null for one that has."""
WALL_S = "wall_s"
"""Column of the seconds that a cell took, by a clock of the machine that computed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One unit of work.

    Attributes
    ----------
    key : mapping of str to plain value
        What tells it from the others: the first columns of its row. Must say all that its figures
        depend on, besides the campaign's settings.
    task : object
        What the campaign's function is given; must be picklable.
    """

    key: Mapping[str, Plain]
    task: object

    @property
    def identity(self) -> str:
        """Return a short text that is the same for equal keys, whatever their order.

        Of the same code: a row that other code of ours computed is not found by it.
        """
        text = json.dumps([own_code(), dict(self.key)], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.key.items())


class Described(Protocol):
    """What a folder of rows is of."""

    @property
    def name(self) -> str:
        """Return which campaign's they are."""

    @property
    def settings(self) -> Mapping[str, Plain]:
        """Return what all rows depend on: a folder of others is not gone on with."""

    @property
    def key_names(self) -> tuple[str, ...]:
        """Return the first columns of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Cells, and the function that computes them.

    Attributes
    ----------
    name : str
    function : callable
        Of a module's top level: takes a cell's task and `shared`, returns the row's figures by
        name. Same task, same figures, but for those in `clocked`. A row is known by its source:
        the module's, or of a script that was started the function's own.
    cells : tuple of Cell
    shared : mapping of str to object
        What cells have in common, such as traces; sent once.
    settings : mapping of str to plain value
        What figures depend on and no key says. A folder of other settings is not gone on with.
    clocked : frozenset of str
        Figures that a clock of the machine made, besides `WALL_S`: all others are the same to the
        bit wherever a cell is computed.

    Raises
    ------
    ParameterError
        There is no cell, or two have the same key.
    """

    name: str
    function: Function
    cells: tuple[Cell, ...]
    shared: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, Plain] = field(default_factory=dict)
    clocked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.cells:
            raise ParameterError(f"{self.name} has no cell, must have at least one")
        seen: set[str] = set()
        for cell in self.cells:
            if cell.identity in seen:
                raise ParameterError(f"{self.name} has two cells {cell}, must differ")
            seen.add(cell.identity)

    def identity_of(self, cell: Cell) -> str:
        """Return what a row of a cell is found by: `Cell.identity`, of the same function."""
        code = of_function(self.function)
        if not code:
            return cell.identity
        return hashlib.sha256(f"{cell.identity} {code}".encode()).hexdigest()[:20]

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the keys of all cells, in order of appearance."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.key))
