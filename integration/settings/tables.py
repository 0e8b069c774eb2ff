"""What each table of ``serve.toml`` holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brsolver._limits import require, require_number, require_whole
from integration.settings._checks import (
    MAX_PORT,
    Address,
    require_number_address,
    require_pair,
    require_port,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """``[listen]``: where clients come in.

    Attributes
    ----------
    host : str
        Address to bind, by number; ``0.0.0.0`` and ``::`` are all of them.
    port : int
        0 takes a free one.
    certificate, key : str or None
        PEM files, for TLS.
    paths : tuple of str
        What paths may begin with; others are answered 404, so that what an engine offers its
        owner is not open to clients.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: str | None = None
    key: str | None = None
    paths: tuple[str, ...] = (
        "/v1/",
        "/v2/",
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/classify",
        "/score",
        "/rerank",
        "/version",
        "/ping",
    )

    def __post_init__(self) -> None:
        require_number_address("host", self.host)
        require_port("port", self.port)
        require_pair("certificate", self.certificate, "key", self.key)
        require(bool(self.paths), "paths is empty, must name at least one, such as '/v1/'")
        for path in self.paths:
            require(path.startswith("/"), f"paths has {path!r}, each must begin with '/'")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvEvents:
    """``[kv_events]``: where engines publish their prefix caches (``--kv-events-config``).

    Attributes
    ----------
    port : int
        Where the engine at a worker's address publishes; a server of several ranks has a port for
        each, from this one on.
    replay_port : int or None
        Where it is asked for what was missed, likewise; None asks for nothing.
    topic : str
        What messages are published under.
    add_place : bool
        Whether a server of one rank adds its place in `addresses` to its ports: vLLM adds the
        data-parallel rank, under external load balancing too.
    """

    port: int = 5557
    replay_port: int | None = None
    topic: str = ""
    add_place: bool = False

    def __post_init__(self) -> None:
        require_whole("port", self.port, 1, MAX_PORT)
        if self.replay_port is not None:
            require_whole("replay_port", self.replay_port, 1, MAX_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """``[picker]``: how Envoy asks the picker.

    Attributes
    ----------
    door : {"ext_authz", "ext_proc"}
        ``ext_authz`` costs least; tiers need ``ext_proc``, which may change bodies.
    host : str
        Address that the picker binds, loopback as a rule.
    port : int
        Of the HTTP door; 0 takes a free one.
    grpc_port : int
        Of the access log, the external processor and health; 0 takes a free one.
    certificate, key : str or None
        PEM files, for TLS on `grpc_port`: gateways of Kubernetes ask for it.
    watchdog_s : float
        Seconds for which a picker may be frozen before it is ended and started again. On Linux,
        those for which it got no processor do not count, up to ten times as many.
    sample_streams : int
        Streams, at a time, of which Envoy tells every `sample_s` seconds how far they are: the pace
        of engines that do not count their steps; 0 is none.
    sample_s : float
        Seconds between two looks at a stream.
    """

    door: Literal["ext_authz", "ext_proc"] = "ext_authz"
    host: str = "127.0.0.1"
    port: int = 0
    grpc_port: int = 0
    certificate: str | None = None
    key: str | None = None
    watchdog_s: float = 2.0
    sample_streams: int = 16
    sample_s: float = 1.0

    def __post_init__(self) -> None:
        require(bool(self.host), "host is '', must be an address to bind")
        require_port("port", self.port)
        require_port("grpc_port", self.grpc_port)
        require_pair("certificate", self.certificate, "key", self.key)
        require_number("watchdog_s", self.watchdog_s, 0.5, 3600.0, " s")
        require_whole("sample_streams", self.sample_streams, 0, 1024)
        require_number("sample_s", self.sample_s, 0.05, 60.0, " s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """``[admin]``: the page, the metrics, the audit.

    Attributes
    ----------
    host : str
        Address to bind; whoever reaches it may look, add and remove workers.
    port : int
        0 takes a free one.
    token_env : str or None
        Name of an environment variable with the token that must be shown, as bearer token or as
        password; addresses that others can reach need one.
    hosts : tuple of str
        Names besides the address under which the page is asked for.
    shadows : tuple of str
        Policies that run in the shadow, to be compared with the one that routes.
    """

    host: str = "127.0.0.1"
    port: int = 8081
    token_env: str | None = None
    hosts: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ("vllm", "jsq-load")

    def __post_init__(self) -> None:
        require(bool(self.host), "host is '', must be an address to bind")
        require_port("port", self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envoy:
    """``[envoy]``: the data plane.

    Attributes
    ----------
    path : str or None
        Its program; None takes the Python package's, or else the one on ``PATH``.
    admin_port : int
        Of Envoy's own admin interface, on loopback always; 0 takes a free one.
    threads : int
        0 is one for each processor.
    folder : str or None
        Where its configuration and log are kept, and what a picker that is started anew goes by;
        None takes a temporary one.
    watchdog_s : float
        Seconds for which it may be frozen before it is ended, with all its streams, and started
        again; 0 waits for ever.
    """

    path: str | None = None
    admin_port: int = 0
    threads: int = 0
    folder: str | None = None
    watchdog_s: float = 15.0

    def __post_init__(self) -> None:
        require_port("admin_port", self.admin_port)
        require_whole("threads", self.threads, 0, 1024)
        require_number("watchdog_s", self.watchdog_s, 0.0, 3600.0, " s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """``[log]``: what is written while serving; never prompts, never keys.

    Attributes
    ----------
    level : {"debug", "info", "warning", "error"}
    format : {"text", "json"}
    file : str or None
        None is standard error.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """``[trace]``: spans, and the record of what was served.

    Attributes
    ----------
    opentelemetry : str or None
        ``host:port`` that takes OTLP by gRPC; None sends no spans.
    sampling : float
        Share of requests that get spans.
    service : str
        What spans call this service.
    record : str or None
        File ``….jsonl`` for the trace, in the schema that ``brsolver`` reads; None writes none.
    record_mib : int or None
        MiB of it from which on it becomes ``….jsonl.1``, in place of the one before, and a new one
        is begun; None is no limit.
    """

    opentelemetry: str | None = None
    sampling: float = 1.0
    service: str = "brsolver"
    record: str | None = None
    record_mib: int | None = None

    def __post_init__(self) -> None:
        if self.opentelemetry is not None:
            Address.parse(self.opentelemetry, "opentelemetry")
        require_number("sampling", self.sampling, 0.0, 1.0)
        require(
            self.record is None or self.record.endswith(".jsonl"),
            f"record is {self.record!r}, must end in .jsonl",
        )
        if self.record_mib is not None:
            require_whole("record_mib", self.record_mib, 1, 1_000_000, " MiB")
            require(self.record is not None, "record_mib is given, record is not; it must be")
