"""BR-T: when it releases what it plans."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wave_cases import COSTS, plannings, ranks, view_of, waiting_of

from brsolver.cluster.costs import Objectives, StepCosts
from brsolver.cluster.view import LOAD, QUEUED, ROOM, RUNNING, SLOTS, TOKEN_ROOM
from brsolver.errors import ParameterError
from brsolver.routers import BRT, BRRamp, BRRampParams, BRTParams
from brsolver.routers._growth import Growth
from brsolver.routers._holding import Holding, balanced, lowered, slowdown
from brsolver.routers._kept import Kept
from brsolver.routers._window_kernels import ends_at
from brsolver.routers.wave_params import MAX_KAPPA

STEP_S = 0.02


def router(**params):
    return BRT(BRTParams(**params))


def steps_held(policy, table, prompts, *, since=0, at_most=10_000, promised=None):
    """Steps for which a policy holds all of these, the cluster staying as it is."""
    told = {} if promised is None else {"promised": promised}
    waiting = waiting_of(prompts, [since] * len(prompts))
    for step in range(at_most):
        view = view_of(table.copy(), step=since + step, clock_s=(since + step) * STEP_S, **told)
        if len(policy.route(view, waiting)):
            return step
    return at_most


# How holding adds up.

held = st.tuples(st.integers(0, 9), st.integers(1, 20), st.floats(0.001, 2.0))


@settings(max_examples=200, deadline=None)
@given(st.lists(held, min_size=1, max_size=20))
def test_holding_accrues_what_waiting_costs_each_of_those_that_run(passages):
    holding, clock_s, spent, total = Holding(), 0.0, 0.0, 0.0
    for step, (count, running, seconds) in enumerate(passages):
        holding.look(step, clock_s)
        assert holding.spent == pytest.approx(spent)
        holding.hold(count, running)
        spent = spent + count * seconds / running if count else 0.0
        total += count * seconds
        clock_s += seconds
    holding.look(len(passages), clock_s)
    assert holding.spent == pytest.approx(spent)
    assert holding.tally.held_s == pytest.approx(total)


def test_holding_begins_anew_after_a_release_and_once_nobody_can_run():
    holding = Holding()
    for ends in (lambda: holding.release(3, 0.5), lambda: holding.hold(0, 4)):
        holding.look(0, 0.0)
        holding.hold(3, 4)
        holding.look(1, 2.0)
        assert (holding.spent, holding.held_s(2.0)) == (3 * 2.0 / 4, 2.0)
        ends()
        assert (holding.spent, holding.held_s(2.0)) == (0.0, 0.0)
        holding.look(2, 3.0)
        assert holding.spent == 0.0
        holding.look(3, 0.0)
    assert (holding.tally.waves, holding.tally.released, holding.tally.stalled_s) == (1, 3, 0.5)


def test_steps_are_timed_and_old_ones_forgotten():
    holding = Holding()
    holding.look(0, 0.0)
    assert math.isnan(holding.step_s)
    holding.look(1, 0.05)
    assert holding.step_s == pytest.approx(0.05)
    holding.look(1001, 0.05 + 1000 * 0.02)
    assert holding.step_s == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(
    ("kappa", "takes_s", "found"),
    [(1.0, 0.05, 1.0), (0.5, 0.05, 0.55), (0.5, 0.049, 0.49), (0.5, 9.0, 0.625), (0.5, 0.001, 0.4)],
)
def test_time_per_token_moves_kappa_in_proportion(kappa, takes_s, found):
    promised_s = 0.05 if takes_s != 0.05 or kappa == 1.0 else 0.05 / 1.1
    assert lowered(kappa, 1.0, takes_s, promised_s) == pytest.approx(found)


@given(st.lists(st.floats(1e-4, 10.0), max_size=400), st.floats(1e-3, 1e3), st.floats(1e-3, 1.0))
def test_kappa_stays_between_a_fiftieth_of_it_and_itself(takes, ceiling, promised_s):
    kappa = ceiling
    for tpot_s in takes:
        kappa = lowered(kappa, ceiling, tpot_s, promised_s)
        assert 0.02 * ceiling <= kappa <= ceiling


def test_no_step_has_been_timed_and_kappa_stays():
    assert lowered(0.5, 1.0, math.nan, 0.05) == 0.5


@pytest.mark.parametrize(
    ("kappa", "endangered", "missed", "decided", "found"),
    [
        (2.0, 1.2, 0.0, True, 2.4),
        (2.0, 9.0, 0.0, True, 2.5),
        (2.0, 9.0, 0.0, False, 2.0),
        (2.0, 1.2, 0.25, True, 1.8),
        (2.0, 1.2, 0.25, False, 1.8),
        (2.0, 2.0, 0.5, True, 2.0),
        (2.0, 1.0, 1.0, True, 1.6),
        (2.0, 0.01, 0.0, False, 1.6),
        (1.0, 0.01, 1.0, True, 1.0),
        (0.5, math.nan, 1.0, True, 0.5),
    ],
)
def test_kappa_rises_for_times_per_token_and_falls_for_first_tokens(
    kappa, endangered, missed, decided, found
):
    # Half of the promise is where danger begins.
    told = {"missed": missed, "decided": decided}
    moved = balanced(kappa, min(kappa, 1.0), endangered * 0.025, 0.05, **told)
    assert moved == pytest.approx(found)


shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
after_waves = st.tuples(
    st.one_of(st.just(math.nan), st.floats(0.0, 1e9)), shares, st.sampled_from([True, True, False])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(after_waves, max_size=200), st.floats(1e-3, MAX_KAPPA))
def test_kappa_runs_away_nowhere_and_recovers(passed, floor):
    kappa = floor
    for tpot_s, missed, decided in (*passed, *[(1e9, 0.0, True)] * 100):
        kappa = balanced(kappa, floor, tpot_s, 0.05, missed=missed, decided=decided)
        assert floor <= kappa <= MAX_KAPPA
    # However large it became: where all first tokens are missed it is soon as without promises.
    for _ in range(math.ceil(math.log(MAX_KAPPA / floor) / math.log(1.25)) + 1):
        kappa = balanced(kappa, floor, 1e9, 0.05, missed=1.0, decided=True)
    assert kappa == floor


def test_who_never_holds_goes_on_to():
    assert balanced(0.0, 0.0, 9.0, 0.05, missed=0.0, decided=True) == 0.0


# When a wave is due.


def with_room(*room):
    """Two ranks that run two each, and have room for so many."""
    table = ranks((2, 0), (2, 0))
    table[ROOM] = room
    return table


def test_a_wave_is_due_once_holding_has_cost_those_that_run_as_much():
    # One prompt of 60 tokens keeps the other rank waiting: half of it is lost, 30 ms for each of
    # four that run. Held, it costs one request's 20 ms a step: after 6 steps 120 ms. One more
    # always waits for a slot.
    assert steps_held(router(), with_room(1, 0), [60, 60]) == 6
    assert steps_held(router(kappa=0.5), with_room(1, 0), [60, 60]) == 3
    # Two lose nothing, being computed side by side.
    assert steps_held(router(), with_room(1, 1), [60, 60, 60]) == 0
    # Three lose as much as one, and holding them costs three times as much.
    assert steps_held(router(), with_room(2, 1), [60, 60, 60, 60]) == 2


def test_where_slots_are_free_a_second_of_waiting_weighs_more():
    # Nobody waits for a slot: a wave's seconds count 1/(E[T]·E[1/T]) of what they did above.
    policy = router()
    held_steps = steps_held(policy, with_room(2, 2), [60])
    assert 0 < held_steps < 6
    assert held_steps >= 6 / slowdown(policy._turnover.steps_of(4)) - 1


@pytest.mark.parametrize(("steps", "weighs"), [(0.0, 1.0), (1.0, 1.0), (57.0, 4.11), (400.0, 6.0)])
def test_a_wait_weighs_by_how_long_requests_take(steps, weighs):
    assert slowdown(steps) == pytest.approx(weighs, rel=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.floats(1.001, 2e3))
def test_a_wait_weighs_what_geometric_lengths_make_of_it(steps):
    n = np.arange(1, int(20 * steps) + 2)
    chance = np.exp(np.log1p(-1 / steps) * (n - 1)) / steps
    assert slowdown(steps) == pytest.approx(steps * float((chance / n).sum()), rel=1e-3)


def test_holding_ends_where_it_gathers_nobody():
    # Released ones came at 1 a second; then four are held, and nobody joins them.
    holding = Holding()
    holding.look(0, 0.0)
    holding.growth.placed(10)
    for step in range(1, 11):
        holding.look(step, step * 1.0)
    assert holding.growth.per_s == pytest.approx(1.0, rel=0.01)
    holding.growth.grown(4, alone=True)
    assert not holding.stalled(4, 10, 3.0)
    for step in range(11, 15):
        holding.look(step, step * 1.0)
        holding.growth.grown(4, alone=True)
    assert holding.growth.per_s < 0.3
    assert holding.stalled(4, 10, 3.0)


def test_slow_arrivals_are_not_taken_for_none():
    # One request in 20 steps, held by twos: the rate found stays within a half of what it is.
    growth, found = Growth(), []
    for step in range(1, 2001):
        growth.passed(1.0, 1)
        count = 1 + step // 20 % 2
        growth.grown(count, alone=True)
        if step % 40 == 39:
            growth.placed(2)
        found.append(growth.per_s)
    assert min(found[400:]) > 0.5 / 20
    assert max(found[400:]) < 1.5 / 20


def test_who_came_after_a_placement_is_not_counted():
    # A queue kept at 8: eight come whenever eight go, and none while they are held.
    growth = Growth()
    for step in range(1, 401):
        growth.passed(1.0, 1)
        growth.grown(8, alone=True)
        if step % 4 == 0:
            growth.placed(8)
    assert growth.per_s < 0.05


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=4), st.integers(5, 400))
def test_a_larger_kappa_holds_for_longer(kappas, prompt):
    table = ranks((3, 0), (3, 0), (2, 0))
    found = [steps_held(router(kappa=k), table, [prompt], at_most=500) for k in sorted(kappas)]
    assert found == sorted(found)


@settings(max_examples=200, deadline=None)
@given(plannings())
def test_kappa_0_never_holds(planning):
    table, prompts, each, since = (
        planning.table,
        planning.prompts,
        planning.each,
        planning.since,
    )
    eager, never = router(kappa=0, patience=0), router(kappa=1e6, patience=0)
    view = view_of(table, request_tokens=each, step=3)
    waiting = waiting_of(prompts, since)
    eagerly = eager.route(view, waiting)
    plan = eager._plan(view, waiting, COSTS)
    assert len(eagerly) == plan.placements
    assert len(never.route(view, waiting)) in {plan.fills, plan.placements}


def test_nothing_is_held_where_nothing_runs():
    assert steps_held(router(kappa=1e6), ranks((0, 0), (0, 0)), [60]) == 0


def test_what_ends_within_the_largest_backlog_goes_while_the_rest_is_held():
    policy = router(kappa=1e6)
    chosen = policy.route(view_of(ranks((2, 30), (2, 0))), waiting_of([20, 50, 10]))
    assert chosen.tolist() == [[0, 1], [2, 1]]
    assert policy._holding.tally.filled == 2


def test_nobody_is_held_for_longer_than_hold_s():
    table = ranks((3, 0), (3, 0))
    assert steps_held(router(kappa=1e6, hold_s=1.0), table, [60]) == 50
    assert steps_held(router(kappa=1e6, hold_s=0), table, [60]) == 0


def test_patience_does_not_end_holding():
    """Where all have waited for long nobody would be held, and throughput lost."""
    table = ranks((3, 0), (3, 0))
    table[ROOM] = 1, 0
    found = [
        steps_held(router(kappa=8.9, patience=patience), table, [60, 60], since=40)
        for patience in (0, 1, 7)
    ]
    assert found == [81, 81, 81]


# What is promised.


@pytest.mark.parametrize("promised_s", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("own", [True, False])
def test_who_would_miss_the_promised_first_token_is_held_no_longer(promised_s, own):
    table, prompt = ranks((3, 0), (3, 0)), 100
    policy = router(kappa=1e6, slo_ttft_ms=promised_s * 1e3 if own else None)
    held_steps = steps_held(policy, table, [prompt], promised=Objectives(ttft_s=promised_s))
    prefill_steps = math.ceil(prompt / COSTS.budget)
    takes_s = prompt * COSTS.per_prefill_token_s + prefill_steps * STEP_S
    first_token_s = held_steps * STEP_S + takes_s
    assert first_token_s <= promised_s
    # And not much sooner than it must be: a tenth is kept in reserve, it may have come a step
    # before it could be routed, and the next decision is a step away.
    assert first_token_s > 0.9 * promised_s - 4 * STEP_S


def test_an_own_promise_goes_before_that_of_the_run():
    table = ranks((3, 0), (3, 0))
    policy = router(kappa=1e6, slo_ttft_ms=500)
    assert steps_held(policy, table, [60], promised=Objectives(ttft_s=9.0)) < 25


@pytest.mark.parametrize(("since", "released"), [([95, 50], 2), ([95, 90], 0)])
def test_who_has_waited_longest_counts_behind_those_lost_with_a_worker(since, released):
    policy, table = router(kappa=1e6, slo_ttft_ms=1000), ranks((3, 0), (3, 0), (3, 0))
    waiting = waiting_of([60, 60], since)
    for step in (94, 95, 96):
        chosen = policy.route(view_of(table, step=step, clock_s=step * STEP_S), waiting)
        if step > 94:
            assert len(chosen) == released


def test_who_has_missed_the_promised_first_token_is_held_as_if_none_were_promised():
    policy, table = router(kappa=1e6, slo_ttft_ms=1000), ranks((3, 0), (3, 0))
    for step in range(1000, 1100):
        view = view_of(table, step=step, clock_s=step * STEP_S)
        assert not len(policy.route(view, waiting_of([60], [900])))
        # Nor do prompts that take longer by themselves.
        assert not len(policy.route(view, waiting_of([1001], [step - 5])))


def test_a_short_prompt_beside_a_long_one_is_in_no_hurry():
    # The long one, 5 s by itself, is lost. The short one has its first token within two steps of
    # going, whichever rank computes for longest.
    policy, table = router(kappa=1e6, slo_ttft_ms=1000), ranks((3, 0), (3, 0))
    waiting = waiting_of([5000, 60])
    held_steps = 0
    while not len(
        policy.route(view_of(table, step=held_steps, clock_s=held_steps * STEP_S), waiting)
    ):
        held_steps += 1
    assert 30 < held_steps < 50


@pytest.mark.parametrize(("tpot_ms", "goes"), [(10, False), (200, True), (None, True)])
def test_a_first_token_is_not_saved_where_that_costs_more_promises_per_token(tpot_ms, goes):
    # Of the prompt's 200 ms the other rank waits for 100; six run, for L steps each.
    table, prompt = ranks((3, 0), (3, 0)), 200
    policy = router(kappa=1e6, slo_ttft_ms=1000, slo_tpot_ms=tpot_ms)
    found = steps_held(policy, table, [prompt], at_most=60)
    assert (found < 60) == goes
    length = policy._turnover.steps_of(6)
    if tpot_ms is not None:
        used = 6 / length * 0.1 / (tpot_ms / 1e3)
        assert (STEP_S / (tpot_ms / 1e3) * used <= 1) == goes


def test_a_promise_asks_for_no_kernel_that_a_new_router_has_not_loaded():
    policy, table = router(kappa=1e6, slo_ttft_ms=1000), ranks((3, 0), (3, 0))
    loaded = len(ends_at.signatures)
    assert loaded > 0
    assert steps_held(policy, table, [60]) < 60
    assert len(ends_at.signatures) == loaded


def test_many_first_tokens_are_worth_what_one_is_not():
    table = ranks((1, 0), (1, 0))
    promised = {"slo_ttft_ms": 1000, "slo_tpot_ms": 10}
    assert steps_held(router(kappa=1e6, **promised), table, [60], at_most=60) == 60
    assert steps_held(router(kappa=1e6, **promised), table, [60] * 5, at_most=60) < 60


def waves(policy, count, *, queued=0):
    """Steps for which each of so many requests is held, one after the other, and κ after each.

    They have waited for a slot for `queued` steps before, as one more always does.
    """
    table, found, began = with_room(1, 0), [], 0
    for step in range(100_000):
        waiting = waiting_of([60, 60], [began - queued] * 2)
        if len(policy.route(view_of(table, step=step, clock_s=step * STEP_S), waiting)):
            found.append((step - began, policy.kappa))
            began = step + 1
        if len(found) == count:
            return found
    raise AssertionError(found)


@pytest.mark.parametrize("hold_s", [0.5, 1.0])
def test_kappa_rises_no_further_than_it_is_what_ends_holding(hold_s):
    policy = router(slo_ttft_ms=1e6, slo_tpot_ms=1.5 * STEP_S * 1e3, hold_s=hold_s)
    found = waves(policy, 60)
    held_steps, kappas = zip(*found, strict=True)
    assert held_steps[0] < held_steps[-1] == pytest.approx(hold_s / STEP_S, abs=1)
    assert 1.0 < kappas[0] < kappas[-1] == kappas[30]
    # The next step of κ after the last that it decided.
    last = max(kappa for held, kappa in found if held < held_steps[-1])
    assert kappas[-1] <= 1.25 * last


def test_kappa_falls_as_holding_costs_first_tokens_and_rises_once_it_does_not():
    # A time per token so short that no first token is worth a wave.
    tight = {"slo_ttft_ms": 400, "slo_tpot_ms": 6}
    held_steps = [held for held, _ in waves(router(**tight), 80)][20:]
    in_time = (0.4 - 60 * COSTS.per_prefill_token_s) / STEP_S
    assert in_time / 1.25 < min(held_steps) < in_time < max(held_steps) < 1.25 * in_time
    # Who missed it while there was no slot is none of holding's.
    found = waves(router(**tight, hold_s=2.0), 80, queued=30)
    assert found[-1][0] == pytest.approx(2.0 / STEP_S, abs=1)


class Blind(Kept):
    """Takes nothing in."""

    def look(self, *_, **__):
        pass


def test_a_first_token_is_worth_less_where_times_per_token_are_lost_anyway():
    table, prompt = ranks((3, 0), (3, 0)), 200
    length = router()._turnover.steps_of(6)
    # What going uses up promises, over the one first token that it saves: one half.
    tpot_ms = 1e3 * math.sqrt(2 * STEP_S * 6 / length * 0.1)
    promised = {"slo_ttft_ms": 1000, "slo_tpot_ms": tpot_ms}
    for token, goes in ((1.0, True), (0.4, False)):
        policy = router(kappa=1e6, **promised)
        policy._kept = Blind()
        policy._kept.token = token
        assert (steps_held(policy, table, [prompt], at_most=60) < 60) == goes


def test_a_kept_time_per_token_lowers_kappa_and_a_broken_one_raises_it_again():
    policy = router(slo_tpot_ms=2 * STEP_S * 1e3)
    table, waiting = ranks((3, 0), (3, 0)), waiting_of([60])
    seen = []
    for step in range(400):
        each_s = STEP_S if step < 200 else 5 * STEP_S
        clock_s = step * STEP_S if step < 200 else 200 * STEP_S + (step - 200) * each_s
        policy.route(view_of(table, step=step, clock_s=clock_s), waiting)
        seen.append(policy.kappa)
    assert seen[0] == 1.0
    assert min(seen) == seen[199] == pytest.approx(0.02, abs=0.01)
    assert seen[-1] == 1.0


# Special cases.


@settings(max_examples=300, deadline=None)
@given(
    plannings(),
    st.sampled_from([0, 2, 2500]),
    st.sampled_from([None, StepCosts(per_kv_token_s=1.0), StepCosts(per_prefill_token_s=1.0)]),
    st.booleans(),
)
def test_where_prompts_are_computed_elsewhere_another_router_decides(
    planning, patience, costs, immediate
):
    table, prompts, each, since = (
        planning.table,
        planning.prompts,
        planning.each,
        planning.since,
    )
    if immediate:
        table[ROOM], table[TOKEN_ROOM] = table[SLOTS] > 0, 1 << 60
        prompts, since = prompts[:1], since[:1]
        if not table[ROOM].any():
            return
    view = view_of(table, costs=costs, request_tokens=each, immediate=immediate, step=3)
    waiting = waiting_of(prompts, since)
    found = router(patience=patience).route(view, waiting)
    assert found.tolist() == BRRamp(BRRampParams(patience=patience)).route(view, waiting).tolist()


def at_once(table, prompt, **params):
    table[ROOM], table[TOKEN_ROOM] = table[SLOTS] > 0, 1 << 60
    ((at, g),) = router(**params).route(view_of(table, immediate=True), waiting_of([prompt]))
    assert at == 0
    return g


def test_an_arrival_that_must_go_at_once_goes_where_it_adds_least():
    assert at_once(ranks((2, 50), (2, 0), (2, 20)), 10) == 1
    assert at_once(ranks((2, 50), (2, 45), (2, 48)), 10) == 1
    # To whom a slot is free, though more is to be done there.
    assert at_once(ranks((4, 0), (2, 40), (2, 20)), 10) == 2
    # Queued ones have taken theirs.
    table = ranks((2, 0), (2, 40))
    table[QUEUED, 0] = 2
    assert at_once(table, 10) == 1
    # Where there is none, to any.
    assert at_once(ranks((4, 30), (4, 10)), 10) == 1
    assert at_once(ranks((0, 0), (4, 10), slots=4), 10, kappa=1e6) == 0


def test_an_arrival_that_must_go_at_once_never_goes_to_a_worker_that_has_left():
    table = ranks((0, 0), (4, 90))
    table[SLOTS, 0] = 0
    assert at_once(table, 10) == 1


def test_old_news_of_a_free_slot_at_a_worker_that_has_left_turn_no_arrival_away():
    table = ranks((0, 0), (4, 90))
    table[ROOM], table[TOKEN_ROOM] = [0, 1], 1 << 60
    view = view_of(table, immediate=True)
    assert router().route(view, waiting_of([10])).tolist() == [[0, 1]]


def test_loads_weigh_for_as_long_as_they_cannot_be_corrected():
    table = ranks((2, 0), (2, 0))
    table[LOAD] = 1_000, 0
    # A KV token costs a thousandth of what a prefill token does, but in every step to come.
    chosen = router(kappa=0).route(view_of(table), waiting_of([10]))
    assert chosen.tolist() == [[0, 1]]


def test_notes_tell_what_was_held_and_what_for():
    policy = router()
    assert policy.notes() == ()
    steps_held(policy, with_room(1, 0), [60, 60])
    (line,) = policy.notes()
    assert line == (
        "br-t released 1 requests in 1 waves and 0 while others prefilled; it held requests that "
        "could run for 0.1 s altogether, and the waves kept ranks waiting for 0.0 s"
    )


@pytest.mark.parametrize(
    ("costs", "told"),
    [
        (StepCosts(budget=64, per_kv_token_s=1.0), True),
        (StepCosts(per_kv_token_s=1.0), False),
        (None, False),
    ],
)
def test_notes_tell_that_nothing_could_be_held(costs, *, told):
    policy = router()
    policy.route(view_of(with_room(1, 0), costs=costs), waiting_of([60]))
    assert len(policy.notes()) == told
    assert all("held nothing" in line and "\n" not in line for line in policy.notes())


def test_decisions_are_the_callers_own():
    policy = router(kappa=0)
    first = policy.route(view_of(ranks((1, 0))), waiting_of([5]))
    policy.route(view_of(ranks((1, 0), (0, 0))), waiting_of([7, 8]))
    assert first.tolist() == [[0, 0]]
    many = policy.route(view_of(ranks(*[(0, 0)] * 50)), waiting_of([3] * 180))
    assert len(many) == 180
    assert np.unique(many[:, 0]).size == 180


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"kappa": -1}, "kappa is -1, must be"),
        ({"kappa": math.nan}, "kappa is nan, must be"),
        ({"hold_s": -0.1}, "hold_s is -0.1, must be"),
        ({"slo_ttft_ms": 0}, "slo_ttft_ms is 0, must be"),
        ({"slo_tpot_ms": "soon"}, "slo_tpot_ms is 'soon', must be"),
        ({"patience": -1}, "patience is -1"),
    ],
)
def test_parameters_that_cannot_be_are_refused_in_a_line(params, says):
    with pytest.raises(ParameterError) as caught:
        BRTParams(**params)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_idle_slots_of_others_do_not_matter_to_a_departed_workers_backlog():
    # What a view tells of who has left counts for nothing but the largest load.
    table = ranks((0, 0), (2, 0))
    table[[SLOTS, ROOM, RUNNING], 0] = 0
    chosen = router(kappa=0).route(view_of(table), waiting_of([5, 6]))
    assert set(chosen[:, 1].tolist()) == {1}
