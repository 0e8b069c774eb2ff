"""Where a fit is off, by load: bins, a picture of them in text, and what not to believe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.hardware.fit import Fit
    from brsolver.hardware.measurements import FloatArray, Measurements
    from brsolver.hardware.operators import Operators, Slopes

BINS = 6
WIDTH = 15
"""Characters on either side of the picture's middle."""
TITLES = {
    "sequences": "decode, by sequences",
    "kv_tokens": "decode, by KV tokens",
    "prefill_tokens": "prefill, by prefill tokens",
    "prefill_context": "prefill, by mean context of a token",
}
BIASED = 0.05
"""Median error of a bin from which it is said to be off."""
OUTLIER = 0.25
FALLS = 0.02
"""By how much a duration must fall as KV grows to count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Steps between two values of a load.

    Attributes
    ----------
    load : str
        What they are binned by, of `TITLES`.
    low, high : float
        Least and largest value in the bin.
    rows : int
    median, p95 : float
        Median relative error, signed, and 95th percentile of its size.
    """

    load: str
    low: float
    high: float
    rows: int
    median: float
    p95: float


def quantiles(errors: FloatArray) -> tuple[float, float] | tuple[None, None]:
    """Return median and 95th percentile of the errors' sizes; None without any."""
    if not errors.size:
        return None, None
    size = np.abs(errors)
    return float(np.median(size)), float(np.quantile(size, 0.95))


def bins_of(fit: Fit) -> tuple[Bin, ...]:
    """Return a fit's errors by each load, in about equally full bins."""
    decode, prefill = fit.decode, fit.prefill
    found = [
        *_bins("sequences", decode.sequences.max(axis=1), fit.decode_errors),
        *_bins("kv_tokens", decode.kv_tokens.max(axis=1), fit.decode_errors),
    ]
    if fit.prefill_errors.size:
        tokens = prefill.prefill_tokens.sum(axis=1)
        mean = prefill.prefill_context.sum(axis=1) / tokens
        found += _bins("prefill_tokens", prefill.prefill_tokens.max(axis=1), fit.prefill_errors)
        found += _bins("prefill_context", mean, fit.prefill_errors)
    return tuple(found)


def _bins(load: str, values: FloatArray, errors: FloatArray) -> Iterator[Bin]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1), method="nearest"))
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(edges.size - 2, 0))
    for each in np.unique(at):
        mine = at == each
        size = np.abs(errors[mine])
        yield Bin(
            load=load,
            low=float(values[mine].min()),
            high=float(values[mine].max()),
            rows=int(mine.sum()),
            median=float(np.median(errors[mine])),
            p95=float(np.quantile(size, 0.95)),
        )


def picture(bins: tuple[Bin, ...]) -> list[str]:
    """Draw the median error of each bin, left where the fit is too short, right if too long."""
    scale = max([0.01, *(abs(each.median) for each in bins)])
    lines: list[str] = []
    for load, title in TITLES.items():
        mine = [each for each in bins if each.load == load]
        if mine:
            edges = f"{f'±{scale:.1%}':^{2 * WIDTH + 1}}".rstrip()
            lines.append(f"{title:<40}{'steps':>7}  median    P95   {edges}")
            lines += [_line(each, scale) for each in mine]
    return lines


def _line(each: Bin, scale: float) -> str:
    length = round(abs(each.median) / scale * WIDTH)
    bar = "#" * length
    left, right = (bar, "") if each.median < 0 else ("", bar)
    span = f"{each.low:,.0f} – {each.high:,.0f}"
    return (
        f"  {span:<38}{each.rows:>7,}  {each.median:>+6.1%}  {each.p95:>5.1%}   "
        f"{left:>{WIDTH}}|{right:<{WIDTH}}"
    ).rstrip()


def doubts(fit: Fit) -> tuple[str, ...]:
    """Say where a fit must not be believed, a sentence each."""
    return (
        *_ranges(fit),
        *_outliers("decode", fit.decode, fit.decode_errors, fit),
        *_outliers("prefill", fit.prefill, fit.prefill_errors, fit),
        *_falling(fit.decode),
        *untold(fit),
    )


def untold(fit: Fit) -> tuple[str, ...]:
    """Say what the steps do not tell, or tell badly, a sentence each."""
    return (*_biased(bins_of(fit)), *_unknown(fit))


def _ranges(fit: Fit) -> Iterator[str]:
    held = ranges(fit)
    spans = [
        f"{name.replace('_', ' ')} {low:,.0f} to {high:,.0f}" for name, (low, high) in held.items()
    ]
    yield f"outside what was fitted: {', '.join(spans)} on a rank"


def ranges(fit: Fit) -> dict[str, tuple[float, float]]:
    """Return least and largest value of each load, of the fullest rank, over fitted steps."""
    found = {name: getattr(fit.decode, name).max(axis=1) for name in ("sequences", "kv_tokens")}
    if fit.prefill_errors.size:
        found["prefill_tokens"] = fit.prefill.prefill_tokens.max(axis=1)
    return {name: (float(each.min()), float(each.max())) for name, each in found.items()}


def _biased(bins: tuple[Bin, ...]) -> Iterator[str]:
    for each in bins:
        if abs(each.median) > BIASED:
            yield (
                f"{TITLES[each.load]} {each.low:,.0f} to {each.high:,.0f}: the fit is "
                f"{abs(each.median):.0%} too {'long' if each.median > 0 else 'short'}"
            )


def _outliers(kind: str, steps: Measurements, errors: FloatArray, fit: Fit) -> Iterator[str]:
    if not errors.size or not (far := np.abs(errors) > OUTLIER).any():
        return
    worst = int(np.argmax(np.abs(errors)))
    own = float(fit.seconds(steps.where(np.arange(len(steps)) == worst))[0])
    load = " and ".join(
        f"{getattr(steps, name)[worst].max():,.0f} {name.replace('_', ' ')}"
        for name in (("sequences", "kv_tokens") if kind == "decode" else ("prefill_tokens",))
    )
    yield (
        f"{int(far.sum()):,} of {len(steps):,} {kind} steps are more than {OUTLIER:.0%} off; the "
        f"farthest, {load}, took {steps.seconds[worst] * 1e3:.1f} ms and is fitted "
        f"{own * 1e3:.1f} ms"
    )


def _falling(steps: Measurements) -> Iterator[str]:
    """Say how often a step with more KV tokens and as many sequences was shorter."""
    count, tokens = steps.sequences.max(axis=1), steps.kv_tokens.max(axis=1)
    order = np.lexsort((tokens, count))
    same = (np.diff(count[order]) == 0) & (np.diff(tokens[order]) > 0)
    falls = same & (np.diff(steps.seconds[order]) < -FALLS * steps.seconds[order][:-1])
    if falls.any():
        yield (
            f"not monotone: {int(falls.sum()):,} of {int(same.sum()):,} neighbouring steps with "
            f"more KV tokens are more than {FALLS:.0%} shorter"
        )


def _unknown(fit: Fit) -> Iterator[str]:
    if fit.per_prefill_token is None:
        yield "no steps with prefill: what a prefill token costs is not known, and taken as 0"
    elif fit.per_prefill_context is None:
        yield "context of prefill does not vary by itself: what it costs is not told apart"
    if fit.operators is not None:
        yield from _told_by_operators(fit.operators, fit)
    elif fit.per_prefill_token is not None and fit.sensitivity and not fit.shared_known:
        yield (
            f"ranks do the same in every step: how much of prefill is bound to its rank and how "
            f"much all share is not told; {fit.shared:.0%} shared is assumed (--shared)"
        )
    for name in ("per_sequence", "per_kv_token"):
        if getattr(fit, name) == 0:
            yield f"{name} is 0: the steps fitted show no cost of it"


def _told_by_operators(told: Operators, fit: Fit) -> Iterator[str]:
    """Say how sure shares are that tables of operators tell, and what else they could be."""
    if fit.per_prefill_token is not None:
        yield _told_of("a prefill token", "tokens", told.prefill, fit.per_prefill_token)
    if told.sequences is not None:
        yield _told_of("a sequence", "sequences", told.sequences, fit.per_sequence)
    yield from told.doubts


def _told_of(what: str, counted: str, found: Slopes, measured: float) -> str:
    low, high = found.spread
    text = (
        f"{found.shared:.0%} of {what} shared is from tables of operators at "
        f"{found.range[0]:,.0f} to {found.range[1]:,.0f} {counted} of a rank, {low:.0%} to "
        f"{high:.0%} between sizes; they add up to {found.each_s * 1e6:.1f} µs of {what}, the "
        f"steps to {measured * 1e6:.1f}"
    )
    if found.each_s >= measured:
        return text
    rest = found.shared * found.each_s / measured
    return f"{text}: were the rest all bound to its rank, {rest:.0%} would be shared"
