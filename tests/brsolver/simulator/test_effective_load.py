"""With κ tokens for every request a run is that of the trace whose prompts are κ longer.

That holds of everything but KV capacities, clocks and what is counted in KV tokens.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.simulator import (
    Arrivals,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
    simulate,
)
from brsolver.traces.trace import Trace

POLICIES = [
    ("jsq-load", None),
    ("lpt", None),
    ("p2c-load", None),
    ("br-0", None),
    ("br-0:s_greedy=0,r_max=12,patience=3,guard=false", None),
    ("br-ramp", None),
    ("br-h:horizon=6", "survival"),
    ("br-h:horizon=6,growth=true", "survival"),
    ("br-h:horizon=6", "oracle"),
    ("br-h:horizon=6,projection=expected,growth=true,s_greedy=0,r_max=5", "survival"),
    ("bf-io:horizon=4", "oracle"),
    ("bf-io:horizon=4,s_greedy=0,window=12", "survival"),
    ("phi", None),
    ("fast-phi", None),
    ("local-search:horizon=3", "oracle"),
]
"""Those that balance loads, and by which forecasts."""


@st.composite
def regimes(draw):
    """Draw a trace and a regime without KV capacities, whose clock does not follow loads."""
    size = draw(st.integers(1, 40))
    lengths = st.lists(st.integers(1, 12), min_size=size, max_size=size)
    prompts = draw(st.lists(st.integers(1, 400), min_size=size, max_size=size))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02]), min_size=size, max_size=size))
    trace = Trace(
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(draw(lengths)),
        arrival_s=np.cumsum(gaps) - gaps[0],
    )
    stale = draw(
        st.sampled_from(
            [
                Staleness(),
                Staleness(steps=2),
                Staleness(steps=3, local_correction=True),
                Staleness(steps=4, mode="periodic", local_correction=True),
                Staleness(ms=25),
            ]
        )
    )
    failure = WorkerEvent(kind="fail", worker=1, at_step=draw(st.integers(1, 8)))
    params = SimulationParams(
        workers=3,
        slots=draw(st.integers(1, 4)),
        routing=draw(st.sampled_from(["pooled", "immediate"])),
        arrivals=Arrivals(
            mode=draw(st.sampled_from(["pool", "timestamps"])), pool=draw(st.integers(1, 20))
        ),
        staleness=stale,
        events=(failure,) if draw(st.booleans()) else (),
        transit_steps=draw(st.sampled_from([0, 0, 1, 3])),
        refresh_steps=draw(st.sampled_from([1, 4])),
        step_time=StepTime(base=0.01, per_token=0.0),
    )
    return trace, params


@pytest.mark.parametrize(("policy", "predictor"), POLICIES)
@settings(max_examples=25, deadline=None)
@given(regimes(), st.sampled_from([1, 37, 1500]))
def test_a_request_weighs_as_much_as_a_longer_prompt(policy, predictor, regime, each):
    trace, params = regime
    longer = replace(trace, prompt_tokens=trace.prompt_tokens + each)
    weighed = simulate(trace, policy, replace(params, request_tokens=each), predictor=predictor)
    plain = simulate(longer, policy, params, predictor=predictor)
    for name in ("worker", "start_step", "finish_step", "status"):
        found, expected = getattr(weighed.requests, name), getattr(plain.requests, name)
        assert found.tolist() == expected.tolist()
    for name in (
        "load_max",
        "load_min",
        "load_sum",
        "post_max",
        "post_min",
        "post_sum",
        "energy_j",
    ):
        found, expected = getattr(weighed.steps, name), getattr(plain.steps, name)
        assert found.tolist() == expected.tolist()
    for name in ("barrier_time", "avg_imbalance_sum", "idle_rate", "decisions"):
        assert getattr(weighed.metrics, name) == getattr(plain.metrics, name)
    kv_tokens = plain.samples.load - each * plain.samples.running
    assert weighed.samples.load.tolist() == kv_tokens.tolist()


@pytest.mark.parametrize(("policy", "predictor"), POLICIES)
@settings(max_examples=15, deadline=None)
@given(regimes(), st.lists(st.integers(0, 300), min_size=3, max_size=3))
def test_weights_take_up_no_memory(policy, predictor, regime, spare):
    """However much requests weigh: capacity is kept, and nothing starves that it has room for."""
    trace, params = regime
    largest = int((trace.prompt_tokens + trace.output_tokens).max())
    capacity = tuple(largest + more for more in spare)
    params = replace(params, capacity=capacity, request_tokens=5000)
    result = simulate(trace, policy, params, predictor=predictor)
    assert np.all(result.samples.load <= capacity)
    assert result.metrics.finished == len(trace)


def test_auto_is_what_a_sequence_costs_over_what_a_token_does(uniform_trace):
    trace = uniform_trace(3, 60, 300, 20)
    model = StepTime(model="loads", base=0.02, per_sequence=6.3e-5, per_token=4.2e-8)
    params = SimulationParams(workers=2, slots=4, step_time=model, request_tokens="auto")
    assert params.request_weight == 1500
    found = simulate(trace, "br-0", params)
    given = simulate(trace, "br-0", replace(params, request_tokens=1500))
    assert found.requests.worker.tolist() == given.requests.worker.tolist()
    # Every step then lasts by the heaviest effective load.
    lasts = model.base + model.per_token * found.steps.load_max
    assert found.steps.duration_s == pytest.approx(lasts)
    assert replace(params, step_time=StepTime()).request_weight == 0


def test_baselines_of_engines_go_by_kv_tokens(uniform_trace):
    """What SGLang and ATOM count is theirs to say."""
    trace = uniform_trace(3, 80, 300, 20)
    params = SimulationParams(workers=3, slots=4, capacity=4000)
    for policy in ("sglang-total-tokens", "atom-least-tokens", "vllm", "vllm-0.20", "jsq"):
        plain = simulate(trace, policy, params)
        weighed = simulate(trace, policy, replace(params, request_tokens=2000))
        assert weighed.requests.worker.tolist() == plain.requests.worker.tolist()
        assert weighed.steps.duration_s.tolist() == plain.steps.duration_s.tolist()
        more = 2000 * plain.steps.active
        assert weighed.steps.load_sum.tolist() == (plain.steps.load_sum + more).tolist()


def test_plain_policies_see_loads_with_weights_and_rooms_without():
    seen = []

    class Plain:
        def route(self, cluster, waiting):
            seen.append((cluster.load.tolist(), cluster.token_room.tolist(), waiting.prompt_tokens))
            return [(0, int(np.argmin(cluster.load)))]

    trace = Trace(prompt_tokens=np.full(2, 10), output_tokens=np.full(2, 5))
    params = SimulationParams(workers=2, slots=2, capacity=90, request_tokens=1000, max_steps=2)
    simulate(trace, Plain(), params)
    assert seen[0][:2] == ([0, 0], [90, 90])
    assert seen[1][:2] == ([1011, 0], [79, 90])
    assert seen[1][2].tolist() == [10]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "request_tokens is -1, must be at least 0"),
        (1.5, "request_tokens is 1.5, must be a whole number"),
        ("all", "request_tokens is 'all', must be a whole number of KV tokens or auto"),
        (10**7, "request_tokens is 10000000, must be at most 1,000,000"),
    ],
)
def test_what_is_no_weight_is_refused(value, words):
    with pytest.raises(ParameterError, match=words):
        SimulationParams(request_tokens=value)
