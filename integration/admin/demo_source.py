"""The live page with traffic that is made up: ``python -m integration.admin.demo_source``.

A core lives through random requests by its own model of the ranks, with a worker that goes down
now and then. No engines and no proxy are needed, so that pages can be looked at, and tested.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brsolver._version import __version__
from brsolver.errors import BrsolverError
from integration.admin.admin import Admin
from integration.admin.params import AdminParams
from integration.admin.replay import Replay, Replayed
from integration.picker.asks import Ask
from integration.picker.params import PickerParams, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_S = 0.02
FAILS_EVERY_S, FAILS_FOR_S = 60.0, 8.0
LONGEST = 600


class DemoSource:
    """A core that serves random requests on a clock of its own.

    Parameters
    ----------
    workers : int
    per_second : float
        Requests per second, on average; they come in swells.
    seed : int
    start_s : float
        Where its clock begins.

    Attributes
    ----------
    replay : Replay
        What serves; its core is the one to look at.
    """

    def __init__(
        self, *, workers: int = 8, per_second: float = 33.0, seed: int = 0, start_s: float = 0.0
    ) -> None:
        specs = [
            WorkerSpec(name=f"rank-{g}", address=f"127.0.0.1:{8001 + g}") for g in range(workers)
        ]
        params = PickerParams(slots=48, hardware="minimax-m2.7-h200-dp4")
        self.replay = Replay(params, specs, start_s=start_s, window_s=600.0, folder=Path())
        self._rng = np.random.default_rng(seed)
        self._per_second = per_second
        self._came = 0
        self._next_s = start_s
        self._fails_at_s, self._down = start_s + FAILS_EVERY_S, False
        self._start_s = start_s

    def clock(self) -> float:
        """Return its time."""
        return self.replay.now_s

    def live_until(self, at_s: float) -> None:
        """Serve what comes until then."""
        while self._next_s <= at_s:
            self.replay.feed(self._drawn())
        while self.replay.next_s <= at_s:
            self.replay.live_on()
            self._fail_now_and_then()
        self.replay.skip_to(at_s)

    def _drawn(self) -> Replayed:
        rng, self._came = self._rng, self._came + 1
        prompt = int(np.clip(rng.lognormal(6.3, 1.1), 1, 16_000))
        output = int(np.clip(rng.lognormal(4.6, 0.8), 1, LONGEST))
        ask = Ask(f"req-{self._came:06d}", prompt, LONGEST, stream=True)
        request = Replayed(ask=ask, at_s=self._next_s, output_tokens=output)
        swell = 1 + 0.6 * np.sin((self._next_s - self._start_s) / 12)
        self._next_s += float(rng.exponential(1 / (self._per_second * swell)))
        return request

    def _fail_now_and_then(self) -> None:
        if self.replay.now_s < self._fails_at_s:
            return
        core, worker = self.replay.core, len(self.replay.core.workers) - 1
        if self._down:
            core.up(worker, "answers again")
        else:
            core.fault("unreachable", f"{core.workers[worker].spec.name}: connection refused")
            core.down(worker, "connection refused")
        self._fails_at_s += FAILS_EVERY_S - FAILS_FOR_S if self._down else FAILS_FOR_S
        self._down = not self._down


async def serve(params: AdminParams, *, timer: Callable[[], float] = time.monotonic) -> None:
    """Serve the page until cancelled."""
    source = DemoSource(start_s=timer())
    about: dict[str, object] = {"version": __version__, "back_end": "traffic that is made up"}
    admin = Admin(source.replay.core, params, clock=source.clock, about=about)
    await admin.start()
    sys.stdout.write(f"{admin.server.address}\n")
    sys.stdout.flush()
    try:
        while True:
            source.live_until(timer())
            await asyncio.sleep(TURN_S)
    finally:
        await admin.stop()


def main() -> int:
    """Serve the page on the port that is named, 9950 if none is, until interrupted."""
    try:
        port = int(sys.argv[1]) if len(sys.argv) > 1 else AdminParams().port
        asyncio.run(serve(AdminParams(port=port)))
    except KeyboardInterrupt:
        return 0
    except (BrsolverError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
