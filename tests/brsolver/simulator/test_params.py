"""What simulation parameters accept, in Python, as dictionaries and as TOML."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.simulator import (
    Arrivals,
    Prefill,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def line(make: Callable[[], object]) -> str:
    with pytest.raises(ParameterError) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text
    assert "not supported between" not in text
    return text


BAD_TOML = [
    ("arrivals = 3", "arrivals is 3, must be a table"),
    ('step_time = "affine"', "step_time is 'affine', must be a table"),
    ("events = 3", "events is 3, must be a list"),
    ("events = [3]", "events is [3], must be a list, each entry a table"),
    ("warmup_steps = 1.5", "warmup_steps is 1.5, must be a whole number"),
    ("transit_steps = -1", "transit_steps is -1, must be at least 0"),
    ("refresh_steps = 2.5", "refresh_steps is 2.5, must be a whole number"),
    ("workers = true", "workers is True, must be a whole number"),
    ('workers = "8"', "workers is '8', must be a whole number"),
    ("clients = 1.5", "clients is 1.5"),
    ("max_steps = 2.5", "max_steps is 2.5"),
    ("slots = [1, 2.5]", "slots is [1, 2.5], must be a whole number or a list"),
    ('routing = ["pooled"]', "routing is ['pooled'], must be one of"),
    ("[arrivals]\npool = 2.5", "arrivals: pool is 2.5"),
    ("[arrivals]\nrate = 3", "rate is given, but mode 'pool' does not use it; it uses pool"),
    ('[arrivals]\nmode = "pool"\nrate = 3', "rate is given"),
    ('[arrivals]\nmode = "rate"\nrate = 3\npool = 9', "pool is given, but mode 'rate'"),
    ('[arrivals]\nmode = "rate"\nrate = nan', "arrivals: rate is nan"),
    ('[arrivals]\nmode = "rate"\nrat = 3', "did you mean 'rate'"),
    ("[staleness]\nsteps = 1.5", "staleness: steps is 1.5"),
    ('[staleness]\nlocal_correction = "yes"', "local_correction is 'yes', must be true or false"),
    ("[prefill]\nworkers = 3", "prefill: workers is given, but mode 'none'"),
    ('[prefill]\nmode = "colocated"\nworkers = 3', "workers is given, but mode 'colocated'"),
    ('[prefill]\nmode = "tier"\nbudget = 3', "prefill: budget is given, but mode 'tier'"),
    ('[prefill]\nmode = "colocated"\nbudget = 31', "budget is 31, must be at least 32"),
    ('[arrivals]\nmode = "closed"', "concurrency is None, must be a whole number of requests"),
    ("[arrivals]\nconcurrency = 3", "concurrency is given, but mode 'pool'"),
    ("[step_time]\nper_mean_token = 1", "per_mean_token is given, but model 'affine'"),
    ('[step_time]\nmodel = "table"\nloads = ["a", "b"]\nseconds = [1, 2]', "loads is ['a', 'b']"),
    (
        '[step_time]\nmodel = "table"\nloads = [0, inf]\nseconds = [1, 2]',
        "load is inf, must be a finite number",
    ),
    ('[[events]]\nkind = "fail"\nworker = 0\nat_step = 1.5', "events[0]: at_step is 1.5"),
    ('[[events]]\nkind = "fail"\nworker = 0\nat_s = inf', "at_s is inf"),
    (
        '[[events]]\nkind = "fail"\nat_s = 1',
        "events[0]: parameter 'worker' is missing, must be given",
    ),
    (
        '[[events]]\nkind = "fail"\nworker = 0\nat_s = 1\nslots = 4',
        "slots is given, but kind 'fail' does not use it",
    ),
    ('[step_time]\nmodel = "table"', "must have path=FILE.csv"),
    ('[step_time]\nmodel = "table"\npath = 3', "step_time: path is 3, must be a text"),
    ('[step_time]\npath = "a.csv"', "path is given, but model 'affine'"),
    ('[step_time]\nmodel = "table"\npath = "a.csv"\nloads = [1]', "path and loads are given"),
    ('[step_time]\nmodel = "table"\npath = "a.csv"', "a.csv: cannot be read"),
    ("workers = 1" + "0" * 400, "workers is a number of more than 30 digits"),
    ("[step_time]\nbase = 1" + "0" * 400, "base is 1"),
    ("x = " + "[" * 100_000, "cannot be read as TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TOML, ids=[t[:40] for t, _ in BAD_TOML])
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    found = line(lambda: SimulationParams.from_toml(path))
    assert found.startswith(f"{path}: ")
    assert message in found


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"workers = 3 # \xff")
    assert "cannot be read as TOML" in line(lambda: SimulationParams.from_toml(path))
    assert "No such file" in line(lambda: SimulationParams.from_toml(tmp_path / "none.toml"))


def test_a_file_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "workers = 2\nslots = [3, 4]\ncapacity = 900\nclients = 2\n"
        '[arrivals]\nmode = "rate"\nrate = 3\n'
        '[prefill]\nmode = "tier"\nworkers = 2\n'
        '[step_time]\nmodel = "table"\nloads = [0, 10]\nseconds = [1, 2.5]\n'
        "[staleness]\nms = 5\nlocal_correction = true\n"
        '[[events]]\nkind = "join"\nworker = 2\nat_s = 1\nslots = 9\n'
    )
    assert SimulationParams.from_toml(path) == SimulationParams(
        workers=2,
        slots=(3, 4),
        capacity=900,
        clients=2,
        arrivals=Arrivals(mode="rate", rate=3.0),
        prefill=Prefill(mode="tier", workers=2),
        step_time=StepTime(model="table", loads=(0.0, 10.0), seconds=(1.0, 2.5)),
        staleness=Staleness(ms=5.0, local_correction=True),
        events=(WorkerEvent(kind="join", worker=2, at_s=1.0, slots=9),),
    )


def test_files_that_a_file_names_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("load,seconds\n0,1\n10,2.5\n")
    path = tmp_path / "run.toml"
    path.write_text('[step_time]\nmodel = "table"\npath = "steps.csv"\n')
    found = SimulationParams.from_toml(path).step_time
    assert found == StepTime(model="table", loads=(0.0, 10.0), seconds=(1.0, 2.5))
    (tmp_path / "steps.csv").write_text("load,seconds\n0,1\n0,2.5\n")
    text = line(lambda: SimulationParams.from_toml(path))
    assert f"{tmp_path / 'steps.csv'}: step_time: loads is 0 and then 0" in text


def test_dictionaries_round_trip() -> None:
    params = SimulationParams(
        workers=2,
        slots=[3, 4],  # type: ignore[arg-type] # lists are taken too
        events=[WorkerEvent(kind="fail", worker=0, at_step=3)],  # type: ignore[arg-type] # as above
    )
    assert params.slots == (3, 4)
    assert SimulationParams.from_dict(params.to_dict()) == params
    with pytest.raises(UnknownNameError, match="did you mean 'slots'"):
        SimulationParams.from_dict({"slot": 3})


def test_numpy_integers_count() -> None:
    counts: Any = np.int64(3)
    assert SimulationParams(workers=counts, slots=counts).slots_each() == (3, 3, 3)


BAD_VALUES: list[tuple[type, dict[str, Any], str]] = [
    (SimulationParams, {"workers": 1.5}, "workers is 1.5, must be a whole number"),
    (SimulationParams, {"workers": True}, "workers is True, must be a whole number"),
    (SimulationParams, {"workers": 65_537}, "workers is 65537, must be at most 65,536"),
    (SimulationParams, {"workers": 10**5000}, "workers is a number of more than 30 digits"),
    (SimulationParams, {"slots": "a"}, "slots is 'a', must be a whole number"),
    (SimulationParams, {"slots": None}, "slots is None"),
    (SimulationParams, {"slots": 1_000_001}, "slots is 1000001, must be at most 1,000,000"),
    (SimulationParams, {"workers": 65_536, "slots": 1000}, "add up to 65,536,000"),
    (SimulationParams, {"capacity": 1.5}, "capacity is 1.5"),
    (SimulationParams, {"capacity": 2**53 + 1}, "capacity is 9007199254740993"),
    (SimulationParams, {"refresh_steps": 100_001}, "at most 100,000"),
    (SimulationParams, {"max_steps": 2**60}, "max_steps is"),
    (SimulationParams, {"max_steps": 2.0}, "max_steps is 2.0, must be a whole number"),
    (SimulationParams, {"clients": 1_000_001}, "clients is 1000001"),
    (SimulationParams, {"seed": 2**63}, "seed is"),
    (SimulationParams, {"slo_ttft_ms": 0}, "slo_ttft_ms is 0, must be positive"),
    (SimulationParams, {"slo_tpot_ms": math.nan}, "slo_tpot_ms is nan, must be a finite number"),
    (SimulationParams, {"slo_tpot_ms": 1e10}, "slo_tpot_ms is 1e+10, must be at most 1e+09 ms"),
    (SimulationParams, {"warmup_steps": None}, "warmup_steps is None"),
    (SimulationParams, {"routing": 3}, "routing is 3, must be pooled or immediate"),
    (SimulationParams, {"arrivals": 3}, "arrivals is 3, must be Arrivals"),
    (SimulationParams, {"events": 3}, "events is 3"),
    (SimulationParams, {"events": (3,)}, "event is 3, must be WorkerEvent"),
    (Arrivals, {"pool": 0}, "pool is 0, must be at least 1"),
    (Arrivals, {"pool": 2**60}, "pool is"),
    (Arrivals, {"rate": 3.0}, "rate is given, but mode 'pool'"),
    (Arrivals, {"mode": "rate"}, "rate is None"),
    (Arrivals, {"mode": "rate", "rate": "a"}, "rate is 'a', must be a number"),
    (Arrivals, {"mode": "rate", "rate": 1e-320}, "rate is 9.99989e-321, must be at least 1e-09"),
    (Arrivals, {"mode": "rate", "rate": 1e13}, "rate is 1e+13, must be at most 1e+12"),
    (Arrivals, {"mode": "utilization", "utilization": 1e-320}, "must be at least 1e-06"),
    (Arrivals, {"mode": "utilization", "utilization": 1e4}, "must be at most 1000"),
    (Prefill, {"mode": "tier", "workers": 10**12}, "workers is 1000000000000"),
    (Prefill, {"delay_s": math.inf}, "delay_s is inf"),
    (Prefill, {"tokens_per_s": 0}, "tokens_per_s is 0"),
    (Prefill, {"tokens_per_s": 1e-320}, "tokens_per_s is"),
    (StepTime, {"base": 1e308}, "base is 1e+308, must be at most 1e+06 seconds"),
    (StepTime, {"per_token": 1e7}, "per_token is 1e+07"),
    (StepTime, {"base": "a"}, "base is 'a', must be a number"),
    (StepTime, {"model": "table", "loads": (0, 1), "seconds": (1, 1e7)}, "seconds is 1e+07"),
    (StepTime, {"model": "table", "loads": (-math.inf, 1), "seconds": (1, 1)}, "load is -inf"),
    (StepTime, {"model": "table", "loads": 3, "seconds": (1, 1)}, "loads is 3"),
    (Staleness, {"steps": 1.5}, "steps is 1.5, must be a whole number"),
    (Staleness, {"steps": 1_000_001}, "at most 1,000,000"),
    (Staleness, {"ms": math.nan}, "ms is nan"),
    (Staleness, {"local_correction": "yes"}, "local_correction is 'yes', must be true or false"),
    (WorkerEvent, {"kind": "fail", "worker": 0, "at_step": 1.5}, "at_step is 1.5"),
    (WorkerEvent, {"kind": "fail", "worker": 0, "at_s": math.inf}, "at_s is inf"),
    (WorkerEvent, {"kind": "fail", "worker": "a", "at_s": 1.0}, "worker is 'a'"),
    (WorkerEvent, {"kind": "join", "worker": 0, "at_s": 1.0, "slots": 0}, "slots is 0"),
]


@pytest.mark.parametrize(("kind", "values", "message"), BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_bad_values_are_refused(kind: type, values: dict[str, Any], message: str) -> None:
    assert message in line(lambda: kind(**values))
