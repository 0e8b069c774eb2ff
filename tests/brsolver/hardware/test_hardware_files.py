"""Hardware files are read as they are written, and refused with one line."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import OutputError, ParameterError, UnknownNameError
from brsolver.hardware import Evidence, Hardware, StepTime, preset_names, read_hardware
from brsolver.hardware._toml import REQUIRED, written

if TYPE_CHECKING:
    from pathlib import Path

LOADS = """name = "mine"
[step_time]
model = "loads"
base = 0.02
per_sequence = 6e-5
per_token = 4e-8
per_prefill_token = 3e-5
"""


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_presets_are_whole() -> None:
    assert {"bfio", "dpr", "minimax-m2.7-h200-dp2", "minimax-m2.7-h200-dp4"} <= set(preset_names())
    for name in preset_names():
        found = read_hardware(name)
        assert found.name == name == found.step_time.hardware
        assert found.source
        assert found.licence
        assert found.conditions


def test_bfio_is_what_ran_before_there_was_hardware() -> None:
    assert replace(read_hardware("bfio").step_time, hardware="") == StepTime()


def test_dpr_is_half_the_mean_beside_the_largest() -> None:
    step_time = read_hardware("dpr").step_time
    assert step_time.model == "max-mean"
    assert step_time.per_mean_token == 0.5 * step_time.per_token


def test_the_measured_preset_is_near_what_was_reported() -> None:
    found = read_hardware("minimax-m2.7-h200-dp4")
    step = found.step_time
    assert step.base == pytest.approx(25.6e-3, rel=0.01)
    assert step.per_sequence == pytest.approx(63e-6, rel=0.01)
    assert step.per_token == pytest.approx(41.6e-9, rel=0.01)
    assert found.fit.median_error == pytest.approx(0.014, abs=0.001)
    chunk = 2048
    prefill = (step.per_prefill_token + step.per_mean_prefill_token) * chunk
    context = step.per_prefill_context * chunk * (chunk + 1) / 2
    assert (prefill + context) / chunk == pytest.approx(65e-6, rel=0.05)
    assert 1450 < step.request_tokens < 1550


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_written_as_they_are_read(name: str, tmp_path: Path) -> None:
    found = read_hardware(name)
    found.to_toml(tmp_path / "copy.toml")
    assert Hardware.from_toml(tmp_path / "copy.toml") == found


COST = st.floats(1e-12, 1.0)


@given(
    base=COST,
    per_sequence=COST,
    per_token=COST,
    per_prefill_token=COST,
    per_mean_prefill_token=COST,
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    graphs=st.sampled_from([(), (1, 2, 4, 8)]),
)
def test_files_hold_what_was_written(text: str, graphs: tuple[int, ...], **costs: float) -> None:
    hardware = Hardware(
        name="a-1.b_c+d",
        step_time=StepTime(model="loads", graph_sizes=graphs, **costs),
        source=text,
        conditions=text,
        fit=Evidence(rows=3, p95_error=0.1, sequences=(1.0, 2.5), not_identified=(text, "x")),
    )
    values = tomllib.loads(written(hardware.to_dict()))
    assert values["step_time"] | costs == values["step_time"]
    assert values.get("source", "") == text
    assert values["fit"]["not_identified"] == [text, "x"]
    assert values["fit"]["sequences"] == [1.0, 2.5]


def test_files_of_tables_name_a_csv_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("kv_tokens,ms\n0,8\n100000,20\n")
    text = 'name = "t"\n[step_time]\nmodel = "table"\npath = "steps.csv"\n'
    step_time = read_hardware("mine.toml", file(tmp_path, text).parent).step_time
    assert step_time.loads == (0.0, 100000.0)
    assert step_time.seconds == (0.008, 0.02)
    both = file(tmp_path, f"{text}loads = [0, 1]\n")
    with pytest.raises(ParameterError, match="path and loads are given, must be one"):
        Hardware.from_toml(both)


def test_unknown_names_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match="'bfoi': did you mean 'bfio'"):
        read_hardware("bfoi")


CASES: dict[str, tuple[str, str]] = {
    "negative": (LOADS.replace("6e-5", "-6e-5"), "per_sequence is -6e-05, must be at least 0 sec"),
    "not finite": (LOADS.replace("4e-8", "inf"), "per_token is inf, must be a finite number"),
    "nan": (LOADS.replace("4e-8", "nan"), "per_token is nan, must be a number"),
    "text": (LOADS.replace("0.02", '"20 ms"'), "base is '20 ms', must be a number"),
    "unit": (
        LOADS.replace("base = 0.02", "base_ms = 20"),
        "'base_ms': did you mean 'base'",
    ),
    "unknown": (LOADS + "per_token2 = 1\n", "did you mean 'per_token'"),
    "of another model": (
        'name = "x"\n[step_time]\nmodel = "affine"\nbase = 1\nper_token = 1\nper_sequence = 1\n',
        "unknown key of step_time with model 'affine' 'per_sequence'",
    ),
    "unknown model": (LOADS.replace('"loads"', '"load"'), "model is 'load', must be one of affine"),
    "no model": (LOADS.replace('model = "loads"', ""), "model is missing, must be one of affine"),
    "key above": ('names = "x"\n', "unknown key of hardware file 'names': did you mean 'name'"),
    "no name": ("[step_time]\n", "name is missing, must be given"),
    "bad name": (LOADS.replace('"mine"', '"my gpu"'), "name is 'my gpu', must be letters"),
    "name no text": (LOADS.replace('"mine"', "3"), "name is 3, must be letters"),
    "source no text": ("source = 3\n" + LOADS, "source is 3, must be a text"),
    "no step time": ('name = "x"\n', "step_time is missing, must be given"),
    "no table": ('name = "x"\nstep_time = 1\n', "step_time is 1, must be a table [step_time]"),
    "fit no table": ("fit = 1\n" + LOADS, "fit is 1, must be a table [fit]"),
    "unknown in fit": (LOADS + "[fit]\nrow = 1\n", "unknown key of fit 'row': did you mean 'rows'"),
    "bad rows": (LOADS + "[fit]\nrows = -1\n", "fit: rows is -1, must be at least 0"),
    "bad error": (LOADS + "[fit]\np95_error = -1\n", "fit: p95_error is -1, must be at least 0"),
    "bad span": (LOADS + "[fit]\nsequences = [5, 2]\n", "sequences is 5 to 2, must increase"),
    "short span": (LOADS + "[fit]\nsequences = [5]\n", "must be two numbers: [LOW, HIGH]"),
    "path no text": (
        'name = "x"\n[step_time]\nmodel = "table"\npath = 3\n',
        "path is 3, must be a text",
    ),
    "no TOML": ("name = ", "cannot be read as TOML"),
}


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES.keys())
def test_bad_files_are_refused_with_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(ParameterError) as caught:
        Hardware.from_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REQUIRED["loads"])
def test_missing_coefficients_are_refused(tmp_path: Path, name: str) -> None:
    lines = [line for line in LOADS.splitlines() if not line.startswith(name)]
    with pytest.raises(ParameterError, match=f"step_time: {name} is missing, must be given in sec"):
        Hardware.from_toml(file(tmp_path, "\n".join(lines)))


def test_units_in_keys_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="durations are in seconds, without a unit"):
        Hardware.from_toml(file(tmp_path, LOADS.replace("base = 0.02", "base_ms = 20")))


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        read_hardware("bfio").to_toml(tmp_path / "none" / "x.toml")


@pytest.mark.parametrize("value", [["a"], (1,), "text"])
def test_evidence_wants_texts(value: Any) -> None:
    with pytest.raises(ParameterError, match="must be a list of texts"):
        Evidence(not_identified=value)
