"""Doors over a pump whose decisions the test makes, and clients that speak to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from integration.doors.fleet import Fleet
from integration.doors.ledger import Ledger
from integration.doors.reception import Reception
from integration.picker import Ask, End, Placed, Refused, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE_S = 20.0


@dataclass
class HandPump:
    """Takes decisions from `decide`, or holds until the test answers; writes down what it hears.

    `ends` has every end that was told of a request, so that a second one shows.
    """

    decide: Callable[[Ask], Any] | None = None
    asked: list[Ask] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    held: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    placed: dict[str, int] = field(default_factory=dict)
    starts: list[tuple[str, int]] = field(default_factory=list)
    firsts: list[str] = field(default_factory=list)
    ends: list[tuple[str, End, Any]] = field(default_factory=list)
    samples: list[tuple[str, Any]] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    gauges: list[tuple[int, Any]] = field(default_factory=list)
    workers: list[tuple[str, Any]] = field(default_factory=list)
    count: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        def fault(kind: str, text: str) -> None:
            self.faults.append((kind, text))

        self.core = SimpleNamespace(listeners=[], fault=fault)

    def ask(self, ask: Ask, told: Callable[[Any], None]) -> None:
        self.asked.append(ask)
        self._decide(ask, told)

    def again(self, name: str, told: Callable[[Any], None]) -> None:
        """Decide anew, as for the first time."""
        del self.placed[name]
        self.returned.append(name)
        self._decide(next(each for each in self.asked if each.name == name), told)

    def _decide(self, ask: Ask, told: Callable[[Any], None]) -> None:
        answer = None if self.decide is None else self.decide(ask)
        if answer is None:
            self.held[ask.name] = told
        else:
            self._tell(ask.name, told, answer)

    async def pick(self, ask: Ask):
        return await self._awaited(ask.name, partial(self.ask, ask))

    async def pick_again(self, name: str):
        return await self._awaited(name, partial(self.again, name))

    async def _awaited(self, name: str, enter: Callable[[Callable[[Any], None]], None]):
        future = asyncio.get_running_loop().create_future()
        enter(lambda answer: future.done() or future.set_result(answer))
        try:
            return await future
        except asyncio.CancelledError:
            self.ended(name, End.DISCONNECTED)
            raise

    def answer(self, answer: Any) -> None:
        """Answer all that are held."""
        while self.held:
            self._tell(*self.held.popitem(), answer)

    def _tell(self, name: str, told: Callable[[Any], None], answer: Any) -> None:
        if isinstance(answer, Placed):
            self.placed[name] = answer.worker
        told(answer)

    def started(self, name: str, worker: int) -> None:
        self.starts.append((name, worker))

    def first_token(self, name: str, **_: Any) -> None:
        self.firsts.append(name)

    def sampled(self, name: str, seen: Any) -> None:
        self.samples.append((name, seen))

    def ended(self, name: str, end: End, usage: Any = None, *, seen: Any = None, **_: Any) -> bool:
        if self.held.pop(name, None) is not None:
            self.withdrawn.append(name)
            return True
        if self.placed.pop(name, None) is None:
            return False
        self.seen[name] = seen
        self.ends.append((name, end, usage))
        return True

    def rebuild(self, live: Any) -> int:
        self.placed |= {each.name: each.worker for each in live}
        return len(live)

    def told(self, worker: int, gauges: Any) -> None:
        self.gauges.append((worker, gauges))

    def add_worker(self, spec: WorkerSpec) -> int:
        self.workers.append(("added", spec))
        self.count += 1
        return self.count - 1

    def retire(self, worker: int) -> None:
        self.workers.append(("retired", worker))

    def reported(self, worker: int, *, ok: bool, why: str = "") -> None:
        self.workers.append(("up" if ok else "missed", worker))


def workers(count: int = 3, *, ranks: bool = False) -> list[WorkerSpec]:
    """Workers at addresses of their own, or ranks of one server."""
    return [
        WorkerSpec(
            name=f"w{index}",
            address="10.0.0.1:8000" if ranks else f"10.0.0.{index + 1}:8000",
            rank=index if ranks else None,
        )
        for index in range(count)
    ]


@dataclass
class House:
    """A reception over a pump of the test's, which says what workers are `shut`."""

    pump: HandPump
    fleet: Fleet
    ledger: Ledger
    reception: Reception
    shut: set[int]


def house(
    decide: Callable[[Ask], Any] | None = None,
    specs: list[WorkerSpec] | None = None,
    *,
    retries: int | None = None,
):
    """A reception whose reader takes any POST for a completion of ten tokens."""
    specs = workers() if specs is None else specs
    pump = HandPump(decide, count=len(specs))
    shut: set[int] = set()
    fleet = Fleet(pump, specs, is_open=lambda worker: worker not in shut)  # type: ignore[arg-type]
    ledger = Ledger(pump, fleet, clock=lambda: 0.0)  # type: ignore[arg-type]
    names = itertools.count()

    def read(method: str, path: str, body: bytes, client: str | None = None):
        if method != "POST":
            return None
        if body == b"bad":
            return Refused(400, "the body is no JSON object")
        return Ask(name=f"r{next(names)}", prompt_tokens=10, key=client)

    reception = Reception(pump, fleet, ledger, read=read, retries=retries)  # type: ignore[arg-type]
    return House(pump, fleet, ledger, reception, shut)


def to(worker: int, *fallbacks: int) -> Callable[[Ask], Placed]:
    """Decide for a worker at once."""
    return lambda ask: Placed(worker, fallbacks)


def refusing(status: int, message: str, after: float | None = None) -> Callable[[Ask], Refused]:
    """Refuse at once."""
    return lambda ask: Refused(status, message, after)


@dataclass
class Reply:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error of an OpenAI-format answer."""
        return json.loads(self.body)["error"]


class HttpClient:
    """One connection, as Envoy keeps them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, payload: bytes) -> None:
        self._writer.write(payload)

    def ask(self, body: bytes = b"{}", *, method: str = "POST", headers: str = "") -> None:
        head = (
            f"{method} /v1/completions?x=1 HTTP/1.1\r\nhost: a\r\n{headers}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.send(head.encode() + body)

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split()[1]), headers, body)

    async def closed(self) -> None:
        """Wait until the other side closes."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def http_client(port: int) -> AsyncIterator[HttpClient]:
    """A connection to a port of this machine."""
    client = HttpClient(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)
