"""Kernels of the local search over one routing decision; see `brsolver.oracles.step.search`.

A decision is held as the length (index into `sizes`, -1 for none) in each free slot. Both
objectives are gains to maximise; each is concave in one worker's token sum while the others
stand still, so the best replacement of one request is found by bisection over the lengths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.step._gain_kernels import (
    concave_peak,
    envelope_falls,
    first_past_peak,
    gain,
    total,
)
from brsolver.oracles.step._pair_kernels import replace_pairs
from brsolver.oracles.step._shapes import (
    NONE,
    TALLY,
    Decision,
    Leads,
    Offer,
    Share,
    Terms,
)
from brsolver.oracles.step._slot_kernels import put, refresh, room_for

IntArray = NDArray[np.int64]


@kernel
def waiting_about(kind: int, left: IntArray) -> tuple[int, int]:
    """Return the last length up to `kind` and the first beyond that still wait, if any do."""
    below, above = kind, kind + 1
    while below >= 0 and left[below] == 0:
        below -= 1
    while above < left.shape[0] and left[above] == 0:
        above += 1
    return below, above


@kernel
def best_kind(
    slot: int, offer: Offer, decision: Decision, terms: Terms, leads: Leads
) -> tuple[int, int]:
    """Return the best length to put into a slot instead of what it holds, and its gain.

    The gain is 0 and the length the present one if none is better.
    """
    sizes, left, admit = offer.sizes, decision.left, offer.admit
    j, old = offer.slot_worker[slot], decision.slots[slot]
    had = Share(j, decision.tokens[j], decision.requests[j])
    without = had
    if old != NONE:
        without = Share(j, had.tokens - sizes[old], had.requests - 1)
    best, best_gain = old, 0
    if old != NONE and admit == NONE:
        value = gain(had, without, terms, leads)
        if value > best_gain:
            best, best_gain = NONE, value
    if old == NONE and decision.tally[0].admitted == admit:
        return best, best_gain
    base = Share(j, without.tokens, without.requests + 1)
    room = room_for(j, base.requests, offer) - base.tokens
    last = int(np.searchsorted(sizes, room, side="right")) - 1
    if terms.by_score:
        low = concave_peak(base, last, sizes, terms, leads)
    else:
        low = first_past_peak(base, last, sizes, terms, leads) - 1
    below, above = waiting_about(low, left)
    # An empty slot below the number to admit is filled whatever it costs.
    forced = old == NONE and admit != NONE
    for side in range(2):
        pick = below if side == 0 else above
        if pick < 0 or pick > last:
            continue
        now = Share(j, base.tokens + sizes[pick], base.requests)
        value = gain(had, now, terms, leads)
        if value > best_gain or (forced and best == NONE):
            best, best_gain = pick, value
    return best, best_gain


@kernel
def replace_all(offer: Offer, decision: Decision, terms: Terms, leads: Leads) -> bool:
    """Put the best waiting request into each slot in turn; return whether that gained."""
    improved = False
    for p in range(decision.slots.shape[0]):
        kind, value = best_kind(p, offer, decision, terms, leads)
        if kind != decision.slots[p]:
            put(p, kind, offer, decision)
            refresh(decision, terms, leads)
            improved = improved or value > 0
    return improved


@kernel
def may_pay(up: int, down: int, hope: IntArray, by_score: bool, grows: bool) -> bool:
    """Tell whether tokens that move from worker `down` up to worker `up` could gain at all."""
    # F is concave: what moves gains at most the difference of the slopes it moves between.
    return grows or hope[up] > hope[down] if by_score else hope[down] > 0


@kernel
def exchange_pays(up: Share, down: Share, moved: Share, terms: Terms, leads: Leads) -> bool:
    """Tell whether it gains if a worker takes over from another what `moved` holds."""
    more = Share(up.worker, up.tokens + moved.tokens, up.requests + moved.requests)
    less = Share(down.worker, down.tokens - moved.tokens, down.requests - moved.requests)
    if terms.by_score:
        pays = gain(up, more, terms, leads) + gain(down, less, terms, leads) > 0
    else:
        pays = envelope_falls(more, less, terms, leads)
    return pays


@kernel
def exchange_all(offer: Offer, decision: Decision, terms: Terms, leads: Leads) -> bool:
    """Exchange requests between workers where that gains; return whether any was."""
    sizes, slot_worker = offer.sizes, offer.slot_worker
    slots, tokens, requests = decision.slots, decision.tokens, decision.requests
    hope, by_score, grows = leads.hope, terms.by_score, terms.grows
    improved = False
    for p in range(slots.shape[0]):
        for q in range(p + 1, slots.shape[0]):
            a, b, up, down = slots[p], slots[q], slot_worker[p], slot_worker[q]
            if up == down or a == b:
                continue
            more = (sizes[b] if b != NONE else 0) - (sizes[a] if a != NONE else 0)
            extra = (1 if b != NONE else 0) - (1 if a != NONE else 0)
            if more < 0:
                up, down, more, extra = down, up, -more, -extra
            fits = tokens[up] + more <= room_for(up, requests[up] + extra, offer) and tokens[
                down
            ] - more <= room_for(down, requests[down] - extra, offer)
            if not fits or not may_pay(up, down, hope, by_score, grows):
                continue
            had_up = Share(up, tokens[up], requests[up])
            had_down = Share(down, tokens[down], requests[down])
            if exchange_pays(had_up, had_down, Share(NONE, more, extra), terms, leads):
                slots[p], slots[q] = b, a
                tokens[up] += more
                tokens[down] -= more
                requests[up] += extra
                requests[down] -= extra
                refresh(decision, terms, leads)
                improved = True
    return improved


@kernel
def descend(offer: Offer, decision: Decision, terms: Terms, leads: Leads) -> None:
    """Replace and exchange requests, and then pairs of them, until nothing helps."""
    improved = True
    while improved:
        improved = replace_all(offer, decision, terms, leads)
        improved |= exchange_all(offer, decision, terms, leads)
        if not improved:
            improved = replace_pairs(offer, decision, terms, leads)


@kernel
def random_below(tally: NDArray[np.void], end: int) -> int:
    """Return a pseudo-random integer in [0, end) (a 31-bit linear congruence)."""
    tally[0].seed = (tally[0].seed * 1103515245 + 12345) & 0x7FFFFFFF
    drawn: int = (tally[0].seed >> 8) % end
    return drawn


@kernel
def kick(strength: int, offer: Offer, decision: Decision) -> None:
    """Put random waiting requests into random occupied slots, where they fit."""
    sizes, slots = offer.sizes, decision.slots
    for _ in range(strength):
        p = random_below(decision.tally, slots.shape[0])
        kind = random_below(decision.tally, sizes.shape[0])
        old, j = slots[p], offer.slot_worker[p]
        if old == NONE or decision.left[kind] == 0:
            continue
        room = room_for(j, decision.requests[j], offer)
        if decision.tokens[j] - sizes[old] + sizes[kind] <= room:
            put(p, kind, offer, decision)


@kernel
def search(
    offer: Offer, terms: Terms, bends: IntArray, start: IntArray, kicks: int, seed: int
) -> IntArray:
    """Improve `start`, the length in each slot; return the best that was found."""
    count, horizon = terms.margins.shape
    slots = np.full(offer.slot_worker.shape[0], NONE, np.int64)
    decision = Decision(
        slots,
        offer.counts.copy(),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(1, TALLY),
    )
    leads = Leads(
        bends,
        np.zeros((2, horizon), np.int64),
        np.full(horizon, NONE, np.int64),
        np.zeros(count, np.int64),
        np.zeros(horizon, np.int64),
        np.zeros(4, np.int64),
    )
    tally = decision.tally[0]
    tally.seed = seed
    for p in range(slots.shape[0]):
        put(p, start[p], offer, decision)
    refresh(decision, terms, leads)
    descend(offer, decision, terms, leads)
    best = slots.copy()
    value = total(decision, terms, leads)
    admitted = tally.admitted
    for turn in range(kicks):
        # Fewer than these and the descent mostly undoes the kick.
        kick(6 + turn % 7, offer, decision)
        refresh(decision, terms, leads)
        descend(offer, decision, terms, leads)
        reached = total(decision, terms, leads)
        more = tally.admitted > admitted and offer.admit != NONE
        same = tally.admitted == admitted or offer.admit == NONE
        if more or (same and reached >= value):
            best[:] = slots
            value, admitted = reached, tally.admitted
        else:
            for p in range(slots.shape[0]):
                put(p, best[p], offer, decision)
    return best
