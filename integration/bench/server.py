"""A vLLM server as a context manager."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from brsolver.errors import BrsolverError, ParameterError
from integration.free_ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

HOST = "127.0.0.1"
POLL_S = 0.25
END_S = 30.0
TAIL_LINES = 12
_MEASURED_BY_US = re.compile(r"BRSOLVER_")


class ServerError(BrsolverError, RuntimeError):
    """A server did not start, or ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParams:
    """What to start.

    Attributes
    ----------
    model : str
        Folder or name of the model.
    python : str
        Interpreter of the environment that holds vLLM.
    name : str
        Name under which the model is served.
    ranks : int
        Data-parallel ranks; with more than one, experts are spread over all of them.
    slots : int
        Sequences that a rank runs at most (``--max-num-seqs``).
    api_servers : int
        API server processes.
    arguments : tuple of str
        Further arguments of vLLM's API server.
    environment : mapping of str to str
        Variables added to this process's own, of which those of brsolver are left out.
    startup_s : float
        Seconds after which a server that does not answer has failed.
    log : Path or None
        File that takes the server's output; None makes a temporary one.
    """

    model: str
    python: str = sys.executable
    name: str = "model"
    ranks: int = 2
    slots: int = 16
    api_servers: int = 1
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    startup_s: float = 600.0
    log: Path | None = None

    def __post_init__(self) -> None:
        for name in ("ranks", "slots", "api_servers"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not self.startup_s > 0:
            raise ParameterError(f"startup_s is {self.startup_s}, must be positive")

    def command(self, port: int) -> list[str]:
        """Return the command line of vLLM's API server on `port`."""
        parallel = (
            ["--data-parallel-size", str(self.ranks), "--enable-expert-parallel"]
            if self.ranks > 1
            else []
        )
        return [
            *(self.python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", HOST, "--port", str(port)),
            *("--model", self.model, "--served-model-name", self.name),
            *("--max-num-seqs", str(self.slots)),
            *("--api-server-count", str(self.api_servers)),
            *parallel,
            *self.arguments,
        ]


class Server:
    """A running server; leaving the context ends all of its processes.

    Parameters
    ----------
    params : ServerParams

    Attributes
    ----------
    url : str
        Where it answers, without trailing slash.
    log : Path
        The file that holds its output.

    Raises
    ------
    ServerError
        On entering: if it ends, or does not answer in time. The message ends with the last
        lines of its log.
    """

    def __init__(self, params: ServerParams) -> None:
        self.params = params
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.log = params.log or _temporary_log()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = self._start(output)
        try:
            self._await_answer()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the server. Does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def running(self) -> bool:
        """Whether the server's main process lives."""
        return self._process is not None and self._process.poll() is None

    def condition(self) -> str:
        """Return, for messages, whether the server lives, and where its log is."""
        if self.running:
            return f"the server runs (log: {self.log})"
        return f"the server has ended: {self._last_words()}"

    def log_text(self) -> str:
        """Return what the server has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, timeout_s: float = 10.0) -> str:
        """Return the body that the server answers to a GET of `path`.

        Raises
        ------
        OSError
            If it does not answer, or with an error.
        """
        # The address is this server's own, on this machine.
        with urllib.request.urlopen(self.url + path, timeout=timeout_s) as answer:  # noqa: S310
            return str(answer.read().decode())

    def _start(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        command = self.params.command(self.port)
        supervised = [sys.executable, str(Path(__file__).with_name("supervise.py")), *command]
        return subprocess.Popen(  # noqa: S603 # the command is built from validated parameters
            supervised,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not _MEASURED_BY_US.match(k)}
        return inherited | {"PYTHONUNBUFFERED": "1"} | dict(self.params.environment)

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self.params.startup_s
        while time.monotonic() < deadline:
            if not self.running:
                raise ServerError(f"the server ended while starting: {self._last_words()}")
            with contextlib.suppress(OSError):
                self.get("/health", timeout_s=2.0)
                return
            time.sleep(POLL_S)
        raise ServerError(
            f"the server did not answer within {self.params.startup_s:g} s: {self._last_words()}"
        )

    def _last_words(self) -> str:
        lines = [line for line in self.log_text().splitlines() if line.strip()]
        return " | ".join(lines[-TAIL_LINES:]) + f" (all of it: {self.log})"


def _temporary_log() -> Path:
    return Path(tempfile.mkdtemp(prefix="brsolver-vllm-")) / "server.log"
