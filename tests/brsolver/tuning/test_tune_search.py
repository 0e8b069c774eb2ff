"""The search: its order, its limits, what fails, and how it goes on."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import optuna
import pytest

from brsolver.errors import BrsolverError, ParameterError, TraceError
from brsolver.executors import ExecutorParams, executor_of
from brsolver.executors.inline import InlineExecutor, InlineLane
from brsolver.simulator import Arrivals
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill
from brsolver.traces import Trace
from brsolver.tuning import TuneParams, TuneResult, tune
from brsolver.tuning.dimensions import read_ranges
from brsolver.tuning.study import quiet
from brsolver.tuning.work import GapTask, RunTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

LONG_S = 1e6
PARAMS = SimulationParams(workers=2, slots=4, prefill=Prefill(mode="colocated", budget=512))
POLICIES = "br-t,jsq-load"


class Interrupted(InlineExecutor):
    """Is interrupted, as by Ctrl-C, at a call."""

    def __init__(self, call: int) -> None:
        self.call = call

    @contextmanager
    def open(self, function: Any, shared: Mapping[str, object] | None = None) -> Iterator[Any]:
        yield _InterruptedLane(function, shared or {}, self.call)


class _InterruptedLane(InlineLane):
    def __init__(self, function: Any, shared: Mapping[str, object], call: int) -> None:
        super().__init__(function, shared)
        self._left = call

    def next(self) -> tuple[int, Any]:
        if self._left == 0:
            self._left = -1
            raise KeyboardInterrupt
        self._left -= 1
        return super().next()


class Compiling(InlineExecutor):
    """Says of every run that it took an hour more to get ready."""

    @contextmanager
    def open(self, function: Any, shared: Mapping[str, object] | None = None) -> Iterator[Any]:
        yield _CompilingLane(function, shared or {})


class _CompilingLane(InlineLane):
    def next(self) -> tuple[int, Any]:
        number, found = super().next()
        return number, {**found, "task_s": found.get("task_s", 0.0) + 3600.0}


class Together(InlineExecutor):
    """Has several tasks under way, of which `ends` says which is over next, counted by age."""

    def __init__(
        self, jobs: int, ends: Callable[[int], int], function: Callable[..., Any] | None = None
    ) -> None:
        self.jobs, self.ends, self.function = jobs, ends, function

    @contextmanager
    def open(self, function: Any, shared: Mapping[str, object] | None = None) -> Iterator[Any]:
        yield _TogetherLane(self.function or function, shared or {}, self.jobs, self.ends)


class _TogetherLane(InlineLane):
    def __init__(
        self, function: Any, shared: Mapping[str, object], jobs: int, ends: Callable[[int], int]
    ) -> None:
        super().__init__(function, shared)
        self.slots, self._ends = jobs, ends

    def next(self) -> tuple[int, Any]:
        self._tasks = deque(sorted(self._tasks))
        if self._tasks:
            at = self._ends(min(self.slots, len(self._tasks)))
            self._tasks.rotate(-at)
        return super().next()


def pretended(task: RunTask | GapTask, shared: object) -> dict[str, Any]:
    """Return a figure that hangs on the setting and the requests alone, without a simulation."""
    del shared
    if isinstance(task, GapTask):
        return {"certified": False, "requests": task.end}
    setting = f"{task.policy.text} {task.params} {task.first} {task.end}"
    value = 1.0 + crc32(setting.encode()) % 1000
    return {"bulk_tok_s": value, "engine_s": 1e-3, "task_s": 1e-3}


@pytest.fixture
def trace(trace_maker: Callable[..., Trace]) -> Trace:
    return trace_maker(requests=600)


def tuned(trace: Trace, params: SimulationParams = PARAMS, **more: Any) -> TuneResult:
    policies = more.pop("policies", POLICIES)
    executor = more.pop("executor", executor_of(ExecutorParams(jobs=1)))
    asked = {"budget_s": LONG_S, "trials": 12, **more}
    return tune(trace, params, TuneParams(**asked), policies=policies, executor=executor)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_the_defaults_are_first_and_are_never_given_up(trace: Trace) -> None:
    result = tuned(trace, trials=25)
    published, project = result.tried[:2]
    assert (published.role, published.policy) == ("published", "vllm")
    assert (project.role, project.policy) == ("project", "br-t")
    assert published.settings["routing"] == "immediate"
    assert published.settings["slots"] == PARAMS.slots
    assert published.state == project.state == "complete"
    assert published.requests == result.requests[0]
    assert len(result.tried) == 25
    counts = result.counts()
    assert counts["pruned"] > 0
    assert counts["failed"] == 0
    assert all(t.requests < result.requests[0] for t in result.tried if t.state == "pruned")
    assert {t.policy.partition(":")[0] for t in result.tried[2:]} <= {"br-t", "jsq-load"}
    assert result.importance
    assert sum(result.importance.values()) == pytest.approx(1.0)
    assert result.chosen is not None
    assert result.gap is not None
    assert result.gap.gap is not None
    assert result.gap.gap >= 0
    assert "certified for" in " ".join(result.to_dict()["summary"])


def plain(result: TuneResult) -> list[Any]:
    tried = [(t.number, t.settings, t.value, t.requests, t.state) for t in result.tried]
    return [*tried, *(v.gains for v in result.validated)]


def test_one_after_the_other_the_same_comes_out(trace: Trace) -> None:
    assert plain(tuned(trace)) == plain(tuned(trace))


@pytest.mark.parametrize("jobs", [2, 3])
@pytest.mark.parametrize(
    "ends",
    [lambda running: running - 1, lambda running: running // 2],
    ids=["the youngest", "one between"],
)
def test_whichever_of_several_ends_first_the_same_comes_out(
    trace: Trace, jobs: int, ends: Callable[[int], int]
) -> None:
    oldest_first = tuned(trace, trials=20, executor=Together(jobs, lambda _: 0, pretended))
    other = tuned(trace, trials=20, executor=Together(jobs, ends, pretended))
    assert oldest_first.counts()["pruned"] > 0
    assert plain(other) == plain(oldest_first)


def test_in_processes_the_same_comes_out(trace: Trace) -> None:
    apart = tuned(trace, executor=executor_of(ExecutorParams(jobs=2)))
    assert plain(apart) == plain(tuned(trace, executor=Together(2, lambda _: 0)))


def test_with_a_budget_alone_nothing_waits_for_its_turn(trace: Trace) -> None:
    kept_back: list[int] = []

    def youngest(running: int) -> int:
        kept_back.append(running)
        if len(kept_back) == 40:
            raise KeyboardInterrupt
        return running - 1

    result = tuned(trace, trials=None, executor=Together(2, youngest, pretended))
    assert result.interrupted
    # The published default is the oldest: its second prefix is never over, and others go on.
    ended = [t.number for t in result.tried]
    assert len(ended) > 5
    assert 0 not in ended


def test_processes_find_what_one_finds(trace: Trace) -> None:
    alone = tuned(trace, trials=2)
    apart = tuned(trace, trials=2, executor=executor_of(ExecutorParams(jobs=2)))
    assert [t.value for t in alone.tried] == [t.value for t in apart.tried]


def test_what_was_tried_is_gone_on_with(trace: Trace, database: str) -> None:
    first = tuned(trace, trials=5, storage=database)
    again = tuned(trace, trials=5, storage=database)
    assert [t.number for t in again.tried] == [t.number for t in first.tried]
    assert again.recommended == first.recommended
    more = tuned(trace, trials=8, storage=database)
    assert len(more.tried) == 8
    assert [t.settings for t in more.tried[:5]] == [t.settings for t in first.tried]
    assert [t.role for t in more.tried].count("published") == 1
    assert more.spent_s > first.spent_s > 0


def test_what_is_gone_on_with_draws_nothing_twice(trace: Trace, database: str) -> None:
    first = tuned(trace, trials=6, storage=database)
    more = tuned(trace, trials=10, storage=database)
    drawn = [str(t.settings) for t in more.tried]
    assert drawn[:6] == [str(t.settings) for t in first.tried]
    assert len(set(drawn)) == 10


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"goal": "latency"}, "goal"),
        ({"params": replace(PARAMS, slots=6)}, r"params\.slots"),
        (
            {"params": replace(PARAMS, prefill=replace(PARAMS.prefill, interval=2))},
            r"params\.prefill\.interval",
        ),
        ({"policies": "br-t"}, "policies"),
        ({"given": frozenset({"budget"})}, r"what is searched\.budget"),
        ({"validate_from": 0.4}, "the requests of the prefixes"),
    ],
)
def test_a_study_of_something_else_is_refused(
    trace: Trace, database: str, changed: dict[str, Any], named: str
) -> None:
    tuned(trace, trials=2, storage=database)
    with pytest.raises(ParameterError, match=f"study 'tune': {named} is .* there and"):
        tuned(trace, trials=2, storage=database, **changed)
    other = tuned(trace, trials=2, storage=database, study="other", **changed)
    assert len(other.tried) == 2


def test_a_study_of_another_trace_is_refused(
    trace: Trace, trace_maker: Callable[..., Trace], database: str
) -> None:
    tuned(trace, trials=2, storage=database)
    with pytest.raises(ParameterError, match="trace is"):
        tuned(trace_maker(requests=600, seed=1), trials=2, storage=database)


def test_a_study_of_another_code_by_the_same_name_is_refused(
    trace: Trace, database: str, quitting_policy: str
) -> None:
    policies = f"jsq-load,{quitting_policy}"
    tuned(trace, trials=3, storage=database, policies=policies)
    module = Path(sys.modules["quitting_policy_module"].__file__ or "")
    before = module.read_text()
    module.write_text(before.replace("had enough", "had more than enough"))
    sys.modules.pop("quitting_policy_module")  # as in another process
    with pytest.raises(ParameterError, match=r"digest of code\.quits is .* there and .* here"):
        tuned(trace, trials=3, storage=database, policies=policies)
    module.write_text(before)
    sys.modules.pop("quitting_policy_module")
    assert len(tuned(trace, trials=3, storage=database, policies=policies).tried) == 3


def test_a_study_of_other_code_of_ours_is_refused(
    trace: Trace, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(trace, trials=2, storage=database)
    monkeypatch.setattr("brsolver._code.own_code", lambda: "edited")
    with pytest.raises(ParameterError, match=r'code of brsolver is ".*" there and "edited" here'):
        tuned(trace, trials=2, storage=database)


def test_a_study_of_other_hardware_by_the_same_name_is_refused(
    trace: Trace, database: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    text = 'name = "mine"\n[step_time]\nmodel = "affine"\nbase = 0.02\nper_token = 4e-8\n'
    mine.write_text(text)
    # Not the first: that one's steps are those of the parameters.
    hardware = ("bfio", str(mine))
    tuned(trace, trials=2, storage=database, hardware=hardware)
    mine.write_text(text.replace("0.02", "0.03"))
    with pytest.raises(ParameterError, match=r"hardware\.mine, G=2\.base is 0\.02 there and 0\.03"):
        tuned(trace, trials=2, storage=database, hardware=hardware)


@pytest.mark.parametrize(("routing", "given"), [("pooled", True), ("pooled", False)])
def test_defaults_that_route_as_given_are_said(trace: Trace, routing: Any, given: bool) -> None:
    names = frozenset({"routing"}) if given else frozenset[str]()
    result = tuned(trace, replace(PARAMS, routing=routing), trials=2, given=names)
    assert result.tried[0].settings["routing"] == (routing if given else "immediate")
    said = [note for note in result.notes if note.startswith("routing is given as pooled, and")]
    assert len(said) == given


@pytest.mark.parametrize(
    ("timed", "arrivals", "given", "said"),
    [
        (True, Arrivals(), False, True),
        (True, Arrivals(pool=6), True, False),
        (True, Arrivals(mode="timestamps"), True, False),
        (False, Arrivals(), False, False),
    ],
    ids=["left out", "a pool is asked for", "asked for", "none"],
)
def test_times_that_are_not_used_are_said(
    trace: Trace, timed: bool, arrivals: Arrivals, given: bool, said: bool
) -> None:
    times = np.arange(len(trace)) * 0.2 if timed else None
    names = frozenset({"arrivals"}) if given else frozenset[str]()
    params = replace(PARAMS, arrivals=arrivals)
    executor = Together(1, lambda _: 0, pretended)
    timed_trace = replace(trace, arrival_s=times)
    result = tuned(timed_trace, params, trials=2, given=names, executor=executor)
    note = "came, and that is not used: 8 requests are kept waiting"
    assert any(note in each and "--timestamps" in each for each in result.notes) == said


def test_a_study_that_is_nobody_of_ours_is_left_alone(trace: Trace, database: str) -> None:
    with quiet():
        study = optuna.create_study(storage=database, study_name="tune", direction="maximize")
        study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ParameterError, match="holds 1 trials of something else"):
        tuned(trace, trials=2, storage=database)


@pytest.mark.parametrize("storage", ["sqlite:////no/such/folder/x.db", "nonsense", "mydb://h/x"])
def test_a_storage_that_cannot_be_used_is_one_line(trace: Trace, storage: str) -> None:
    with pytest.raises(BrsolverError, match="cannot be used") as caught:
        tuned(trace, storage=storage)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "storage",
    ["mydb://me:secret@h/x", "mydb://me:a/secret@h/x", "mydb://me:a@secret@h/x",
     "mydb://h/x?user=me&password=secret&timeout=1"],
)  # fmt: skip
def test_passwords_are_not_shown(trace: Trace, storage: str) -> None:
    with pytest.raises(BrsolverError, match="//h/x") as caught:
        tuned(trace, storage=storage)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("call", [0, 3, 9])
def test_an_interruption_keeps_what_was_tried(trace: Trace, database: str, call: int) -> None:
    cut = tuned(trace, trials=6, storage=database, executor=Interrupted(call))
    assert cut.interrupted
    assert cut.chosen is None
    assert all(t.state != "failed" for t in cut.tried)
    whole = tuned(trace, trials=6, storage=database)
    assert not whole.interrupted
    assert len(whole.tried) == 6
    assert [t.settings for t in whole.tried[: len(cut.tried)]] == [t.settings for t in cut.tried]
    roles = [t.role for t in whole.tried if t.role]
    assert roles == ["published", "project"]


@pytest.mark.parametrize("call", [15, 22, 30])
def test_an_interruption_keeps_what_ended_before_its_turn(
    trace: Trace, database: str, call: int
) -> None:
    ended: list[RunTask] = []

    def carried(task: RunTask, shared: object) -> dict[str, Any]:
        ended.append(task)
        return pretended(task, shared)

    def youngest(running: int) -> int:
        if len(ended) == call:
            raise KeyboardInterrupt
        return running - 1

    cut = tuned(trace, trials=20, storage=database, executor=Together(3, youngest, carried))
    assert cut.interrupted
    in_full = [task for task in ended if task.end == cut.requests[0]]
    complete = [t for t in cut.tried if t.state == "complete"]
    assert sorted(t.policy for t in complete) == sorted(task.policy.text for task in in_full)
    whole = tuned(trace, trials=20, storage=database, executor=Together(3, lambda _: 0, pretended))
    assert [t.settings for t in whole.tried[: len(cut.tried)]] == [t.settings for t in cut.tried]
    assert len(whole.tried) == 20


def test_an_interruption_of_the_validation_keeps_what_was_tried(
    trace: Trace, database: str
) -> None:
    whole = tuned(trace, trials=4, storage=database)
    cut = tuned(trace, trials=4, storage=database, executor=Interrupted(2))
    assert cut.interrupted
    assert cut.chosen is None
    assert len(cut.tried) == len(whole.tried) == 4


def test_a_budget_too_small_for_a_trial_says_what_one_takes(trace: Trace) -> None:
    with pytest.raises(ParameterError, match=r"budget is 0\.002 s, must be at least \d+ s: one"):
        tuned(trace, budget_s=0.002)


def test_kernels_that_are_compiled_are_not_charged(trace: Trace) -> None:
    result = tuned(trace, trials=4, executor=Compiling())
    assert len(result.tried) == 4
    assert result.spent_s == 0.0
    assert result.wall_s > 0.0


def test_a_policy_that_raises_is_named_and_the_rest_goes_on(
    trace: Trace, quitting_policy: str
) -> None:
    result = tuned(trace, trials=20, policies=f"br-t,{quitting_policy}")
    assert 1 <= len(result.failures) <= 3
    assert {t.policy for t in result.failures} == {quitting_policy}
    assert all("had enough" in t.reason for t in result.failures)
    assert result.counts()["complete"] > 2
    assert result.chosen is not None


def test_a_default_that_raises_is_named_and_the_rest_goes_on(
    trace: Trace, quitting_policy: str
) -> None:
    result = tuned(trace, trials=8, policies=f"{quitting_policy},jsq-load")
    assert any(t.role == "project" for t in result.failures)
    assert any("had enough" in note for note in result.notes)
    assert [v.role for v in result.validated if v.role == "project"] == []


def test_what_fits_no_worker_is_the_published_defaults_failure(trace: Trace) -> None:
    with pytest.raises(BrsolverError, match="the published default cannot run"):
        tuned(trace, replace(PARAMS, capacity=300))


def test_a_short_trace_is_refused(trace_maker: Callable[..., Trace]) -> None:
    with pytest.raises((ParameterError, TraceError), match="must have at least 200 to be split"):
        tuned(trace_maker(requests=100))


def test_hardware_is_chosen_from(trace: Trace) -> None:
    result = tuned(
        trace,
        gpus=4,
        hardware=("minimax-m2.7-h200-dp4", "minimax-m2.7-h200-tep2"),
        trials=10,
    )
    assert {t.settings["hardware"] for t in result.tried} == {
        "minimax-m2.7-h200-dp4",
        "minimax-m2.7-h200-tep2",
    }
    assert {t.settings["workers"] for t in result.tried} == {4, 2}
    assert result.tried[0].settings["workers"] == 4


ROWS = np.arange(600)
ENGINE = frozenset({"slots", "budget", "interval"})


def come(arrival_s: NDArray[np.float64], shortest: int) -> Trace:
    prompts, outputs = 100 + 37 * ROWS % 400, shortest + 11 * ROWS % 20
    return Trace(prompt_tokens=prompts, output_tokens=outputs, arrival_s=arrival_s)


def of_two_intervals(trace: Trace, goal: str, **objectives: float) -> TuneResult:
    """Tune servers that begin prompts in every step, or in every eighth as they are given."""
    params = replace(
        PARAMS, prefill=replace(PARAMS.prefill, interval=8),
        arrivals=Arrivals(mode="timestamps"), **objectives,
    )  # fmt: skip
    return tuned(
        trace, params, goal=goal, trials=8, policies="jsq-load", given=ENGINE,
        search=read_ranges("interval=1|8"),
    )  # fmt: skip


@pytest.mark.parametrize(("goal", "least"), [("goodput", 0.5), ("latency", 0.05)])
def test_by_arrivals_the_best_trial_is_what_is_chosen(goal: str, least: float) -> None:
    # Four a second: who waits for the eighth step has no first token in time.
    result = of_two_intervals(come(0.25 * ROWS, 30), goal, slo_ttft_ms=150, slo_tpot_ms=60)
    full = {t.number: t.value for t in result.tried if t.state == "complete"}
    best = (min if goal == "latency" else max)(full, key=lambda number: full[number] or 0.0)
    assert result.tried[best].settings["interval"] == 1
    assert result.recommended == "tuned"
    chosen, published = result.chosen, result.by_role("published")
    assert chosen is not None
    assert published is not None
    assert chosen.candidate.settings == result.tried[best].settings
    value, before = (each.mean(result.goal.metric) or 0.0 for each in (chosen, published))
    gain = chosen.gains["published"]
    assert gain.mean == pytest.approx(abs(value - before) / before)
    assert gain.low > least
    assert result.goal.better(value, before)
    assert result.gap is not None
    assert result.gap.reason or result.gap.gap is not None


def test_who_is_busy_for_less_time_with_the_same_traffic_serves_no_more_of_it() -> None:
    # Eight at a time, and quiet until the next eight; all are served in time.
    quiet = come(20.0 * (ROWS // 8) + 0.05 * (ROWS % 8), 5)
    result = of_two_intervals(quiet, "goodput", slo_ttft_ms=20_000, slo_tpot_ms=2000)
    assert {t.settings["interval"] for t in result.tried} == {1, 8}
    assert len({t.value for t in result.tried}) == 1
    assert result.recommended == "published"
    assert {gain.mean for each in result.validated for gain in each.gains.values()} == {0.0}
    gains = [
        gain for each in of_two_intervals(quiet, "throughput").validated
        for gain in each.gains.values()
    ]  # fmt: skip
    assert all(abs(gain.mean) < 0.01 for gain in gains)


def test_slots_are_kept_where_fewer_are_always_better(trace: Trace) -> None:
    result = tuned(trace, goal="latency", trials=6)
    assert {t.settings["slots"] for t in result.tried} == {PARAMS.slots}


def test_objectives_that_no_request_meets_are_said(trace: Trace) -> None:
    params = replace(PARAMS, arrivals=Arrivals(mode="utilization", utilization=0.7), slo_ttft_ms=1)
    result = tuned(trace, replace(params, slo_tpot_ms=1), goal="goodput", trials=4)
    assert result.recommended == "published"
    said = " ".join(result.to_dict()["summary"])
    assert "No request of the later part meets the objectives" in said
    assert "it does" not in said


def test_a_trial_that_ends_while_it_is_given_up_is_another_process(
    trace: Trace, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(trace, trials=2, storage=database)
    with quiet():
        study = optuna.load_study(storage=database, study_name="tune")
        under_way = study.ask()
        get_trials = optuna.Study.get_trials

        def ends_then(self: optuna.Study, *args: Any, **more: Any) -> Any:
            found = get_trials(self, *args, **more)
            if more.get("states") == (optuna.trial.TrialState.RUNNING,):
                study.tell(under_way, 1.0)
            return found

        monkeypatch.setattr(optuna.Study, "get_trials", ends_then)
    with pytest.raises(BrsolverError, match="is gone on with by another process"):
        tuned(trace, trials=3, storage=database)
