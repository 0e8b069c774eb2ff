"""What each rank computes at each step, written by the rank itself: for measurements.

With ``BRSOLVER_STEPS`` naming a folder, every engine appends a line per step to ``rank-R.csv``
there (`COLUMNS`; read by `brsolver.hardware.readers.steps`):

- wave and step: vLLM's lockstep counters, equal on all ranks, so that the files can be put side by
  side. Ranks that do not wait for each other number their own steps, each in waves of its own;
- ``end_s``: the monotonic clock at the step's end, in seconds;
- ``kv_tokens, running, waiting, scheduled``: KV tokens of all that runs as of this step, running
  and waiting requests, tokens computed;
- ``decoding, decode_kv``: sequences that decode in this step, and the KV tokens that they read;
- ``prefill_tokens, prefill_context``: prompt tokens computed in this step, and the sum over them
  of the tokens before each in its prompt, itself included.

What a step computes is noted when it is scheduled and written when it has ended: with asynchronous
scheduling the next one has been scheduled by then.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

COLUMNS = (
    *("wave", "step", "end_s", "kv_tokens", "running", "waiting", "scheduled"),
    *("decoding", "decode_kv", "prefill_tokens", "prefill_context"),
)
_NOTHING = (0,) * (len(COLUMNS) - 3)
_ALONE = 1_000_000
"""Waves of a rank that steps by itself start at this multiple of its number: none is another's."""


def install(folder: str) -> None:
    """Make the engines of this process write their steps into `folder`, made if need be.

    Raises
    ------
    ImportError, AttributeError
        This vLLM has no such engines.
    OSError
        The folder cannot be made.
    """
    core = import_module("vllm.v1.engine.core")
    scheduler = import_module("vllm.v1.core.sched.scheduler").Scheduler
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if hasattr(scheduler.schedule, "__wrapped__"):
        return  # A process that was forked from one that has done it.
    _note_steps(scheduler)
    _write_in_lockstep(core.DPEngineCoreProc, path)
    _write_alone(core.EngineCoreProc, core.DPEngineCoreProc, path)


def loads_of(requests: Any, scheduled: Any) -> tuple[int, int, int, int]:
    """Return the last four of `COLUMNS` of a step that has just been scheduled.

    Parameters
    ----------
    requests : mapping of str to Request
        vLLM's, whose computed tokens include this step's.
    scheduled : mapping of str to int
        Tokens that the step computes of each.
    """
    decoding = decode_kv = prefill = context = 0
    for name, tokens in scheduled.items():
        request = requests[name]
        before = request.num_computed_tokens - tokens
        if before >= request.num_prompt_tokens:
            decoding += 1
            decode_kv += request.num_computed_tokens
        else:
            prefill += tokens
            context += tokens * before + tokens * (tokens + 1) // 2
    return decoding, decode_kv, prefill, context


def _note_steps(scheduler: Any) -> None:
    schedule, update = scheduler.schedule, scheduler.update_from_output

    @functools.wraps(schedule)
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = schedule(self, *args, **kwargs)
        # What is not as expected is not logged, and vLLM goes on.
        with contextlib.suppress(Exception):
            output.brsolver_step = _noted(self, output)
        return output

    @functools.wraps(update)
    def ending(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = update(self, scheduler_output, *args, **kwargs)
        self.brsolver_step = getattr(scheduler_output, "brsolver_step", _NOTHING)
        return outputs

    scheduler.schedule, scheduler.update_from_output = noting, ending


def _noted(scheduler: Any, output: Any) -> tuple[int, ...]:
    # vLLM has advanced num_computed_tokens by what this step computes.
    return (
        sum(request.num_computed_tokens for request in scheduler.running),
        len(scheduler.running),
        len(scheduler.waiting),
        output.total_num_scheduled_tokens,
        *loads_of(scheduler.requests, output.num_scheduled_tokens),
    )


def _write_in_lockstep(engine: Any, folder: Path) -> None:
    original = engine._has_global_unfinished_reqs  # noqa: SLF001 # the barrier itself

    @functools.wraps(original)
    def synchronise(self: Any, local_unfinished: bool) -> bool:
        wave, step = self.current_wave, self.step_counter
        running = bool(original(self, local_unfinished))
        _write(self, folder, wave, step, _taken(self))
        return running

    engine._has_global_unfinished_reqs = synchronise  # noqa: SLF001 # as above


def _write_alone(engine: Any, lockstep: type, folder: Path) -> None:
    """Write the steps of an engine without a barrier; a new wave begins where it had nothing."""
    original = engine._process_engine_step  # noqa: SLF001 # the only place that both loops have

    @functools.wraps(original)
    def process(self: Any) -> bool:
        executed = bool(original(self))
        if not isinstance(self, lockstep):
            _count_alone(self, folder)
        return executed

    engine._process_engine_step = process  # noqa: SLF001 # as above


def _count_alone(engine: Any, folder: Path) -> None:
    rank = int(getattr(engine, "engine_index", 0))
    wave, step = getattr(engine, "brsolver_at", (rank * _ALONE, 0))
    noted = _taken(engine)
    if noted[3]:
        _write(engine, folder, wave, step, noted)
        step += 1
    if not engine.scheduler.has_unfinished_requests():
        wave, step = wave + 1, 0
    engine.brsolver_at = (wave, step)


def _taken(engine: Any) -> tuple[int, ...]:
    """Return what the step that has ended computed, once."""
    noted: tuple[int, ...] = getattr(engine.scheduler, "brsolver_step", _NOTHING)
    engine.scheduler.brsolver_step = _NOTHING
    return noted


def _write(engine: Any, folder: Path, wave: int, step: int, noted: tuple[int, ...]) -> None:
    line = (wave, step, f"{time.monotonic():.6f}", *noted)
    # A disk that is full ends the log, not the serving.
    with contextlib.suppress(OSError):
        os.write(_file(engine, folder), (",".join(map(str, line)) + "\n").encode())


def _file(engine: Any, folder: Path) -> int:
    descriptor: int | None = getattr(engine, "brsolver_file", None)
    if descriptor is None:
        path = folder / f"rank-{int(getattr(engine, 'engine_index', 0))}.csv"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if os.fstat(descriptor).st_size == 0:
            os.write(descriptor, (",".join(COLUMNS) + "\n").encode())
        engine.brsolver_file = descriptor
    return descriptor
