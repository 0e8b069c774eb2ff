"""A calibration as text and as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.hardware.residuals import doubts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.bench.sweep_fit import Calibration, Check

HEADER = ("sequences", "context", "chunk", "steps of", "number", "measured", "predicted", "error")


def worst(found: Calibration) -> float:
    """Return the largest relative error of a held-out check."""
    return max(abs(check.error) for check in found.held_out())


def as_json(found: Calibration) -> dict[str, Any]:
    """Return coefficients, evidence and all checks as plain data."""
    return {
        **found.hardware.to_dict(),
        "request_tokens": found.hardware.step_time.request_tokens,
        "shared": found.fit.shared,
        "shared_identified": found.fit.shared_known,
        "points": [_row(check) for check in found.checks],
        "held_out": _errors(found.held_out()),
        "fitted": _errors([c for c in found.checks if not c.point.held_out]),
        "doubts": list(doubts(found.fit)),
    }


def _row(check: Check) -> dict[str, Any]:
    return {
        "sequences": list(check.point.sequences),
        "context": check.point.context,
        "chunk": check.point.chunk,
        "held_out": check.point.held_out,
        "steps_of": check.kind,
        "number": check.steps,
        "measured_s": check.measured_s,
        "predicted_s": check.predicted_s,
        "error": check.error,
    }


def _errors(checks: Sequence[Check]) -> dict[str, float | int | None]:
    errors = np.abs([check.error for check in checks])
    if not errors.size:
        return {"checks": 0, "median_error": None, "worst_error": None}
    return {
        "checks": len(checks),
        "median_error": float(np.median(errors)),
        "worst_error": float(errors.max()),
    }


def as_text(found: Calibration) -> str:
    """Return coefficients, the table of held-out points, and what not to believe."""
    held_out = found.held_out()
    lines = [_coefficients(found), *_summary("fitted points", found, held_out=False)]
    if held_out:
        lines += ["", "held-out points", *_table(held_out)]
        lines += _summary("held-out points", found, held_out=True)
    lines += ["", "Do not believe it", *(f"- {text}" for text in doubts(found.fit))]
    return "\n".join(lines)


def _coefficients(found: Calibration) -> str:
    fit = found.fit
    text = (
        f"{found.hardware.name}: {1e3 * fit.base:.2f} ms + {1e6 * fit.per_sequence:.1f} µs per "
        f"sequence + {1e9 * fit.per_kv_token:.1f} µs per 1,000 KV tokens"
    )
    if fit.per_prefill_token is not None:
        text += f" + {1e6 * fit.per_prefill_token:.1f} µs per prefill token"
        text += f" ({fit.shared:.0%} of it all ranks')" if fit.shared else ""
    if fit.per_prefill_context:
        text += f" + {1e9 * fit.per_prefill_context:.2f} ns per prefill token and token before it"
    return f"{text}; a sequence weighs {fit.request_tokens:,} KV tokens"


def _summary(what: str, found: Calibration, *, held_out: bool) -> list[str]:
    told = _errors([c for c in found.checks if c.point.held_out is held_out])
    if not told["checks"]:
        return []
    return [f"{what}: median error {told['median_error']:.1%}, worst {told['worst_error']:.1%}"]


def _table(checks: Sequence[Check]) -> list[str]:
    rows = [HEADER, *map(_cells, checks)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADER))]
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _cells(check: Check) -> tuple[str, ...]:
    point = check.point
    return (
        "+".join(map(str, point.sequences)),
        str(point.context),
        str(point.chunk),
        check.kind,
        str(check.steps),
        f"{1e3 * check.measured_s:.1f} ms",
        f"{1e3 * check.predicted_s:.1f} ms",
        f"{check.error:+.1%}",
    )
