"""How a setting is started: the command line of an engine, and of one that routes by a file."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from brsolver.tuning.study import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.result import Validated


def engine_line(candidate: Candidate) -> str:
    """Return the command line that starts such engines; what it leaves out is as it was."""
    sglang = candidate.params.prefill.colocated and candidate.params.prefill.scheduler == "sglang"
    words = _sglang(candidate) if sglang else _vllm(candidate)
    return " ".join(words)


def start_line(chosen: Validated, file: str | Path) -> str:
    """Return the command line of such engines, which route by `file` where they do not by default.

    The adapter is vLLM's: before other engines the router stands in a picker.
    """
    routed = adapter_line(chosen.candidate, file)
    if chosen.role == PUBLISHED or routed is None:
        return engine_line(chosen.candidate)
    return routed


def looking_on_line(chosen: Validated, file: str | Path) -> str | None:
    """Return the command line by which what is to run as it is by default is recorded all the same.

    None where `start_line` says it already, or there is no adapter.
    """
    return adapter_line(chosen.candidate, file) if chosen.role == PUBLISHED else None


def adapter_line(candidate: Candidate, file: str | Path) -> str | None:
    """Return the command line of engines with the adapter, by `file`; None of others than vLLM."""
    line = engine_line(candidate)
    if not line.startswith("vllm"):
        return None
    # vLLM would start one per rank, each of which records, and knows, its own requests alone.
    servers = " --api-server-count 1" if candidate.params.workers > 1 else ""
    return f"BRSOLVER_ROUTER={shlex.quote(str(file))} {line}{servers}"


def _vllm(candidate: Candidate) -> list[str]:
    params, prefill = candidate.params, candidate.params.prefill
    hardware = candidate.layout.hardware
    words = ["vllm serve MODEL", f"--data-parallel-size {params.workers}"]
    if (each := hardware.gpus_per_worker) > 1:
        words.append(f"--tensor-parallel-size {each}")
    if hardware.expert_parallel:
        words.append("--enable-expert-parallel")
    words.append(f"--max-num-seqs {_slots(candidate)}")
    if prefill.colocated:
        words.append(f"--max-num-batched-tokens {prefill.budget}")
        if prefill.interval > 1:
            words.append(f"--prefill-schedule-interval {prefill.interval}")
        if prefill.threshold:
            words.append(f"--long-prefill-token-threshold {prefill.threshold}")
    return words


def _sglang(candidate: Candidate) -> list[str]:
    params, prefill = candidate.params, candidate.params.prefill
    hardware = candidate.layout.hardware
    gpus = params.workers * hardware.gpus_per_worker
    words = ["python -m sglang.launch_server --model-path MODEL", "--enable-dp-attention"]
    words += [f"--dp-size {params.workers}", f"--tp-size {gpus}"]
    if hardware.expert_parallel:
        words.append(f"--ep-size {gpus}")
    # SGLang counts those of all ranks together.
    words.append(f"--max-running-requests {_slots(candidate) * params.workers}")
    words.append(f"--chunked-prefill-size {prefill.budget * params.workers}")
    if prefill.delayer == "sglang":
        words.append("--enable-prefill-delayer")
        words.append(f"--prefill-delayer-max-delay-passes {prefill.max_delay_passes}")
    return words


def _slots(candidate: Candidate) -> int:
    slots = candidate.params.slots
    return max(slots) if isinstance(slots, tuple) else slots
