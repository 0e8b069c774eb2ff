from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

import brsolver.simulator
from brsolver.compare import TraceSource, compare
from brsolver.errors import BrsolverError, CapacityError, ParameterError, UnknownNameError
from brsolver.report.labels import METRICS
from brsolver.simulator.components import Arrivals
from brsolver.simulator.params import SimulationParams
from brsolver.traces.read_options import ReadOptions
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.results.comparison import Comparison

PARAMS = SimulationParams(slots=4)


def make_trace(requests: int = 60) -> Trace:
    rng = np.random.default_rng(1)
    return Trace(
        prompt_tokens=rng.integers(50, 2000, requests), output_tokens=rng.integers(5, 60, requests)
    )


def small(policies: str = "fcfs,br-0", **changes: object) -> Comparison:
    given: dict[str, object] = {"params": PARAMS, "workers": (2,), "jobs": 1, **changes}
    return compare(make_trace(), policies, **given)  # type: ignore[arg-type] # by keyword


def test_grid_is_complete_and_in_order() -> None:
    comparison = small(workers=(4, 2), seeds=2)
    cells = [(run.workers, run.policy, run.seed) for run in comparison.runs]
    expected = [(g, p, s) for g in (4, 2) for p in ("fcfs", "br-0") for s in (0, 1)]
    assert cells == expected
    assert comparison.baseline == "fcfs"


def test_processes_give_the_same_as_one() -> None:
    here, spread = small("fcfs,random", seeds=2), small("fcfs,random", seeds=2, jobs=2)
    names = [info.name for info in METRICS if not info.measured]
    for mine, theirs in zip(here.runs, spread.runs, strict=True):
        for name in names:
            np.testing.assert_equal(
                getattr(mine.metrics, name), getattr(theirs.metrics, name), err_msg=name
            )


def test_a_file_is_the_same_for_every_seed() -> None:
    comparison = small("fcfs,random", seeds=3, vary_start=False)
    assert len({run.trace_fingerprint for run in comparison.runs}) == 1
    assert comparison.estimate("fcfs", 2, "makespan_s").deterministic
    assert not comparison.estimate("random", 2, "avg_imbalance_sum").deterministic


def test_each_seed_starts_a_request_later_of_a_trace_that_is_the_same_for_all() -> None:
    comparison = small("fcfs", seeds=3)
    assert [run.start for run in comparison.runs] == [0, 1, 2]
    assert [run.metrics.requests for run in comparison.runs] == [60, 59, 58]
    assert not comparison.estimate("fcfs", 2, "makespan_s").deterministic
    alone = brsolver.simulator.simulate(
        make_trace().after(2), "fcfs", SimulationParams(slots=4, workers=2, seed=2)
    )
    assert comparison.runs[2].metrics.makespan_s == alone.metrics.makespan_s


def test_a_trace_of_one_request_is_run_whole_with_every_seed() -> None:
    comparison = compare(make_trace(1), "fcfs", seeds=3, workers=(2,), params=PARAMS, jobs=1)
    assert [run.start for run in comparison.runs] == [0, 0, 0]


def test_a_policy_that_fails_leaves_the_others(quitting_policy: str) -> None:
    comparison = small(f"{quitting_policy},fcfs,br-0", seeds=2)
    assert comparison.policies == ("fcfs", "br-0")
    assert comparison.baseline == "fcfs"
    assert [run.policy for run in comparison.runs] == ["fcfs", "fcfs", "br-0", "br-0"]
    assert [(f.policy, f.workers, f.seed) for f in comparison.failures] == [
        (quitting_policy, 2, 0),
        (quitting_policy, 2, 1),
    ]
    assert "had enough" in comparison.failures[0].reason


def test_a_policy_that_fails_alone_is_an_error(quitting_policy: str) -> None:
    with pytest.raises(BrsolverError, match="had enough"):
        small(quitting_policy, seeds=2)


def test_times_are_kept_where_asked_for(tmp_path: Path) -> None:
    kept, bare = small("fcfs", seeds=2, keep_times=True), small("fcfs", seeds=2)
    assert all(run.times is None for run in bare.runs)
    rows = [run.times.columns["row"].tolist() for run in kept.runs if run.times is not None]
    assert rows == [list(range(60)), list(range(1, 60))]


def test_a_preset_is_drawn_anew_for_every_seed() -> None:
    source = TraceSource(
        source="preset:uniform:s_high=500,o_high=40", options=ReadOptions(limit=40)
    )
    comparison = compare(source, "fcfs,br-0", seeds=2, workers=(2,), params=PARAMS, jobs=1)
    prints = {run.seed: run.trace_fingerprint for run in comparison.runs}
    assert prints[0] != prints[1]
    assert all(run.trace_fingerprint == prints[run.seed] for run in comparison.runs)
    assert not comparison.estimate("fcfs", 2, "makespan_s").deterministic


def test_poisson_arrivals_depend_on_the_seed() -> None:
    arrivals = Arrivals(mode="rate", rate=50.0)
    comparison = small("fcfs", seeds=2, params=SimulationParams(slots=4, arrivals=arrivals))
    first, second = comparison.runs
    assert first.metrics.makespan_s != second.metrics.makespan_s


def test_seeds_start_at_the_given_one() -> None:
    params = SimulationParams(slots=4, seed=7)
    assert small("fcfs", seeds=2, params=params).seeds == (7, 8)
    assert small("fcfs", seeds=[3, 1], params=params).seeds == (3, 1)


def test_baseline_may_be_named_without_parameters() -> None:
    comparison = small("fcfs,br-0:r_max=2", baseline="br-0")
    assert comparison.baseline == "br-0:r_max=2"
    assert comparison.estimate("br-0:r_max=2", 2, "makespan_s").ratio == 1.0


def test_progress_counts_runs() -> None:
    seen: list[tuple[int, int]] = []
    small(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 10**12}, "seeds is 1000000000000"),
        ({"jobs": 10**9}, "jobs is 1000000000"),
        ({"seeds": [1, 1]}, "seeds is 1, 1, must name each value once"),
        ({"seeds": []}, "seeds is empty"),
        ({"workers": (0,)}, "workers is 0"),
        ({"workers": (2, 2)}, "workers is 2, 2, must name each value once"),
        ({"workers": ()}, "workers is empty"),
        ({"jobs": 0}, "jobs is 0"),
        ({"baseline": "jsq"}, "unknown baseline 'jsq'"),
    ],
)
def test_bad_grids_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ("fcfs,br0", "did you mean 'br-0'"),
        ("br-h:horizont=3", "did you mean 'horizon'"),
        ("fcfs:x=1", "unknown parameter of fcfs"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(policies: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        small(policies)


@pytest.mark.parametrize(
    "policies",
    [
        "fcfs,fcfs",
        "br-0:r_max=4,br-0: r_max=4",
        "br-0:r_max=4,s_greedy=2,br-0:s_greedy=2,r_max=4",
        "br-0:r_max=10,br-0:r_max=1e1",
    ],
)
def test_repeated_policies_are_refused(policies: str) -> None:
    with pytest.raises(ParameterError, match="twice, must name each policy once"):
        small(policies)


@pytest.mark.parametrize("reader", [None, "servegen"])
def test_servegen_is_drawn_anew_for_every_seed(tmp_path: Path, reader: str | None) -> None:
    (tmp_path / "chunk-1-trace.csv").write_text("0,1.0,1.1,Gamma,0.5,0.1\n")
    lengths = {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{5: 1}"}
    (tmp_path / "chunk-1-dataset.json").write_text(json.dumps({"0": lengths}))
    source = TraceSource(source=str(tmp_path), reader=reader, options=ReadOptions(limit=30))
    comparison = compare(source, "fcfs", seeds=2, workers=(2,), params=PARAMS, jobs=1)
    first, second = (run.trace_fingerprint for run in comparison.runs)
    assert first != second


def test_a_script_without_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from brsolver.compare import compare\n"
        "compare('preset:uniform:n=30,s_high=99,o_high=20', 'fcfs,jsq', jobs=2)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'no if __name__ == "__main__": guard' in done.stderr.splitlines()[-1]


def test_ambiguous_baseline_is_refused() -> None:
    with pytest.raises(
        ParameterError, match="baseline is 'br-0', must be one of: br-0:r_max=2; br-0:r_max=3"
    ):
        small("br-0:r_max=2,br-0:r_max=3", baseline="br-0")


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_runs_come_through(jobs: int) -> None:
    params = SimulationParams(slots=4, capacity=100)
    with pytest.raises(CapacityError, match="100"):
        small(params=params, jobs=jobs)


def test_crashes_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(brsolver.simulator, "simulate", crash)
    with pytest.raises(BrsolverError) as caught:
        small("fcfs")
    assert str(caught.value) == "fcfs on 2 workers, seed 0: ZeroDivisionError: division"


def test_works_from_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from brsolver.compare import compare\n"
        "if __name__ == '__main__':\n"
        "    found = compare('preset:uniform:n=30,s_high=99,o_high=20', 'fcfs,jsq', jobs=2)\n"
        "    print(len(found.runs))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("2", "", 0)
