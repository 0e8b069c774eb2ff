"""Envoy's process: started, watched, drained, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, OutputError
from integration.envoy import _lifeline
from integration.envoy.admin import EnvoyAdmin, EnvoyAdminError
from integration.envoy.bootstrap import as_text, redacted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CONFIGURATION = "envoy.json"
LOG = "envoy.log"
START_S = 30.0
"""Seconds until it must be ready."""
STOP_S = 5.0
"""Seconds after which it is killed, if it does not end by itself."""
POLL_S = 0.05
LOOK_S = 1.0
"""Between two looks whether it answers."""
MISSES = 3
"""In a row, at least, before it is taken to be frozen."""
_TAIL = 20_000
_SAID = 200


class EnvoyStartError(BrsolverError, RuntimeError):
    """Envoy ended before it was ready."""


class EnvoyProcess:
    """An Envoy of our own.

    Its configuration, which holds API keys, and its log stand in `folder`. On Linux it ends with
    the thread that started it, whatever becomes of that: start it from the main thread.

    Parameters
    ----------
    program : Path
        As `find_envoy` returns it.
    configuration : dict
        As `bootstrap` returns it.
    admin_port : int
        As in the `Ports` it was made with.
    folder : Path
    threads : int
        0 is one for each processor.
    drain_s : float
        Seconds for which it goes on taking connections once it is to drain, and tells clients
        to close theirs.
    """

    def __init__(
        self,
        program: Path,
        configuration: dict[str, Any],
        *,
        admin_port: int,
        folder: Path,
        threads: int = 0,
        drain_s: float = 0.0,
    ) -> None:
        self.admin = EnvoyAdmin(admin_port)
        self.folder = folder
        self._program = program
        self._configuration = configuration
        self._threads = threads
        self._drain_s = drain_s
        self._process: asyncio.subprocess.Process | None = None
        self._left = 0

    @property
    def pid(self) -> int | None:
        """Of the process; None before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.folder / LOG

    async def start(self, *, timeout_s: float = START_S) -> None:
        """Start it, and wait until it is ready.

        Raises
        ------
        EnvoyStartError
            It ended, or was not ready in time; the message has its own last words.
        OutputError
            `folder` cannot be written.
        """
        try:
            await self._start(timeout_s)
        finally:
            self._forget_keys()

    async def _start(self, timeout_s: float) -> None:
        path = self._write(self._configuration)
        with self._open_log() as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *_tied(self._command(path)),
                    cwd=self.folder,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # What a terminal sends to all is for its owner, who drains it first.
                    start_new_session=True,
                )
            except OSError as error:
                raise EnvoyStartError(f"{self._program} cannot be run: {error}") from error
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_ready()
        except TimeoutError as error:
            await self.stop()
            raise EnvoyStartError(
                f"Envoy was not ready after {timeout_s:g} s: {self._last_words()}"
            ) from error

    def _forget_keys(self) -> None:
        """Leave no keys behind: they have been read, or never will be."""
        try:
            self._write(redacted(self._configuration))
        except OutputError:
            # An Envoy that runs is not ended for that, and on a full disk files can be removed.
            with contextlib.suppress(OSError):
                (self.folder / CONFIGURATION).unlink()

    async def silent(self, seconds: float) -> None:
        """Wait until it has not answered its admin interface for so long: it is frozen."""
        loop = asyncio.get_running_loop()
        since, misses = loop.time(), 0
        # Who was itself stopped for a while finds the time over and nothing asked.
        while misses < MISSES or loop.time() - since < seconds:
            if await self.admin.answers():
                since, misses = loop.time(), 0
            else:
                misses += 1
            await asyncio.sleep(LOOK_S)

    async def kill(self) -> None:
        """End it at once, frozen or not."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def wait(self) -> int:
        """Wait until it has ended; return its status."""
        return 0 if self._process is None else await self._process.wait()

    async def drain(self, timeout_s: float) -> int:
        """Take no more requests, and wait until those that run have ended.

        Parameters
        ----------
        timeout_s : float
            At most.

        Returns
        -------
        int
            Requests that still run, by its last word; where it said none, 1.
        """
        if not self.running:
            return 0
        self._left = 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._until_agreed(self._take_no_more)
                await self._until_agreed(self._is_empty)
        return self._left if self.running else 0

    async def _until_agreed(self, step: Callable[[], Awaitable[bool]]) -> None:
        """Try until it is so; one look that fails tells nothing, unless the process has ended."""
        while self.running:
            with contextlib.suppress(EnvoyAdminError):
                if await step():
                    return
            await asyncio.sleep(POLL_S)

    async def _take_no_more(self) -> bool:
        await self.admin.refuse_health()
        await self.admin.drain()
        return True

    async def _is_empty(self) -> bool:
        self._left = await self.admin.active()
        return not self._left

    async def stop(self, *, timeout_s: float = STOP_S) -> None:
        """End it, and with it whatever still runs."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()

    def _command(self, path: Path) -> list[str]:
        command = [str(self._program), "-c", str(path), "--log-level", "warning"]
        # They say at every start what is work in progress, and of every request that the picker
        # is gone.
        command += ["--component-log-level", "misc:error,ext_proc:error,ext_authz:error"]
        command += ["--disable-hot-restart"]
        command += ["--drain-time-s", str(max(1, round(self._drain_s)))]
        command += ["--drain-strategy", "immediate"]
        return command if self._threads == 0 else [*command, "--concurrency", str(self._threads)]

    def _write(self, configuration: dict[str, Any]) -> Path:
        path = self.folder / CONFIGURATION
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, part = tempfile.mkstemp(dir=self.folder, prefix=CONFIGURATION)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(as_text(configuration))
                Path(part).replace(path)
            finally:
                Path(part).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}); Envoy's configuration goes there"
            ) from error
        return path

    def _open_log(self) -> Any:
        try:
            return self.log.open("ab")
        except OSError as error:
            raise OutputError(
                f"{self.log} cannot be written ({error.strerror}); Envoy's log goes there"
            ) from error

    async def _until_ready(self) -> None:
        while not await self.admin.ready():
            if not self.running:
                raise EnvoyStartError(f"Envoy ended as it started: {self._last_words()}")
            await asyncio.sleep(POLL_S)

    def _last_words(self) -> str:
        """Return the last error in the log, or its last line."""
        try:
            text = self.log.read_bytes()[-_TAIL:].decode(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        bad = [at for at, line in enumerate(lines) if "[critical]" in line or "[error]" in line]
        # An error may quote what is wrong over many lines, and say what after that.
        said = " ".join(" ".join(lines[bad[-1] if bad else -1 :]).split())
        if len(said) > 2 * _SAID:
            said = f"{said[:_SAID]} ... {said[-_SAID:]}"
        return said or "it said nothing"


def _tied(command: list[str]) -> list[str]:
    """Return what runs a command and kills it when we end, where that can be had."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", _lifeline.__file__, str(os.getpid()), *command]
