"""What a reader of a load's figures must know of how they came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.load.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.load.figures import Figures
    from integration.load.params import ContentParams, LoadParams
    from integration.load.replies import Reply

LATE_S = 0.01
LATE_SHARE = 0.05
BUSY = 0.9


def notes_on(figures: Figures, params: LoadParams) -> list[str]:
    """Say what a reader of the figures must know of how they came about."""
    notes = []
    if figures.counted:
        notes.append(
            f"tokens of {figures.counted} requests are counted from chunks, since the server "
            "tells no usage: a chunk may hold several"
        )
    if figures.short and params.content.ignore_eos:
        notes.append(
            f"{figures.short} requests got fewer tokens than were asked for: the server does not "
            "heed ignore_eos"
        )
    if params.pace.closed and params.target.max_connections is not None:
        notes.append("with a closed loop, max_connections only makes clients wait for each other")
    if without := figures.failed.get(Kind.OUT_OF_FILES):
        notes.append(
            f"{without} requests could not be sent: this client may have no more open files; raise "
            "its limit (ulimit -n), or keep connections below it with --max-connections"
        )
    return [*notes, *_of_the_client(figures, params)]


def _of_the_client(figures: Figures, params: LoadParams) -> list[str]:
    """Say whether the client was a bottleneck: late by itself, or out of processor time."""
    allowed = max(LATE_S, LATE_SHARE * figures.ttft.p50) if figures.ttft.count else LATE_S
    lag = figures.lag.p99
    if figures.busy > BUSY:
        return [
            f"the client was the bottleneck: it used {figures.busy:.0%} of a processor, and tokens "
            "are timed late; share the load between several clients"
        ]
    if lag > allowed:
        return [
            f"the client was held up: one look in a hundred came {1e3 * lag:.0f} ms late, and "
            f"tokens are timed as late, though it used {figures.busy:.0%} of a processor only; "
            "others on this machine take its time"
        ]
    if figures.late.count and figures.late.p99 > allowed:
        waited = params.target.max_connections is not None
        cause = "since --max-connections were in use" if waited else "and latencies count that"
        return [f"one request in a hundred was sent {1e3 * figures.late.p99:.0f} ms late, {cause}"]
    return []


def notes_on_warm_up(replies: Sequence[Reply], content: ContentParams) -> list[str]:
    """Say what the first requests show of the server, before the load begins."""
    for reply in replies:
        short = reply.tokens < reply.wanted and content.ignore_eos
        untold = [] if reply.told else ["the server tells no usage: tokens are counted from chunks"]
        ended = (
            f"the server ended the first request after {reply.tokens} of {reply.wanted} tokens: "
            "it does not heed ignore_eos"
        )
        return [*untold, *([ended] if short else [])]
    return []
