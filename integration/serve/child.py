"""The picker's process: ``python -m integration.serve.child CONFIG PLACES [WORKERS]``.

Started and watched by the supervisor (`integration.serve.run`), which keeps Envoy running
whatever becomes of this. SIGTERM ends it, SIGHUP has it read its settings again, SIGUSR1 tells it
that Envoy has gone, and with it every stream.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError
from integration.serve.anew import begin_anew, compiling
from integration.serve.loops import fastest_loop
from integration.serve.places import Places
from integration.serve.signals import Signals
from integration.serve.trimming import forget_files, freeze_objects, spare_linear_algebra
from integration.serve.watchdog import Heart, first_of
from integration.serve.wiring import Picker
from integration.settings import load, named

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.settings import ServeConfig

BAD_INPUT = 2


def main(arguments: list[str]) -> int:
    """Serve until told to stop; return the exit status."""
    config, places, *workers = arguments
    reread = partial(load, Path(config), workers=next(iter(workers), None))
    spare_linear_algebra()
    try:
        with named(Path(config)), asyncio.Runner(loop_factory=fastest_loop()) as runner:
            runner.run(_serve(reread, Places.load(Path(places))))
    except BrsolverError as error:
        sys.stderr.write(f"brsolver: error: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    return 0


async def _serve(reread: Callable[[], ServeConfig], places: Places) -> None:
    with Signals() as signals:
        heart = Heart(signals.stop.set)
        with compiling() as compiled:
            picker = await Picker.found(reread(), places)
        if compiled():
            begin_anew(heart.hand_back)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, picker.proxy_gone)
        await picker.start()
        forget_files()
        freeze_objects()
        heart.start()
        try:
            await _until_stopped(reread, picker, signals)
            await picker.stop(at_once=signals.now)
        finally:
            await heart.stop()


async def _until_stopped(
    reread: Callable[[], ServeConfig], picker: Picker, signals: Signals
) -> None:
    while await first_of(signals.stop.wait(), signals.reload.wait()):
        signals.reload.clear()
        try:
            await picker.reload(reread())
        except BrsolverError as error:
            # What cannot be taken in changes nothing.
            picker.logger.warning("settings stay as they are: %s", error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
