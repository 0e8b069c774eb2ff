"""Kernels that change what a slot holds, and keep the books; see `_search_kernels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._jit import kernel
from brsolver.oracles.step._gain_kernels import find_leads, slope
from brsolver.oracles.step._shapes import NONE

if TYPE_CHECKING:
    from brsolver.oracles.step._shapes import Decision, Leads, Offer, Terms


@kernel
def room_for(j: int, requests: int, offer: Offer) -> int:
    """Return the largest sum of lengths that so many requests may have on a worker."""
    room: int = offer.limit[j] + offer.request_tokens * requests
    return room


@kernel
def put(slot: int, kind: int, offer: Offer, decision: Decision) -> None:
    """Put a length into a slot, returning what was there to the waiting ones."""
    j, old = offer.slot_worker[slot], decision.slots[slot]
    tally = decision.tally[0]
    if old != NONE:
        decision.left[old] += 1
        decision.tokens[j] -= offer.sizes[old]
        decision.requests[j] -= 1
        tally.admitted -= 1
    if kind != NONE:
        decision.left[kind] -= 1
        decision.tokens[j] += offer.sizes[kind]
        decision.requests[j] += 1
        tally.admitted += 1
    decision.slots[slot] = kind


@kernel
def refresh(decision: Decision, terms: Terms, leads: Leads) -> None:
    """Bring up to date what gains are judged by: leads, or slopes in `hope` for the score."""
    if not terms.by_score:
        find_leads(decision, terms, leads)
    elif not terms.grows:
        tokens, hope, bends = decision.tokens, leads.hope, leads.bends
        for j in range(tokens.shape[0]):
            hope[j] = slope(j, tokens[j], terms, bends)
