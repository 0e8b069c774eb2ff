"""What ``serve.toml`` says of what clients may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from brsolver._limits import require, require_number, require_whole
from brsolver.errors import ParameterError

DAY_S = 86_400.0
MEBI = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``[limits]``: what clients and workers may ask of the front door.

    Attributes
    ----------
    body_bytes : int
        Of a request's body; longer ones are answered 413.
    header_bytes : int
        Of all headers of a request, in whole KiB; 2 KiB more may pass, the rest is answered 431.
    headers : int
        Of a request; 16 more may pass, as those of the front door's own count too, the rest is
        answered 431.
    upload_s : float
        Seconds that a request may take to arrive.
    rate : float or None
        Requests a second of each API key, or of each client's address where there are no keys;
        None is no limit.
    burst : int or None
        Requests at once after silence; None is a second's worth.
    connections : int
        From clients at most, and as many requests to workers.
    idle_s : float
        Seconds for which an attempt may send nothing, its first byte included.
    request_s : float
        Seconds that an answer may take as a whole.
    connect_s : float
        Seconds until a worker must have taken a connection.
    retries : int
        Further attempts, each at a worker that the picker decides anew; none after the first byte.
    retry_statuses : tuple of int
        With which a worker says that it has not begun: what it answers so goes to another.
    backoff_ms, max_backoff_ms : float
        Before the first retry, and at most.
    drain_s : float
        Seconds that running requests may take to end after SIGTERM.
    """

    body_bytes: int = 32 * MEBI
    header_bytes: int = 65_536
    headers: int = 100
    upload_s: float = 60.0
    rate: float | None = None
    burst: int | None = None
    connections: int = 20_000
    idle_s: float = 300.0
    request_s: float = 3600.0
    connect_s: float = 2.0
    retries: int = 2
    retry_statuses: tuple[int, ...] = (502, 503)
    backoff_ms: float = 25.0
    max_backoff_ms: float = 1000.0
    drain_s: float = 60.0

    @property
    def with_ours(self) -> tuple[int, int]:
        """Headers, and bytes of them, that a request may have with those that Envoy puts on it."""
        return self.headers + 8, min(self.header_bytes + 1024, 8 * MEBI - 1024)

    def __post_init__(self) -> None:
        require_whole("body_bytes", self.body_bytes, 1024, 1024 * MEBI, " bytes")
        require_whole("header_bytes", self.header_bytes, 1024, 8 * MEBI, " bytes")
        require(
            self.header_bytes % 1024 == 0,
            f"header_bytes is {self.header_bytes}, must be a multiple of 1024",
        )
        require_whole("headers", self.headers, 10, 10_000)
        require_whole("connections", self.connections, 1, 10_000_000)
        require_whole("retries", self.retries, 0, 100)
        for status in self.retry_statuses:
            require_whole("retry_statuses", status, 400, 599)
        for name in ("upload_s", "idle_s", "request_s", "connect_s"):
            require_number(name, getattr(self, name), 0.05, DAY_S, " s")
        require_number("drain_s", self.drain_s, 0.0, DAY_S, " s")
        require_number("backoff_ms", self.backoff_ms, 1.0, 60_000.0, " ms")
        require_number("max_backoff_ms", self.max_backoff_ms, self.backoff_ms, 600_000.0, " ms")
        self._check_rate()

    def _check_rate(self) -> None:
        if self.rate is not None:
            require_number("rate", self.rate, 0.01, 1e6, " requests a second")
        if self.burst is not None:
            require_whole("burst", self.burst, 1, 10_000_000, " requests")
            require(self.rate is not None, "burst is given, rate is not; it must be")


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """``[auth]``: API keys; without either, clients need none.

    A key is written ``NAME=KEY``, or alone: then its name is ``key-1`` and so on. In a file each
    line holds one; lines that begin with ``#`` do not count. In a variable commas separate them.

    Attributes
    ----------
    keys_file : str or None
    keys_env : str or None
        Name of an environment variable.
    forward : bool
        Whether engines get to see the key.
    """

    keys_file: str | None = None
    keys_env: str | None = None
    forward: bool = False

    def __post_init__(self) -> None:
        if self.keys_file is not None and self.keys_env is not None:
            raise ParameterError("keys_file and keys_env are given, must be one of them")
