"""Parameters of a load: whom, how fast, and what counts as good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from brsolver._limits import (
    MAX_COUNT,
    MAX_SECONDS,
    MAX_SEED,
    require,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_STREAMS = 1_000_000
MAX_RATE = 1e6
MAX_SPEED = 1e6


class LoadError(BrsolverError, RuntimeError):
    """An endpoint cannot be reached, or does not do what a load needs of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When requests are sent.

    Attributes
    ----------
    rate : float or None
        Requests per second, Poisson.
    concurrency : int or None
        Requests in flight: a closed loop. With neither, the trace's own times are taken.
    speed : float
        How much faster than the trace's own times.

    Raises
    ------
    ParameterError
        A value is out of range, or two exclude each other.
    """

    rate: float | None = None
    concurrency: int | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.rate is not None:
            require_number("rate", self.rate, 1e-6, MAX_RATE, " requests per second")
        if self.concurrency is not None:
            require_whole("concurrency", self.concurrency, 1, MAX_STREAMS, " requests in flight")
        require_number("speed", self.speed, 1 / MAX_SPEED, MAX_SPEED)
        require(
            self.rate is None or self.concurrency is None,
            f"rate is {self.rate} and concurrency is {self.concurrency}, one of them must be left "
            "out",
        )
        require(
            self.speed == 1 or (self.rate is None and self.concurrency is None),
            f"speed is {self.speed:g}, must be left out with rate or concurrency: it is that of "
            "the trace's own times",
        )

    @property
    def closed(self) -> bool:
        """Whether so many requests are in flight, whatever the time."""
        return self.concurrency is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParams:
    """Whom requests are sent to, and how.

    Attributes
    ----------
    url : str
        Of the endpoint, with or without ``/v1``.
    model : str or None
        None asks ``/v1/models``.
    chat : bool
        ``/v1/chat/completions`` rather than ``/v1/completions``.
    key : str
        Sent as a bearer's token, if not empty.
    headers : mapping of str to str
        Sent with every request.
    timeout_s : float
        Seconds that one request may take, all in all.
    max_connections : int or None
        Requests that are on their way at most; others wait, and their waiting counts.
    ca_file : str or None
        Certificates (PEM) that servers are trusted by, instead of the system's.
    insecure : bool
        Trust any server.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    url: str
    model: str | None = None
    chat: bool = False
    key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 600.0
    max_connections: int | None = None
    ca_file: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        scheme, _, rest = self.url.partition("://")
        require(
            scheme in {"http", "https"} and rest.strip("/") != "" and " " not in rest,
            f"target is {self.url!r}, must be http://HOST:PORT or https://HOST:PORT",
        )
        require(self.model != "", "model is '', must be a name")
        require_number("timeout", self.timeout_s, 1e-3, MAX_SECONDS, " seconds")
        if self.max_connections is not None:
            require_whole("max_connections", self.max_connections, 1, MAX_STREAMS)
        require(
            not (self.insecure and self.ca_file),
            "insecure and ca_file exclude each other, one of them must be left out",
        )

    @property
    def base(self) -> str:
        """The URL without ``/v1``."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return f"{self.base}/v1/{'chat/completions' if self.chat else 'completions'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentParams:
    """What requests hold.

    Attributes
    ----------
    prompts : {"ids", "text"}
        Token numbers, which are exact whatever the model, or words.
    tokenizer : str or None
        File ``tokenizer.json`` or a folder with it, by which words are chosen that are one token.
    block : int or None
        Tokens of a block of the trace's ``hash_ids``; None finds it out.
    ignore_eos : bool
        Ask for exactly as many tokens as the trace has.
    more : mapping of str to object
        Further fields of every body.
    seed : int
        Of the tokens.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    prompts: Literal["ids", "text"] = "ids"
    tokenizer: str | None = None
    block: int | None = None
    ignore_eos: bool = True
    more: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of("prompts", self.prompts, "ids", "text")
        if self.block is not None:
            require_whole("block", self.block, 1, MAX_COUNT, " tokens")
        require_whole("seed", self.seed, 0, MAX_SEED)
        require(
            self.tokenizer is None or self.prompts == "text",
            "tokenizer is given and prompts are ids, must be text: ids need no words",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a request must keep to be good; None asks for nothing.

    Attributes
    ----------
    ttft_s, tpot_s : float or None
        Longest time to the first token, and per token after it, in seconds.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("slo_ttft", self.ttft_s), ("slo_tpot", self.tpot_s)):
            if value is not None:
                require_number(name, 1e3 * value, 1e-3, 1e3 * MAX_SECONDS, " milliseconds")

    @property
    def any(self) -> bool:
        """Whether something is asked for."""
        return self.ttft_s is not None or self.tpot_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadParams:
    """A load.

    Attributes
    ----------
    target : TargetParams
    pace : Pace
    content : ContentParams
    objectives : Objectives
    warm_up : int
        Requests that are sent before, one after another, and not measured.
    fit : bool
        Leave out requests that are longer than the model's context.

    Raises
    ------
    ParameterError
        A value is out of range, or two exclude each other.
    """

    target: TargetParams
    pace: Pace = field(default_factory=Pace)
    content: ContentParams = field(default_factory=ContentParams)
    objectives: Objectives = field(default_factory=Objectives)
    warm_up: int = 1
    fit: bool = False

    def __post_init__(self) -> None:
        require_whole("warm_up", self.warm_up, 0, MAX_STREAMS, " requests")
        require(
            not self.target.chat or self.content.prompts == "text",
            "prompts are ids, must be text for a chat",
        )
