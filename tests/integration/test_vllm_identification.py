"""The step time as the adapter finds it from what engines report, and what it leaves out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import prometheus_client
import pytest
from fake_vllm import Deployment, EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest

from brsolver.errors import ParameterError
from integration.vllm import identification
from integration.vllm.config import accepted, from_environment
from integration.vllm.reload import switch

BASE, SEQUENCE, TOKEN, PREFILL = 0.02, 2e-4, 1e-7, 5e-5
BUDGET = 4096


class Lockstep:
    """Engines that step together, and say so to an adapter, as vLLM's would."""

    def __init__(self, monkeypatch, *, ranks: int = 2, seed: int = 0, toml=None, **config: Any):
        self.rng = np.random.default_rng(seed)
        spec = "jsq-load" if toml is None else str(toml)
        config = {"slots": 32, "capacity": 1_000_000, "budget": BUDGET} | config
        self.deployment = Deployment(spec, count=ranks, **config)
        self.clock, self.serial, self.ranks = 100.0, 0, ranks
        self.prompts: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.computed: dict[str, int] = {}
        self.generated: dict[str, int] = {}
        self.loads: list[list[tuple[float, ...]]] = []
        now = SimpleNamespace(monotonic=lambda: self.clock + 0.0005)
        monkeypatch.setattr(identification, "time", now)

    @property
    def fit(self):
        observer = self.deployment.adapter.desk.identification._observer
        return None if observer is None else observer.fit

    async def add(self, prompt: int, output: int) -> str:
        self.serial += 1
        name = str(self.serial)
        self.prompts[name], self.left[name] = prompt, output
        self.computed[name] = self.generated[name] = 0
        request = EngineCoreRequest(name, [1] * prompt)
        await self.deployment.client.add_request_async(request)
        return name

    def at(self, rank: int) -> list[str]:
        where = self.deployment.client.reqs_in_flight
        return [n for n in where if int.from_bytes(where[n], "little") == rank]

    async def step(self) -> None:
        """Let all ranks compute a step, and report it when the slowest has done so."""
        planned = [self._plan(rank) for rank in range(self.ranks)]
        seconds = BASE + max(SEQUENCE * n + TOKEN * kv + PREFILL * p for _, n, kv, p in planned)
        self.clock += seconds * (1 + 0.01 * self.rng.normal())
        self.loads.append([(n, kv, p) for _, n, kv, p in planned])
        for rank in self.rng.permutation(self.ranks).tolist():
            await self._report(rank, *planned[rank])

    def _plan(self, rank: int) -> tuple[dict[str, int], int, int, int]:
        budget, chunks = BUDGET, {}
        decoding = [n for n in self.at(rank) if self.computed[n] == self.prompts[n]]
        kv = sum(self.prompts[n] + self.generated[n] for n in decoding)
        budget -= len(decoding)
        for name in self.at(rank):
            if name not in decoding and budget > 0:
                chunks[name] = min(budget, self.prompts[name] - self.computed[name])
                budget -= chunks[name]
        return chunks, len(decoding), kv, sum(chunks.values())

    async def _report(self, rank: int, chunks: dict[str, int], n: int, kv: int, p: int) -> None:
        outputs, finished = [], set()
        for name in self.at(rank):
            self.computed[name] += chunks.get(name, 0)
            if self.computed[name] < self.prompts[name]:
                continue
            self.left[name] -= 1
            self.generated[name] += 1
            outputs.append(EngineCoreOutput(name, [7]))
            if self.left[name] == 0:
                finished.add(name)
        if not (n or p):
            return
        running = len(self.at(rank)) - len(finished)
        stats = self.stats(running, n, p)
        batch = EngineCoreOutputs(rank, outputs, stats, finished or None, self.clock)
        client = self.deployment.client
        await client.process_engine_outputs(client, batch)

    def stats(self, running: int, n: int, p: int) -> SimpleNamespace:
        return SimpleNamespace(num_running_reqs=running, num_waiting_reqs=0)

    async def serve(self, steps: int, *, longest: int = 3000) -> None:
        """Serve requests that come at random, so that all loads vary."""
        for _ in range(steps):
            waves = 1 + np.sin(len(self.loads) / 60)
            if self.rng.random() < 0.25 * waves and len(self.left) < 60:
                await self.add(int(self.rng.integers(10, longest)), int(self.rng.integers(20, 200)))
            await self.step()
            self.left = {n: left for n, left in self.left.items() if left}


def run(scenario) -> None:
    asyncio.run(scenario)


def test_coefficients_are_found_from_what_is_reported(monkeypatch):
    engines = Lockstep(monkeypatch)
    run(engines.serve(3000))
    estimate = engines.fit.estimate()
    assert estimate.identified == (True, True, True)
    assert estimate.base == pytest.approx(BASE, rel=0.1)
    assert estimate.per_sequence == pytest.approx(SEQUENCE, rel=0.25)
    assert estimate.per_token == pytest.approx(TOKEN, rel=0.15)
    assert estimate.per_prefill_token == pytest.approx(PREFILL, rel=0.05)
    assert engines.deployment.adapter.failsafe.failures == 0


def observed(engines: Lockstep) -> list[list[list[float]]]:
    """What the fit is given, as it is given it."""
    seen: list[list[list[float]]] = []
    engines.fit.observe = lambda loads, seconds: seen.append(loads.tolist())
    return seen


def test_the_loads_of_every_step_taken_in_are_those_that_were_computed(monkeypatch):
    engines = Lockstep(monkeypatch, ranks=3)
    seen = observed(engines)
    run(engines.serve(400))
    true = [[list(map(float, rank)) for rank in step] for step in engines.loads]
    assert len(seen) > 200
    assert all(step in true for step in seen)


def test_steps_with_parts_of_prompts_are_left_out_where_nobody_tells_which(monkeypatch):
    engines = Lockstep(monkeypatch)
    seen = observed(engines)
    run(engines.serve(400, longest=12_000))
    true = [[list(map(float, rank)) for rank in step] for step in engines.loads]
    assert 20 < len(seen) < 390
    assert all(step in true for step in seen)


def test_where_vllm_tells_what_it_computed_these_are_taken_in(monkeypatch):
    def told(running: int, n: int, p: int) -> SimpleNamespace:
        details = SimpleNamespace(num_ctx_tokens=p, num_generation_requests=n, is_dummy=False)
        return SimpleNamespace(
            num_running_reqs=running, num_waiting_reqs=0, iteration_details=details
        )

    engines = Lockstep(monkeypatch)
    engines.stats = told
    seen = observed(engines)
    run(engines.serve(400, longest=12_000))
    true = [[list(map(float, rank)) for rank in step] for step in engines.loads]
    assert len(seen) > 300
    assert sum(step in true for step in seen) > 0.95 * len(seen)


def test_a_step_after_idleness_has_no_duration(monkeypatch):
    engines = Lockstep(monkeypatch)
    durations: list[float] = []
    engines.fit.observe = lambda loads, seconds: durations.append(seconds)

    async def scenario() -> None:
        for _ in range(5):
            await engines.add(50, 10)
            for _ in range(10):
                await engines.step()
            engines.clock += 30.0

    run(scenario())
    assert len(durations) > 20
    assert max(durations) < 1.0


def test_the_other_ranks_clocks_may_differ(monkeypatch):
    engines = Lockstep(monkeypatch)
    report = engines.deployment.client.process_engine_outputs

    async def shifted(client: Any, batch: EngineCoreOutputs) -> None:
        batch.timestamp += 5000.0 * batch.engine_index
        await report(client, batch)

    monkeypatch.setattr(engines.deployment.client, "process_engine_outputs", shifted)
    run(engines.serve(1500))
    assert engines.fit.estimate().per_prefill_token == pytest.approx(PREFILL, rel=0.05)


def test_a_fault_ends_the_identification_and_nothing_else(monkeypatch, caplog):
    engines = Lockstep(monkeypatch)
    run(engines.serve(50))

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("of a kind")

    engines.fit.observe = broken
    run(engines.serve(50))
    desk = engines.deployment.adapter.desk
    assert not desk.identification.active
    assert desk.failsafe.failures == 0
    assert desk.failsafe.active
    assert caplog.text.count("the step time is not identified any more: ZeroDivisionError") == 1
    assert engines.deployment.books.get(str(engines.serial)) is not None


def test_a_setting_switches_it_off(monkeypatch, tmp_path):
    toml = tmp_path / "router.toml"
    toml.write_text('policy = "jsq-load"\nidentify = false\n')
    engines = Lockstep(monkeypatch, toml=toml)
    assert engines.fit is None
    run(engines.serve(20))


@pytest.mark.parametrize("config", [{"clients": 2}, {"moe": False}])
def test_several_api_servers_and_ranks_without_a_barrier_tell_nothing(monkeypatch, config):
    assert Lockstep(monkeypatch, **config).fit is None


def test_bad_settings_are_refused(tmp_path):
    toml = tmp_path / "router.toml"
    toml.write_text('policy = "jsq-load"\nidentify = 3\n')
    with pytest.raises(ParameterError, match="identify"):
        from_environment({"BRSOLVER_ROUTER": str(toml)})


def test_what_is_found_is_published(monkeypatch):
    engines = Lockstep(monkeypatch)
    run(engines.serve(800))
    desk = engines.deployment.adapter.desk
    desk.tell(now=True)
    estimate = engines.fit.estimate()

    def sample(name: str, **labels: str) -> float | None:
        return prometheus_client.REGISTRY.get_sample_value(f"brsolver_step_{name}", labels)

    assert sample("base_seconds") == estimate.base
    assert sample("per_sequence_seconds") == estimate.per_sequence
    assert sample("per_kv_token_seconds") == estimate.per_token
    assert sample("per_prefill_token_seconds") == estimate.per_prefill_token
    assert sample("relative_error") == estimate.error
    assert sample("observations") == estimate.steps > 300
    assert sample("identified", load="prefill_tokens") == 1
    assert sample("frozen", load="kv_tokens") == 0


def test_the_ratio_is_handed_over_once_it_is_known_and_when_it_has_changed(monkeypatch):
    engines = Lockstep(monkeypatch)
    session = SimpleNamespace(request_tokens=7)
    identification.hand_over(engines.fit.estimate(), session)
    assert session.request_tokens == 7
    run(engines.serve(3000))
    estimate = engines.fit.estimate()
    identification.hand_over(estimate, session)
    assert session.request_tokens == estimate.request_tokens == pytest.approx(2000, rel=0.3)
    session.request_tokens = near = round(1.01 * estimate.request_tokens)
    identification.hand_over(estimate, session)
    assert session.request_tokens == near


def test_only_who_asks_for_it_is_handed_the_ratio_and_a_fault_in_that_harms_nobody(
    monkeypatch, caplog
):
    class Session:
        request_tokens = property(lambda self: 0, lambda self, value: 1 / 0)

    engines = Lockstep(monkeypatch)
    run(engines.serve(3000))
    desk = engines.deployment.adapter.desk
    session = Session()
    session.policy = desk.router.session.policy
    router = SimpleNamespace(session=session, books=desk.router.books)
    fixed, auto = (
        replace(desk.config, params=replace(desk.config.params, request_tokens=each))
        for each in (7, "auto")
    )
    desk.identification.tell(desk.exporter, router, fixed)
    assert desk.identification.active
    desk.identification.tell(desk.exporter, router, auto)
    assert not desk.identification.active
    assert "ZeroDivisionError" in caplog.text
    assert desk.failsafe.failures == 0


def test_a_router_weighs_by_what_is_found(monkeypatch, tmp_path):
    if "request_tokens" not in accepted():
        pytest.skip("no such setting yet")
    toml = tmp_path / "router.toml"
    toml.write_text('policy = "jsq-load"\nrequest_tokens = "auto"\n')
    engines = Lockstep(monkeypatch, toml=toml, ranks=3)
    run(engines.serve(2500))
    engines.deployment.adapter.desk.tell(now=True)
    assert engines.deployment.session.request_tokens == pytest.approx(2000, rel=0.3)
    # What routers count besides is no load of a step.
    seen = observed(engines)
    run(engines.serve(200))
    true = [[list(map(float, rank)) for rank in step] for step in engines.loads]
    assert all(step in true for step in seen)


def test_a_router_in_time_is_told_what_is_found_and_nothing_before(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", "vllm.brsolver")
    toml = tmp_path / "router.toml"
    toml.write_text('policy = "br-t"\n')
    engines = Lockstep(monkeypatch, toml=toml)
    run(engines.serve(30))
    d = engines.deployment
    d.adapter.desk.tell(now=True)
    assert d.session.costs is None
    run(engines.serve(1500))
    d.adapter.desk.tell(now=True)
    costs = d.session.costs
    assert costs.per_kv_token_s == pytest.approx(TOKEN, rel=0.3)
    assert costs.per_prefill_token_s == pytest.approx(PREFILL, rel=0.1)
    assert costs.budget == BUDGET
    assert sum("found out what a step costs" in each for each in caplog.messages) == 1
    # What is configured stands, whatever is found.
    toml.write_text('policy = "br-t"\nhardware = "minimax-m2.7-h200-dp4"\n')
    environ = {"BRSOLVER_ROUTER": str(toml), "BRSOLVER_MODE": "immediate"}
    switch(d.adapter, from_environment(environ))
    named = d.session.costs
    run(engines.serve(20))
    d.adapter.desk.tell(now=True)
    assert d.session.costs is named != costs
    # And what was found comes back when it is not.
    toml.write_text('policy = "br-t"\n')
    switch(d.adapter, from_environment(environ))
    assert d.session.costs.per_kv_token_s == pytest.approx(TOKEN, rel=0.3)
