"""A trace on a cluster as bounds in seconds take it, and what they make of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from brsolver.hardware.model import default_step_time
from brsolver.oracles.bounds.as_loads import ROUNDING, Totals
from brsolver.oracles.bounds.seconds import Case
from brsolver.oracles.bounds.time_result import TimeBound
from brsolver.oracles.schedule import total_work

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.oracles.bounds.rank_prefill import RankPrefill
    from brsolver.oracles.bounds.seconds import Proofs
    from brsolver.oracles.bounds.time_result import TimeKind
    from brsolver.traces.trace import Trace


def decoding_case(
    trace: Trace, steps: int, workers: int, slots: int, step_time: StepTime | None
) -> Case:
    """Return the case of a trace whose prefill is done elsewhere."""
    prompt, output = trace.prompt_tokens, trace.output_tokens
    totals = Totals(sequences=int(output.sum()), kv_tokens=total_work(prompt, output))
    return Case(
        model=step_time or default_step_time(),
        prompt=prompt,
        decodes=output,
        born=0,
        totals=totals,
        workers=workers,
        slots=slots,
        steps=steps,
    )


def prefill_case(
    trace: Trace,
    prefill: RankPrefill,
    steps: int,
    workers: int,
    slots: int,
    step_time: StepTime | None,
) -> Case:
    """Return the case of a trace whose prompts are computed on the ranks."""
    prompt, decodes = trace.prompt_tokens, trace.output_tokens - 1
    if prefill.tokens.shape != prompt.shape or prefill.context.shape != prompt.shape:
        raise ParameterError(
            f"prefill is about {prefill.tokens.size} prompts, must be about {len(trace)}"
        )
    totals = Totals(
        sequences=int(decodes.sum()),
        kv_tokens=total_work(prompt + 1, decodes),
        prefill_tokens=int(prefill.tokens.sum()),
        prefill_context=int(prefill.context.sum()),
    )
    return Case(
        model=step_time or default_step_time(),
        prompt=prompt,
        decodes=decodes,
        born=1,
        totals=totals,
        workers=workers,
        slots=slots,
        steps=steps,
        chunk=prefill.budget,
    )


def time_bound(
    kind: TimeKind,
    trace: Trace,
    case: Case,
    proofs: Proofs,
    began: float,
    *,
    pool: int = 0,
    budget: int = 0,
    steps_by: str = "admissions",
) -> TimeBound:
    """Return what the proofs say together."""
    sequences_s, kv_s, prefill_s = case.parts_s
    return TimeBound(
        kind=kind,
        # What sums of floats may lose is given away, so that the figure is certified.
        seconds=max(proofs.values()) * (1 - ROUNDING),
        proofs=proofs,
        total_work_s=case.total_work_s,
        steps=case.steps,
        steps_by=steps_by,
        base_s=case.base_s,
        sequences_s=sequences_s,
        kv_s=kv_s,
        prefill_s=prefill_s,
        experts_s=case.experts_s,
        totals=case.totals,
        workers=case.workers,
        slots=case.slots,
        pool=pool,
        budget=budget,
        trace_fingerprint=trace.fingerprint(),
        wall_s=time.perf_counter() - began,
    )
