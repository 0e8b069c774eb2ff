"""The picker's process: ``python -m integration.serve.child CONFIG PLACES [WORKERS]``.

Started and watched by the supervisor (`integration.serve.run`), which keeps Envoy running
whatever becomes of this. It begins with the settings that are kept beside PLACES. SIGTERM ends it,
SIGHUP has it read CONFIG again, SIGUSR1 tells it that Envoy has gone, and with it every stream.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from brsolver.errors import BrsolverError, OutputError
from integration.serve.anew import begin_anew, compiling
from integration.serve.kept import Kept
from integration.serve.loops import fastest_loop
from integration.serve.places import Places
from integration.serve.signals import Signals
from integration.serve.trimming import forget_files, freeze_objects, spare_linear_algebra
from integration.serve.watchdog import Heart, first_of
from integration.serve.wiring import Picker
from integration.settings import named

BAD_INPUT = 2


def main(arguments: list[str]) -> int:
    """Serve until told to stop; return the exit status."""
    config, places, *workers = arguments
    file = Path(config)
    spare_linear_algebra()
    try:
        with named(file), asyncio.Runner(loop_factory=fastest_loop()) as runner:
            kept = Kept.load(Path(places).parent, file)
            runner.run(_serve(kept, Places.load(Path(places)), next(iter(workers), None)))
    except (BrsolverError, OSError) as error:
        sys.stderr.write(f"brsolver: error: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    return 0


async def _serve(kept: Kept, places: Places, workers: str | None) -> None:
    with Signals() as signals:
        heart = Heart(signals.stop.set)
        with compiling() as compiled:
            picker = await Picker.found(kept.config(), places)
        if compiled():
            begin_anew(heart.hand_back)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, picker.proxy_gone)
        await picker.start()
        forget_files()
        freeze_objects()
        heart.start()
        try:
            while await first_of(signals.stop.wait(), signals.reload.wait()):
                signals.reload.clear()
                kept = await _reloaded(picker, kept, Path(places.folder), workers)
                heart.taken()
            await picker.stop(at_once=signals.now)
        finally:
            await heart.stop()


async def _reloaded(picker: Picker, kept: Kept, folder: Path, workers: str | None) -> Kept:
    """Take in what the file says now; return what holds then."""
    try:
        fresh = kept.reread(workers)
        await picker.reload(fresh.config())
    except BrsolverError as error:
        # What cannot be taken in changes nothing.
        picker.logger.warning("settings stay as they are: %s", error)
        return kept
    try:
        fresh.save(folder)
    except OutputError as error:
        picker.logger.warning("a picker after this one will not know these workers: %s", error)
    return fresh


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
