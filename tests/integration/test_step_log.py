"""What engines log of their steps, with engines that do as they are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from integration.bench.steps import read_steps
from integration.vllm import plugin, step_log
from integration.vllm.config import STEPS

if TYPE_CHECKING:
    from pathlib import Path


def vllm() -> dict[str, Any]:
    """Fresh classes of the shape of vLLM's: installing changes them."""

    class Scheduler:
        def __init__(self) -> None:
            self.requests: dict[str, Any] = {}
            self.running: list[Any] = []
            self.waiting: list[Any] = []
            self.planned: list[dict[str, int]] = []

        def schedule(self, throttle: bool = False) -> Any:
            tokens = self.planned.pop(0)
            for name, count in tokens.items():
                self.requests[name].num_computed_tokens += count
            return SimpleNamespace(
                num_scheduled_tokens=tokens, total_num_scheduled_tokens=sum(tokens.values())
            )

        def update_from_output(self, scheduled: Any, output: Any) -> dict[int, Any]:
            return {}

        def has_unfinished_requests(self) -> bool:
            return bool(self.planned)

    class EngineCoreProc:
        def __init__(self, index: int) -> None:
            self.engine_index, self.scheduler = index, Scheduler()

        def _process_engine_step(self) -> bool:
            if self.scheduler.planned:
                self.scheduler.update_from_output(self.scheduler.schedule(), None)
            return True

    class DPEngineCoreProc(EngineCoreProc):
        current_wave = step_counter = 0

        def _has_global_unfinished_reqs(self, local_unfinished: bool) -> bool:
            self.step_counter += 1
            return True

    return {
        "vllm.v1.engine.core": SimpleNamespace(
            EngineCoreProc=EngineCoreProc, DPEngineCoreProc=DPEngineCoreProc
        ),
        "vllm.v1.core.sched.scheduler": SimpleNamespace(Scheduler=Scheduler),
    }


@pytest.fixture
def engines(tmp_path: Path, monkeypatch):
    """The classes, with steps logged to `tmp_path`."""
    modules = vllm()
    monkeypatch.setattr(step_log, "import_module", modules.__getitem__)
    step_log.install(str(tmp_path / "steps"))
    return modules["vllm.v1.engine.core"]


def request(engine: Any, name: str, prompt: int, computed: int = 0) -> None:
    each = SimpleNamespace(num_prompt_tokens=prompt, num_computed_tokens=computed)
    engine.scheduler.requests[name] = each
    engine.scheduler.running.append(each)


def test_ranks_in_lockstep_are_put_side_by_side(engines, tmp_path: Path) -> None:
    busy, idle = (engines.DPEngineCoreProc(index) for index in range(2))
    request(busy, "a", 10)
    busy.scheduler.planned = [{"a": 6}, {"a": 4}, {"a": 1}]
    for _ in range(3):
        for engine in (busy, idle):
            engine._process_engine_step()
        for engine in (busy, idle):
            assert engine._has_global_unfinished_reqs(local_unfinished=True)
    steps = read_steps(tmp_path / "steps")
    assert steps.prefill_tokens.tolist() == [[6, 0], [4, 0], [0, 0]]
    assert steps.prefill_context.tolist() == [[21, 0], [34, 0], [0, 0]]
    assert steps.decoding.tolist() == [[0, 0], [0, 0], [1, 0]]
    assert steps.decode_kv.tolist() == [[0, 0], [0, 0], [11, 0]]
    assert steps.scheduled.tolist() == [[6, 0], [4, 0], [1, 0]]
    assert steps.running.tolist() == [[1, 0]] * 3


def test_a_step_is_written_when_it_has_ended_not_when_the_next_one_is_scheduled(
    engines, tmp_path: Path
) -> None:
    ranks = [engines.DPEngineCoreProc(index) for index in range(2)]
    for engine in ranks:
        request(engine, "a", 8)
        engine.scheduler.planned = [{"a": 8}, {"a": 1}]
        first = engine.scheduler.schedule()
        second = engine.scheduler.schedule()
        for scheduled in (first, second):
            engine.scheduler.update_from_output(scheduled, None)
            engine._has_global_unfinished_reqs(local_unfinished=True)
    steps = read_steps(tmp_path / "steps")
    assert steps.prefill_tokens.tolist() == [[8, 8], [0, 0]]
    assert steps.decoding.tolist() == [[0, 0], [1, 1]]


def test_a_rank_without_a_barrier_counts_its_own_steps(engines, tmp_path: Path) -> None:
    engine = engines.EngineCoreProc(0)
    request(engine, "a", 4)
    for planned in ([{"a": 4}, {"a": 1}], [{"a": 1}]):
        engine.scheduler.planned = planned
        for _ in range(3):
            engine._process_engine_step()
    steps = read_steps(tmp_path / "steps")
    assert steps.scheduled[:, 0].tolist() == [4, 1, 1]
    # The third follows on idleness, and has no duration.
    assert [duration == duration for duration in steps.duration_s] == [False, True, False]  # noqa: PLR0124 # NaN


def test_ranks_that_step_by_themselves_are_not_paired(engines, tmp_path: Path) -> None:
    for index in range(2):
        engine = engines.EngineCoreProc(index)
        request(engine, "a", 4)
        engine.scheduler.planned = [{"a": 4}]
        engine._process_engine_step()
    with pytest.raises(Exception, match="no step is in the logs of all 2 ranks"):
        read_steps(tmp_path / "steps")


def test_installing_twice_logs_once(engines, tmp_path: Path) -> None:
    step_log.install(str(tmp_path / "steps"))
    engine = engines.EngineCoreProc(0)
    request(engine, "a", 4)
    engine.scheduler.planned = [{"a": 4}]
    engine._process_engine_step()
    lines = (tmp_path / "steps" / "rank-0.csv").read_text().splitlines()
    assert len(lines) == 2


def test_an_engine_that_cannot_log_is_warned_of_and_goes_on(tmp_path: Path, monkeypatch, caplog):
    def nothing(_: str) -> None:
        raise ImportError("no such engine")

    monkeypatch.setattr(step_log, "import_module", nothing)
    monkeypatch.setenv(STEPS, str(tmp_path))
    monkeypatch.delenv("BRSOLVER_ROUTER", raising=False)
    plugin.register()
    assert "no steps are logged" in caplog.text
    assert "no such engine" in caplog.text


def test_an_engine_steps_on_where_nothing_can_be_noted_or_written(
    engines, tmp_path: Path, monkeypatch
) -> None:
    def full(*_: object) -> int:
        raise OSError("no space left")

    engine = engines.EngineCoreProc(0)
    engine.scheduler.running.append(SimpleNamespace())
    engine.scheduler.planned = [{}]
    assert engine._process_engine_step()
    engine.scheduler.running.clear()
    request(engine, "a", 4)
    engine.scheduler.planned = [{"a": 4}]
    monkeypatch.setattr(step_log.os, "write", full)
    assert engine._process_engine_step()
