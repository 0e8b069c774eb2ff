"""Exact match against a plain version made of dictionaries and fractions."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from finished import finished, running
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from brsolver import SimulationParams, simulate
from brsolver.errors import ParameterError
from brsolver.predictors import FloatArray, Predictor
from brsolver.specs import build_params
from brsolver.traces import Trace, preset_trace
from classifiers._match_kernels import class_of
from classifiers.exact_match import ExactMatchParams, ExactMatchPredictor
from classifiers.key_columns import KeyKind, candidates
from classifiers.survival import SurvivalParams, SurvivalPredictor

Columns = Mapping[str, NDArray[np.generic]]


def by_prompt(hashes: list[int]) -> Columns:
    return {"prompt_hash": np.array(hashes, np.int64)}


def by_chain(chains: list[list[int]]) -> Columns:
    return {
        "hash_offsets": np.cumsum([0, *map(len, chains)]),
        "hash_values": np.array([block for chain in chains for block in chain], np.int64),
    }


def matcher(
    *, shrinkage: float = 1.0, key: KeyKind = "auto", growth: float = 0.0, **limits: int
) -> ExactMatchPredictor:
    params = ExactMatchParams(shrinkage=shrinkage, key=key, growth=growth, **limits)
    return ExactMatchPredictor(params)


def curve_of(
    table: list[Fraction], seen: list[tuple[int, bool]], kappa: Fraction, longest: int
) -> list[Fraction]:
    """Return the unconditioned mixture, unscaled, at ages 0..longest."""

    def alive(age: int) -> Fraction:
        return table[min(age, len(table) - 1)]

    def observed(length: int, cut: bool, age: int) -> Fraction:
        if not cut:
            return Fraction(length > age)
        if age <= length:
            return Fraction(1)
        return alive(age) / alive(length) if alive(length) else Fraction(1)

    return [
        kappa * alive(age) + sum((observed(*one, age) for one in seen), Fraction(0))
        for age in range(longest + 1)
    ]


def kaplan_meier(past: list[tuple[int, bool]]) -> list[Fraction]:
    survival = [Fraction(1)]
    for t in range(1, max((o for o, cut in past if not cut), default=0) + 1):
        at_risk = sum(o >= t for o, _ in past)
        survival.append(survival[-1] * (1 - Fraction(past.count((t, False)), max(at_risk, 1))))
    return survival


PAST = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 14), st.booleans()), max_size=14)
ASKED = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 30)), min_size=1, max_size=6
)


@given(PAST, ASKED, st.integers(1, 12), st.sampled_from([1, 2, 3]), st.booleans())
@settings(deadline=None, max_examples=200)
def test_forecasts_are_the_shrunk_empirical_distributions_given_age(
    past: list[tuple[int, int, bool]],
    asked: list[tuple[int, int, int]],
    horizon: int,
    samples: int,
    limited: bool,
) -> None:
    predictor = matcher(shrinkage=0.5, samples=samples)
    keys, lengths, cut = ([row[k] for row in past] for k in range(3))
    predictor.observe(finished(lengths, cut, keys=by_prompt(keys)))
    table = kaplan_meier([(o, c) for _, o, c in past])
    ages = [age for _, age, _ in asked]
    limits = [age + left for _, age, left in asked] if limited else None
    query = running(ages, limits, keys=by_prompt([key for key, _, _ in asked]))
    forecast, curves = predictor.predict(query, horizon), predictor.survival(query, horizon)
    for i, (key, age, left) in enumerate(asked):
        seen = [(o, c) for k, o, c in past if k == key][-samples:]
        curve = curve_of(table, seen, Fraction(1, 2), age + horizon)[age:]
        ahead = [p / curve[0] if curve[0] else Fraction(1) for p in curve]
        if limited:
            ahead = [p if h < max(left, 1) else Fraction(0) for h, p in enumerate(ahead)]
        assert curves[i].tolist() == pytest.approx([float(p) for p in ahead], abs=1e-9)
        assert forecast.p_finish[i] == pytest.approx(float(1 - ahead[-1]), abs=1e-9)
        assert forecast.contribution[i] == pytest.approx(float(sum(ahead[:-1])), abs=1e-6)
        assert forecast.mu_remaining[i] <= horizon


@given(PAST, st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(1, 12))
@settings(deadline=None)
def test_unseen_keys_are_forecast_by_survival(
    past: list[tuple[int, int, bool]], ages: list[int], horizon: int
) -> None:
    predictor, fallback = matcher(), SurvivalPredictor(SurvivalParams(growth=0.0))
    rows = finished(
        [o for _, o, _ in past], [c for *_, c in past], keys=by_prompt([k for k, *_ in past])
    )
    query = running(ages, keys=by_prompt([99] * len(ages)))
    for one in (predictor, fallback):
        one.observe(rows)
        one.set_running(running([3, 9]))
    ours, theirs = predictor.predict(query, horizon), fallback.predict(query, horizon)
    np.testing.assert_array_equal(ours.p_finish, theirs.p_finish)
    np.testing.assert_array_equal(ours.mu_remaining, theirs.mu_remaining)
    assert predictor.hit_rate == 0.0


def test_a_request_that_outlives_its_keys_lengths_is_forecast_by_survival() -> None:
    predictor = matcher()
    predictor.observe(finished([5, 5, 90, 40], keys=by_prompt([1, 1, 2, 2])))
    old = running([20], keys=by_prompt([1]))
    assert predictor.predict(old, 30).p_finish[0] == pytest.approx(0.5)


def test_known_keys_sharpen_the_forecast() -> None:
    predictor = matcher(shrinkage=0.01)
    predictor.observe(finished([10, 1000] * 50, keys=by_prompt([1, 2] * 50)))
    forecast = predictor.predict(running([0, 0, 0], keys=by_prompt([1, 2, 3])), 80)
    assert forecast.p_finish.tolist() == pytest.approx([1.0, 0.0, 0.5], abs=0.01)
    assert forecast.mu_remaining[0] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([1, 2, 3, 4], 40),  # all of it
        ([1, 2, 3, 9, 8], 30),  # an earlier prompt's beginning
        ([1, 2, 7], 20),
        ([5], None),
        ([], None),
    ],
)
def test_the_longest_known_prefix_counts(asked: list[int], expected: int | None) -> None:
    predictor = matcher(shrinkage=0.01, key="prefix", samples=1)
    # Later ones replace the single length held of the prefixes they share.
    chains = [[1, 2, 3, 4], [1, 2, 3], [1, 2], [6]]
    for chain, length in zip(chains, [40, 30, 20, 500], strict=True):
        predictor.observe(finished([length], keys=by_chain([chain])))
    contribution = predictor.predict(running([0], keys=by_chain([asked])), 80).contribution[0]
    fallback = predictor.fallback.predict(running([0]), 80).contribution[0]
    assert contribution == pytest.approx(fallback if expected is None else expected, rel=0.05)


def test_only_the_longest_prefixes_become_keys() -> None:
    predictor = matcher(key="prefix", blocks=2)
    predictor.observe(finished([7], keys=by_chain([[1, 2, 3, 4, 5]])))
    assert predictor.keys_held == 2
    predictor.predict(running([0], keys=by_chain([[1, 2, 3]])), 80)
    assert predictor.hit_rate == 0.0
    predictor.predict(running([0], keys=by_chain([[1, 2, 3, 4, 9, 9, 9]]), request=[7]), 80)
    assert predictor.hit_rate == 0.5


def test_a_prefix_that_all_requests_share_is_no_key() -> None:
    predictor = matcher(key="prefix")
    chains = [[1, 100 + i] for i in range(65)]
    predictor.observe(finished([10] * 64, keys=by_chain(chains[:64])))
    predictor.predict(running([0], keys=by_chain([[1, 7]])), 80)
    assert predictor.hit_rate == 1.0
    predictor.observe(finished([10], keys=by_chain(chains[64:]), request=[99]))
    predictor.predict(running([0], keys=by_chain([[1, 7]]), request=[5]), 80)
    assert predictor.hit_rate == 0.5


def test_a_prompt_that_all_requests_share_is_a_key() -> None:
    predictor = matcher(key="prompt")
    predictor.observe(finished([10] * 500, keys=by_prompt([1] * 500)))
    predictor.predict(running([0], keys=by_prompt([1])), 80)
    assert predictor.hit_rate == 1.0


def test_the_least_recently_used_key_makes_room() -> None:
    predictor = matcher(capacity=2)
    predictor.observe(finished([10, 20], keys=by_prompt([1, 2])))
    predictor.predict(running([0], keys=by_prompt([1])), 80)
    predictor.observe(finished([30], keys=by_prompt([3]), request=[9]))
    assert predictor.keys_held == 2
    predictor.predict(running([0, 0, 0], keys=by_prompt([1, 2, 3]), request=[11, 12, 13]), 80)
    assert predictor.hit_rate == pytest.approx(3 / 4)  # the first time 1, then 1 and 3


def test_a_key_that_made_room_starts_anew() -> None:
    predictor = matcher(capacity=1, shrinkage=0.01)
    for key, length in [(1, 10), (2, 20), (1, 30)]:
        predictor.observe(finished([length], keys=by_prompt([key]), request=[100 + length]))
    seen = predictor._known.seen[predictor._known.store.used]
    assert seen.tolist() == [1]


def test_a_key_is_looked_up_once_and_forgotten_at_the_end() -> None:
    predictor = matcher(shrinkage=0.01)
    predictor.observe(finished([10], keys=by_prompt([1]), request=[50]))
    ask = {"request": [7]}
    first = predictor.predict(running([0], keys=by_prompt([1]), **ask), 80)
    # The columns are not looked at again, so wrong ones do not matter.
    again = predictor.predict(running([0], keys=by_prompt([2]), **ask), 80)
    assert again.contribution.tolist() == first.contribution.tolist()
    predictor.observe(finished([10], keys=by_prompt([1]), request=[7]))
    predictor.predict(running([0], keys=by_prompt([2]), **ask), 80)
    assert predictor.hit_rate == 0.5


def test_a_prompt_that_becomes_known_while_it_runs_counts() -> None:
    predictor = matcher(shrinkage=0.01)
    query = running([0], keys=by_prompt([1]), request=[7])
    assert predictor.predict(query, 80).contribution.tolist() == [80.0]
    predictor.observe(finished([10, 500], keys=by_prompt([1, 2]), request=[1, 2]))
    assert predictor.predict(query, 80).contribution[0] == pytest.approx(10.0, rel=0.1)


def test_more_running_requests_than_are_remembered_still_get_forecasts() -> None:
    predictor = matcher(pending=2)
    predictor.observe(finished([10], keys=by_prompt([1]), request=[50]))
    query = running([0] * 5, keys=by_prompt([1] * 5))
    assert predictor.predict(query, 80).contribution.tolist() == pytest.approx([10.0] * 5)


def test_more_running_requests_than_are_remembered_go_by_their_keys_all_the_same() -> None:
    predictor = matcher(pending=2, shrinkage=0.01)
    keys = by_prompt([1, 2, 3, 1, 2])
    predictor.observe(finished([10, 40, 70], keys=by_prompt([1, 2, 3]), request=[50, 51, 52]))
    query = running([0] * 5, keys=keys)
    curves = predictor.survival(query, 80)
    assert predictor.predict(query, 80).p_finish == pytest.approx(1 - curves[:, -1])
    expected = pytest.approx([10.0, 40.0, 70.0, 10.0, 40.0], rel=0.03)
    assert predictor.predict(query, 80).contribution == expected
    assert curves[:, :-1].sum(axis=1) == expected


def test_numbers_and_texts_name_keys_each_in_their_column() -> None:
    rows = np.arange(2)
    columns = {"session": np.array(["a", "b"]), "tenant": np.array([1, 2]), "model": rows + 1}
    found = [candidates(columns, kind, 4, rows)[1] for kind in ("session", "tenant", "model")]
    assert len({int(key) for keys in found for key in keys}) == 6
    same = candidates({"session": np.array(["b", "a"], object)}, "session", 4, rows)[1]
    assert same.tolist() == found[0][::-1].tolist()


def test_auto_tries_prompt_then_prefixes_then_session() -> None:
    columns = {**by_prompt([1]), **by_chain([[5, 6]]), "session": np.array([9])}
    keys = candidates(columns, "auto", 8, np.arange(1))[1].tolist()
    apart = [
        candidates(columns, kind, 8, np.arange(1))[1].tolist()
        for kind in ("prompt", "prefix", "session")
    ]
    assert keys == [key for part in apart for key in part]


@pytest.mark.parametrize("gaps", [np.array([1.0, np.nan]), np.array([None, "a"], object)])
def test_columns_with_gaps_are_refused(gaps: NDArray[np.generic]) -> None:
    with pytest.raises(ParameterError, match=r"prompt_hash holds .* without gaps"):
        matcher().predict(running([0, 0], keys={"prompt_hash": gaps}), 80)


def test_a_key_that_requests_do_not_have_is_refused() -> None:
    with pytest.raises(ParameterError, match="no session; they can go by prompt"):
        matcher(key="session").predict(running([0], keys=by_prompt([1])), 80)


def test_lengths_and_ages_out_of_range_are_refused() -> None:
    predictor = matcher()
    with pytest.raises(ParameterError, match="output length is 0"):
        predictor.observe(finished([0], keys=by_prompt([1])))
    with pytest.raises(ParameterError, match="age is -1"):
        predictor.predict(running([-1], keys=by_prompt([1])), 80)
    assert predictor.keys_held == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "prompts"},
        {"shrinkage": "0"},
        {"shrinkage": "none"},
        {"capacity": "0"},
        {"samples": "2000"},
        {"blocks": "0"},
        {"least": "0"},
        {"pending": "0"},
        {"train": "1"},
        {"memory": "0"},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        build_params(ExactMatchParams, wrong, "exact")


def test_it_is_a_predictor_without_a_table_that_does_not_see_the_future() -> None:
    predictor = ExactMatchPredictor()
    assert isinstance(predictor, Predictor)
    assert not predictor.sees_future
    assert predictor.table is None
    assert predictor.lengths is None


def test_without_keys_it_is_survival() -> None:
    predictor = matcher()
    predictor.observe(finished([10, 30]))
    assert predictor.predict(running([0]), 80).contribution.tolist() == [20.0]
    assert predictor.keys_held == 0


def test_censored_observations_alone_say_that_requests_stay() -> None:
    predictor = matcher()
    predictor.observe(finished([10, 10], [True, True], keys=by_prompt([1, 1])))
    assert predictor.predict(running([10], keys=by_prompt([1])), 80).contribution.tolist() == [80.0]


@pytest.mark.parametrize(("telling", "most", "least"), [(True, 0.3, 0.01), (False, 1e6, 30.0)])
def test_the_shrinkage_chosen_follows_what_keys_tell(
    telling: bool, most: float, least: float
) -> None:
    rng = np.random.default_rng(0)
    predictor = ExactMatchPredictor()
    for _ in range(40):
        prompts = rng.integers(0, 20, 100)
        lengths = 50 * (1 + prompts) if telling else rng.integers(1, 1000, 100)
        predictor.observe(finished(lengths.tolist(), keys=by_prompt(prompts.tolist())))
    chosen = predictor.shrinkage[class_of(200)]
    assert least <= chosen <= most


def test_shrinkages_are_tried_on_requests_before_these_are_learnt_from() -> None:
    predictor = ExactMatchPredictor()
    predictor.observe(finished([100], keys=by_prompt([1])))
    assert not predictor._losses.any()
    predictor.observe(finished([100], keys=by_prompt([1])))
    # Ages 0, 40 and 80; whatever the shrinkage, nothing else has ever been seen.
    assert predictor._losses[0].tolist() == [0.0] * (predictor._losses.shape[1] - 1) + [3.0]


def test_it_learns_from_a_traces_history_and_says_from_how_much() -> None:
    trace = preset_trace("recurring-prompts", n=400)
    warm = ExactMatchPredictor(ExactMatchParams(train=0.5), trace=trace)
    assert warm.training_rows(trace) == 200
    assert warm.keys_held == len(np.unique(trace.columns["prompt_hash"][:200]))
    with pytest.raises(ParameterError, match="needs a trace"):
        ExactMatchPredictor(ExactMatchParams(train=0.5))


def test_history_and_observation_teach_the_same() -> None:
    trace = preset_trace("recurring-prompts", n=300, prompts=20)
    warm = matcher().fit(trace)
    live = matcher()
    live.observe(finished(trace.output_tokens.tolist(), keys=trace.columns))
    query = running([0, 300, 900], keys=by_prompt([0, 1, 2]), request=[1000, 1001, 1002])
    ours, theirs = warm.predict(query, 80), live.predict(query, 80)
    np.testing.assert_allclose(ours.contribution, theirs.contribution)


def auc(p: FloatArray, ends: NDArray[np.bool_]) -> float:
    metrics = pytest.importorskip("sklearn.metrics")
    return float(metrics.roc_auc_score(ends, p))


def test_recurring_prompts_give_the_published_jump_over_survival() -> None:
    trace = preset_trace("recurring-prompts")
    half = len(trace) // 2
    rest = trace.after(half)
    # Every request once, at an age spread evenly over its life, as routers meet them.
    rng = np.random.default_rng(0)
    weight = rest.output_tokens / rest.output_tokens.sum()
    row = rng.choice(len(rest), 20_000, p=weight)
    age = rng.integers(0, rest.output_tokens[row])
    ends = rest.output_tokens[row] - age <= 80
    query = running(
        age.tolist(),
        keys={"prompt_hash": rest.columns["prompt_hash"][row]},
    )
    survival = SurvivalPredictor().fit(trace, half).predict(query, 80)
    exact = ExactMatchPredictor().fit(trace, half).predict(query, 80)
    assert auc(survival.p_finish, ends) == pytest.approx(0.70, abs=0.03)
    assert auc(exact.p_finish, ends) == pytest.approx(0.97, abs=0.015)


def test_it_runs_in_the_simulator_and_reports_how_often_keys_were_known() -> None:
    trace = preset_trace("recurring-prompts", n=300, prompts=20, output_mean=60, output_std=20)
    predictor = ExactMatchPredictor()
    result = simulate(trace, "br-h", SimulationParams(workers=2, slots=8), predictor=predictor)
    assert result.metrics.finished == 300
    assert predictor.hit_rate > 0.5
    assert any("had a known key" in note for note in result.notes)
    assert not result.sees_future


def test_chains_in_a_simulation_are_followed() -> None:
    chains = [[1, *range(100 * (i % 5), 100 * (i % 5) + 1 + i // 5)] for i in range(100)]
    lengths = np.array([20 + 10 * (i % 5) for i in range(100)])
    trace = Trace(prompt_tokens=lengths, output_tokens=lengths, columns=dict(by_chain(chains)))
    assert all(b[: len(a)] == a for a, b in pairwise(chains[::5]))
    predictor = ExactMatchPredictor(ExactMatchParams(key="prefix"))
    simulate(trace, "br-h", SimulationParams(workers=2, slots=2), predictor=predictor)
    assert predictor.hit_rate > 0.8


def test_memory_is_bounded_by_the_capacity() -> None:
    predictor = matcher(capacity=500, samples=4, pending=10)
    sizes = {array.shape for array in (*predictor._known.store, predictor._known.samples)}
    for first in range(0, 5000, 500):
        keys = list(range(first, first + 500))
        predictor.observe(finished([5] * 500, keys=by_prompt(keys), request=keys))
        predictor.predict(running([0] * 500, keys=by_prompt(keys), request=keys), 80)
    assert predictor.keys_held == 500
    assert {a.shape for a in (*predictor._known.store, predictor._known.samples)} == sizes
