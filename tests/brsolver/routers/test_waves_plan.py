"""What BR-T plans: the kernels against plain Python, and what every plan keeps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from wave_cases import (
    NOTHING_CACHED,
    Planning,
    by_kernel,
    by_reference,
    could_go,
    plannings,
    ranks,
)

from brsolver.cluster.view import (
    BACKLOG,
    CAPACITY,
    LOAD,
    NO_LIMIT,
    ROOM,
    RUNNING,
    SLOTS,
    TOKEN_ROOM,
    VIEW_ROWS,
)
from brsolver.routers._window_kernels import ends_at

SECONDS = np.array([1.0, 1e-3])


def planned(table, prompts, *, cached=NOTHING_CACHED, since=None, overdue=-1):
    waited = np.zeros(len(prompts), np.int64) if since is None else np.array(since)
    loads = table[LOAD].reshape(-1, 1)
    return by_kernel(table, loads, np.array(prompts), cached, 0, 0, waited, overdue, SECONDS)


@settings(max_examples=1500, deadline=None)
@given(plannings())
def test_the_kernels_equal_the_reference_to_the_bit(planning):
    assert by_kernel(*planning) == by_reference(*planning)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([-1, 5]))
def test_the_kernels_equal_the_reference_where_many_wait_for_many(seed, overdue):
    rng = np.random.default_rng(seed)
    workers, waiting = int(rng.integers(20, 60)), int(rng.integers(50, 200))
    table = np.zeros((VIEW_ROWS, workers), np.int64)
    table[SLOTS] = 8
    table[RUNNING] = rng.integers(0, 9, workers)
    table[ROOM] = 8 - table[RUNNING]
    table[TOKEN_ROOM] = rng.choice([NO_LIMIT, 20_000, 3_000], workers)
    # For a third of the seeds some prompts are larger than any worker.
    table[CAPACITY] = table[TOKEN_ROOM] + (0 if seed % 3 else 10_000)
    if seed % 3 == 0:
        table[TOKEN_ROOM], table[CAPACITY] = 3_000, 6_000
    table[BACKLOG] = rng.integers(0, 30_000, workers) * rng.integers(0, 2, workers)
    table[LOAD] = rng.integers(0, 200_000, workers)
    prompts = rng.integers(1, 9_000, waiting)
    cached = NOTHING_CACHED
    if seed % 2:
        cached = (prompts[:, None] * rng.choice([0, 0, 0.3, 1], (waiting, workers))).astype(int)
    seconds = np.array([36e-6, 41.6e-9 * rng.choice([1, 20, 300])])
    projected, growing, since = table[LOAD].reshape(-1, 1), 0, rng.integers(0, 100, waiting)
    if seed % 5 < 3:
        growing = 1
        projected = projected + rng.integers(-900, 1_500, (workers, 12)).cumsum(axis=1)
        projected, seconds = np.maximum(projected, 0), seconds[[0, *[1] * 12]]
    first = (table, projected, prompts, cached)
    planning = Planning(*first, 3, growing, since, overdue, seconds)
    assert by_kernel(*planning) == by_reference(*planning)


@settings(max_examples=300, deadline=None)
@given(plannings())
def test_a_placement_ends_after_what_its_worker_has_and_was_given_before(planning):
    cached = planning.cached
    _, pairs = by_kernel(*planning)
    given_pairs = np.array(pairs, np.int64).reshape(-1, 2)
    found = ends_at(planning.table, planning.prompts, cached, given_pairs)
    for at, (_, g) in enumerate(pairs):
        fresh = [
            planning.prompts[i] - (cached[i, g] if cached.size else 0)
            for i, worker in pairs[: at + 1]
            if worker == g
        ]
        assert found[at] == planning.table[BACKLOG, g] + sum(fresh)


@settings(max_examples=300, deadline=None)
@given(plannings())
def test_a_plan_keeps_to_what_there_is_room_for(planning):
    table, prompts = planning.table, planning.prompts
    before = table.copy()
    plan, pairs = by_kernel(*planning)
    assert np.array_equal(table, before)
    assert plan.fills <= plan.placements == len(pairs)
    at = [i for i, _ in pairs]
    assert len(set(at)) == len(at)
    for g in range(table.shape[1]):
        here = [i for i, worker in pairs if worker == g]
        assert len(here) <= table[ROOM, g]
        assert not here or prompts[here].sum() <= table[TOKEN_ROOM, g]


@settings(max_examples=300, deadline=None)
@given(plannings())
def test_what_goes_at_once_makes_no_backlog_larger_than_the_largest(planning):
    table, prompts, cached = planning.table, planning.prompts, planning.cached
    plan, pairs = by_kernel(*planning._replace(overdue=-1))
    backlog = table[BACKLOG].copy()
    for i, g in pairs[: plan.fills]:
        backlog[g] += prompts[i] - (cached[i, g] if cached.size else 0)
    assert backlog.max(initial=0) == table[BACKLOG].max(initial=0)


@settings(max_examples=300, deadline=None)
@given(plannings())
def test_overdue_requests_have_a_place_before_others_and_nobody_while_one_has_no_room(planning):
    table, prompts, since = planning.table, planning.prompts, planning.since
    overdue = planning.overdue
    _, pairs = by_kernel(*planning)
    able = could_go(table, prompts)
    late = [i for i in range(len(prompts)) if since[i] <= overdue and able[i]]
    placed = {i for i, _ in pairs}
    left = [i for i in late if i not in placed]
    if not left:
        return
    # The first of them that is left has no room beside those that came before it.
    assert placed == set(late[: late.index(left[0])])
    room, tokens = table[ROOM].copy(), table[TOKEN_ROOM].copy()
    for i, g in pairs:
        room[g] -= 1
        tokens[g] -= prompts[i]
    assert not ((room > 0) & (tokens >= prompts[left[0]])).any()


@settings(max_examples=300, deadline=None)
@given(plannings())
def test_what_goes_while_overdue_ones_are_held_leaves_them_their_place(planning):
    table, prompts, since = planning.table, planning.prompts, planning.since
    overdue = planning.overdue
    plan, pairs = by_kernel(*planning)
    room, tokens = table[ROOM].copy(), table[TOKEN_ROOM].copy()
    for i, g in pairs:
        room[g] -= 1
        tokens[g] -= prompts[i]
    assert (room >= 0).all() or not pairs
    assert (tokens >= 0).all()
    held = [i for i, _ in pairs[plan.fills :]]
    late = [i for i in held if since[i] <= overdue]
    assert held[: len(late)] == late


@settings(max_examples=300, deadline=None)
@given(plannings(), st.randoms(use_true_random=False))
def test_names_of_workers_do_not_matter(planning, random):
    """Where no two workers are alike in work, which ties would be settled by."""
    workers = planning.table.shape[1]
    # Powers of two apart, far beyond what prompts add: no sum of them makes workers equal.
    apart = planning.projected + 2 ** (10 + np.arange(workers)).reshape(-1, 1)
    planning = planning._replace(projected=apart, seconds=np.ones_like(planning.seconds))
    names = list(range(workers))
    random.shuffle(names)
    plan, pairs = by_kernel(*planning)
    cached = planning.cached
    renamed = planning._replace(
        table=planning.table[:, names].copy(),
        projected=apart[names],
        cached=cached[:, names].copy() if cached.size else cached,
    )
    other, found = by_kernel(*renamed)
    assert [(i, names[g]) for i, g in found] == pairs
    assert other._replace(lost=0) == plan._replace(lost=0)
    assert np.isclose(other.lost, plan.lost)


@settings(max_examples=200, deadline=None)
@given(plannings(), st.integers(1, 3))
def test_workers_that_have_left_change_nothing(planning, gone):
    cached = planning.cached
    wider = planning._replace(
        table=np.pad(planning.table, ((0, 0), (0, gone))),
        projected=np.pad(planning.projected, ((0, gone), (0, 0))),
        cached=np.pad(cached, ((0, 0), (0, gone))) if cached.size else cached,
    )
    assert by_kernel(*planning) == by_kernel(*wider)


def test_prompts_fill_up_to_the_largest_backlog_and_the_rest_waits():
    plan, pairs = planned(ranks((2, 30), (2, 0), (2, 0), slots=6), [25, 10, 40, 6, 5])
    # 25 ends within 30 on one rank; 10, 6 and 5 on the other, where less is to be done.
    assert plan.fills == 4
    assert pairs[:4] == [(0, 1), (1, 2), (3, 2), (4, 2)]
    # There are 21 to compute: with 40 more all wait for 61, and the mean rises by a third of 40.
    assert pairs[4] == (2, 2)
    assert plan.longest == 61
    assert plan.lost == (61 - 30) - 40 / 3


def test_longest_prompts_go_first_each_where_least_is_to_be_done():
    plan, pairs = planned(ranks((1, 0), (1, 0)), [4, 9, 6, 5])
    assert pairs == [(1, 0), (2, 1), (3, 1), (0, 0)]
    assert (plan.fills, plan.longest) == (0, 13)
    # Two ranks wait for 13 tokens and have 12 each on average.
    assert plan.lost == 13 - 12


def test_a_prompt_goes_where_it_is_cached_unless_that_takes_longer():
    cached = np.array([[8, 0]])
    _, pairs = planned(ranks((1, 0), (1, 0)), [10], cached=cached)
    assert pairs == [(0, 0)]
    _, pairs = planned(ranks((1, 9), (1, 0)), [10], cached=cached)
    assert pairs == [(0, 1)]


def test_only_as_many_are_looked_at_as_there_are_slots():
    plan, pairs = planned(ranks((3, 0), (3, 0)), [2, 3, 90, 80])
    assert sorted(i for i, _ in pairs) == [0, 1]
    assert plan.placements == 2


def test_an_overdue_request_is_not_overtaken_by_a_longer_one():
    table = ranks((1, 0))
    table[TOKEN_ROOM] = 20
    _, pairs = planned(table, [10, 15])
    assert pairs == [(1, 0)]
    plan, pairs = planned(table, [10, 15], since=[0, 9], overdue=0)
    assert pairs == [(0, 0)]
    assert plan.fills == 0


def test_what_fills_takes_no_place_of_an_overdue_request_that_is_held():
    table = ranks((3, 30), (2, 20))
    table[TOKEN_ROOM] = 100, 41
    # Of the waiting ones only 8 ends within 30; 40 ends at 60 there.
    plan, pairs = planned(table, [40, 8], since=[9, 9], overdue=0)
    assert pairs[: plan.fills] == [(1, 1)]
    plan, pairs = planned(table, [40, 8], since=[0, 9], overdue=0)
    assert (plan.fills, pairs) == (0, [(0, 1), (1, 0)])


def test_nothing_runs_where_every_slot_is_free_whatever_was_told():
    table = ranks((2, 0), (1, 0))
    assert planned(table, [5])[0].running == 3
    table[ROOM] = table[SLOTS]
    assert planned(table, [5])[0].running == 0
