"""The routing kernels against the plain reference, and BR-H against BR-0."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import NO_LIMIT, ROOM, TOKEN_ROOM, Waiting
from brsolver.errors import ParameterError
from brsolver.routers import BR0, BRH, BR0Params, BRHParams, reference
from brsolver.routers._br_kernels import envelope_of, route_pooled
from brsolver.routers._score_kernels import Weights, best_single, peak, score
from brsolver.routers._spread_kernels import spread
from brsolver.routers._subset_kernels import BY_SCORE, EXACTLY_K, best_subset


def clusters(max_free=3):
    """Draw a state with running requests, free slots and forecasts."""

    @st.composite
    def draw_state(draw):
        count = draw(st.integers(1, 4))
        slots = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
        each = draw(st.sampled_from([0, 0, 1, 25]))
        state = ClusterState(slots, horizon=8, refresh_steps=4, request_tokens=each)
        for g, limit in enumerate(slots):
            free = draw(st.integers(0, min(max_free, limit)))
            for serial in range(limit - free):
                state.admit(
                    serial,
                    g,
                    draw(st.integers(1, 60)),
                    remaining=draw(st.one_of(st.none(), st.integers(1, 10))),
                )
        return state

    return draw_state()


def waiting_of(prompts, since=None):
    tokens = np.array(prompts, np.int64)
    return Waiting(tokens, np.arange(tokens.size), since)


def reference_workers(state, horizon, growth=False):
    table = state.view_table()
    projected = state.projection(horizon, growth=growth)
    return [
        reference.Worker(row.tolist(), int(table[ROOM, g]), int(table[TOKEN_ROOM, g]))
        for g, row in enumerate(projected)
    ]


def assert_every_choice_is_best(state, pairs, prompts, weights, s_greedy, r_max):
    """Follow a routing choice by choice; each must score what the reference's best does."""
    workers = reference_workers(state, len(weights.discounts) - 1, bool(weights.growth))
    waiting = list(range(len(prompts)))
    at = 0
    while at < len(pairs):
        plentiful = sum(w.room for w in workers) > s_greedy
        g = reference._roomiest(workers)
        window = waiting if plentiful else waiting[:r_max]
        most = 1 if plentiful else workers[g].room
        best = reference._choose(window, prompts, workers, g, most, weights)
        value = score_of(best, prompts, workers, g, weights)
        taken = next(
            group
            for size in range(1, most + 1)
            if len(group := [i for i, w in pairs[at : at + size] if w == g]) == size
            and set(group) <= set(window)
            and score_of(group, prompts, workers, g, weights) == value
        )
        tokens = sum(prompts[i] for i in taken)
        workers[g].give(tokens, len(taken), weights.growth, weights.request_tokens)
        for i in taken:
            waiting.remove(i)
        at += len(taken)
    assert at == min(len(prompts), int(state.view_table()[ROOM].sum()))


def score_of(group, prompts, workers, g, weights):
    total = sum(prompts[i] for i in group)
    return reference.f_score(total, len(group), workers[g], workers, weights)


prompts_lists = st.lists(st.integers(1, 60), min_size=1, max_size=9)


@settings(max_examples=300, deadline=None)
@given(clusters(), prompts_lists, st.integers(0, 8), st.integers(1, 6))
def test_every_choice_of_br0_has_the_best_score(state, prompts, s_greedy, r_max):
    pairs = BR0(BR0Params(s_greedy=s_greedy, r_max=r_max, guard=False)).route(
        state.view(), waiting_of(prompts)
    )
    weights = reference.Weights(
        1.0, float(state.workers.shape[1]), [1.0], request_tokens=state.request_tokens
    )
    assert_every_choice_is_best(state, pairs.tolist(), prompts, weights, s_greedy, r_max)


@settings(max_examples=300, deadline=None)
@given(
    clusters(),
    prompts_lists,
    st.integers(0, 8),
    st.integers(1, 6),
    st.sampled_from([1.0, 0.5]),
    st.integers(0, 8),
    st.sampled_from([1, 2, 5]),
    st.booleans(),
)
def test_every_choice_of_brh_has_the_best_score(
    state, prompts, s_greedy, r_max, gamma, horizon, beta, growth
):
    """Exact weights (powers of two), so that equal scores are equal to the bit."""
    params = BRHParams(
        projection="expected",
        alpha=1,
        beta=beta,
        gamma=gamma,
        horizon=horizon,
        r_max=r_max,
        s_greedy=s_greedy,
        growth=growth,
        guard=False,
    )
    pairs = BRH(params).route(state.view(), waiting_of(prompts)).tolist()
    weights = reference.Weights(
        1.0,
        float(beta),
        [gamma**h for h in range(horizon + 1)],
        int(growth),
        state.request_tokens,
    )
    assert_every_choice_is_best(state, pairs, prompts, weights, s_greedy, r_max)


@settings(max_examples=200, deadline=None)
@given(clusters(), prompts_lists, st.integers(0, 8), st.integers(1, 12))
def test_brh_without_horizon_is_br0(state, prompts, s_greedy, r_max):
    workers = state.workers.shape[1]
    flat = BRH(
        BRHParams(alpha=1, beta=workers, horizon=0, s_greedy=s_greedy, r_max=r_max, gamma=0.7)
    )
    plain = BR0(BR0Params(s_greedy=s_greedy, r_max=r_max))
    view, waiting = state.view(), waiting_of(prompts)
    assert flat.route(view, waiting).tolist() == plain.route(view, waiting).tolist()


@settings(max_examples=100, deadline=None)
@given(clusters(), st.integers(1, 60))
def test_immediate_routing_picks_the_best_worker(state, prompt):
    view = state.view(immediate=True)
    pairs = BR0().route(view, waiting_of([prompt]))
    workers = reference_workers(state, 0)
    weights = reference.Weights(
        1.0, float(len(workers)), [1.0], request_tokens=state.request_tokens
    )
    values = [reference.f_score(prompt, 1, w, workers, weights) for w in workers]
    best = min(range(len(workers)), key=lambda g: (-values[g], workers[g].projected[0], g))
    assert pairs.tolist() == [[0, best]]


margin_lists = st.lists(st.integers(-30, 200), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(margin_lists, st.sampled_from([0.5, 1.0, 3.0]), st.lists(st.integers(1, 250), min_size=1))
def test_peak_splits_rising_from_falling(margins, beta, totals):
    m = np.array(margins, np.int64)
    d = 0.5 ** np.arange(m.size)
    filling = float(d.sum())
    highest = max(totals)
    most = peak(m, d, filling, beta, highest)
    values = [score(m, d, filling, beta, s) for s in range(highest + 1)]
    assert values[most] == max(values)
    assert all(a < b for a, b in itertools.pairwise(values[: most + 1]))
    window = np.arange(len(totals))
    pick = best_single(np.array(totals, np.int64), window, len(totals), 10**9, m, d, filling, beta)
    assert values[totals[pick]] == max(values[s] for s in totals)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=6, max_size=14),
    st.integers(1, 4),
    st.integers(0, 900),
    st.one_of(st.none(), st.integers(1, 900)),
    st.booleans(),
    st.sampled_from([0, 0, 7, 150]),
)
def test_subsets_are_the_best_that_fit(prompts, slots, margin, limit, growth, request_tokens):
    """Enumerated or by reachable sums, they score as well as trying every subset."""
    projected = np.array([[0, 0], [margin, margin // 2]], np.int64)
    envelope = envelope_of(projected)
    weights = Weights(1.5, 0.5, 2.0)
    d = np.array([1.0, 0.5])
    window = np.arange(len(prompts))
    chosen = np.empty(slots, np.int64)
    room = NO_LIMIT if limit is None else limit
    count, value = best_subset(
        np.array(prompts, np.int64) + request_tokens, window, len(prompts), slots, room, projected,
        envelope, 0, d, weights, int(growth), BY_SCORE, request_tokens, chosen,
    )  # fmt: skip
    workers = [reference.Worker(row.tolist(), slots, room) for row in projected]
    plain = reference.Weights(1.0, 2.0, d.tolist(), int(growth), request_tokens)
    best = max(
        (
            reference.f_score(sum(prompts[i] for i in s), len(s), workers[0], workers, plain)
            for s in reference._subsets(window.tolist(), slots)
            if sum(prompts[i] for i in s) <= room
        ),
        default=None,
    )
    if best is None:
        assert count == 0
        return
    picked = chosen[:count].tolist()
    assert len(set(picked)) == count <= slots
    total = sum(prompts[i] for i in picked)
    assert total <= room
    assert value == best
    assert reference.f_score(total, count, workers[0], workers, plain) == best


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=13),
    st.integers(1, 3),
    st.integers(0, 600),
)
def test_exactly_k_takes_the_largest_sum_within_the_margin(prompts, slots, margin):
    projected = np.array([[0], [margin]], np.int64)
    window = np.arange(len(prompts))
    chosen = np.empty(slots, np.int64)
    most = min(slots, len(prompts))
    count, _ = best_subset(
        np.array(prompts, np.int64), window, len(prompts), slots, NO_LIMIT, projected,
        envelope_of(projected), 0, np.ones(1), Weights(1.0, 0.0, 2.0), 0, EXACTLY_K, 0, chosen,
    )  # fmt: skip
    sums = {
        sum(prompts[i] for i in s)
        for s in reference._subsets(window.tolist(), most)
        if len(s) == most
    }
    within = [s for s in sums if s <= margin]
    expected = max(within) if within else min(sums)
    assert count == most
    assert sum(prompts[i] for i in chosen[:count]) == expected


def test_large_sums_are_rounded_but_never_overrun():
    """Beyond the programme's cells sums are coarse; what is returned is still exact."""
    rng = np.random.default_rng(3)
    prompts = rng.integers(1000, 90_000, 24)
    projected = np.array([[0], [400_000]], np.int64)
    chosen = np.empty(6, np.int64)
    count, value = best_subset(
        prompts, np.arange(24), 24, 6, 390_000, projected, envelope_of(projected), 0,
        np.ones(1), Weights(1.0, 0.0, 2.0), 0, BY_SCORE, 0, chosen,
    )  # fmt: skip
    total = int(prompts[chosen[:count]].sum())
    assert value == total
    assert 389_000 <= total <= 390_000


@pytest.mark.parametrize("policy", [BR0(), BRH(BRHParams(horizon=4, projection="expected"))])
def test_ties_go_to_the_lowest_load(policy):
    """Without it most requests went to worker 0 [DPR]."""
    state = ClusterState([4, 4, 4, 4], horizon=4)
    for g, prompt in enumerate((50, 50, 20, 90)):
        state.admit(g, g, prompt)
    pairs = policy.route(state.view(immediate=True), waiting_of([5]))
    assert pairs.tolist() == [[0, 2]]


def test_nobody_starves_when_every_placement_overflows():
    state = ClusterState([1, 1], horizon=0)
    state.admit(0, 0, 10)
    state.admit(1, 1, 10)
    state.finish(0)
    state.admit(2, 0, 10)
    state.finish(1)
    pairs = BR0().route(state.view(), waiting_of([500, 400, 450]))
    assert pairs.tolist() == [[1, 1]]


def test_patience_places_the_longest_waiting_first():
    state = ClusterState([1, 1])
    state.admit(0, 0, 100)
    since = np.array([0, 90, 95], np.int64)
    waiting = waiting_of([900, 80, 100], since)
    eager = BR0(BR0Params(patience=100)).route(state.view(step=100), waiting)
    calm = BR0(BR0Params(patience=101)).route(state.view(step=100), waiting)
    assert eager.tolist() == [[0, 1]]
    assert calm.tolist() == [[2, 1]]


@pytest.mark.parametrize("request_tokens", [0, 3, 500])
def test_capacity_is_respected_by_both_stages(request_tokens):
    state = ClusterState([4, 4], capacity=[100, 30], request_tokens=request_tokens)
    for s_greedy in (0, 8):
        policy = BR0(BR0Params(s_greedy=s_greedy, guard=False))
        pairs = policy.route(state.view(), waiting_of([60, 60, 25, 25]))
        used = [sum([60, 60, 25, 25][i] for i, g in pairs.tolist() if g == w) for w in (0, 1)]
        assert used[0] <= 100
        assert used[1] <= 30
        assert len(pairs) == 3


def routers(**params):
    """Return both routers, and BR-H where BR-0 decides for it."""
    return (
        (BR0(BR0Params(**params)), 1.0),
        (BRH(BRHParams(horizon=4, projection="expected", **params)), 1.0),
        (BRH(BRHParams(horizon=4, projection="expected", **params)), 0.0),
    )


@settings(max_examples=200, deadline=None)
@given(clusters(max_free=5), prompts_lists, st.one_of(st.none(), st.integers(1, 400)))
def test_with_slots_in_plenty_the_longest_go_to_the_least_load(state, prompts, capacity):
    """Held to the plain version, and to the stages where slots, or memory, are scarce."""
    if capacity is not None:
        for g in range(state.workers.shape[1]):
            state.set_capacity(g, capacity + g)
    table, waiting = state.view_table(), waiting_of(prompts)
    mean = sum(prompts) / len(prompts)
    places = 0
    for free, left in zip(table[ROOM].tolist(), table[TOKEN_ROOM].tolist(), strict=True):
        if left >= min(prompts):
            backed = free if left == NO_LIMIT else max(int(left / mean), 1)
            places += min(free, backed)
    plain = reference.spread(reference_workers(state, 0), prompts, state.request_tokens)
    for (router, trust), (bare, _) in zip(routers(), routers(guard=False), strict=True):
        chosen = router.route(state.view(trust=trust), waiting).tolist()
        stages = bare.route(state.view(trust=trust), waiting).tolist()
        assert chosen == ([list(p) for p in plain] if places > len(prompts) else stages)


def test_the_guard_balances_loads_where_the_stages_balance_counts():
    """Two free slots each, and one request: the emptier worker is the heavier one."""
    state = ClusterState([3, 4], horizon=4)
    state.admit(0, 0, 10)
    state.admit(1, 1, 90)
    for (router, trust), (bare, _) in zip(routers(), routers(guard=False), strict=True):
        assert router.route(state.view(trust=trust), waiting_of([40])).tolist() == [[0, 0]]
        assert bare.route(state.view(trust=trust), waiting_of([40])).tolist() == [[0, 1]]


def test_the_guard_serves_who_is_overdue_first_and_keeps_a_worker_for_who_does_not_fit():
    state = ClusterState([4, 4], capacity=[100, 60])
    state.admit(0, 0, 50)
    since, prompts = np.array([90, 80, 20, 10]), np.array([20, 50, 10, 70])
    late = spread(state.view_table(), prompts, since, 20, 0).tolist()
    # The 10 is overdue; then worker 0, the only one that can ever take the 70, is kept for it.
    assert late == [[2, 1], [1, 1]]
    # With nobody overdue the longest that fits goes first, and the 70 is left where it is.
    assert spread(state.view_table(), prompts, since, 9, 0).tolist() == [[1, 1], [0, 0], [2, 1]]


def test_overdue_requests_stop_at_the_first_that_fits_nowhere():
    table = ClusterState([1, 1], capacity=[50, 50]).view_table()
    out = route_pooled(
        table, np.zeros((2, 1), np.int64), np.array([60, 10], np.int64), np.ones(1),
        1.0, 0.0, 2.0, 7, 4, 0, BY_SCORE, np.array([3, 9]), 5, 0,
    )  # fmt: skip
    assert out.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BR0Params(s_greedy=-1), "s_greedy is -1"),
        (lambda: BR0Params(r_max=0), "r_max is 0"),
        (lambda: BRHParams(alpha=0), "alpha is 0"),
        (lambda: BRHParams(beta=-1), "beta is -1"),
        (lambda: BRHParams(gamma=1.5), "gamma is 1.5"),
        (lambda: BRHParams(gamma="high"), "gamma is 'high', must be a number in"),  # type: ignore[arg-type]
        (lambda: BRHParams(horizon=-1), "horizon is -1"),
        (lambda: BRHParams(patience=-1), "patience is -1"),
        (lambda: BR0Params(guard=1), "guard is 1, must be true or false"),
        (lambda: BRHParams(guard="no"), "guard is 'no', must be true or false"),
    ],
)
def test_parameters_are_checked(build, words):
    with pytest.raises(ParameterError, match=words.replace(".", r"\.")):
        build()
