"""What engines say of their prefix caches, followed: vLLM's KV-cache events over ZeroMQ.

Engines number what they publish. What was missed is asked for again, where they offer replay; what
cannot be had any more leaves in doubt what has been let go, and then nothing is taken to be there
that was told before.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError, ParameterError
from integration.doors.kv_blocks import Blocks
from integration.doors.kv_messages import (
    EXTRA,
    Cleared,
    KvMessageError,
    Removed,
    read_batch,
    unpacker,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from integration.doors.fleet import Fleet
    from integration.doors.kv_messages import Batch, Stored
    from integration.picker import Core, WorkerSpec

_END = (-1).to_bytes(8, "big", signed=True)
_AGAIN_S = 1.0
"""Between two looks at which workers there are."""
_TRIES = 3
"""At a replay: its publisher drops what its own queue does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvEventsParams:
    """Where engines publish.

    Attributes
    ----------
    port : int
        Of a server's first rank; each further one adds its number, as vLLM does.
    replay_port : int or None
        The same, of what answers for batches that were missed; None asks for none.
    topic : str
        What messages are published under.
    add_place : bool
        Whether servers of one rank add their place among the workers, too.
    places : mapping of str to int
        Those places by the names that settings give; of another worker its number counts.
    block_tokens : int
        Tokens of a block by our own settings.
    replay_s : float
        Seconds that a replay may be silent.
    """

    port: int
    replay_port: int | None = None
    topic: str = ""
    add_place: bool = False
    places: Mapping[str, int] = field(default_factory=dict)
    block_tokens: int = 16
    replay_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.block_tokens:
            raise ParameterError("block_tokens is 0, must be above 0 where KV events are followed")

    def endpoints(self, worker: int, spec: WorkerSpec) -> tuple[str, str | None]:
        """Return where a worker's engine publishes, and answers for what was missed."""
        host = spec.address.rpartition(":")[0]
        # Of two at one place the later one is called NAME~2.
        place = self.places.get(spec.name.partition("~")[0], worker) if self.add_place else 0
        number = spec.rank if spec.rank is not None else place
        again = self.replay_port
        return (
            f"tcp://{host}:{self.port + number}",
            None if again is None else f"tcp://{host}:{again + number}",
        )


class Following:
    """Follows one engine.

    Parameters
    ----------
    core : Core
    worker : int
    params : KvEventsParams
    adapters : set of str

    Attributes
    ----------
    batches : int
        Taken in.
    lost : int
        Numbers that were never seen.
    """

    def __init__(self, core: Core, worker: int, params: KvEventsParams, adapters: set[str]) -> None:
        self._core = core
        self._worker = worker
        self._params = params
        self._blocks = Blocks(params.block_tokens, adapters)
        self._unpack = unpacker()
        self._next: int | None = None
        self._at_s = 0.0
        self._said: set[str] = set()
        self.batches = self.lost = 0

    async def run(self, context: Any) -> None:
        """Follow until cancelled.

        Parameters
        ----------
        context : zmq.asyncio.Context
        """
        publishes, again = self._params.endpoints(
            self._worker, self._core.workers[self._worker].spec
        )
        socket = _socket(context, "SUB", publishes)
        try:
            socket.subscribe(self._params.topic)
            # What comes meanwhile waits; some of it may be in both.
            await self._ask_again(context, again, 0)
            while True:
                *_, number, payload = await socket.recv_multipart()
                await self._live(context, again, number, payload)
        finally:
            socket.close(linger=0)

    async def _live(self, context: Any, again: str | None, number: bytes, payload: bytes) -> None:
        batch = self._read(payload)
        if batch is None or len(number) != 8:
            return
        at = int.from_bytes(number, "big")
        if self._next is not None and at < self._next and batch.at_s > self._at_s:
            # It began anew: numbers, and all that it has.
            self._forget(batch)
            await self._ask_again(context, again, 0)
        elif self._next is not None and at > self._next:
            await self._ask_again(context, again, self._next)
        self._take(at, batch)

    async def _ask_again(self, context: Any, again: str | None, first: int) -> None:
        """Take in what was published from a number on, as far as it can be had."""
        for left in reversed(range(_TRIES if again is not None else 0)):
            replayed = _replayed(context, again, first, self._params.replay_s)
            async with contextlib.aclosing(replayed):
                async for number, payload in replayed:
                    at, batch = int.from_bytes(number, "big"), self._read(payload)
                    if left and self._next is not None and at > self._next:
                        break
                    if batch is not None:
                        self._take(at, batch)
                else:
                    return
            first = self._next or 0

    def _read(self, payload: bytes) -> Batch | None:
        try:
            return read_batch(payload, self._unpack)
        except KvMessageError as error:
            self._complain(str(error))
            return None

    def _take(self, at: int, batch: Batch) -> None:
        """Take a batch in, unless it was taken in before."""
        expected = self._next
        if expected is not None and at < expected:
            return
        if expected is not None and at > expected:
            self.lost += at - expected
            self._forget(batch)
            self._complain(f"{at - expected} batches were lost: its cache is learned anew")
        self._next, self._at_s = at + 1, batch.at_s
        self.batches += 1
        for event in batch.events:
            self._enter(event)
        if self._blocks.other_size is not None:
            self._complain(
                f"its blocks have {self._blocks.other_size} tokens, block_tokens is "
                f"{self._params.block_tokens}; what it tells is not used"
            )

    def _enter(self, event: Stored | Removed | Cleared) -> None:
        blocks, stored, removed = self._blocks, [], []
        if isinstance(event, Cleared):
            blocks.clear()
        elif isinstance(event, Removed):
            removed = blocks.removed(event)
        else:
            stored = blocks.stored(event)
        self._tell(stored, removed, cleared=isinstance(event, Cleared))

    def _tell(self, stored: list[int], removed: list[int], *, cleared: bool = False) -> None:
        if self._blocks.other_size is None:
            self._core.cached_blocks(self._worker, stored, removed, cleared=cleared)

    def _forget(self, batch: Batch) -> None:
        self._next, self._at_s = None, batch.at_s
        self._blocks.clear()
        self._tell([], [], cleared=True)

    def _complain(self, text: str) -> None:
        """Say what is wrong, each thing once."""
        kind = text.lstrip("0123456789 ")
        if kind not in self._said:
            self._said.add(kind)
            name = self._core.workers[self._worker].spec.name
            self._core.fault("kv-events", f"{name}: {text}")


class KvEvents:
    """Follows all engines of a fleet.

    Parameters
    ----------
    core : Core
    fleet : Fleet
    params : KvEventsParams

    Attributes
    ----------
    adapters : set of str
        LoRA adapters that engines have named.
    following : dict of int to Following
        By worker.

    Raises
    ------
    MissingExtraError
        pyzmq or msgpack is not installed.
    """

    def __init__(self, core: Core, fleet: Fleet, params: KvEventsParams) -> None:
        self._zmq = _zmq()
        unpacker()
        self._core, self._fleet, self._params = core, fleet, params
        self._tasks: dict[int, tuple[WorkerSpec, asyncio.Task[None]]] = {}
        self.adapters: set[str] = set()
        self.following: dict[int, Following] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        context = self._zmq.asyncio.Context()
        try:
            while True:
                self._look(context)
                await asyncio.sleep(_AGAIN_S)
        finally:
            tasks = [task for _, task in self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            context.destroy(linger=0)

    def _look(self, context: Any) -> None:
        """Begin to follow who is new, and let go who is not there any more."""
        fleet = self._fleet
        # Other slots make it no other engine.
        there = {w: replace(fleet.specs[w], slots=None, capacity=None) for w in fleet.there}
        for worker, (spec, task) in list(self._tasks.items()):
            if task.done():
                self._core.fault("kv-events", f"{spec.name}: {_why(task)}; it is followed anew")
            if task.done() or there.get(worker) != spec:
                task.cancel()
                del self._tasks[worker], self.following[worker]
        for worker, spec in there.items():
            if worker not in self._tasks:
                one = Following(self._core, worker, self._params, self.adapters)
                self.following[worker] = one
                task = asyncio.get_running_loop().create_task(one.run(context))
                self._tasks[worker] = spec, task


def _why(task: asyncio.Task[None]) -> str:
    error = None if task.cancelled() else task.exception()
    return "ended" if error is None else type(error).__name__


async def _replayed(
    context: Any, endpoint: str | None, first: int, patience_s: float
) -> AsyncGenerator[tuple[bytes, bytes], None]:
    """Yield number and payload of what a publisher still has from a number on."""
    if endpoint is None:
        return
    socket = _socket(context, "DEALER", endpoint)
    try:
        await socket.send_multipart([b"", first.to_bytes(8, "big")])
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(patience_s):
                    *_, number, payload = await socket.recv_multipart()
                if number == _END:
                    return
                yield number, payload
    finally:
        socket.close(linger=0)


def _socket(context: Any, kind: str, endpoint: str) -> Any:
    zmq = _zmq()
    socket = context.socket(getattr(zmq, kind))
    # Nothing that was published is to be dropped here.
    socket.set_hwm(0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.connect(endpoint)
    return socket


def _zmq() -> Any:
    try:
        import_module("zmq.asyncio")
        return import_module("zmq")
    except ImportError as error:
        raise MissingExtraError.for_extra("pyzmq", EXTRA) from error
