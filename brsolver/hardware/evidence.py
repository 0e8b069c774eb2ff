"""What a hardware file says of where its coefficients come from, checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from brsolver._limits import MAX_COUNT, require, require_number, require_whole
from brsolver.errors import ParameterError

Span = tuple[float, ...]

COUNTS = ("rows", "prefill_rows")
ERRORS = ("median_error", "p95_error", "prefill_median_error", "prefill_p95_error")
SPANS = ("sequences", "kv_tokens", "prefill_tokens", "shared_tokens", "shared_spread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How coefficients were found; None where that is not known.

    Attributes
    ----------
    rows, prefill_rows : int or None
        Measured steps that were fitted: those that only decode, and those with prefill.
    median_error, p95_error, prefill_median_error, prefill_p95_error : float or None
        Median and 95th percentile of the size of relative errors in these.
    sequences, kv_tokens, prefill_tokens : tuple of float or None
        Least and largest value on a rank in these; beyond them nothing was measured.
    shared_source : str
        Where the share of prefill that all ranks bear is from: ``option``, ``operators``,
        ``steps`` of ranks that differ, ``one rank``, or the ``default``, half.
    shared_tokens, shared_spread : tuple of float or None
        Prefill tokens of a rank at which operators told it, and least and largest share between
        sizes.
    not_identified : tuple of str
        What the measurements do not tell, and what was assumed.
    """

    rows: int | None = None
    prefill_rows: int | None = None
    median_error: float | None = None
    p95_error: float | None = None
    prefill_median_error: float | None = None
    prefill_p95_error: float | None = None
    sequences: Span | None = None
    kv_tokens: Span | None = None
    prefill_tokens: Span | None = None
    shared_source: str = ""
    shared_tokens: Span | None = None
    shared_spread: Span | None = None
    not_identified: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in COUNTS:
            if (value := getattr(self, name)) is not None:
                require_whole(name, value, 0, MAX_COUNT)
        for name in ERRORS:
            if (value := getattr(self, name)) is not None:
                require_number(name, value, 0, 1e6)
        for name in SPANS:
            if (value := getattr(self, name)) is not None:
                _check_span(name, value)
        require(
            isinstance(self.shared_source, str),
            f"shared_source is {self.shared_source!r}, must be a text",
        )
        told = self.not_identified
        require(
            isinstance(told, tuple) and all(isinstance(each, str) for each in told),
            f"not_identified is {told!r}, must be a list of texts",
        )

    def given(self) -> dict[str, Any]:
        """Return what is known, by field."""
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in held.items() if value not in (None, (), "")}


def _check_span(name: str, value: object) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ParameterError(f"{name} is {value!r}, must be two numbers: [LOW, HIGH]")
    for each in value:
        require_number(name, each, 0, MAX_COUNT)
    require(value[0] <= value[1], f"{name} is {value[0]:g} to {value[1]:g}, must increase")
