"""What the plug-in says while it registers, and in which of vLLM's processes."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from types import SimpleNamespace

import pytest
from fake_vllm import Deployment

from integration.vllm import as_tuned, plugin
from integration.vllm.wrapping import adapter_of

CHILDREN = ["EngineCore_DP0", "EngineCore", "VllmWorker-1", "ApiServer_1", "VLLM_DP_Coordinator"]


@pytest.fixture
def said(caplog, monkeypatch):
    """The warnings, none of them about the variables of this process."""
    for name in ("ROUTER", "MODE", "PREDICTOR", "RECORD"):
        monkeypatch.delenv(f"BRSOLVER_{name}", raising=False)
    caplog.set_level(logging.WARNING, logger="vllm.brsolver")
    return lambda: [record.message for record in caplog.records]


BAD = {
    "BRSOLVER_ROUTER": "nowhere.toml",
    "BRSOLVER_MODES": "observe",
}


@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_what_is_wrong_is_said_once_in_the_main_process(said, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    plugin.register()
    (line,) = said()
    assert value in line or name in line
    assert "\n" not in line


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_none_of_vllms_children_says_it_again(said, monkeypatch, child, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", child)
    plugin.register()
    assert said() == []


def test_a_process_that_vllm_did_not_start_says_it_itself(said, monkeypatch):
    """A program may run vLLM in a child of its own, and not load plug-ins in the parent."""
    monkeypatch.setenv("BRSOLVER_ROUTER", "nowhere.toml")
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "Process-1")
    plugin.register()
    assert len(said()) == 1


def test_two_misspelt_variables_are_one_warning(said, monkeypatch):
    monkeypatch.setenv("BRSOLVER_MODES", "x")
    monkeypatch.setenv("BRSOLVER_ROUTR", "x")
    plugin.register()
    (line,) = said()
    assert "BRSOLVER_MODE?" in line
    assert "BRSOLVER_ROUTER?" in line


BAD_POLICIES = [
    ("br-zero", "unknown policy 'br-zero'"),
    ("br-0:r_max=0", "r_max is 0"),
    ("br-0:rmax=4", "unknown parameter"),
    ("br-h:horizon=many", "horizon"),
]


@pytest.mark.parametrize(("policy", "told"), BAD_POLICIES)
@pytest.mark.parametrize("written", ["variable", "file"])
def test_a_policy_that_cannot_be_made_is_one_clear_line(said, tmp_path, policy, told, written):
    source = "BRSOLVER_ROUTER"
    spec = policy
    if written == "file":
        name, _, parameters = policy.partition(":")
        table = parameters.replace("=", " = ").replace("many", "'many'")
        source = spec = str(tmp_path / "router.toml")
        (tmp_path / "router.toml").write_text(f'policy = "{name}"\n[parameters]\n{table}\n')

    async def scenario():
        for index in range(3):
            d = Deployment(spec, clients=3, index=index, address=str(tmp_path))
            assert adapter_of(d.client) is None
            await d.add("a")
            assert d.client.own_choices == 1

    asyncio.run(scenario())
    (line,) = said()
    assert line.startswith(f"brsolver: not active ({source}: ")
    assert told in line
    assert "\n" not in line


def test_a_policy_that_raises_when_it_is_made_is_one_line_too(said, monkeypatch):
    def fail(*_args, **_kwargs):
        raise TypeError("made of\nseveral lines")

    monkeypatch.setattr("integration.vllm.router.wire", fail)

    async def scenario():
        assert adapter_of(Deployment("br-0").client) is None

    asyncio.run(scenario())
    (line,) = said()
    assert "TypeError: made of several lines" in line


def test_a_server_that_cannot_record_is_told_why_and_shares_nothing(said, tmp_path):
    async def scenario():
        environ = {"BRSOLVER_RECORD": str(tmp_path / "none" / "x.jsonl")}
        d = Deployment("br-0", clients=2, address=str(tmp_path), environ=environ)
        assert adapter_of(d.client) is None

    asyncio.run(scenario())
    (line,) = said()
    assert "x.0.jsonl" in line


TUNED = """
[tuned]
recommended = "{}"
[router]
policy = "br-0"
[engine]
workers = 2
slots = {}
[engine.prefill]
mode = "colocated"
budget = 4096
threshold = 0
interval = 2
"""


@pytest.mark.parametrize("recommended", ["project", "published"])
def test_a_file_that_was_tuned_for_other_engines_is_one_line(said, tmp_path, recommended):
    file = tmp_path / "tuned.toml"
    file.write_text(TUNED.format(recommended, 48))

    async def scenario():
        for index in range(2):
            d = Deployment(
                str(file), "", clients=2, index=index, address=str(tmp_path), slots=64, budget=8192
            )
            assert adapter_of(d.client) is not None

    asyncio.run(scenario())
    (line,) = said()
    assert line.startswith(
        f"brsolver: {file} was tuned for --max-num-seqs 48, --max-num-batched-tokens 4096, "
        "--prefill-schedule-interval 2, and this vLLM has 64, 8192, 1: "
    )
    assert "\n" not in line


@pytest.mark.parametrize(
    ("mode", "computes", "told"),
    [
        ("none", True, ("prompts computed", "elsewhere", "on the ranks")),
        ("colocated", False, ("prompts computed", "on the ranks", "elsewhere")),
    ],
)
def test_where_prompts_are_computed_is_compared(mode, computes, told):
    engine = {"slots": [24, "x"], "prefill": {"mode": mode}}
    known = SimpleNamespace(slots=24, computes=computes, budget=0, interval=1, chunk=0)
    assert list(as_tuned.differences(engine, known)) == [told]


@pytest.mark.parametrize("slots", ["48", '[24, 48, "x"]', "[24, 48]"])
@pytest.mark.parametrize("budget", [4096, 0], ids=["the same", "not said"])
def test_a_file_that_was_tuned_for_these_engines_is_none(said, tmp_path, slots, budget):
    file = tmp_path / "tuned.toml"
    file.write_text(TUNED.format("project", slots))

    async def scenario():
        Deployment(str(file), "", slots=48, budget=budget, interval=2)

    asyncio.run(scenario())
    assert said() == []
