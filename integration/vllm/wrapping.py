"""Puts the adapter around the methods of vLLM's client."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.vllm.adapter import Adapter

ATTRIBUTE = "_brsolver_adapter"
_MARK = "_brsolver_wrapped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """What the adapter needs of vLLM.

    Attributes
    ----------
    add_request : callable
        ``DPAsyncMPClient.add_request_async`` as it was.
    messages : module
        ``vllm.v1.engine``.
    """

    add_request: Callable[..., Any]
    messages: Any

    @property
    def abort(self) -> Any:
        """The reason of a request that was cancelled."""
        return self.messages.FinishReason.ABORT

    @property
    def error(self) -> Any:
        """The reason of a request that failed."""
        return self.messages.FinishReason.ERROR

    def ending(self, client: Any, name: str, reason: Any) -> Any:
        """Return the message by which an engine would say that a request has ended."""
        output = self.messages.EngineCoreOutput(
            request_id=name, new_token_ids=[], finish_reason=reason
        )
        rank = int.from_bytes(client.core_engines[0], "little")
        return self.messages.EngineCoreOutputs(engine_index=rank, outputs=[output])


def adapter_of(client: Any) -> Adapter | None:
    """Return the adapter attached to a client, if any."""
    found: Adapter | None = getattr(client, ATTRIBUTE, None)
    return found


def wrap(clients: Any, messages: Any, attach: Callable[[Any, Originals], None]) -> bool:
    """Wrap the methods of vLLM's clients; tell whether that was still to be done.

    Parameters
    ----------
    clients, messages : module
        ``vllm.v1.engine.core_client`` and ``vllm.v1.engine``.
    attach : callable
        Called with every client that is made; sets `ATTRIBUTE` on those it stands in for.
    """
    balanced = clients.DPLBAsyncMPClient
    if getattr(balanced, _MARK, False):
        return False
    originals = Originals(add_request=balanced.add_request_async, messages=messages)
    _wrap_making(clients.AsyncMPClient, functools.partial(_attach, attach, originals))
    _wrap_routing(balanced)
    _wrap_reports(balanced)
    _wrap_requests(balanced, originals)
    setattr(balanced, _MARK, True)
    return True


def _attach(attach: Callable[[Any, Originals], None], originals: Originals, client: Any) -> None:
    attach(client, originals)


def _wrap_making(cls: Any, attach: Callable[[Any], None]) -> None:
    original = cls.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 # it becomes that
        original(self, *args, **kwargs)
        attach(self)

    cls.__init__ = __init__


def _wrap_routing(cls: Any) -> None:
    original = cls.get_core_engine_for_request

    @functools.wraps(original)
    def get_core_engine_for_request(self: Any, request: Any) -> Any:
        adapter = adapter_of(self)
        if adapter is None:
            return original(self, request)
        rank = adapter.pick(self, request)
        if rank is None:
            engine = original(self, request)
        else:
            engine = _pinned(original, self, request, rank, adapter)
        adapter.sent(self, request, engine)
        return engine

    cls.get_core_engine_for_request = get_core_engine_for_request


def _pinned(
    original: Callable[..., Any], client: Any, request: Any, rank: int, adapter: Adapter
) -> Any:
    """Let vLLM route a request as if its sender had named the rank: it keeps all its books."""
    request.data_parallel_rank = rank
    try:
        return original(client, request)
    except BaseException:
        adapter.unsent(request.request_id)
        raise
    finally:
        request.data_parallel_rank = None


def _wrap_reports(cls: Any) -> None:
    original = cls.process_engine_outputs

    @functools.wraps(original)
    async def process_engine_outputs(self: Any, outputs: Any) -> None:
        await original(self, outputs)
        adapter = adapter_of(self)
        if adapter is not None:
            adapter.reported(self, outputs)

    cls.process_engine_outputs = staticmethod(process_engine_outputs)


def _wrap_requests(cls: Any, originals: Originals) -> None:
    add = originals.add_request
    abort = cls.abort_requests_async

    @functools.wraps(add)
    async def add_request_async(self: Any, request: Any) -> None:
        adapter = adapter_of(self)
        if adapter is None or not adapter.hold(self, request):
            await add(self, request)

    @functools.wraps(abort)
    async def abort_requests_async(self: Any, request_ids: list[str]) -> None:
        adapter = adapter_of(self)
        if adapter is not None:
            request_ids = adapter.cancelled(self, request_ids)
        await abort(self, request_ids)

    cls.add_request_async = add_request_async
    cls.abort_requests_async = abort_requests_async
