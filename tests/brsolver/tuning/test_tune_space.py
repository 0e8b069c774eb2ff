"""Whatever is chosen is a server that can be simulated, and what was given is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.model import preset_names, read_hardware
from brsolver.options import Search, parameters
from brsolver.registry import PolicySpec
from brsolver.routers.params import BRHParams, BRRampParams
from brsolver.routers.wave_params import BRTParams
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill
from brsolver.tuning.dimensions import Dimension, policy_dimensions, read_ranges
from brsolver.tuning.flags import engine_line, looking_on_line, start_line
from brsolver.tuning.layouts import read_layouts
from brsolver.tuning.result import Validated
from brsolver.tuning.space import DEFAULT_POLICIES, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOCATED = Prefill(mode="colocated")


def space_of(
    base: SimulationParams,
    *,
    policies: Sequence[str] = DEFAULT_POLICIES,
    hardware: Sequence[str] = (),
    gpus: int | None = None,
    given: Sequence[str] = (),
    search: dict[str, Search | None] | None = None,
    most_slots: int = 10_000,
) -> Space:
    layouts = read_layouts(hardware, base, gpus=gpus, slots_given="slots" in given)
    specs = [PolicySpec.parse(text) for text in policies]
    return Space.of(
        base, layouts, specs, given=given, search=search, most_slots=most_slots
    )  # fmt: skip


class Drawn:
    """A trial whose values hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.values: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._kept(name, st.sampled_from(choices))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        assert not log or low > 0
        return int(self._kept(name, st.integers(low, high)))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        assert not log or low > 0
        return float(self._kept(name, st.floats(low, high)))

    def _kept(self, name: str, strategy: st.SearchStrategy[Any]) -> Any:
        assert name not in self.values, "a study knows each parameter once"
        self.values[name] = self._data.draw(strategy, label=name)
        return self.values[name]


BASES = {
    "elsewhere": SimulationParams(workers=4, slots=16),
    "vllm": SimulationParams(workers=4, slots=16, capacity=100_000, prefill=COLOCATED),
    "sglang": SimulationParams(
        workers=4, slots=16, prefill=Prefill(mode="colocated", scheduler="sglang")
    ),
    "atom": SimulationParams(
        workers=4, slots=16, prefill=Prefill(mode="colocated", delayer="atom", stall=5)
    ),
    "small budget": SimulationParams(
        workers=2, slots=200, capacity=10**6, prefill=Prefill(mode="colocated", budget=256)
    ),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
@settings(deadline=None)
@given(data=st.data())
def test_every_choice_is_a_server_that_can_run(base: SimulationParams, data: st.DataObject) -> None:
    delayer = Search(choices=("none", "trtllm", "sglang"))
    made = space_of(base, search={"delayer": delayer} if base.prefill.colocated else {})
    trial = Drawn(data)
    found = made.candidate(lambda dimension: dimension.suggested(trial))
    assert found.params.arrivals == base.arrivals
    assert found.params.workers == base.workers
    assert found.policy.make() is not None
    names = {each.name for each in made.dimensions}
    assert set(trial.values) <= names
    router = {name for name in trial.values if "." in name}
    assert all(name.startswith(f"{found.policy.name}.") for name in router)


@settings(deadline=None)
@given(data=st.data())
def test_what_is_given_is_kept(data: st.DataObject) -> None:
    base = SimulationParams(
        workers=2, slots=8, routing="immediate", prefill=Prefill(mode="colocated", budget=1000)
    )
    made = space_of(base, policies=["br-t:kappa=3", "vllm"], given=["slots", "routing", "budget"])
    trial = Drawn(data)
    found = made.candidate(lambda dimension: dimension.suggested(trial))
    assert found.params.slots == 8
    assert found.params.routing == "immediate"
    assert found.params.prefill.budget == 1000
    if found.policy.name == "br-t":
        assert found.policy.params.kappa == 3


def test_a_pinned_budget_bounds_slots() -> None:
    base = BASES["small budget"]
    (slots,) = [d for d in space_of(base, given=["budget"]).dimensions if d.field == "slots"]
    assert slots.high == 256
    (slots,) = [d for d in space_of(base).dimensions if d.field == "slots"]
    assert slots.high > 256


def test_without_a_capacity_no_more_slots_than_given_are_tried() -> None:
    base = SimulationParams(workers=2, slots=64)
    (slots,) = [d for d in space_of(base).dimensions if d.field == "slots"]
    assert (slots.low, slots.high) == (8, 64)
    assert any("--capacity" in line for line in space_of(base).left_out)
    asked = space_of(base, search={"slots": Search(low=32, high=256)})
    (slots,) = [d for d in asked.dimensions if d.field == "slots"]
    assert (slots.low, slots.high) == (32, 256)


def test_a_short_trace_bounds_slots() -> None:
    base = SimulationParams(workers=2, slots=16, capacity=10**6)
    (slots,) = [d for d in space_of(base, most_slots=80).dimensions if d.field == "slots"]
    assert slots.high == 40
    assert any("up to 40" in line for line in space_of(base, most_slots=80).left_out)
    assert not any("up to" in line for line in space_of(base).left_out)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_the_defaults_are_in_the_space(base: SimulationParams) -> None:
    made = space_of(base)
    published, project = made.published(), made.project()
    assert published.policy.text == "vllm"
    assert published.params.routing == "immediate"
    assert project.policy.text == "br-t"
    assert project.params.routing == "pooled"
    for each in (published, project):
        assert each.params.slots == base.slots
        assert each.params.prefill == base.prefill
        values = made.values_of(each)
        assert values is not None
        again = made.candidate(lambda d, values=values: values[d.name])
        assert again.params == each.params
        assert again.policy.params == each.policy.params


def test_policies_that_were_not_named_are_not_searched() -> None:
    made = space_of(SimulationParams(), policies=["br-0", "br-h"])
    assert made.values_of(made.published()) is None
    assert made.project().policy.text == "br-0"


@pytest.mark.parametrize(
    ("hardware", "workers", "slots"),
    [
        (["minimax-m2.7-h200-dp4", "minimax-m2.7-h200-tep4"], [8, 2], [32, 128]),
        (["minimax-m2.7-h200-tep2:workers=3,slots=10"], [3], [10]),
    ],
)
def test_gpus_make_workers(hardware: list[str], workers: list[int], slots: list[int]) -> None:
    layouts = read_layouts(hardware, SimulationParams(), gpus=8, slots_given=False)
    assert [each.workers for each in layouts] == workers
    assert [each.slots for each in layouts] == slots


def test_each_hardware_has_slots_of_its_own() -> None:
    made = space_of(
        SimulationParams(),
        hardware=["minimax-m2.7-h200-dp4", "minimax-m2.7-h200-tep4"],
        gpus=8,
    )
    names = [each.name for each in made.dimensions if each.field == "slots"]
    assert names == ["slots on minimax-m2.7-h200-dp4, G=8", "slots on minimax-m2.7-h200-tep4, G=2"]
    chosen = {"hardware": "minimax-m2.7-h200-tep4, G=2"}
    asked: list[str] = []

    def choose(dimension: Dimension) -> Any:
        asked.append(dimension.name)
        return chosen.get(dimension.name, dimension.default)

    found = made.candidate(choose)
    assert found.params.workers == 2
    assert found.params.slots == 128
    assert names[0] not in asked
    assert names[1] in asked
    assert (
        "--data-parallel-size 2 --tensor-parallel-size 4 --enable-expert-parallel --max-num-seqs "
        "128" in engine_line(found)
    )


def test_engine_lines_say_what_was_chosen() -> None:
    params = SimulationParams(
        workers=4, slots=48, prefill=Prefill(mode="colocated", budget=4096, interval=16)
    )
    line = engine_line(space_of(params).published())
    assert line == (
        "vllm serve MODEL --data-parallel-size 4 --enable-expert-parallel --max-num-seqs 48 "
        "--max-num-batched-tokens 4096 --prefill-schedule-interval 16"
    )
    sglang = engine_line(space_of(BASES["sglang"]).published())
    assert "--dp-size 4 --tp-size 4 --ep-size 4 --max-running-requests 64" in sglang


@pytest.mark.parametrize("name", preset_names())
def test_experts_are_shared_out_as_where_steps_were_measured(name: str) -> None:
    line = engine_line(space_of(SimulationParams(), hardware=[name]).published())
    measured = "experts parallel" in read_hardware(name).conditions
    assert ("--enable-expert-parallel" in line) == measured
    assert ("-tep" not in name) or measured


@pytest.mark.parametrize(
    ("base", "role", "begins"),
    [
        ("vllm", "project", "BRSOLVER_ROUTER='my run/tuned.toml' vllm serve MODEL "),
        ("vllm", "published", "vllm serve MODEL "),
        ("sglang", "project", "python -m sglang.launch_server "),
    ],
)
def test_vllm_is_started_with_the_router_that_was_chosen(base: str, role: str, begins: str) -> None:
    chosen = Validated(role=role, candidate=space_of(BASES[base]).project(), figures=())
    line = start_line(chosen, "my run/tuned.toml")
    assert line.startswith(begins)
    # Several would know, and record, their own requests alone.
    assert line.endswith(" --api-server-count 1") == ("BRSOLVER_ROUTER" in begins)


@pytest.mark.parametrize(("workers", "servers"), [(1, 0), (2, 1)])
def test_one_api_server_knows_all_ranks(workers: int, servers: int) -> None:
    candidate = space_of(replace(BASES["vllm"], workers=workers)).project()
    chosen = Validated(role="project", candidate=candidate, figures=())
    assert start_line(chosen, "tuned.toml").count("--api-server-count 1") == servers


@pytest.mark.parametrize(
    ("base", "role", "looks_on"),
    [("vllm", "published", True), ("vllm", "project", False), ("sglang", "published", False)],
)
def test_what_is_kept_as_it_is_can_be_recorded(base: str, role: str, looks_on: bool) -> None:
    candidate = space_of(BASES[base]).published()
    line = looking_on_line(Validated(role=role, candidate=candidate, figures=()), "tuned.toml")
    recorded = f"BRSOLVER_ROUTER=tuned.toml {engine_line(candidate)} --api-server-count 1"
    assert line == (recorded if looks_on else None)


@pytest.mark.parametrize("params", [BRTParams, BRRampParams, BRHParams])
def test_what_routers_say_of_themselves_can_be_tried(params: type) -> None:
    searched = [each for each in parameters(params) if each.option and each.option.search]
    assert searched
    for each in searched:
        says = each.option.search if each.option else None
        assert says is not None
        for value in says.choices or (says.low, says.high):
            kind = type(each.default) if not says.choices else type(value)
            assert params(**{each.name: kind(value)}) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class OddParams:
    share: float = 0.6
    count: int = 5
    on: bool = False
    text: str = "as it is"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ParameterError(f"share is {self.share}, must be at most 1")


def test_parameters_that_say_nothing_are_tried_around_their_defaults() -> None:
    spec = PolicySpec(name="odd", text="odd", params=OddParams(), given={"on": "false"})
    found = {each.field: each for each in policy_dimensions(spec)}
    assert set(found) == {"share", "count"}
    assert found["share"].low == pytest.approx(0.15)
    assert 0.99 < found["share"].high <= 1
    assert (found["count"].low, found["count"].high) == (1, 20)


def test_ranges_are_read() -> None:
    assert read_ranges("") == {}
    found = read_ranges("slots=16..256, budget,delayer=none|atom")
    assert found["slots"] == Search(low=16, high=256, log=True)
    assert found["budget"] is None
    assert found["delayer"] == Search(choices=("none", "atom"))


@pytest.mark.parametrize(
    "text", ["slots=", "slots=9..3", "slots=a..b", "slots=1..inf", "=1..2", "slots,slots"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="must be NAME"):
        read_ranges(text)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="setting to search 'seed'"):
        space_of(SimulationParams(), search={"seed": None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots=abc", "slots=abc, must be a whole number"),
        ("slots=1.5|8", "slots=1.5, must be a whole number"),
        ("slots=0..64", "slots is 0, must be"),
        ("routing=foo", "routing is 'foo', must be"),
        ("delayer=foo", "delayer is 'foo', must be"),
        ("interval=0..5", "interval is 0, must be"),
        ("budget=-5..10", "budget is -5, must be"),
        ("budget=1e30..1e31", "budget is a number of more than 30 digits, must be"),
        ("max_delay_passes", "'max_delay_passes', must have an effect: prefill has scheduler 'v1'"),
    ],
)
def test_values_that_no_engine_takes_are_refused_before_the_search(text: str, message: str) -> None:
    base = SimulationParams(prefill=COLOCATED)
    with pytest.raises(ParameterError, match=message):
        space_of(base, search=read_ranges(text))


def test_more_slots_than_the_budget_holds_can_be_asked_for() -> None:
    base = SimulationParams(slots=16, prefill=Prefill(mode="colocated", budget=512))
    made = space_of(base, given=["slots"], search=read_ranges("slots=8..2000"))
    (slots,) = [each for each in made.dimensions if each.field == "slots"]
    assert slots.high > 512


def test_prefill_is_not_searched_where_it_is_elsewhere() -> None:
    with pytest.raises(ParameterError, match="'budget', must have an effect: prompts are computed"):
        space_of(SimulationParams(), search={"budget": None})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["no-such"], "unknown hardware"),
        (["bfio", "bfio"], "twice"),
        (["bfio:workers=0"], "workers is 0"),
        (["bfio:gpus=2"], "unknown parameter"),
    ],
)
def test_bad_hardware_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        read_layouts(texts, SimulationParams(), slots_given=False)


def test_gpus_must_make_whole_workers() -> None:
    with pytest.raises(ParameterError, match="gpus is 6, must be a multiple of 4"):
        read_layouts(["minimax-m2.7-h200-tep4"], SimulationParams(), gpus=6, slots_given=False)
