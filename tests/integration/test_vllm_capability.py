"""The capability check against the sources of vLLM releases, and against changes to them."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
from fake_vllm import EngineCoreEventType, FinishReason, client_classes
from vllm_sources import OfflineError, sources

from integration.vllm.accounting import ENDED_BY_ITSELF, PREEMPTED
from integration.vllm.capability import CLIENTS, MESSAGES, MODULES, NEEDS, TESTED, mismatches
from integration.vllm.shapes import MethodShape, _inspected, _parsed, from_sources, live

if TYPE_CHECKING:
    from pathlib import Path

RELEASES = ["0.20.2", "0.25.0", "0.30.0", "0.32.0", "0.33.0"]
PATHS = ["vllm/v1/engine/core_client.py", "vllm/v1/engine/__init__.py"]

STAND_IN = """
class AsyncMPClient:
    def __init__(self, vllm_config, client_count=1, client_index=0):
        self.vllm_config = vllm_config
        self.core_engines, self.resources = [], None
        self.client_count: int = client_count
        self.client_index = client_index
        self.outputs_queue = None
        self.stats_update_address: str | None = None


class DPAsyncMPClient(AsyncMPClient):
    async def add_request_async(self, request): ...


class DPLBAsyncMPClient(DPAsyncMPClient):
    def __init__(self, *args):
        self.reqs_in_flight: dict[str, bytes] = {}
        super().__init__(*args)

    def get_core_engine_for_request(self, request): ...

    @staticmethod
    async def process_engine_outputs(self, outputs): ...

    async def abort_requests_async(self, request_ids): ...
"""


@cache
def fetched(release: str) -> Path:
    try:
        return sources(release, PATHS)
    except OfflineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("release", RELEASES)
def test_the_adapter_fits_this_release(release):
    assert mismatches(from_sources(fetched(release))) == []


CHANGES = [
    (
        0,
        "def get_core_engine_for_request(self, request:",
        "def get_core_engine_for_request(self, req:",
        "takes (self, req)",
    ),
    (
        0,
        "    @staticmethod\n    async def process_engine_outputs",
        "    async def process_engine_outputs",
        "is no static method",
    ),
    (
        0,
        "    async def process_engine_outputs(",
        "    def process_engine_outputs(",
        "is no coroutine function",
    ),
    (
        0,
        "async def abort_requests_async(self, request_ids: list[str])",
        "async def abort_requests_async(self, request_ids: list[str], why: str)",
        "takes (self, request_ids, why)",
    ),
    (
        0,
        "class DPLBAsyncMPClient(DPAsyncMPClient)",
        "class DPLBAsyncMPClient(AsyncMPClient)",
        "does not derive from DPAsyncMPClient",
    ),
    (0, "class DPLBAsyncMPClient", "class Balanced", "has no class DPLBAsyncMPClient"),
    (0, "self.reqs_in_flight", "self.in_flight", "sets no attribute reqs_in_flight"),
    (
        0,
        "self.outputs_queue = asyncio",
        "self.outgoing = asyncio",
        "sets no attribute outputs_queue",
    ),
    (1, "    data_parallel_rank: int", "    rank: int", "has no field data_parallel_rank"),
    (1, "    finished_requests: set", "    done: set", "has no field finished_requests"),
    (1, "    new_token_ids: list", "    tokens: list", "has no field new_token_ids"),
    (1, "    ABORT = 2", "    CANCEL = 2", "has no field ABORT"),
    (1, "    PREEMPTED = 3", "    EVICTED = 3", "has no field PREEMPTED"),
    (1, "    PREEMPTED = 3", "    PREEMPTED = 4", "EngineCoreEventType.PREEMPTED is 4, not 3"),
    (1, "    LENGTH = 1", "    LENGTH = 5", "FinishReason.LENGTH is 5, not 1"),
    (
        1,
        "    REPETITION = 4",
        "    REPETITION = enum.auto()",
        "FinishReason.REPETITION is no plain number, not 4",
    ),
]


@pytest.mark.parametrize(("module", "old", "new", "told"), CHANGES)
def test_a_change_that_matters_is_found(tmp_path, module, old, new, told):
    root = fetched("0.32.0")
    for at, path in enumerate(PATHS):
        text = (root / path).read_text()
        if at == module:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = mismatches(from_sources(tmp_path))
    assert any(told in line for line in found), found


def test_all_that_is_needed_is_missed_when_nothing_is_there():
    assert [line.split()[-1] for line in mismatches({})] == [need.name for need in NEEDS]


def test_classes_and_their_sources_have_the_same_shapes(tmp_path):
    """Of a stand-in: the real classes would have to be imported, with all of vLLM."""
    folder = tmp_path.joinpath(*CLIENTS.split(".")[:-1])
    folder.mkdir(parents=True)
    (folder / "core_client.py").write_text(STAND_IN)
    (folder / "__init__.py").touch()
    parsed = from_sources(tmp_path)
    space: dict[str, type] = {}
    exec(STAND_IN, space)  # noqa: S102 # the text stands above
    for need in NEEDS:
        if need.module != CLIENTS:
            continue
        read, seen = parsed[CLIENTS, need.name], _inspected(space[need.name])
        assert read.bases == seen.bases
        assert read.attributes == seen.attributes
        for name in need.methods:
            assert read.methods[name] == seen.methods[name], name
        assert set(need.own) <= read.own & seen.own
    assert [line for line in mismatches(parsed) if "Client" in line] == []


def test_numbers_of_classes_and_of_their_sources_are_the_same():
    members = "STOP = 0; LENGTH = 7; A = B = 3"
    text = f"import enum\nclass FinishReason(enum.IntEnum): {members}"
    (read,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    space: dict[str, type] = {}
    exec(text, space)  # noqa: S102 # the text stands above
    (need,) = [need for need in NEEDS if need.name == "FinishReason"]
    numbers = {"STOP": 0, "LENGTH": 7, "A": 3, "B": 3}
    for shape in (_parsed(read, {}), _inspected(space["FinishReason"])):
        assert shape.values.items() >= numbers.items()
        found = mismatches({(need.module, need.name): shape})
        assert "FinishReason.LENGTH is 7, not 1" in found
        assert not any("STOP" in line for line in found)


def test_the_numbers_that_are_checked_are_those_that_the_books_go_by():
    values = {need.name: need.values for need in NEEDS}
    reasons = values["FinishReason"]
    assert {reasons[name] for name in ("STOP", "LENGTH", "REPETITION")} == ENDED_BY_ITSELF
    assert values["EngineCoreEventType"] == {"PREEMPTED": PREEMPTED}
    for stand_in in (FinishReason, EngineCoreEventType):
        assert _inspected(stand_in).values.items() >= values[stand_in.__name__].items()


def test_the_releases_called_tested_are_those_tested_here():
    assert [".".join(map(str, release)) for release in TESTED] == RELEASES


def test_the_stand_ins_of_other_tests_have_the_methods_that_the_real_ones_have():
    classes = client_classes()
    for need in NEEDS:
        if need.module == CLIENTS:
            shape = _inspected(getattr(classes, need.name))
            for name, method in need.methods.items():
                found = shape.methods[name]
                assert isinstance(found, MethodShape)
                assert (found.coroutine, found.static) == (method.coroutine, method.static)
                if method.exact:
                    assert found.parameters == method.parameters


def test_every_module_that_is_looked_at_is_needed():
    assert {need.module for need in NEEDS} == set(MODULES) == {CLIENTS, MESSAGES}
    assert all(dataclasses.is_dataclass(need) for need in NEEDS)


def test_importing_the_adapter_imports_no_vllm():
    modules = ["plugin", "adapter", "reload", "inspection", "wrapping", "capability", "shapes"]
    imports = ", ".join(f"integration.vllm.{name}" for name in modules)
    code = (
        f"import integration, integration.cli, {imports}, sys; "
        "sys.exit(any(name.partition('.')[0] in {'vllm', 'torch', 'ray'} for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.vllm
def test_the_installed_classes_fit_and_look_like_their_sources():
    assert mismatches(live()) == []
