"""Hardware from a fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from brsolver.hardware.evidence import Evidence
from brsolver.hardware.model import Hardware
from brsolver.hardware.residuals import quantiles, ranges, untold
from brsolver.hardware.step_time import StepTime

if TYPE_CHECKING:
    from brsolver.hardware.fit import Fit
    from brsolver.hardware.measurements import Origin

DIGITS = 5
"""Significant digits of coefficients: more than a fit tells."""


def hardware_of(
    fit: Fit, *, name: str = "", source: str = "", licence: str = "", conditions: str = ""
) -> Hardware:
    """Make hardware of a fit.

    Parameters
    ----------
    fit : Fit
    name, source, licence, conditions : str
        Empty is made from what the measurements say of themselves.
    """
    origin = fit.decode.origin
    sequences, kv_tokens, prefill, context = (_rounded(each) for each in fit.bound)
    shared = _rounded(fit.shared * (fit.per_prefill_token or 0.0))
    return Hardware(
        name=name or name_of(origin),
        step_time=StepTime(
            model="loads",
            base=_rounded(fit.base),
            per_sequence=sequences,
            per_token=kv_tokens,
            per_prefill_token=prefill,
            per_prefill_context=context,
            per_mean_sequence=_rounded(fit.sequence_shared * fit.per_sequence),
            per_mean_prefill_token=shared,
            all_experts=_rounded(fit.all_experts),
            expert_share=fit.expert_share,
        ),
        source=source or f"fitted to {origin.file.rpartition('/')[2]}",
        licence=licence,
        conditions=conditions or conditions_of(origin),
        fit=evidence_of(fit),
    )


def evidence_of(fit: Fit) -> Evidence:
    """Return what a fit says of its errors, its ranges and what it does not tell."""
    median, p95 = quantiles(fit.decode_errors)
    prefill_median, prefill_p95 = quantiles(fit.prefill_errors)
    held = ranges(fit)
    return Evidence(
        rows=len(fit.decode),
        prefill_rows=len(fit.prefill),
        median_error=_if_known(median),
        p95_error=_if_known(p95),
        prefill_median_error=_if_known(prefill_median),
        prefill_p95_error=_if_known(prefill_p95),
        sequences=held.get("sequences"),
        kv_tokens=held.get("kv_tokens"),
        prefill_tokens=held.get("prefill_tokens"),
        **_share(fit),
        not_identified=untold(fit),
    )


def _share(fit: Fit) -> dict[str, Any]:
    """Return where the share of prefill that all ranks bear is from."""
    if fit.per_prefill_token is None:
        return {}
    if fit.operators is None:
        return {"shared_source": fit.shared_source}
    low, high = fit.operators.prefill.spread
    return {
        "shared_source": fit.shared_source,
        "shared_tokens": fit.operators.prefill.range,
        "shared_spread": (_rounded(low), _rounded(high)),
    }


def name_of(origin: Origin) -> str:
    """Make a name of what was measured: ``MiniMax-M2.7-h200_sxm-dep-dp4-tp1``."""
    model = origin.model.rpartition("/")[2]
    degrees = (f"dp{origin.dp}" if origin.dp else "", f"tp{origin.tp}" if origin.tp else "")
    parts = (model, origin.system, origin.parallel, *degrees)
    return (
        re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join(filter(None, parts))).strip("-_.+") or "measured"
    )


def conditions_of(origin: Origin) -> str:
    """Say what was measured, as far as the file does, and what was left out of it."""
    degrees = (f"dp {origin.dp}" if origin.dp else "", f"tp {origin.tp}" if origin.tp else "")
    server = ", ".join(
        filter(None, (origin.model, origin.system, origin.engine, origin.parallel, *degrees))
    )
    return "; ".join(filter(None, (server, *origin.notes)))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _if_known(value: float | None) -> float | None:
    return None if value is None else _rounded(value)
