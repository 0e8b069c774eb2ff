"""Options, TOML, dictionaries and reports follow from the parameters, and cannot disagree."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from brsolver.cli._params import ROUTERS, RunOptions, knob_flags, run_flags
from brsolver.cli._run_options import takes_run_options
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.model import DEFAULT_HARDWARE
from brsolver.hardware.step_time import StepTime
from brsolver.options import alternatives, choices_of, parameter, parameters
from brsolver.registry import PolicySpec
from brsolver.report.parameters import parameter_rows
from brsolver.simulator.components import Arrivals, Staleness, WorkerEvent
from brsolver.simulator.migration import Migration
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMPONENTS = (Arrivals, Prefill, StepTime, Staleness, Migration, WorkerEvent)
SECONDS = {"seconds": (0.005, 0.006)}
TABLE: dict[str, Any] = {"loads": (0.0, 1000.0), **SECONDS}
TABLES: dict[str, dict[str, Any]] = {
    "loads": TABLE,
    "seconds": TABLE,
    "sequences": {"sequences": (1.0, 8.0), **SECONDS},
    "prefill_tokens": {"prefill_tokens": (0.0, 512.0), **SECONDS},
}
"""Fields that are nothing without each other."""
EXPERTS = {"all_experts": 0.25, "expert_share": 0.25}


@pytest.fixture
def given() -> Callable[..., RunOptions]:
    """Return what a command is handed for a command line."""
    taken: list[RunOptions] = []
    app = typer.Typer()

    @app.command()
    @takes_run_options()
    def command(*, options: RunOptions) -> None:
        """Take options."""
        taken.append(options)

    def call(*arguments: object) -> RunOptions:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        if result.exception is not None:
            raise result.exception
        assert result.exit_code == 0
        return taken[-1]

    return call


def other(hint: Any, default: Any, name: str) -> Any:
    """Return a value that is not the default's."""
    if name in TABLES:
        return TABLES[name][name]
    if name == "budget":
        # At least the slots of a worker.
        return 64
    kind = next(each for each in alternatives(hint) if each is not type(None))
    if get_origin(kind) is Literal:
        return next(each for each in get_args(kind) if each != default)
    if get_origin(kind) is tuple:
        return [2, 4]
    return {bool: not default, int: 2, float: 0.25, str: "other"}[kind]


def component_cases(field: str, component: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field under every choice that uses it, with the choice and what it must have."""
    choices = choices_of(component)
    for choice in choices.uses if choices else ("",):
        base: dict[str, Any] = {choices.selector: choice} if choices else {}
        if choice in {"rate", "utilization"}:
            base[choice] = 0.5
        if choices and not choices.uses[choice] and base[choices.selector] != "pool":
            yield f"{field}-{choice}", dict(base)
        for name in choices.uses[choice] if choices else [p.name for p in parameters(component)]:
            each = parameter(component, name)
            values = {**base, name: other(each.hint, each.default, name)}
            more = TABLES.get(name, TABLE if choice == "table" else {})
            more = EXPERTS if name in EXPERTS else more
            if choices and name in choices.within:
                chooser, chosen = choices.within[name]
                more = more | {chooser: chosen[0]}
            yield f"{field}-{choice}-{name}", values | more


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield nested dictionaries that set every field of every parameter dataclass once."""
    timed = {"arrivals": {"mode": "timestamps"}}
    for each in parameters(SimulationParams):
        if each.component is None:
            yield each.name, {each.name: other(each.hint, each.default, each.name)}
            continue
        for name, values in component_cases(each.name, each.component):
            if each.many:
                when = {} if "at_s" in values else {"at_step": 7}
                yield name, {each.name: [{"worker": 1, **when, **values}]}
            else:
                more = timed if each.name == "prefill" else {}
                # A share of KV tokens is one of a capacity.
                more = more | ({"capacity": 99} if "watermark" in values else {})
                yield name, {**more, each.name: values}


CASES = dict(cases())


def command_line(values: dict[str, Any], folder: Path) -> Iterator[str]:
    """Write nested dictionaries as options."""
    for field, value in values.items():
        each = parameter(SimulationParams, field)
        flags = {
            (f.part, f.choice): f for f in run_flags() if f.field == field and f.kind != "named"
        }
        if each.many:
            for event in value:
                yield flags["", event["kind"]].option
                yield str(WorkerEvent(**event)).partition(" ")[2]
        elif isinstance(value, dict) and ("", "") in flags:
            yield flags["", ""].option
            yield spec(each.component, value, folder)
        elif isinstance(value, dict):
            choices = choices_of(each.component)
            chosen = value.get(choices.selector, "") if choices else ""
            if ("", chosen) in flags:
                yield flags["", chosen].option
            for name, one in value.items():
                if (name, "") in flags:
                    yield from typed(flags[name, ""], one)
        else:
            yield from typed(flags["", ""], value)


def typed(flag: Any, value: Any) -> Iterator[str]:
    if flag.kind == "switch":
        on = value is True or value == (flag.says.switch or ("",))[0]
        yield flag.option if on else flag.option.replace("--", "--no-", 1)
    else:
        yield flag.option
        yield ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def spec(component: Any, values: dict[str, Any], folder: Path) -> str:
    choices = choices_of(component)
    assert choices is not None
    chosen = values[choices.selector]
    settings = {name: value for name, value in values.items() if name != choices.selector}
    if "seconds" in settings:
        (axis,) = settings.keys() & TABLES.keys() - {"seconds"}
        rows = zip(settings.pop(axis), settings.pop("seconds"), strict=True)
        header = "load" if axis == "loads" else axis
        lines = [f"{header},s", *(f"{a},{b}" for a, b in rows)]
        (folder / "steps.csv").write_text("\n".join(lines))
        settings["path"] = folder / "steps.csv"
    texts = {
        name: "/".join(map(str, value)) if isinstance(value, list) else value
        for name, value in settings.items()
    }
    return f"{chosen}:" + ",".join(f"{name}={value}" for name, value in texts.items())


def toml(values: dict[str, Any]) -> str:
    """Write nested dictionaries as TOML."""
    plain, tables = [], []
    for field, value in values.items():
        if isinstance(value, dict):
            tables += [f"[{field}]", *(f"{key} = {json.dumps(one)}" for key, one in value.items())]
        elif parameter(SimulationParams, field).many:
            for event in value:
                tables += [f"[[{field}]]", *(f"{k} = {json.dumps(v)}" for k, v in event.items())]
        else:
            plain.append(f"{field} = {json.dumps(value)}")
    return "\n".join([*plain, *tables]) + "\n"


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_options_toml_and_dictionaries_agree(
    given: Callable[..., RunOptions], tmp_path: Path, values: dict[str, Any]
) -> None:
    expected = SimulationParams.from_dict(values)
    path = tmp_path / "run.toml"
    path.write_text(toml(values))
    assert SimulationParams.from_toml(path) == expected
    assert given(*command_line(values, tmp_path)).params() == expected
    assert given("--config", path).params() == expected
    assert SimulationParams.from_dict(expected.to_dict()) == expected


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_reports_show_what_was_set(values: dict[str, Any]) -> None:
    rows = {row.name: row for row in parameter_rows(SimulationParams.from_dict(values))}
    for field, value in values.items():
        for name, one in value.items() if isinstance(value, dict) else [("", value)]:
            row = rows[f"{field}.{name}" if name else field]
            assert row.label
            if field == "events":
                text = "; ".join(str(WorkerEvent(**event)) for event in one)
            else:
                text = (
                    ",".join(map(str, one)) if isinstance(one, tuple | list) else str(one).lower()
                )
            assert text in row.value


def test_reports_leave_out_what_was_not_used() -> None:
    rows = {row.name: row for row in parameter_rows(SimulationParams(), leave_out=["workers"])}
    assert "workers" not in rows
    assert rows["arrivals.pool"].value == "4·G"
    assert rows["capacity"].value == "unlimited"
    assert rows["step_time.base"].label == "duration of a step, at zero load"
    assert rows["step_time.base"].value == "0.025511 s"
    assert rows["step_time.hardware"].value == DEFAULT_HARDWARE
    assert not {"arrivals.rate", "prefill.workers", "step_time.loads"} & set(rows)
    held = Prefill(mode="colocated", scheduler="sglang", delayer="trtllm")
    names = {row.name for row in parameter_rows(SimulationParams(prefill=held))}
    assert {"prefill.budget", "prefill.timeout_iters"} <= names
    assert not {"prefill.threshold", "prefill.stall", "prefill.watermark"} & names


def test_every_case_is_there() -> None:
    """A field added to a parameter dataclass is set by some case, and every choice too."""
    text = json.dumps(list(CASES.values()))
    for component in (SimulationParams, *COMPONENTS):
        for each in parameters(component):
            assert f'"{each.name}"' in text
    held = [each.component for each in parameters(SimulationParams) if each.component]
    assert tuple(held) == COMPONENTS
    choices = [choice for each in held if (of := choices_of(each)) for choice in of.uses]
    assert not [choice for choice in choices if f'"{choice}"' not in text]


@pytest.mark.parametrize("params", [SimulationParams, *COMPONENTS, *ROUTERS.values()])
def test_every_field_says_what_it_is(params: Any) -> None:
    for each in parameters(params):
        if each.component is None or each.many:
            assert each.option is not None, f"{each.name} needs metadata=option(...)"
            assert each.option.help.endswith((".", ":"))


@pytest.mark.parametrize("component", [c for c in COMPONENTS if choices_of(c)])
def test_choices_and_fields_agree(component: Any) -> None:
    choices = choices_of(component)
    assert choices is not None
    selector = parameter(component, choices.selector)
    assert set(choices.uses) == set(get_args(selector.hint))
    used = {name for names in choices.uses.values() for name in names}
    assert used | {choices.selector} == {each.name for each in parameters(component)}
    for name, (chooser, values) in choices.within.items():
        assert {name, chooser} <= used
        assert set(values) < set(get_args(parameter(component, chooser).hint))
    assert set(choices.options) <= set(choices.uses)
    assert not set(choices.files) & used


def test_options_have_names_of_their_own() -> None:
    names = [flag.name for flag in (*run_flags(), *knob_flags())]
    assert len(set(names)) == len(names)


def test_every_parameter_of_the_routers_is_an_option(given: Callable[..., RunOptions]) -> None:
    for router, params in ROUTERS.items():
        for each in parameters(params):
            value = other(each.hint, each.default, each.name)
            (flag,) = (f for f in knob_flags() if f.field == each.name)
            (found,) = given(*typed(flag, value)).policies([PolicySpec.parse(router)])
            assert found.params == replace(params(), **{each.name: value})
            assert PolicySpec.parse(found.text).meaning == found.meaning


def test_knobs_go_where_policies_have_them(given: Callable[..., RunOptions]) -> None:
    options = given("--gamma", 0.50, "--r-max", 2)
    specs = options.policies([PolicySpec.parse(p) for p in ("jsq", "br-h:gamma=0.7", "br-0")])
    assert [spec.text for spec in specs] == ["jsq", "br-h:gamma=0.7,r_max=2", "br-0:r_max=2"]
    alone = PolicySpec.parse("jsq")
    assert given().policies([alone]) == (alone,)


@pytest.mark.parametrize(
    ("policies", "options", "message"),
    [
        (["jsq", "br-0"], ["--horizon", 3], "--horizon: none of jsq, br-0 has a parameter horizon"),
        (["jsq"], ["--no-growth"], "--growth: jsq has no parameter growth; it has none"),
        (["br-h"], ["--horizon", "x"], "br-h: horizon is 'x', must be a whole number"),
        (["br-h"], ["--gamma", "x"], "br-h: gamma is 'x', must be a number or one of 'auto'"),
        (["bf-io"], ["--beta", "none"], "bf-io: beta is 'none', must be a number"),
    ],
)
def test_knobs_that_cannot_be_are_refused(
    given: Callable[..., RunOptions], policies: list[str], options: list[object], message: str
) -> None:
    with pytest.raises(ParameterError) as caught:
        given(*options).policies([PolicySpec.parse(p) for p in policies])
    assert str(caught.value) == message


def test_options_go_before_the_file(given: Callable[..., RunOptions], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "workers = 3\nmax_steps = 5\n[staleness]\nms = 10\nlocal_correction = true\n"
        '[arrivals]\nmode = "rate"\nrate = 3\n[[events]]\nkind = "fail"\nworker = 0\nat_s = 1.0\n'
    )
    found = given(
        "--config", path, "--max-steps", "none", "--stale-steps", 2, "--pool", 9, "--join", "0@4"
    ).params(seed=7)
    assert found == SimulationParams(
        workers=3,
        seed=7,
        staleness=Staleness(steps=2, local_correction=True),
        arrivals=Arrivals(pool=9),
        events=(WorkerEvent(kind="join", worker=0, at_step=4),),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pool", 3, "--timestamps"], "--pool and --timestamps exclude each other; give one"),
        (["--rate", 3, "--pool", 3], "--pool and --rate exclude each other"),
        (["--prefill", "teir"], "unknown prefill mode 'teir': did you mean 'tier'"),
        (["--prefill", "delay:workers=2"], "prefill: workers is given, but mode 'delay' does not"),
        (["--prefill", "tier:mode=delay"], "prefill: mode is given, but mode 'tier' does not use"),
        (["--prefill", "delay:delay_s=-1"], "prefill: delay_s is -1, must be at least 0 seconds"),
        (["--step-time", "affin:base=1"], "unknown step_time model 'affin': did you mean 'affine'"),
        (["--step-time", "affine:bas=1"], "unknown parameter of step_time affine 'bas': did you m"),
        (["--step-time", "affine:per_mean_token=1"], "per_mean_token is given, but model 'affine'"),
        (["--step-time", "affine:base=x"], "step_time: base is 'x', must be a number"),
        (["--step-time", "affine:base=-1"], "step_time: base is -1, must be at least 0 seconds"),
        (["--step-time", "affine:path=x"], "path is given, but model 'affine' does not use it"),
        (["--step-time", "table"], "step_time is 'table', must have path=FILE.csv"),
        (["--step-time", "table:path=none.csv"], "none.csv: cannot be read: No such file"),
        (["--join", "3@4:slot=4"], "unknown parameter of join 'slot': did you mean 'slots'"),
        (["--fail", "3@4:slots=4"], "fail: slots is given, but kind 'fail' does not use it"),
        (["--join", "3@4:at_s=4"], "join is '3@4:at_s=4', must say at_s before the colon"),
        (["--workers", "many"], "workers is 'many', must be a whole number"),
        (["--stale-mode", "old"], "staleness: mode is 'old', must be one of 'delay', 'periodic'"),
        (["--clients", 0], "clients is 0, must be at least 1"),
    ],
)
def test_bad_options_say_what_they_must_be(
    given: Callable[..., RunOptions], options: list[object], message: str
) -> None:
    with pytest.raises(ParameterError) as caught:
        given(*options).params()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["3", "3@", "@4", "3@1.5", "3@-1", "a@4", "3@4m", "3@1e9"])
def test_bad_events_are_refused(given: Callable[..., RunOptions], text: str) -> None:
    with pytest.raises(ParameterError, match=r"join is .*, must be WORKER@TIME, e\.g\. 3@12"):
        given("--join", text).params()


@pytest.mark.parametrize("text", ["fail 3@12.5s", "fail 0@400", "join 8@1.0s:slots=4,capacity=9"])
def test_events_are_written_as_they_are_read(text: str) -> None:
    kind, _, when = text.partition(" ")
    assert str(WorkerEvent.parse(kind, when)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("load,seconds\n1,2\n3,x\n", "row 3 is '3,x', must be two numbers: load,seconds"),
        ("load,seconds\n1,2\n3\n", "row 3"),
        ("1,2,3\n", "row 1"),
        ("load,seconds\n1,2\n1,3\n", "loads is 1 and then 1, must strictly increase"),
        ("load,seconds\n1,2\n", "at least 2"),
        ("load,seconds\n1,0\n2,1\n", "seconds is 0, must be positive"),
        ("load,seconds\n0,1\ninf,2\n", "load is inf, must be a finite number"),
        ("load,seconds\n-inf,1\n0,2\n", "load is -inf"),
        ("load,seconds\n0,1\n1,1e7\n", "must be at most"),
        ("load,seconds\n", "at least 2"),
        ("", "is empty, must name its columns"),
    ],
)
def test_bad_step_tables_name_the_file(
    given: Callable[..., RunOptions], tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        given("--step-time", f"table:path={path}").params()
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("header", ["kv_tokens,s\n", "load,seconds\n"])
def test_step_tables(given: Callable[..., RunOptions], tmp_path: Path, header: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(f"{header}0,0.005\n\n1000,0.006\n")
    found = given("--step-time", f"table:path={path}").params().step_time
    assert found == StepTime(model="table", **TABLE)


def test_unknown_names_are_unknown_names(given: Callable[..., RunOptions]) -> None:
    with pytest.raises(UnknownNameError):
        given("--prefill", "teir").params()


def test_gap_offers_what_bounds_allow() -> None:
    offered = {flag.name for flag in run_flags(bounded=True)}
    assert offered >= {"workers", "slots", "pool", "prefill", "step_time", "seed", "stale_ms"}
    assert not offered & {
        "routing",
        "capacity",
        "fail",
        "join",
        "rate",
        "timestamps",
        "max_steps",
    }
