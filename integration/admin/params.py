"""Parameters of the admin listener and of what it keeps."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

from brsolver._limits import (
    MAX_COUNT,
    require,
    require_kind,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.wiring import read_policies

MAX_PORT = 65_535
MAX_BUCKETS = 3_600
MAX_CLIENTS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowParams:
    """How much of the recent past is kept.

    Attributes
    ----------
    bucket_s : float
        Seconds that are added up into one point of the pictures.
    buckets : int
        Points that are kept.
    requests : int
        Ended requests that are kept, the latest ones.
    faults : int
        Faults that are kept.
    """

    bucket_s: float = 1.0
    buckets: int = 300
    requests: int = 4_096
    faults: int = 50

    def __post_init__(self) -> None:
        require_number("bucket_s", self.bucket_s, 0.05, 60, " seconds")
        require_whole("buckets", self.buckets, 2, MAX_BUCKETS)
        require_whole("requests", self.requests, 1, MAX_COUNT)
        require_whole("faults", self.faults, 1, MAX_COUNT)

    @property
    def length_s(self) -> float:
        """Seconds that the window spans."""
        return self.bucket_s * self.buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowParams:
    """Which routers run in the shadow, and on how much of the processor.

    Attributes
    ----------
    policies : tuple of str
        Besides the one that routes: policies as on the command line.
    mode : {"immediate", "pooled"}
        How they route: each request as it comes, as routers without a pool do, or sets of what is
        held. The one that routes does what it does in truth.
    share : float
        Of one processor that all shadows together may use, in slices, while requests are in
        progress; without any, half of it.
    slice_ms : float
        Longest time that they use it at once, but for a single step or decision of one of them.
    window_s : float
        Span of their own clock that figures are of.
    patience_s : float
        Longest wait for a request's length.
    behind_s : float
        With more to catch up than that, a shadow begins anew with what comes.
    """

    policies: tuple[str, ...] = ("vllm", "jsq-load")
    mode: Literal["immediate", "pooled"] = "immediate"
    share: float = 0.05
    slice_ms: float = 1.0
    window_s: float = 120.0
    patience_s: float = 60.0
    behind_s: float = 600.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", tuple(self.policies))
        if self.policies:
            read_policies(self.policies)
        require_one_of("mode", self.mode, "immediate", "pooled")
        require_number("share", self.share, 0.001, 1)
        require_number("slice_ms", self.slice_ms, 0.05, 1_000, " ms")
        require_number("window_s", self.window_s, 1, 3_600, " seconds")
        require_number("patience_s", self.patience_s, 0.1, 3_600, " seconds")
        require_number("behind_s", self.behind_s, 1, 86_400, " seconds")
        require(
            self.behind_s > self.patience_s,
            f"behind_s is {self.behind_s:g}, must be above patience_s, {self.patience_s:g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParams:
    """Where the admin listener stands and who may use it.

    Attributes
    ----------
    host : str
        Address to listen on. Anything but loopback needs a `token`.
    port : int
        Port; 0 is any that is free.
    token : str or None
        What a client has to show, as a bearer token or as the password of a user of any name.
        ``/healthz`` needs none. On loopback None asks for nothing.
    hosts : tuple of str
        Names besides the address itself that a request's ``Host`` may have, without port.
    clients : int
        Pages that may be open at once.
    unread : int
        Updates that may wait for a page that does not read; with one more it is cut off.
    tick_s : float
        Seconds between updates.
    window : WindowParams
    shadows : ShadowParams
        Without policies none run.
    """

    host: str = "127.0.0.1"
    port: int = 9_950
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    clients: int = 32
    unread: int = 8
    tick_s: float = 0.5
    window: WindowParams = field(default_factory=WindowParams)
    shadows: ShadowParams = field(default_factory=ShadowParams)

    def __post_init__(self) -> None:
        require_whole("port", self.port, 0, MAX_PORT)
        require_whole("clients", self.clients, 1, MAX_CLIENTS)
        require_whole("unread", self.unread, 1, MAX_CLIENTS)
        require_number("tick_s", self.tick_s, 0.05, 60, " seconds")
        require_kind("window", self.window, WindowParams)
        require_kind("shadows", self.shadows, ShadowParams)
        require(bool(self.host), "host is empty, must be an address to listen on")
        require(
            self.token is None or len(self.token) >= 16,
            "token is too short, must have at least 16 letters",
        )
        require(
            self.loopback or self.token is not None,
            f"host is {self.host}, which others can reach: token must be set, "
            "or host be a loopback address such as 127.0.0.1",
        )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is that of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
