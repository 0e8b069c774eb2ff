"""The bounds in plain Python, to be read next to their formulae; tests hold the kernels to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def step_bound(loads: Sequence[int], workers: int, slots: int) -> int:
    """Bound ``max_g L_g`` over all splits of `loads` among workers of `slots` slots.

    The largest of: ``⌈Σ w/G⌉``; for every q, the q + 1 smallest of the ``qG + 1`` largest (q = 0
    is the largest load); the largest with the ``n - (G-1)B - 1`` smallest.
    """
    if not loads:
        return 0
    down = sorted(loads, reverse=True)
    bounds = [-(-sum(down) // workers)]
    last = (len(down) - 1) // workers
    bounds += [sum(down[q * workers - q : q * workers + 1]) for q in range(last + 1)]
    company = max(0, len(down) - (workers - 1) * slots - 1)
    bounds.append(down[0] + sum(down[len(down) - company :]))
    return max(bounds)


def loads_at(
    step: int, prompt: Sequence[int], start: Sequence[int], end: Sequence[int]
) -> list[int]:
    """Return the loads ``s_i + k - x_i`` of the requests that run at a step."""
    return [s + step - x for s, x, e in zip(prompt, start, end, strict=True) if x <= step < e]


def fixed_bound(
    prompt: Sequence[int], start: Sequence[int], end: Sequence[int], workers: int, slots: int
) -> list[int]:
    """Return ``LB_k`` of every step."""
    return [step_bound(loads_at(k, prompt, start, end), workers, slots) for k in range(max(end))]


def window_gain(
    chosen: Sequence[int],
    window: tuple[int, int],
    known: Sequence[int],
    prompt: Sequence[int],
    start: Sequence[int],
    end: Sequence[int],
) -> int:
    """Return what G + 1 chosen requests, two of which share a worker, add to a window."""
    least = None
    for a, i in enumerate(chosen):
        for j in chosen[a + 1 :]:
            both = range(window[0], min(window[1], end[i], end[j]))
            loads = (prompt[i] - start[i] + prompt[j] - start[j] + 2 * k for k in both)
            excess = sum(max(0, load - known[k]) for k, load in zip(both, loads, strict=True))
            least = excess if least is None else min(least, excess)
    return least or 0
