"""Names that Envoy's configuration and the picker's doors share: headers, metadata, entries.

Headers of these names are taken off whatever clients send, so what Envoy, the doors and the
access log find under them is the picker's own.
"""

from __future__ import annotations

from typing import Final

ENDPOINT: Final = "x-gateway-destination-endpoint"
"""Where a request goes, ``ADDRESS:PORT``, with those to fall back to behind commas."""
SERVED: Final = "x-gateway-destination-endpoint-served"
"""Where it went in the end; in `LB` metadata, for the access log."""
RANK: Final = "x-data-parallel-rank"
"""Rank within an engine of several; goes on to the engine."""
PREFILLER: Final = "x-prefiller-host-port"
"""Where the prompt is computed, where engines fetch it themselves; goes on to the engine."""
OWN: Final = "x-brsolver-"
"""What all headers of our own begin with; of them only `ID` goes on to engines."""
ID: Final = "x-brsolver-id"
"""Our identity of a request: a client's ``x-request-id`` is kept, and may come twice."""
CLIENT: Final = "x-brsolver-client"
"""Name that belongs to the API key a request came with; for the doors."""
REFUSAL: Final = "x-brsolver-refusal"
"""With 200 from the HTTP door: Envoy answers this status itself, see `REFUSALS`."""
AGAIN: Final = "x-brsolver-again"
"""With 308 from the HTTP door: the picker is to be asked again, for this request of ours."""
HOST: Final = "x-brsolver-host"
"""With `AGAIN`: whom the client had spoken to, which a redirect would change."""
NOWHERE: Final = "again"
"""Host that such a redirect names. Envoy goes there by itself, and no client is led there."""
LAST: Final = "x-brsolver-last"
"""From the door: whatever becomes of it at this worker, the request is not tried again."""
RETRY_AFTER: Final = "retry-after"
"""Seconds after which a refused client may try again."""

REFUSALS: Final = {
    "503": "No worker can take the request now.",
}
"""What the HTTP door cannot refuse by its status, since Envoy takes 5xx for a dead door."""

LOG: Final = "brsolver"
"""Name of the access log."""
LB: Final = "envoy.lb"
"""Metadata by which the external processor chooses: `ENDPOINT` and `ID` in it."""
AUTHZ: Final = "envoy.filters.http.ext_authz"
"""Metadata by which the HTTP door chooses: its headers `ENDPOINT` and `ID`."""
USAGE: Final = "usage"
"""Metadata with what an engine said a request took: numbers `PROMPT` and `COMPLETION`."""
PROMPT: Final = "prompt"
"""Of `USAGE`: tokens of the prompt."""
COMPLETION: Final = "completion"
"""Of `USAGE`: tokens of the answer."""
FIRST: Final = "first-body-us"
"""Tag of the access log: microseconds until the first bytes of the answer's body came."""
SO_FAR: Final = "so-far-ms"
"""Tag of the access log: milliseconds since the request came; entries of streams that go on have
no duration."""
REFUSED: Final = "brsolver_refused"
"""Details of an immediate response whose body is an OpenAI error already."""

WATCHED: Final = "w"
"""What an identity ends with whose stream Envoy tells of while it runs; else it is hexadecimal."""
UNREAD: Final = "u"
"""What an identity ends with, behind `WATCHED`, whose stream's usage Envoy need not read."""

__all__ = [
    "AGAIN",
    "AUTHZ",
    "CLIENT",
    "COMPLETION",
    "ENDPOINT",
    "FIRST",
    "HOST",
    "ID",
    "LAST",
    "LB",
    "LOG",
    "NOWHERE",
    "OWN",
    "PREFILLER",
    "PROMPT",
    "RANK",
    "REFUSAL",
    "REFUSALS",
    "REFUSED",
    "RETRY_AFTER",
    "SERVED",
    "SO_FAR",
    "UNREAD",
    "USAGE",
    "WATCHED",
]
