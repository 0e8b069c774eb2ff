"""The router: an instance for every handle of a deployment, on that handle's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter

from brsolver._limits import MAX_COUNT
from brsolver.errors import BrsolverError
from integration.fronts import Room, open_front, prompt_body, request_body
from integration.picker import End, Gauges
from integration.ray_serve.attempts import Attempts
from integration.ray_serve.ends import end_of
from integration.ray_serve.settings import RouterSettings
from integration.routing.failsafe import Words, in_a_line, named

if TYPE_CHECKING:
    from ray.serve._private.replica_result import ReplicaResult
    from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica

    from integration.fronts import Front
    from integration.picker import Audit
    from integration.picker.bodies import Body
    from integration.ray_serve.attempts import Attempt

logger = logging.getLogger("brsolver.ray_serve")
_WORDS = Words(
    logger,
    "Ray Serve's power of two choices takes the request",
    "Ray Serve's power of two choices routes",
)
_UNTOLD = "routes nothing of direct streaming, of which no start and no end is told"
_REJECTIONS = 2
"""By replicas without room, after which Ray Serve is to find one that has some."""
_UNLIMITED = 100_000
"""From which on ``max_ongoing_requests`` says nothing of what a replica runs at once."""
_GAUGES = frozenset(Gauges.__dataclass_fields__)
_SHARES = ("kv_usage", "prefill_s")
"""Of these, what are no counts."""


class SessionRouter(PowerOfTwoChoicesRequestRouter):
    """Holds requests, or places them as they come, as a policy of this project says.

    A replica is a worker: a rank, or a server. A request that is held is one whose caller waits.
    Requests for a multiplexed model go where Ray Serve sends them, and so does everything until
    kernels are compiled, or once routing has failed too often.
    """

    def initialize_state(self, **kwargs: object) -> None:
        """Take in ``request_router_kwargs``; where they are wrong, Ray Serve routes by itself."""
        self._front: Front | None = None
        self._ready = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._ready_by_s = 0.0
        self._attempts: Attempts[PendingRequest] = Attempts()
        self._ids: dict[str, ReplicaID] = {}
        self._stats: dict[str, dict[str, Any]] = {}
        self._settings: RouterSettings | None = None
        self._turns = 0
        try:
            self._settings = RouterSettings.read(kwargs)
        except BrsolverError as error:
            self._give_up(error)

    def audit(self) -> Audit | None:
        """Count anew who is where; None while nothing is routed here."""
        return None if self._front is None else self._front.audit()

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """Wait for a replica; cancelled by who does not want one any more."""
        replica = await self._place(pending_request, is_retry=is_retry)
        if replica is None:
            replica = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        return replica

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Leave an order of replicas to Ray Serve, or let them take turns where it is all it asks.

        Under direct streaming (of Ray Serve LLM) it is: requests are sent by a proxy then, and
        neither their start nor their end is told to anybody here.
        """
        chosen = await super().choose_replicas(candidate_replicas, pending_request)
        if not chosen or pending_request is None or self._is_sent_from_here(pending_request):
            return chosen
        if pending_request.metadata.multiplexed_model_id:
            return chosen
        if not self._turns:
            logger.warning("brsolver: %s; replicas take turns", _UNTOLD)
        self._turns += 1
        return [[candidate_replicas[self._turns % len(candidate_replicas)]]]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take in which replicas there are, and what they say of themselves."""
        super().update_replicas(replicas)
        self._ids = {each.unique_id: each for each in self._replicas}
        if self._front is not None:
            self._follow(self._front)
        elif self._opening is None and self._settings is not None and self._replicas:
            self._ready_by_s = self._event_loop.time() + self._settings.ready_s
            self._opening = self._event_loop.create_task(self._open(self._settings))

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Take in that a replica has died."""
        super().on_replica_actor_died(replica_id)
        self._ids.pop(replica_id.unique_id, None)
        if self._front is not None:
            self._front.lost(replica_id.unique_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """Take in how many requests a replica has, those of other handles among them."""
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        name = replica_id.unique_id
        # What a replica tells of itself is more, and would be overwritten.
        if self._front is not None and name not in self._stats:
            self._front.told(name, Gauges(running=num_ongoing_requests))

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """Take in that a replica has taken a request."""
        super().on_request_routed(pending_request, replica_id, result)
        attempt = self._attempts.accepted(pending_request)
        if attempt is None or self._front is None:
            return
        self._front.started(attempt.seat)
        loop = self._event_loop
        # Told on a thread of Ray's own.
        result.add_done_callback(
            lambda left: loop.call_soon_threadsafe(self._end, attempt, end_of(left))
        )

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Take in that a request has ended of which its result does not tell."""
        super().on_request_completed(replica_id, internal_request_id)
        attempt = self._attempts.completed(replica_id.unique_id, internal_request_id)
        if attempt is not None and self._front is not None:
            # Where replicas accept or reject, one that did neither was cancelled meanwhile.
            told = self._use_replica_queue_len_cache
            self._front.ended(attempt.seat, End.DISCONNECTED if told else End.FINISHED)

    async def _place(self, pending: PendingRequest, *, is_retry: bool) -> RunningReplica | None:
        """Return the replica that a request goes to; None leaves it to Ray Serve."""
        front = await self._opened()
        if front is None or pending.metadata.multiplexed_model_id:
            return None
        before = self._attempts.turned_away(pending) if is_retry else None
        rejections = 0
        if before is not None:
            front.ended(before.seat, End.REJECTED)
            rejections = before.rejections + 1
        if rejections >= _REJECTIONS:
            return None
        seat = await front.place(_body(pending))
        if seat is None:
            return None
        known = self._ids.get(seat.replica)
        replica = None if known is None else self._replicas.get(known)
        if replica is None:
            front.ended(seat, End.DISCONNECTED)
            return None
        self._attempts.begin(
            pending, pending.metadata.internal_request_id, seat, rejections=rejections
        )
        return replica

    def _is_sent_from_here(self, pending: PendingRequest) -> bool:
        """Tell whether Ray Serve routes a request that was left to it."""
        routed = getattr(self, "_routing_task_by_pending_request_future", None)
        return routed is None or pending.future in routed

    def _end(self, attempt: Attempt[PendingRequest], end: End) -> None:
        if self._attempts.over(attempt) and self._front is not None:
            self._front.ended(attempt.seat, end)

    async def _opened(self) -> Front | None:
        """Return the front; wait for it if it is being made, but not for ever."""
        if self._opening is not None and not self._ready.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._ready_by_s):
                    await self._ready.wait()
        return self._front

    async def _open(self, settings: RouterSettings) -> None:
        """Make the front on a thread of its own: compiling takes seconds."""
        rooms = self._rooms(settings)
        if not rooms:
            self._opening = None
            return
        try:
            front = await asyncio.to_thread(
                open_front, settings.front, rooms, words=_WORDS, lasting=True
            )
        except Exception as error:  # noqa: BLE001 # whatever it is, serving must go on
            self._give_up(error)
        else:
            self._follow(front)
            self._front = front
        finally:
            self._ready.set()

    def _follow(self, front: Front) -> None:
        assert self._settings is not None  # noqa: S101 # else there is no front
        front.follow(self._rooms(self._settings))
        for name, replica_id in self._ids.items():
            stats = _gauges(self._replicas[replica_id].routing_stats)
            if stats and stats != self._stats.get(name):
                self._stats[name] = stats
                front.told(name, Gauges(**stats))
        for name in self._stats.keys() - self._ids.keys():
            del self._stats[name]

    def _rooms(self, settings: RouterSettings) -> dict[str, Room]:
        slots = settings.front.picker.slots
        return {
            name: Room(min(slots, self._replicas[replica_id].max_ongoing_requests))
            for name, replica_id in self._ids.items()
        }

    def _give_up(self, error: Exception) -> None:
        why = in_a_line(error) if isinstance(error, BrsolverError) else named(error)
        logger.error("brsolver: routes nothing (%s); %s", why, _WORDS.alone)


def _gauges(stats: object) -> dict[str, Any]:
    """Return what of a replica's routing statistics tells of its engine, and can be."""
    if not isinstance(stats, dict):
        return {}
    return {
        name: value if name in _SHARES else int(value)
        for name, value in stats.items()
        if name in _GAUGES and _can_be(name, value)
    }


def _can_be(name: str, value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    # Also false of NaN.
    return 0 <= value <= (1 if name == "kv_usage" else MAX_COUNT)


def _body(pending: PendingRequest) -> Body:
    try:
        return request_body(pending.args, pending.kwargs)
    except Exception:  # noqa: BLE001 # whatever it holds is for the replica to judge
        return prompt_body(None)
