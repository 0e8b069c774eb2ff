"""Tables of hardware, in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from brsolver.hardware.fit import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from brsolver.hardware.fit import Fit
    from brsolver.hardware.model import Hardware
    from brsolver.hardware.operators import Operators

_LOADS = {
    "sequence": "sequence",
    "token": "KV token",
    "prefill_token": "prefill token",
    "prefill_context": "prefill token and token before it",
}
_OTHERS = {
    "base": "at zero load",
    "all_experts": "reading the weights of all experts",
    "expert_share": "experts that a token asks for",
}
_SOURCES = {
    "option": "--shared",
    "operators": "tables of operators",
    "steps": "steps of ranks that differ",
    "one rank": "there being one rank",
    "default": "the default",
}
_PARTS = ("attention", "projections", "experts", "collectives")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps"))


def duration(seconds: float) -> str:
    """Write seconds in the unit that fits: ``25.5 ms``."""
    if seconds == 0:
        return "0"
    size, unit = next(((s, u) for s, u in _UNITS if seconds >= s), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def percent(value: float | None) -> str:
    """Write a share as per cent; unknown is a word."""
    return "unknown" if value is None else f"{value:.1%}"


def list_table(known: Iterable[Hardware]) -> Table:
    """Return what hardware there is, a row each."""
    table = Table(header_style="bold", pad_edge=False, show_lines=True)
    table.add_column("name", no_wrap=True)
    for heading in ("step", "sequence", "1,000 KV tokens", "prefill token", "error, P95"):
        table.add_column(heading, justify="right")
    table.add_column("source; licence", overflow="fold")
    for each in known:
        step, fit = each.step_time, each.fit
        errors = f"{percent(fit.median_error)}, {percent(fit.p95_error)}"
        cells = (
            each.name,
            duration(step.base + step.all_experts),
            duration(step.per_sequence + step.per_mean_sequence),
            duration(1000 * (step.per_token + step.per_mean_token)),
            duration(step.per_prefill_token + step.per_mean_prefill_token),
            "unknown" if fit.median_error is None else errors,
            "; ".join(filter(None, (each.source, each.licence))),
        )
        table.add_row(*map(Text, cells))
    return table


def hardware_tables(hardware: Hardware) -> tuple[Table, Table]:
    """Return what is said of hardware, and its coefficients."""
    about = _facts(Text(hardware.name, style="bold"))
    texts = (
        ("source", hardware.source),
        ("licence", hardware.licence),
        ("conditions", hardware.conditions),
        *(("not identified", told) for told in hardware.fit.not_identified),
    )
    for label, text in texts:
        about.add_row(label, Text(text or "not given"))
    return about, coefficient_table(hardware)


def coefficient_table(hardware: Hardware) -> Table:
    """Return coefficients, errors and ranges."""
    table = _facts(Text(f"step time of {hardware.name}, {hardware.step_time.model}"))
    for name, value in hardware.coefficients().items():
        if name == "model" or value in ((), 0.0):
            continue
        table.add_row(_label(name), Text(_shown(name, value)))
    for label, value in _evidence(hardware):
        table.add_row(label, Text(value))
    return table


def _label(name: str) -> str:
    if not name.startswith("per_"):
        return _OTHERS.get(name, name.replace("_", " "))
    load = name.removeprefix("per_").removeprefix("mean_")
    whose = "the mean over ranks" if name.startswith("per_mean_") else "the rank"
    return f"per {_LOADS[load]} of {whose}"


def _shown(name: str, value: Any) -> str:
    if name == "expert_share":
        return percent(value)
    if isinstance(value, tuple):
        return f"{len(value)} values, {value[0]:g} to {value[-1]:g}"
    return duration(value)


def _evidence(hardware: Hardware) -> Sequence[tuple[str, str]]:
    fit, kappa = hardware.fit, hardware.step_time.request_tokens
    found = [("a sequence weighs as much as", f"{kappa:,} KV tokens")] if kappa else []
    for kind, rows, median, p95 in (
        ("decode", fit.rows, fit.median_error, fit.p95_error),
        ("prefill", fit.prefill_rows, fit.prefill_median_error, fit.prefill_p95_error),
    ):
        if rows:
            found.append((f"{kind} steps fitted", f"{rows:,}"))
        if median is not None:
            found.append(
                (f"error of {kind} steps, median; P95", f"{percent(median)}; {percent(p95)}")
            )
    for name in ("sequences", "kv_tokens", "prefill_tokens"):
        if (span := getattr(fit, name)) is not None:
            label = f"fitted where {name.replace('_', ' ')} of a rank are"
            found.append((label, f"{span[0]:,.0f} to {span[1]:,.0f}"))
    return [*found, *_share(hardware)]


def _share(hardware: Hardware) -> Sequence[tuple[str, str]]:
    step, fit = hardware.step_time, hardware.fit
    total = step.per_prefill_token + step.per_mean_prefill_token
    if not fit.shared_source or not total:
        return []
    source = _SOURCES.get(fit.shared_source, fit.shared_source)
    text = f"{step.per_mean_prefill_token / total:.0%}, from {source}"
    if fit.shared_tokens and fit.shared_spread:
        low, high = fit.shared_spread
        at = " to ".join(f"{tokens:,.0f}" for tokens in fit.shared_tokens)
        text += f" at {at} prefill tokens; {low:.0%} to {high:.0%} between chunk sizes"
    return [("of a prefill token all ranks bear", text)]


def operators_table(found: Operators) -> Table:
    """Return what operators take in steps that compute as much prefill on every rank."""
    table = Table(title=Text(f"operators of {found.model}, {found.ranks} ranks, all layers"))
    for heading in ("prefill tokens of a rank", *_PARTS, "shared of all of it"):
        table.add_column(heading, justify="right")
    for size in found.sizes:
        parts = (size.attention_s, size.projections_s, size.experts_s, size.collectives_s)
        cells = (f"{size.tokens:,.0f}", *map(duration, parts), f"{size.shared:.0%}")
        table.add_row(*map(Text, cells))
    return table


def sensitivity_table(fit: Fit) -> Table:
    """Return what another share of prefill that all ranks bear would mean."""
    table = Table(title=Text("prefill, by the share of a token that all ranks bear"))
    ranks = max(fit.prefill.origin.dp, fit.prefill.ranks)
    table.add_column("share", justify="right")
    table.add_column("prefill token", justify="right")
    table.add_column("median error", justify="right")
    table.add_column(f"a chunk of {CHUNK:,} on 1 of {ranks} ranks adds", justify="right")
    for each in fit.sensitivity:
        used = " ←" if each.shared == fit.shared else ""
        cells = (
            f"{each.shared:.0%}{used}",
            duration(each.per_prefill_token),
            percent(each.median_error),
            duration(each.chunk_s),
        )
        table.add_row(*map(Text, cells))
    return table


def _facts(title: Text) -> Table:
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    return table
