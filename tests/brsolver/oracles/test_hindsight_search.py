"""Where the anytime search starts, how it moves, and how its bound rises."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.oracles import _schedule_kernels as sk
from brsolver.oracles.backends import solve
from brsolver.oracles.bounds import fcfs_bound, free_bound
from brsolver.oracles.hindsight import _search_kernels as nk
from brsolver.oracles.hindsight import (
    fcfs_schedule,
    hindsight,
    hindsight_anytime,
    hindsight_dp,
)
from brsolver.oracles.hindsight.chains import build_assignment, crossings, find_chains
from brsolver.oracles.hindsight.cp_sat import solve_model
from brsolver.oracles.hindsight.local_search import DISCOUNTS, SwapSearch, smoothest
from brsolver.oracles.hindsight.neighbourhoods import KINDS, draw
from brsolver.oracles.hindsight.rising import RisingBound, TimeWindow, best_disjoint
from brsolver.oracles.hindsight.warm import warm_up
from brsolver.oracles.schedule import least_loaded
from brsolver.traces.trace import Trace


def random_trace(seed, n, s_high=60, o_high=12):
    rng = np.random.default_rng(seed)
    return Trace(prompt_tokens=rng.integers(1, s_high, n), output_tokens=rng.integers(1, o_high, n))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=5, max_size=5), min_size=1, max_size=5))
def test_leaders_are_the_three_largest_loads(rows):
    loads = np.array(rows, np.int64)
    heaviest, who = np.zeros((3, 5), np.int64), np.zeros((3, 5), np.int64)
    nk.find_leaders(loads, 0, 5, heaviest, who)
    held = min(3, loads.shape[0])
    assert (heaviest[:held] == -np.sort(-loads, axis=0)[:held]).all()
    assert (who[held:] == -1).all()
    for k in range(5):
        leaders = who[:held, k]
        assert len(set(leaders.tolist())) == held
        assert loads[leaders, k].tolist() == heaviest[:held, k].tolist()


@pytest.mark.parametrize("temperature", [0.0, 5.0, 500.0])
def test_annealed_swaps_keep_slots_and_the_cheapest_they_saw(temperature):
    schedule = fcfs_schedule(random_trace(4, 120, o_high=6), 3, 4)
    search = SwapSearch(schedule, least_loaded(schedule))
    seen = [search.value]
    for _ in range(20):
        search.run(300, temperature)
        assert search.value == schedule.barrier_time(search.worker)
        assert schedule.fits(search.worker)
        seen.append(search.value)
    assert search.best_value == schedule.barrier_time(search.best) == min(seen)
    went_up = any(b > a for a, b in pairwise(seen))
    assert went_up == (temperature > 0)


def plain_smoothest(schedule, discount):
    """Assign as `assign_smoothest` does, in plain Python."""
    loads = np.zeros((schedule.workers, schedule.steps))
    taken = np.zeros((schedule.workers, schedule.steps), np.int64)
    worker = np.zeros(len(schedule), np.int64)
    s, o, x = schedule.prompt, schedule.output, schedule.start
    for i in sorted(
        range(len(schedule)), key=lambda i: (x[i], -(o[i] * s[i] + o[i] * (o[i] - 1) // 2), i)
    ):
        runs = np.arange(x[i], x[i] + o[i])
        mine = s[i] + runs - x[i]
        weight = discount ** (runs - x[i])
        room = [g for g in range(schedule.workers) if taken[g, x[i]] < schedule.slots]
        worker[i] = min(room, key=lambda g: round(float((weight * mine * loads[g, runs]).sum()), 6))
        loads[worker[i], runs] += mine
        taken[worker[i], runs] += 1
    return worker


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_the_first_assignment_looks_ahead_as_its_reference_does(seed, discount):
    schedule = fcfs_schedule(random_trace(seed, 60), 3, 4)
    found = sk.assign_smoothest(
        schedule.prompt, schedule.start, schedule.end, 3, 4, schedule.steps, discount
    )
    assert found.tolist() == plain_smoothest(schedule, discount).tolist()
    assert schedule.fits(found)
    assert schedule.barrier_time(smoothest(schedule)) <= schedule.barrier_time(found)


def test_every_neighbourhood_is_drawn_and_fits_the_solver():
    schedule = fcfs_schedule(random_trace(2, 200), 4, 3)
    chains = find_chains(schedule)
    of_chain = np.zeros(len(chains), np.int64)
    of_chain[chains.of] = worker = least_loaded(schedule)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        found = draw(chains, of_chain, schedule.loads(worker), schedule.edges(), 300, rng)
        seen.add(found.kind)
        assert np.isin(of_chain[found.chains], found.among).all()
        assert found.among.size == (2 if found.kind == "pair" else 4)
        spans = np.searchsorted(schedule.edges(), chains.end[found.chains])
        spans = spans - np.searchsorted(schedule.edges(), chains.start[found.chains])
        assert found.chains.size <= 2 or spans.sum() * found.among.size <= 300
    assert seen == set(KINDS)


@pytest.mark.parametrize("seed", range(6))
def test_two_workers_are_optimised_exactly_while_the_others_stay(seed):
    schedule = fcfs_schedule(random_trace(seed, 12, o_high=9), 3, 2)
    chains = find_chains(schedule)
    worker = least_loaded(schedule)
    of_chain = np.zeros(len(chains), np.int64)
    of_chain[chains.of] = worker
    pair = np.array([0, 2])
    movable = np.flatnonzero(np.isin(of_chain, pair))
    best = None
    for plan in product(pair.tolist(), repeat=movable.size):
        tried = of_chain.copy()
        tried[movable] = plan
        if schedule.fits(tried[chains.of]):
            value = schedule.barrier_time(tried[chains.of])
            best = value if best is None else min(best, value)
    steps = np.arange(schedule.steps + 1)
    made = build_assignment(schedule, chains, movable, of_chain, steps, pair)
    solved = solve_model(made, schedule, chains, of_chain, 20.0, 1, "cp-sat")
    assert solved.answer.proven
    assert (
        solved.answer.objective == best == schedule.barrier_time(solved.worker_of_chain[chains.of])
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 9)), max_size=6))
def test_disjoint_windows_with_the_largest_gain(spans):
    windows = [TimeWindow(a, a + length, gain) for a, length, gain in spans]
    best = 0
    for size in range(len(windows) + 1):
        for chosen in combinations(windows, size):
            steps = [k for w in chosen for k in range(w.first, w.last)]
            if len(steps) == len(set(steps)):
                best = max(best, sum(w.gain for w in chosen))
    assert best_disjoint(windows) == best


@pytest.mark.parametrize("seed", range(4))
def test_solved_windows_never_raise_the_bound_above_the_optimum(seed):
    trace = random_trace(seed, 40)
    schedule = fcfs_schedule(trace, 3, 3)
    best = hindsight_dp(schedule)
    known = fcfs_bound(trace, workers=3, slots=3)
    rising = RisingBound(schedule, known, 400)
    assert rising.total == max(rising.total, known.total)
    start = rising.total
    chains = find_chains(schedule)
    cost = np.add.reduceat(np.append(schedule.loads(best.worker).max(axis=0), 0), rising.edges)[:-1]
    nowhere = np.full(len(chains), -1, np.int64)
    for _ in range(30):
        window = rising.next(cost)
        if window is None:
            break
        edges = rising.edges[window[0] : window[1] + 1]
        inside = np.flatnonzero((chains.start < edges[-1]) & (chains.end > edges[0]))
        edges = crossings(schedule, best.worker, edges)
        made = build_assignment(schedule, chains, inside, nowhere, edges, floor=rising.floor)
        solved = solve_model(made, schedule, chains, None, 5.0, 1, "cp-sat")
        rising.settle(window, solved.answer.proven)
        rising.add(*window, int(solved.answer.dual_bound))
        assert rising.total <= best.value
    assert start <= rising.total
    if best.value > start:
        assert rising.total > start


def test_the_search_starts_from_the_bound_at_trace_scale():
    trace = random_trace(1, 60, o_high=40)
    schedule = fcfs_schedule(trace, 6, 3)
    known = fcfs_bound(trace, workers=6, slots=3)
    assert known.total > schedule.interval_bounds().sum()
    found = hindsight_anytime(
        schedule, budget_s=0.5, warm_start=least_loaded(schedule), known=known
    )
    assert found.curve[0].bound >= known.total
    assert known.total <= found.bound <= found.value


@pytest.mark.parametrize("admission", ["fcfs", "free"])
def test_hindsight_is_no_weaker_than_the_bound_given_or_its_own(admission):
    trace = random_trace(3, 70, o_high=40)
    make = fcfs_bound if admission == "fcfs" else free_bound
    known = make(trace, workers=6, slots=3)
    method = "anytime" if admission == "fcfs" else "search"
    for given_bound in (known, None):
        found = hindsight(
            trace, workers=6, slots=3, admission=admission, budget_s=0.5, bound=given_bound,
            method=method,
        )  # fmt: skip
        assert known.total <= found.lower_bound <= found.best_known


def test_bounds_of_other_runs_are_refused():
    trace, other = random_trace(0, 20), random_trace(1, 20)
    where = {"workers": 2, "slots": 3}
    with pytest.raises(ParameterError, match="bound is about another trace, cluster or pool"):
        hindsight(trace, **where, bound=fcfs_bound(other, **where))
    with pytest.raises(ParameterError, match="bound is of kind 'fcfs', must be 'free'"):
        hindsight(trace, **where, admission="free", bound=fcfs_bound(trace, **where))
    with pytest.raises(ParameterError, match="bound is of kind 'free', must be 'fcfs'"):
        hindsight(trace, **where, bound=free_bound(trace, **where))
    with pytest.raises(ParameterError, match="must be 'idling'"):
        hindsight(
            trace,
            **where,
            admission="free",
            work_conserving=False,
            bound=free_bound(trace, **where),
        )


def test_warming_up_compiles_the_search_and_loads_its_solver(monkeypatch):
    # However long compiling takes: the search's own time may be over before it begins.
    monkeypatch.setattr("brsolver.oracles.hindsight.warm.SHORT_S", 1e-9)
    solved = []
    monkeypatch.setattr(
        "brsolver.oracles.hindsight.cp_sat.solve",
        lambda *args, **kwargs: solved.append(solve(*args, **kwargs)) or solved[-1],
    )
    warm_up()
    assert any(answer.proven for answer in solved)
    for compiled in (nk.swap_search, nk.find_leaders, sk.assign_smoothest, sk.interval_bounds):
        assert compiled.signatures
