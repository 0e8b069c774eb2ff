"""verl's rollout load balancer, by the policies of this project.

verl names it in the YAML file of ``actor_rollout_ref.rollout.router_config_path``:
``router_class: integration.verl.SessionBalancer``, with settings beside it. Whatever goes wrong
here, requests go to the server with the fewest in flight, as by verl's own balancer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from brsolver._limits import require_whole
from brsolver.errors import MissingExtraError, ParameterError
from integration.fronts import FrontSettings, Room, open_front, prompt_body
from integration.picker import End
from integration.routing.failsafe import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from integration.fronts import Front, Seat
    from integration.picker import Audit

__all__ = ["Balancer", "SessionBalancer"]  # noqa: F822 # made when it is asked for

logger = logging.getLogger("brsolver.verl")
_WORDS = Words(
    logger,
    "the server with the fewest requests is taken",
    "requests go to the server with the fewest of them",
)
_OWNER = "router"
_VERL = ("router_class", "full_determinism", "max_cache_size")
"""What verl itself puts beside the settings."""
MOST_CALLS = 200_000
"""That the actor takes at once, those of held requests among them."""
MOST_HELD = 100_000
"""Releases must never wait behind them."""
NO_SERVERS = "No available servers in load balancer"
"""In these words verl's clients find out that they may try again."""


class Balancer:
    """Tells verl's clients which server a rollout goes to, and when.

    `SessionBalancer` is the actor that verl makes of it, which takes as many calls at once as
    there may be requests held: by default Ray's actors take 1,000.

    Satisfies verl's ``RequestLoadBalancer``. A turn of a conversation goes where the one before
    went, at once, as verl's own balancer has it; others are held or placed as a policy says.

    Parameters
    ----------
    servers : mapping of str to object
        Handles by server id; may be empty.
    router_kwargs : mapping of str to object, optional
        The YAML file as a whole: ``sticky`` (default true), ``max_cache_size`` (requests whose
        server is remembered), and parameters of `integration.picker.PickerParams` or ``config``,
        the path of a TOML file of such.

    Raises
    ------
    BrsolverError
        A setting is unknown, or has a value that it cannot have; or there is no such policy,
        predictor or hardware.
    """

    def __init__(
        self, servers: Mapping[str, Any], router_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        given = dict(router_kwargs or {})
        self._most_remembered = given.get("max_cache_size", 10_000)
        require_whole("max_cache_size", self._most_remembered, 1, 10_000_000)
        self._sticky = given.pop("sticky", True)
        if not isinstance(self._sticky, bool):
            raise ParameterError(f"sticky is {self._sticky!r}, must be true or false")
        others = {name: value for name, value in given.items() if name not in _VERL}
        self._settings = FrontSettings.read(others, _OWNER, most_held=MOST_HELD)
        self._settings.check()
        self._servers = dict(servers)
        self._inflight = dict.fromkeys(self._servers, 0)
        self._last: OrderedDict[str, str] = OrderedDict()
        self._seats: dict[tuple[str, str | None], deque[Seat]] = {}
        self._front: Front | None = None
        if self._servers:
            self._open()

    def require_acquire_fields(self) -> list[str]:
        """Return what of a request verl is to tell when it asks for a server."""
        return ["prompt_ids", "sampling_params"]

    def require_release_fields(self) -> list[str]:
        """Return what verl is to tell when a request has ended."""
        return ["request_id"]

    async def acquire_server(
        self,
        request_id: str,
        prompt_ids: list[int] | None = None,
        sampling_params: Mapping[str, Any] | None = None,
        **_more: object,
    ) -> tuple[str, Any]:
        """Wait for a server.

        Returns
        -------
        server : str
        handle : object

        Raises
        ------
        RuntimeError
            There is none.
        """
        body = prompt_body(prompt_ids, sampling_params)
        again = self._last.get(request_id) if self._sticky else None
        seat = None
        if self._front is not None:
            if again in self._servers:
                seat = self._front.place_at(again, body)
            else:
                seat = await self._front.place(body)
        if seat is not None and self._front is not None:
            # Nobody will tell when the server begins.
            self._front.started(seat)
            self._seats.setdefault((seat.replica, request_id), deque()).append(seat)
            server = seat.replica
        else:
            server = again if again in self._servers else self._fewest()
        self._inflight[server] += 1
        self._remember(request_id, server)
        return server, self._servers[server]

    async def release_server(
        self, server_id: str, request_id: str | None = None, **_more: object
    ) -> None:
        """Take in that a request has ended; the oldest at the server, if nobody says which."""
        key = server_id, request_id
        if request_id is None:
            key = next((each for each in self._seats if each[0] == server_id), key)
        seats = self._seats.get(key)
        if seats and self._front is not None:
            self._front.ended(seats.popleft(), End.FINISHED)
            if not seats:
                del self._seats[key]
        if self._inflight.get(server_id, 0) > 0:
            self._inflight[server_id] -= 1

    async def add_servers(self, servers: Mapping[str, Any]) -> None:
        """Let rollouts go to further servers."""
        self._servers.update(servers)
        for server in servers:
            # One that is known already runs on what it has.
            self._inflight.setdefault(server, 0)
        if self._front is None:
            self._open()
        else:
            self._front.follow(self._rooms())

    async def remove_servers(self, server_ids: Iterable[str]) -> None:
        """Let no more rollouts go to some servers; what runs there runs on."""
        for server in server_ids:
            self._servers.pop(server, None)
            self._inflight.pop(server, None)
        if self._front is not None:
            self._front.follow(self._rooms())

    async def clear_sticky_cache(self) -> dict[str, object]:
        """Forget which server each conversation went to."""
        cleared = len(self._last)
        self._last.clear()
        return {"cleared_entries": cleared, "server_loads": dict(self._inflight)}

    def get_all_servers(self) -> list[str]:
        """Return the servers that rollouts may go to."""
        return list(self._servers)

    def get_inflight_count(self, server_id: str) -> int:
        """Return how many requests a server has."""
        return self._inflight.get(server_id, 0)

    def get_total_inflight(self) -> int:
        """Return how many requests all of them have."""
        return sum(self._inflight.values())

    def get_status(self) -> dict[str, object]:
        """Return how things stand."""
        return {
            "servers": dict(self._inflight),
            "total_inflight": self.get_total_inflight(),
            "active_servers": len(self._servers),
            "registered_handles": list(self._servers),
            "held": 0 if self._front is None else self._front.audit().held,
        }

    def audit(self) -> Audit | None:
        """Count anew who is where; None while nothing is routed here."""
        return None if self._front is None else self._front.audit()

    def _open(self) -> None:
        self._front = open_front(self._settings, self._rooms(), words=_WORDS)

    def _rooms(self) -> dict[str, Room]:
        return dict.fromkeys(self._servers, Room())

    def _fewest(self) -> str:
        if not self._inflight:
            raise RuntimeError(NO_SERVERS)
        return min(self._inflight, key=self._inflight.__getitem__)

    def _remember(self, request_id: str, server: str) -> None:
        self._last[request_id] = server
        self._last.move_to_end(request_id)
        if len(self._last) > self._most_remembered:
            self._last.popitem(last=False)


def __getattr__(name: str) -> Any:
    """Make `SessionBalancer` when it is asked for: Ray is verl's to bring."""
    if name != "SessionBalancer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray is not installed, must be: pip install verl") from error
    made: Any = ray.remote
    return made(max_concurrency=MOST_CALLS)(Balancer)
