"""Who the workers are: the tables ``[workers]`` and ``[tiers]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from brsolver._limits import MAX_SLOTS, require, require_number, require_whole
from brsolver.errors import ParameterError
from integration.settings._checks import Address
from integration.settings.limits import DAY_S

_GIVEN: Final = ("addresses", "file", "dns", "service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whence:
    """Where workers come from: one of addresses, a file, a name, or a service.

    Attributes
    ----------
    addresses, ranks, file, dns, service
        As `Workers`.
    tier : str
        What begins the keys of ``[tiers]`` that say so; empty is ``[workers]``.
    """

    addresses: tuple[str, ...] = ()
    ranks: int | None = None
    file: str | None = None
    dns: str | None = None
    service: str | None = None
    tier: str = ""

    def __post_init__(self) -> None:
        given = [self.key(name) for name in _GIVEN if getattr(self, name)]
        if len(given) > 1:
            raise ParameterError(f"{given[0]} and {given[1]} are given, must be one of them")
        _require_addresses(self.key("addresses"), self.addresses)
        if self.dns is not None:
            Address.parse(self.dns, self.key("dns"))
        if self.service is not None:
            name, colon, port = self.service.partition(":")
            require(
                bool(name and colon and port),
                f"{self.key('service')} is {self.service!r}, must be NAME:PORT of a service",
            )

    @property
    def given(self) -> bool:
        """Whether any of them is given."""
        return any(getattr(self, name) for name in _GIVEN)

    def key(self, name: str) -> str:
        """Return what the file calls one of them."""
        if not self.tier:
            return name
        return self.tier if name == "addresses" else f"{self.tier}_{name}"

    def label(self, name: str) -> str:
        """Return what messages call one of them."""
        return f"[{'tiers' if self.tier else 'workers'}] {self.key(name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """``[workers]``: the engines.

    Attributes
    ----------
    addresses : tuple of str
        ``host:port`` of each; names are looked up again and again.
    ranks : int or None
        Data-parallel ranks behind the one address, each of them a worker, for engines that take
        ``X-data-parallel-rank``; None where each address is one worker.
    file : str or None
        Instead of addresses: a TOML file ``….toml`` with a table ``[[worker]]`` for each server
        (`address`, and `name`, `ranks`, `slots`, `capacity` where needed), or another one with an
        address in each line; read again when it changes.
    dns : str or None
        Instead of addresses: ``name:port``, each address of the name being a worker.
    service : str or None
        Instead of addresses: ``name:port`` of a service of the Kubernetes cluster that this runs
        in, whose ready endpoints are workers; the port by name or number.
    health_path : str
        Answered 200 by a worker that is well.
    health_interval_s : float
        Seconds between looks.
    metrics_path : str
        Where an engine tells its figures.
    tls : bool
        Whether engines are spoken to by TLS.
    ca : str or None
        PEM file of who signs their certificates; None takes the system's.
    keep_alive_s : float
        Seconds that a connection may idle; less than engines allow (uvicorn: 5).
    """

    addresses: tuple[str, ...] = ()
    ranks: int | None = None
    file: str | None = None
    dns: str | None = None
    service: str | None = None
    health_path: str = "/health"
    health_interval_s: float = 1.0
    metrics_path: str = "/metrics"
    tls: bool = False
    ca: str | None = None
    keep_alive_s: float = 4.0

    def __post_init__(self) -> None:
        _ = self.whence
        self._check_ranks()
        for name in ("health_path", "metrics_path"):
            path = getattr(self, name)
            require(path.startswith("/"), f"{name} is {path!r}, must begin with '/'")
            plain = path.isascii() and path.isprintable() and " " not in path
            require(plain, f"{name} is {path!r}, must be a path as URLs have it")
        require_number("health_interval_s", self.health_interval_s, 0.05, 3600.0, " s")
        require_number("keep_alive_s", self.keep_alive_s, 0.1, DAY_S, " s")
        require(self.ca is None or self.tls, "ca is given, but tls is false; it must be true")

    @property
    def whence(self) -> Whence:
        """Where they come from."""
        return Whence(
            addresses=self.addresses,
            ranks=self.ranks,
            file=self.file,
            dns=self.dns,
            service=self.service,
        )

    def _check_ranks(self) -> None:
        if self.ranks is None:
            return
        require_whole("ranks", self.ranks, 1, MAX_SLOTS)
        if len(self.addresses) != 1:
            raise ParameterError(
                f"ranks is {self.ranks}, which goes with one address; there are "
                f"{len(self.addresses)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """``[tiers]``: prompts are computed by other workers than those that decode.

    Attributes
    ----------
    prefill, decode : tuple of str
        ``host:port`` of each; names are looked up again and again.
    prefill_file, decode_file : str or None
        Instead of those: as `file` of ``[workers]``.
    prefill_dns, decode_dns : str or None
        As `dns` of ``[workers]``.
    prefill_service, decode_service : str or None
        As `service` of ``[workers]``.
    connector : {"kv_transfer_params", "x-prefiller-host-port"}
        How the decode worker is told where the KV cache is: by what the prefill worker answered,
        or by a header that names that worker, which llm-d's side-car follows.
    threshold : float
        Share of a prefill worker's KV cache in use from which on it gets no further prompts.
    timeout_s : float
        Seconds that a prompt may take to compute.
    """

    prefill: tuple[str, ...] = ()
    prefill_file: str | None = None
    prefill_dns: str | None = None
    prefill_service: str | None = None
    decode: tuple[str, ...] = ()
    decode_file: str | None = None
    decode_dns: str | None = None
    decode_service: str | None = None
    connector: Literal["kv_transfer_params", "x-prefiller-host-port"] = "kv_transfer_params"
    threshold: float = 0.9
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for tier in (self.prefilling, self.decoding):
            name = tier.tier
            require(
                tier.given,
                f"{name} is empty, must name at least one HOST:PORT, or {name}_file, {name}_dns or "
                f"{name}_service be given",
            )
        both = sorted(set(self.prefill) & set(self.decode))
        both += [
            where
            for name in ("file", "dns", "service")
            if (where := getattr(self.prefilling, name)) and where == getattr(self.decoding, name)
        ]
        if both:
            raise ParameterError(
                f"prefill and decode both name {both[0]!r}, must be in one of them"
            )
        require_number("threshold", self.threshold, 0.01, 1.0)
        require_number("timeout_s", self.timeout_s, 0.1, DAY_S, " s")

    @property
    def prefilling(self) -> Whence:
        """Where workers come from that compute prompts."""
        return Whence(
            addresses=self.prefill,
            file=self.prefill_file,
            dns=self.prefill_dns,
            service=self.prefill_service,
            tier="prefill",
        )

    @property
    def decoding(self) -> Whence:
        """Where workers come from that decode."""
        return Whence(
            addresses=self.decode,
            file=self.decode_file,
            dns=self.decode_dns,
            service=self.decode_service,
            tier="decode",
        )


def _require_addresses(name: str, addresses: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for text in addresses:
        address = str(Address.parse(text, name))
        require(address not in seen, f"{name} names {text!r} twice, must name each once")
        seen.add(address)
