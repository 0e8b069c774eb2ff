"""Whether prompts delay anybody, as engines say: where they do not, nothing is held for them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from picking import Picking

from integration.picker import Gauges, Placed
from integration.picker.pace import Pace, Prompts

MEANS = st.floats(0.0, 10.0)


def told(prompts: Prompts, means: list[float], step_s: float = 1.0) -> None:
    """Have an engine tell of eight prompts at a time, of these seconds each."""
    count, seconds = 0, 0.0
    prompts.told(0, count, seconds, step_s)
    for mean in means:
        count, seconds = count + 8, seconds + 8 * mean
        prompts.told(0, count, seconds, step_s)


@given(means=st.lists(MEANS, min_size=1))
def test_the_latest_word_counts(means):
    prompts = Prompts()
    told(prompts, means)
    if means[-1] < 0.45:
        assert prompts.apart
    elif means[-1] > 0.85:
        assert not prompts.apart


@given(step_s=st.floats(1e-4, 1.0))
def test_prompts_that_are_computed_in_a_step_take_one(step_s):
    prompts = Prompts()
    told(prompts, [step_s, 3 * step_s, step_s], step_s)
    assert not prompts.apart


def test_a_few_prompts_tell_nothing_nor_does_an_engine_that_began_anew():
    prompts = Prompts()
    prompts.told(0, 100, 50.0, 1.0)
    prompts.told(0, 107, 50.0, 1.0)
    assert not prompts.apart
    prompts.told(0, 3, 0.0, 1.0)
    prompts.told(0, 10, 0.0, 1.0)
    assert not prompts.apart
    prompts.told(0, 11, 0.0, 1.0)
    assert prompts.apart
    prompts.told(0, None, None, 1.0)
    assert prompts.apart


def is_held(*, seconds_of_a_prompt: float) -> bool:
    """Tell whether a long prompt that comes while others run is held, by what engines say."""
    p = Picking(workers=2, slots=32, budget=4096)
    for number in range(24):
        p.request(f"first-{number}", 100)
        p.run(0.05)
    for worker in range(2):
        for count in (0, 8, 16):
            prefill_s = count * seconds_of_a_prompt
            p.core.told(worker, Gauges(running=12, prefills=count, prefill_s=prefill_s))
    p.run(0.5)
    p.request("long", 3000)
    p.core.advance()
    return not isinstance(p.answer("long"), Placed)


def test_nothing_is_held_where_prompts_delay_nobody():
    assert not is_held(seconds_of_a_prompt=0.0)
    assert is_held(seconds_of_a_prompt=1.0)


@given(odd=st.floats(0.05, 20.0), steps=st.integers(50, 300))
def test_one_odd_step_is_not_believed_alone(odd, steps):
    pace = Pace()
    pace.learn(odd, 1, model_s=1.0, model_steps=1)
    assert min(odd, 1.0) <= pace.scale <= max(odd, 1.0)
    assert abs(math.log(pace.scale)) <= 0.51 * abs(math.log(odd)) + 1e-9
    pace.learn(2.0 * steps, steps, model_s=float(steps), model_steps=steps)
    assert abs(math.log(pace.scale / 2.0)) < 0.1
