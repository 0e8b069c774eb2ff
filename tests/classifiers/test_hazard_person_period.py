"""Samples of a hazard model, its features and what has finished by when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver import Trace
from brsolver.errors import ParameterError
from brsolver.predictors import ForecastQuery
from classifiers import features, person_period
from classifiers.key_history import KeyHistory, ragged_keys

AT = {name: at for at, name in enumerate(features.FEATURES)}


def trace_of(lengths: list[int], **columns: np.ndarray) -> Trace:
    arrival_s = columns.pop("arrival_s", None)
    outputs = np.array(lengths, np.int64)
    return Trace(
        prompt_tokens=np.arange(1, len(lengths) + 1),
        output_tokens=outputs,
        arrival_s=arrival_s,
        columns=columns,
    )


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=30),
    st.integers(1, 100),
    st.integers(1, 40),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_every_request_is_asked_about_at_admission_and_at_each_refresh(
    lengths: list[int], horizon: int, refresh: int, seed: int
) -> None:
    trace = trace_of(lengths)
    periods = person_period.sample(trace, horizon, refresh_steps=refresh, random_state=seed)
    for row, length in enumerate(lengths):
        ages = periods.age[periods.row == row].tolist()
        assert ages[0] == 0
        later = ages[1:]
        assert len(later) == len(range(later[0], length, refresh)) if later else length <= refresh
        assert np.diff(later).tolist() == [refresh] * max(0, len(later) - 1)
        assert all(1 <= age < length for age in later)
        assert not later or later[0] <= refresh
    assert (periods.age + periods.remaining == trace.output_tokens[periods.row]).all()
    assert (periods.ends == (periods.remaining <= horizon)).all()
    assert periods.known.all()


def test_a_bound_on_samples_draws_a_subset_in_order() -> None:
    trace = trace_of([100] * 50)
    whole = person_period.sample(trace, 20, refresh_steps=8, random_state=3)
    part = person_period.sample(trace, 20, refresh_steps=8, max_samples=60, random_state=3)
    pairs = set(zip(whole.row.tolist(), whole.age.tolist(), strict=True))
    drawn = list(zip(part.row.tolist(), part.age.tolist(), strict=True))
    assert len(drawn) == len(set(drawn)) == 60
    assert set(drawn) < pairs
    assert drawn == sorted(drawn)
    assert len(set(part.row.tolist())) > 20


def test_an_outcome_is_known_only_where_the_limit_lies_beyond_the_horizon() -> None:
    trace = trace_of([50, 50, 3], max_tokens=np.array([50, 1000, 20]))
    periods = person_period.sample(trace, 20, refresh_steps=10, random_state=0)
    limit = trace.columns["max_tokens"][periods.row]
    assert (periods.known == (limit - periods.age > 20)).all()
    # The third ended by itself, but only such ends could have been seen.
    assert not periods.known[periods.row == 2].any()


@pytest.mark.parametrize("bad", [{"horizon": 0}, {"refresh_steps": 0}, {"max_samples": 0}])
def test_parameters_below_one_are_refused(bad: dict[str, int]) -> None:
    arguments = {"horizon": 5, **bad}
    with pytest.raises(ParameterError, match="must be at least 1"):
        person_period.sample(trace_of([5]), **arguments)


def slow_features(trace: Trace, row: int, age: int, token_s: float, memory: float) -> list[float]:
    """Return count and mean of the session and the recent mean, from the definition."""
    assert trace.arrival_s is not None
    now = trace.arrival_s[row] + age * token_s
    finish = trace.arrival_s + token_s * trace.output_tokens
    done = [i for i in np.argsort(finish, kind="stable") if finish[i] <= now]
    session = trace.columns["session"]
    same = [trace.output_tokens[i] for i in done if session[i] == session[row]]
    keep = np.exp(-1 / memory)
    weights = [keep ** (len(done) - 1 - n) for n in range(len(done))]
    lengths = [float(trace.output_tokens[i]) for i in done]
    recent = np.dot(weights, lengths) / sum(weights) if done else np.nan
    return [len(same), float(np.mean(same)) if same else np.nan, recent]


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 4), st.floats(0, 5)), min_size=1, max_size=25
    )
)
@settings(deadline=None)
def test_features_are_what_had_finished_by_the_time_and_nothing_later(
    requests: list[tuple[int, int, float]],
) -> None:
    lengths, sessions, gaps = zip(*requests, strict=True)
    trace = trace_of(list(lengths), session=np.array(sessions), arrival_s=np.cumsum(gaps) - gaps[0])
    periods = person_period.sample(trace, 10, refresh_steps=7, random_state=1)
    X = features.build(trace, periods, token_s=0.1, history=KeyHistory(capacity=64, memory=5.0))
    for x, row, age in zip(X, periods.row, periods.age, strict=True):
        assert x[AT["age"]] == age
        assert x[AT["prompt_tokens"]] == trace.prompt_tokens[row]
        known = x[[AT["key_count"], AT["key_mean"], AT["recent_mean"]]]
        expected = slow_features(trace, row, age, 0.1, 5.0)
        assert known.tolist() == pytest.approx(expected, nan_ok=True)
        assert np.isnan(x[AT["max_tokens"]])


def test_a_later_request_changes_no_earlier_features() -> None:
    arrivals = np.arange(30.0)
    one = trace_of([40] * 29 + [400], arrival_s=arrivals, tenant=np.zeros(30, np.int64))
    other = trace_of([40] * 29 + [900], arrival_s=arrivals, tenant=np.zeros(30, np.int64))
    periods = person_period.sample(one.head(29), 10, random_state=0)
    np.testing.assert_array_equal(features.build(one, periods), features.build(other, periods))


def test_without_arrival_times_rows_are_the_clock() -> None:
    trace = trace_of([10] * 50)
    periods = person_period.sample(trace, 5, random_state=0)
    X = features.build(trace, periods, lag_rows=20)
    first = X[periods.age == 0]
    # Each takes 20 rows to finish, and none takes fewer.
    assert np.isnan(first[:20, AT["recent_mean"]]).all()
    assert first[20:, AT["recent_mean"]].tolist() == pytest.approx([10.0] * 30)


def test_the_hour_is_known_in_traces_that_go_round_the_clock() -> None:
    day = Trace(
        prompt_tokens=np.ones(3, np.int64),
        output_tokens=np.ones(3, np.int64),
        arrival_s=np.array([0.0, 3600.0, 90_000.0]),
        origin_s=7200.0,
    )
    periods = person_period.sample(day, 5, random_state=0)
    assert features.build(day, periods)[:, AT["hour"]].tolist() == [2.0, 3.0, 3.0]
    hour = features.build(day.head(2), periods.take(np.arange(2)))[:, AT["hour"]]
    assert np.isnan(hour).all()


def test_the_longest_prefix_with_a_history_is_the_key() -> None:
    history = KeyHistory(capacity=64)
    chains = {"hash_offsets": np.array([0, 2, 5]), "hash_values": np.array([7, 8, 7, 8, 9])}
    history.add(chains, np.array([10, 30]))
    asked = {"hash_offsets": np.array([0, 3, 6, 7]), "hash_values": np.array([7, 8, 1, 7, 8, 9, 5])}
    found = history.look_up(asked, 3)
    assert found[:, 0].tolist() == [2, 1, 0]
    assert found[:2, 1].tolist() == [20, 30]
    assert np.isnan(found[2, 1])


def test_sessions_come_before_tenants_and_texts_are_told_apart() -> None:
    columns = {"tenant": np.zeros(3, np.int64), "session": np.array(["a", "ab", "a"])}
    _, keys = ragged_keys(columns, 3)
    assert keys[0] == keys[2] != keys[1]
    # A wider array of the same texts has the same keys.
    _, wide = ragged_keys({"session": np.array(["a", "ab", "much longer"])}, 3)
    assert wide[:2].tolist() == keys[:2].tolist()


def test_memory_is_bounded_and_the_least_recent_keys_go() -> None:
    history = KeyHistory(capacity=8)
    for key in range(20):
        history.add({"session": np.array([3, key + 100])}, np.array([5, 6]))
    counts = history.look_up({"session": np.arange(20) + 100}, 20)[:, 0]
    assert counts.sum() == 7
    assert (counts[-7:] == 1).all()
    assert history.look_up({"session": np.array([3])}, 1)[0].tolist()[:2] == [20, 5]


def test_features_of_a_query_are_those_of_training() -> None:
    rng = np.random.default_rng(0)
    trace = trace_of(
        rng.integers(1, 90, 40).tolist(),
        tenant=rng.integers(0, 3, 40),
        max_tokens=np.full(40, 500),
        arrival_s=np.arange(40.0),
    )
    # The last request is asked about when all the others have long finished.
    periods = person_period.sample(trace, 10, random_state=0)
    last = periods.take(np.flatnonzero((periods.row == 39) & (periods.age == 0)))
    history = KeyHistory()
    built = features.build(trace, last, token_s=1e-3, history=history)
    query = ForecastQuery(
        request=np.array([39]),
        age=np.array([0]),
        prompt_tokens=trace.prompt_tokens[39:],
        max_tokens=np.array([500]),
        keys={"tenant": trace.columns["tenant"][39:]},
    )
    np.testing.assert_array_equal(features.of_query(query, history), built)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"capacity": 2**30 + 1}, "capacity is 1073741825"),
        ({"memory": 0.5}, "memory is 0.5"),
    ],
)
def test_a_history_without_room_is_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        KeyHistory(**bad)  # type: ignore[arg-type]  # values of either type
    with pytest.raises(ParameterError, match="token_s is 0"):
        features.build(trace_of([3]), person_period.sample(trace_of([3]), 5), token_s=0.0)
