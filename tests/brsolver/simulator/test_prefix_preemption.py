"""What becomes of the blocks of requests that are preempted."""

import numpy as np
import pytest
from test_prefix import UNIT, ragged

from brsolver.policy import as_policy
from brsolver.registry import make_policy
from brsolver.simulator import Prefill, SimulationParams
from brsolver.simulator import _layout as lay
from brsolver.simulator.engine import Engine
from brsolver.traces.trace import Trace

UNUSED = 1


def preempting(cache: int, prompts: list[int], outputs: list[int]) -> Engine:
    chains, first = [], 0
    for prompt in prompts:
        chains.append(list(range(first, first + prompt // 4)))
        first += prompt // 4
    trace = Trace(
        prompt_tokens=np.array(prompts), output_tokens=np.array(outputs), columns=ragged(chains)
    )
    prefill = Prefill(mode="colocated", budget=4, threshold=1, cache=cache, block=4)
    params = SimulationParams(workers=1, slots=2, capacity=45, step_time=UNIT, prefill=prefill)
    engine = Engine(trace, as_policy(make_policy("jsq")), params)
    engine.run()
    return engine


# The running request grows until the prompt under way no longer fits, or itself is the newer one.
@pytest.mark.parametrize("lengths", [([10, 30], [25, 2]), ([10, 12], [30, 30])])
def test_preempted_requests_find_their_own_blocks_and_leave_none_in_use(lengths):
    prompts, outputs = lengths
    engine, without = (preempting(cache, prompts, outputs) for cache in (45, 0))
    preemptions = engine.book[lay.B_PREEMPTIONS]
    assert preemptions.sum() > 0
    assert engine.finished == len(prompts)
    assert (
        engine.log_i[lay.I_PREFILL, : engine.step].sum()
        < without.log_i[lay.I_PREFILL, : without.step].sum()
    )
    # Nothing in use, and as much as there is room for.
    users = engine.prefixes.caches.links[0, :, lay.USERS]
    assert users.max() == UNUSED
    assert engine.queues[lay.C_SHARED].tolist() == [0]
    assert engine.queues[lay.C_IDLE].tolist() == [(users == UNUSED).sum()]
