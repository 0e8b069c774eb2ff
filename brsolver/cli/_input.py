"""What the options of reading a trace are, the same for every command that reads one.

They follow from `ReadOptions`: a field of it is an option. Nothing heavy is imported here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from brsolver.cli._flags import Flag
from brsolver.errors import ParameterError
from brsolver.options import INPUT, Option, Parameter, parameter, parameters
from brsolver.specs import convert
from brsolver.traces.read_options import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.compare import TraceSource

FORMAT = Flag(
    name="format",
    says=Option(help="Format, if not told by content.", panel=INPUT),
    field="format",
    metavar="NAME",
)
DROP_OVERSIZED = Flag(
    name="drop_oversized",
    says=Option(
        help="Leave out requests that no worker's --capacity could hold, count them.", panel=INPUT
    ),
    kind="choice",
    field="drop_oversized",
)


@cache
def input_flags(*, capacity: bool = False) -> tuple[Flag, ...]:
    """Return the options of reading a trace.

    Parameters
    ----------
    capacity : bool
        Whether the command knows what a worker can hold.
    """
    own = [_flag(each) for each in parameters(ReadOptions) if each.option is not None]
    return (*own, FORMAT, *([DROP_OVERSIZED] if capacity else []))


def _flag(each: Parameter) -> Flag:
    says = each.option
    if says is None:
        raise TypeError(f"field {each.name} has no Option")
    return Flag(
        name=says.flag or each.name,
        says=says,
        kind="choice" if each.hint is bool else "text",
        field=each.name,
        metavar=says.metavar,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """The options of reading a trace as given on the command line.

    Attributes
    ----------
    read : ReadOptions
    format : str or None
        Name of the file format.
    drop_oversized : bool
        Whether to leave out what no worker can hold.
    """

    read: ReadOptions
    format: str | None = None
    drop_oversized: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> InputOptions:
        """Take them out of a command's arguments, by the names of flags."""
        values = {
            flag.field: _value(flag, given[flag.name])
            for flag in input_flags()
            if flag is not FORMAT and given.get(flag.name) not in (None, False)
        }
        return cls(
            read=ReadOptions(**values),
            format=given.get(FORMAT.name),
            drop_oversized=given.get(DROP_OVERSIZED.name, False),
        )

    def source(self, trace: str, *, capacities: Sequence[int | None] = ()) -> TraceSource:
        """Say where the trace comes from.

        Parameters
        ----------
        trace : str
            File or preset.
        capacities : sequence of int or None
            KV tokens that each worker can hold; None is no limit.
        """
        from dataclasses import replace

        from brsolver.compare import TraceSource

        read = self.read
        if self.drop_oversized:
            read = replace(read, drop_above=_largest(capacities))
        return TraceSource(source=trace, reader=self.format, options=read, tell=Teller())


class Teller:
    """Prints lines to standard error, each once: other seeds read the same file again."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, line: str) -> None:
        """Print a line that was not printed yet."""
        if line not in self._told:
            self._told.add(line)
            sys.stderr.write(f"{line}\n")


def _value(flag: Flag, given: Any) -> Any:
    if flag.kind == "choice":
        return given
    return convert(given, parameter(ReadOptions, flag.field).hint, flag.name)


def _largest(capacities: Sequence[int | None]) -> int:
    if not capacities or None in capacities:
        raise ParameterError(
            "--drop-oversized is given and capacity is unlimited, must be given with --capacity"
        )
    return max(each for each in capacities if each is not None)
