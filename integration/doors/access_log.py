"""Envoy's gRPC access log: the start and the end of every stream, without its chunks.

Envoy keeps one log stream per thread of its own. An upstream entry says that a worker has a
request (`UpstreamPoolReady`), the downstream one how it ended, with the `usage` that Envoy read
out of the response. Of a few streams it tells in between how far they are: nothing of those
entries reaches the books. Entries without our identity are of requests that took no reservation, or
that Envoy routed by itself while there was no picker.

Times of first headers are left aside: vLLM sends its headers at once, so these are no tokens. The
first bytes of a body are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from integration.doors import ends
from integration.messages import services
from integration.messages.accesslog import TYPES, StreamAccessLogsResponse
from integration.picker.bodies import kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from integration.doors.ledger import Ledger

_READY = TYPES["UpstreamPoolReady"]
_GOES_ON = TYPES["DownstreamPeriodic"]
_END = TYPES["DownstreamEnd"]
_KINDS = (_READY, _GOES_ON, _END)


class AccessLog:
    """Takes access logs in.

    Parameters
    ----------
    ledger : Ledger
    broken : callable, optional
        Called when a log stream ends: entries may be lost, or Envoy is gone.
    ours : callable, optional
        Tells whether a request's identity is one that this picker gave; of others, a picker
        before this one decided. By default all are.

    Attributes
    ----------
    streams : int
        Log streams that are open.
    entries : int
        Entries taken in.
    samples : int
        Those of them that tell how far a stream is.
    faults : int
        Entries that could not be understood.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        broken: Callable[[], object] | None = None,
        ours: Callable[[str], bool] | None = None,
    ) -> None:
        self._ledger = ledger
        self._broken = broken
        self._ours = ours
        self.streams = 0
        self.entries = 0
        self.samples = 0
        self.faults = 0

    def handler(self) -> Any:
        """Return the handler for ``server.add_generic_rpc_handlers``."""
        return services.handler(services.ACCESS_LOG, StreamAccessLogs=self._stream)

    async def _stream(self, messages: AsyncIterator[Any], context: Any) -> Any:  # noqa: ARG002 # grpc's signature
        self.streams += 1
        try:
            async for message in messages:
                self.take(message)
        finally:
            self.streams -= 1
            if self._broken is not None:
                self._broken()
        return StreamAccessLogsResponse()

    def take(self, message: Any) -> None:
        """Take a batch of entries in; one that makes no sense costs no other its place.

        Parameters
        ----------
        message : StreamAccessLogsMessage
        """
        for entry in message.http_logs.log_entry:
            self.entries += 1
            try:
                self._enter(entry)
            except Exception as error:  # noqa: BLE001 # whatever an entry holds, the log goes on
                self.faults += 1
                self._ledger.tripped("access-log", error)

    def _enter(self, entry: Any) -> None:
        kind = entry.common_properties.access_log_type
        if kind not in _KINDS:
            return
        name = ends.identity(entry)
        if name is None:
            if kind == _END:
                self._end_unnamed(entry)
            return
        if kind == _READY:
            address = ends.address(entry)
            if address is not None:
                self._ledger.started(name, address)
        elif kind == _GOES_ON:
            self.samples += 1
            self._ledger.sampled(name, ends.seen(entry))
        else:
            self._end(name, entry)

    def _end(self, name: str, entry: Any) -> None:
        end, usage = ends.reason(entry), ends.usage(entry)
        known = self._ledger.ended(name, end, usage, seen=ends.seen(entry))
        if not known and self._ours is not None and not self._ours(name):
            self._end_before(entry)

    def _end_unnamed(self, entry: Any) -> None:
        """Take in the end of what Envoy routed by itself."""
        # What takes no slot was not counted there, or only for a moment.
        if kind_of(entry.request.path) is not None:
            self._end_before(entry)

    def _end_before(self, entry: Any) -> None:
        """Take in the end of what this picker has not placed, if it was found running."""
        end, usage = ends.reason(entry), ends.usage(entry)
        self._ledger.ended_before(ends.address(entry), end, usage, span=ends.span(entry))
