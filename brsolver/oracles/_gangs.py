"""A run planned with everything known: how near to the bound of all runs one can come.

Requests alike in length go in gangs of G, one to each rank, and the next gang starts when every
rank has a slot: ranks then do nearly the same at every step, prefill included. All requests are
known from the beginning with their lengths, and longest outputs go first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]

BLOCKS = (1, 8, 64, 4096)
"""Gangs of about the same output length within which prompts are sorted: the best is taken."""


class Gangs:
    """Place the next G requests, one on each worker, when each has room; the rest waits.

    The heaviest goes to the worker with the least load.
    """

    source = "clairvoyant gangs"

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place as many whole gangs as there is room for."""
        workers = cluster.room.size
        count = min(int(cluster.room.min()), -(-len(waiting) // workers))
        load = cluster.load.astype(np.int64)
        pairs = []
        for first in range(0, count * workers, workers):
            gang = np.arange(first, min(first + workers, len(waiting)))
            down = gang[np.argsort(-waiting.prompt_tokens[gang], kind="stable")]
            lightest = np.argsort(load, kind="stable")[: down.size]
            load[lightest] += waiting.prompt_tokens[down]
            pairs.append(np.stack((down, lightest), axis=1))
        return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)


def gang_seconds(trace: Trace, params: SimulationParams) -> float:
    """Return the least ``Σ_k Δ(k)`` of the runs in gangs that are tried.

    Parameters
    ----------
    trace : Trace
    params : SimulationParams
        Arrivals, staleness and transit do not matter: it knows all from the beginning.
    """
    from brsolver.simulator import Arrivals, Staleness, simulate

    workers = params.workers
    known = replace(
        params,
        # The order of the trace is that of release, so the next gangs are all that is looked at.
        arrivals=Arrivals(pool=workers * (max(params.slots_each()) + 1)),
        staleness=Staleness(),
        routing="pooled",
        transit_steps=0,
        max_steps=None,
        # Whoever knows all has what is prefilled elsewhere ready.
        prefill=params.prefill if params.prefill.colocated else type(params.prefill)(),
    )
    runs = (simulate(in_gangs(trace, workers, block), Gangs(), known) for block in BLOCKS)
    return min(float(run.steps.duration_s.sum()) for run in runs)


def in_gangs(trace: Trace, workers: int, block: int) -> Trace:
    """Return the same requests in the order in which gangs are released."""
    order = np.argsort(-trace.output_tokens, kind="stable")
    size = workers * block
    blocks = (order[first : first + size] for first in range(0, order.size, size))
    alike = np.concatenate([b[np.argsort(-trace.prompt_tokens[b], kind="stable")] for b in blocks])
    columns = {
        name: column[alike] for name, column in trace.columns.items() if name == "cached_tokens"
    }
    return replace(
        trace,
        prompt_tokens=trace.prompt_tokens[alike],
        output_tokens=trace.output_tokens[alike],
        arrival_s=None,
        columns=columns,
    )
