"""What each rank holds at each step, written by the rank itself. For tests and measurements only.

With ``BRSOLVER_RIG_STEPS`` naming a folder, every data-parallel engine appends a line per step to
``rank-R.csv`` there: wave and step of vLLM's own lockstep counters, the monotonic clock at the
step's end in seconds, KV tokens as of this step, running and waiting requests, tokens scheduled.
The wave and step number are the same on all ranks, so the files can be put side by side.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

VARIABLE = "BRSOLVER_RIG_STEPS"
COLUMNS = ("wave", "step", "end_s", "kv_tokens", "running", "waiting", "scheduled")


def install(folder: str) -> None:
    """Make the engines of this process write their steps into `folder`."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import DPEngineCoreProc

    _note_schedules(Scheduler)
    _write_steps(DPEngineCoreProc, Path(folder))


def _note_schedules(scheduler: Any) -> None:
    original = scheduler.schedule

    @functools.wraps(original)
    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        # vLLM has advanced num_computed_tokens by what this step computes.
        self.rig_step = (
            sum(request.num_computed_tokens for request in self.running),
            len(self.running),
            len(self.waiting),
            output.total_num_scheduled_tokens,
        )
        return output

    scheduler.schedule = schedule


def _write_steps(engine: Any, folder: Path) -> None:
    original = engine._has_global_unfinished_reqs

    @functools.wraps(original)
    def synchronise(self: Any, local_unfinished: bool) -> bool:
        wave, step = self.current_wave, self.step_counter
        running = original(self, local_unfinished)
        noted = getattr(self.scheduler, "rig_step", (0, 0, 0, 0))
        self.scheduler.rig_step = (0, 0, 0, 0)
        line = (wave, step, f"{time.monotonic():.6f}", *noted)
        os.write(_file(self, folder), (",".join(map(str, line)) + "\n").encode())
        return running

    engine._has_global_unfinished_reqs = synchronise


def _file(engine: Any, folder: Path) -> int:
    descriptor = getattr(engine, "rig_file", None)
    if descriptor is None:
        path = folder / f"rank-{engine.dp_rank}.csv"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if os.fstat(descriptor).st_size == 0:
            os.write(descriptor, (",".join(COLUMNS) + "\n").encode())
        engine.rig_file = descriptor
    return int(descriptor)
