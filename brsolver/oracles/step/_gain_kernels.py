"""Kernels of what a change of one or two workers gains; see `brsolver.oracles.step.search`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.step._shapes import NONE, Decision, Leads, Share, Terms

IntArray = NDArray[np.int64]


@kernel
def overflow(share: Share, margins: IntArray, weights: IntArray, steps: IntArray) -> int:
    """Return ``Σ_h d_h·(S_h - m_h)_+`` of a worker given a share, by a pass over the horizon."""
    j, tokens, count = share
    value = 0
    for h in range(weights.shape[0]):
        over = tokens + steps[h] * count - margins[j, h]
        if over > 0:
            value += weights[h] * over
    return value


@kernel
def bent_overflow(j: int, tokens: int, bends: IntArray) -> int:
    """Return the same without growth, by bisection."""
    low, high = 0, bends.shape[2] - 1
    while low < high:
        middle = (low + high) // 2
        if bends[j, 0, middle] < tokens:
            low = middle + 1
        else:
            high = middle
    value: int = bends[j, 1, low] * tokens - bends[j, 2, low]
    return value


@kernel
def score_at(share: Share, terms: Terms, bends: IntArray) -> int:
    """Return F of a worker given a share."""
    if terms.grows:
        over = overflow(share, terms.margins, terms.weights, terms.steps)
    else:
        over = bent_overflow(share.worker, share.tokens, bends)
    return terms.alpha_d * share.tokens + terms.alpha_r * share.requests - terms.beta * over


@kernel
def slope(j: int, tokens: int, terms: Terms, bends: IntArray) -> int:
    """Return a slope of F of worker j, without growth, at what it is given."""
    below = np.searchsorted(bends[j, 0], tokens)
    steep: int = terms.alpha_d - terms.beta * bends[j, 1, below]
    return steep


@kernel
def find_leads(decision: Decision, terms: Terms, leads: Leads) -> None:
    """Write the two largest rises of the envelope per step, whose the first is, and `hope`."""
    tokens, requests = decision.tokens, decision.requests
    margins, weights, steps = terms.margins, terms.weights, terms.steps
    rises, who, hope = leads.rises, leads.who, leads.hope
    for h in range(weights.shape[0]):
        rises[0, h] = 0
        rises[1, h] = 0
        who[h] = NONE
    for j in range(margins.shape[0]):
        hope[j] = 0
        given, count = tokens[j], requests[j]
        for h in range(weights.shape[0]):
            over = given + steps[h] * count - margins[j, h]
            first = rises[0, h]
            rises[1, h] = max(rises[1, h], min(first, over))
            rises[0, h] = max(first, over)
            who[h] = j if over > first else who[h]
    for h in range(weights.shape[0]):
        if who[h] != NONE:
            hope[who[h]] += weights[h] * (rises[0, h] - rises[1, h])


@kernel
def rise_change(share: Share, terms: Terms, leads: Leads) -> int:
    """Return by how much ``Σ_h d_h·E_h`` changes when a worker is given a share instead."""
    j, tokens, count = share
    margins, weights, steps = terms.margins, terms.weights, terms.steps
    rises, who = leads.rises, leads.who
    change = 0
    for h in range(weights.shape[0]):
        rest = rises[1, h] if who[h] == j else rises[0, h]
        rest = max(rest, tokens + steps[h] * count - margins[j, h])
        change += weights[h] * (rest - rises[0, h])
    return change


@kernel
def envelope_falls(more: Share, less: Share, terms: Terms, leads: Leads) -> bool:
    """Return whether ``Σ_h d_h·E_h`` falls when one worker is given more and another as much less.

    Stops as soon as all that the other's remaining leads can bring does not make up for what the
    one costs.
    """
    j, tokens_j, count_j = more
    i, tokens_i, count_i = less
    margins, weights, steps = terms.margins, terms.weights, terms.steps
    rises, who = leads.rises, leads.who
    change, remaining = 0, leads.hope[i]
    for h in range(weights.shape[0]):
        if change >= remaining:
            return False
        over = tokens_j + steps[h] * count_j - margins[j, h]
        if who[h] == i:
            remaining -= weights[h] * (rises[0, h] - rises[1, h])
            rest = max(over, tokens_i + steps[h] * count_i - margins[i, h])
            change += weights[h] * (max(rest, rises[1, h]) - rises[0, h])
        elif over > rises[0, h]:
            change += weights[h] * (over - rises[0, h])
    return change < 0


@kernel
def first_past_peak(share: Share, last: int, sizes: IntArray, terms: Terms, leads: Leads) -> int:
    """Return the first length, up to `last`, beyond which more gains nothing by the imbalance.

    The gain is concave in the worker's sum: ``D`` a token, less ``G·d_h`` from the sum on at
    which it leads step h, which is written to `bend`. `share` is what the worker is given: the
    tokens without the length, the requests with it.
    """
    j, base, count = share
    margins, weights, steps = terms.margins, terms.weights, terms.steps
    rises, who, bend = leads.rises, leads.who, leads.bend
    for h in range(weights.shape[0]):
        rest = rises[1, h] if who[h] == j else rises[0, h]
        bend[h] = rest + margins[j, h] - steps[h] * count - base
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        size, lost = sizes[middle], 0
        for h in range(weights.shape[0]):
            lost += weights[h] if bend[h] <= size else 0
        if terms.sum_d > terms.workers * lost:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def gain(had: Share, now: Share, terms: Terms, leads: Leads) -> int:
    """Return the gain of giving a worker a share instead of the one it has."""
    value: int
    if terms.by_score:
        value = score_at(now, terms, leads.bends) - score_at(had, terms, leads.bends)
    else:
        value = terms.sum_d * (now.tokens - had.tokens)
        value += terms.sum_r * (now.requests - had.requests)
        value -= terms.workers * rise_change(now, terms, leads)
    return value


@kernel
def value_at(share: Share, terms: Terms, leads: Leads) -> int:
    """Return what a worker given a share is terms, but for a constant of the others'."""
    value: int
    if terms.by_score:
        value = score_at(share, terms, leads.bends)
    else:
        value = terms.sum_d * share.tokens - terms.workers * rise_change(share, terms, leads)
    return value


@kernel
def concave_peak(share: Share, last: int, sizes: IntArray, terms: Terms, leads: Leads) -> int:
    """Return the length up to `last` that a worker is worth most with; `share` as above.

    An index into `sizes`, whether that length waits or not; without any `sizes`, tokens.
    """
    j, base, count = share
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        less, more = middle, middle + 1
        if sizes.shape[0]:
            less, more = sizes[middle], sizes[middle + 1]
        here = value_at(Share(j, base + less, count), terms, leads)
        after = value_at(Share(j, base + more, count), terms, leads)
        if after > here:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def total(decision: Decision, terms: Terms, leads: Leads) -> int:
    """Return the gain of a whole decision over admitting nothing."""
    value = 0
    for j in range(decision.tokens.shape[0]):
        tokens, count = decision.tokens[j], decision.requests[j]
        if terms.by_score:
            value += score_at(Share(j, tokens, count), terms, leads.bends)
        else:
            value += terms.sum_d * tokens + terms.sum_r * count
    if not terms.by_score:
        for h in range(terms.weights.shape[0]):
            value -= terms.workers * terms.weights[h] * leads.rises[0, h]
    return value
