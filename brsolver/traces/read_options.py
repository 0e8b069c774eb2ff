"""How a trace file is read: the options of all commands that read one.

Nothing heavy is imported here: the command line makes its options from `ReadOptions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping  # noqa: TC003 # the option layer evaluates annotations
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from brsolver._limits import require, require_one_of, require_whole
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.options import INPUT, option

COLUMN_TARGETS = (
    "prompt_tokens",
    "output_tokens",
    "arrival",
    "max_tokens",
    "cached_tokens",
    "session",
    "model",
    "tenant",
    "prompt_hash",
)
"""What a column of the file can be named to hold."""
TIME_UNITS = ("s", "ms", "us", "ns")
_MAX_ROWS = 2**53
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d{1,9})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = "seconds since the first request, or a date such as 2026-01-01T12:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in time, of which one of the fields is set.

    Attributes
    ----------
    seconds : float or None
        Seconds since the file's first request.
    unix_ns : int or None
        Nanoseconds since 1970, of a date.
    """

    seconds: float | None = None
    unix_ns: int | None = None

    @classmethod
    def read(cls, name: str, value: float | str) -> Moment:
        """Read seconds or an ISO 8601 date, which is in UTC unless it names a zone.

        Raises
        ------
        ParameterError
            The value of the option `name` is neither.
        """
        try:
            seconds = float(value)
        except ValueError:
            return cls(unix_ns=_nanoseconds(name, str(value)))
        require(
            math.isfinite(seconds) and seconds >= 0,
            f"{name} is {value}, must be {_MOMENT}, at least 0",
        )
        return cls(seconds=seconds)


def _nanoseconds(name: str, text: str) -> int:
    fraction = _FRACTION.search(text)
    whole = text if fraction is None else text[: fraction.start()] + text[fraction.end() :]
    try:
        stamp = datetime.fromisoformat(whole)
    except ValueError as error:
        raise ParameterError(f"{name} is {text!r}, must be {_MOMENT}") from error
    zoned = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    below = int(fraction[1].ljust(9, "0")) if fraction else 0
    return (zoned - _EPOCH) // timedelta(seconds=1) * 10**9 + below


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a file is read.

    What is chosen, in this order: bad rows are refused or left out, the rest is sorted if asked
    for, `skip` requests are passed over, then those outside the time window and those that are
    too large, and of what is left `limit` requests are taken.

    Attributes
    ----------
    limit : int or None
        Requests to take at most; the rest of the file is not looked at.
    skip : int
        Requests at the start that are passed over.
    since, until : float, str or None
        The first moment that is taken and the first that no longer is: seconds since the file's
        first request, or an ISO 8601 date where the file has dates.
    sort : bool
        Sort the requests by time, instead of refusing a file that is not in order.
    skip_bad_rows : bool
        Leave bad rows out and count them, instead of refusing the file. A row that is late is
        not bad.
    drop_above : int or None
        Leave out requests that grow beyond so many KV tokens, and count them.
    time_unit : {"s", "ms", "us", "ns"} or None
        Unit of the arrival column; None goes by its name and the format.
    columns : mapping of str to str
        By what it holds (`COLUMN_TARGETS`), the file's column; others are found by their names.
    result : int or None
        Which of the results of a file that holds several, from 1.
    seed : int
        For formats that hold distributions from which requests are drawn.
    """

    limit: int | None = field(
        default=None, metadata=option("Use the first N requests.", metavar="N", panel=INPUT)
    )
    skip: int = field(
        default=0,
        metadata=option("Pass over the first N requests.", metavar="N", panel=INPUT),
    )
    since: float | str | None = field(
        default=None,
        metadata=option(
            "Use requests from this time on: seconds since the first request, or an ISO 8601 date "
            "(UTC unless it names a zone) where the file has dates.",
            metavar="TIME",
            panel=INPUT,
            flag="from",
        ),
    )
    until: float | str | None = field(
        default=None,
        metadata=option(
            "Use requests before this time, which is given as for --from.",
            metavar="TIME",
            panel=INPUT,
        ),
    )
    sort: bool = field(
        default=False, metadata=option("Sort the requests by arrival time.", panel=INPUT)
    )
    skip_bad_rows: bool = field(
        default=False, metadata=option("Leave bad rows out, count them.", panel=INPUT)
    )
    drop_above: int | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = field(
        default=None,
        metadata=option(
            "Unit of the arrival times: s, ms, us or ns. (default: told by the format and the "
            "column's name)",
            metavar="UNIT",
            panel=INPUT,
        ),
    )
    columns: Mapping[str, str] = field(
        default_factory=dict,
        metadata=option(
            "Which column holds what: prompt_tokens=A,output_tokens=B,arrival=C. Those that are "
            "not given are found by their names.",
            metavar="WHAT=NAME,...",
            panel=INPUT,
        ),
    )
    result: int | None = field(
        default=None,
        metadata=option(
            "Which result, counted from 1, of a file that holds several.",
            metavar="N",
            panel=INPUT,
        ),
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None:
            require_whole("limit", self.limit, 1, _MAX_ROWS, " request")
        require_whole("skip", self.skip, 0, _MAX_ROWS)
        require_whole("seed", self.seed, 0, _MAX_ROWS**2)
        if self.drop_above is not None:
            require_whole("drop_above", self.drop_above, 1, _MAX_ROWS, " KV token")
        if self.result is not None:
            require_whole("result", self.result, 1, _MAX_ROWS)
        if self.time_unit is not None:
            require_one_of("time_unit", self.time_unit, *TIME_UNITS)
        for name in self.columns:
            if name not in COLUMN_TARGETS:
                raise UnknownNameError.suggest("name in columns", name, COLUMN_TARGETS)
        self._check_window()

    def enough(self, requests: int) -> bool:
        """Tell whether the first `requests` of a source, in order of time, hold all that is taken.

        For sources that draw their requests, which would otherwise draw on.
        """
        chosen = self.until is not None or self.since is not None or self.drop_above is not None
        return self.limit is not None and not chosen and requests >= self.skip + self.limit

    @property
    def window(self) -> tuple[Moment | None, Moment | None]:
        """The first moment that is taken, and the first that no longer is."""
        since, until = self.since, self.until
        return (
            None if since is None else Moment.read("from", since),
            None if until is None else Moment.read("until", until),
        )

    def _check_window(self) -> None:
        since, until = self.window
        if since is None or until is None:
            return
        for first, end in ((since.seconds, until.seconds), (since.unix_ns, until.unix_ns)):
            require(
                first is None or end is None or first < end,
                f"until is {self.until}, must be later than from, which is {self.since}",
            )
