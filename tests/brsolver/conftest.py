"""Small simulations worked out naively, so that reports can be tested without the engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver import registry
from brsolver.results.comparison import Comparison, Run
from brsolver.results.logs import LoadSamples, RequestLog, RequestStatus, StepLog
from brsolver.results.metrics import Metrics
from brsolver.results.result import SimulationResult
from brsolver.simulator.params import SimulationParams
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def make_trace(requests: int = 60, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(50, 2000, requests),
        output_tokens=rng.integers(5, 60, requests),
        name="synthetic",
        surrogate=True,
    )


class _Naive:
    """Requests in order onto the live worker a key prefers, one token per step."""

    def __init__(self, trace: Trace, params: SimulationParams, *, lightest: bool) -> None:
        n, slots = len(trace), params.slots_each()
        self.start_step = np.full(n, -1)
        self.finish_step = np.full(n, -1)
        self.worker = np.full(n, -1)
        self.loads: list[list[int]] = []
        self.posts: list[list[int]] = []
        self.running: list[list[int]] = []
        prompt, output = trace.prompt_tokens, trace.output_tokens
        active: list[list[int]] = [[] for _ in slots]
        done = np.zeros(n, dtype=np.int64)
        queue = list(range(n))
        step = 0
        while queue or any(active):
            while queue:
                loads = [int(sum(prompt[i] + done[i] for i in a)) for a in active]
                open_ = [g for g, a in enumerate(active) if len(a) < slots[g]]
                if not open_:
                    break
                chosen = min(open_, key=lambda g: loads[g]) if lightest else open_[0]
                request = queue.pop(0)
                active[chosen].append(request)
                self.start_step[request] = step
                self.worker[request] = chosen
            self.loads.append([int(sum(prompt[i] + done[i] for i in a)) for a in active])
            self.running.append([len(a) for a in active])
            for a in active:
                for request in list(a):
                    done[request] += 1
                    if done[request] == output[request]:
                        a.remove(request)
                        self.finish_step[request] = step
            self.posts.append([int(sum(prompt[i] + done[i] for i in a)) for a in active])
            step += 1


def make_result(
    policy: str = "fcfs",
    *,
    params: SimulationParams | None = None,
    trace: Trace | None = None,
    lightest: bool = False,
    scale: float = 1.0,
    notes: tuple[str, ...] = (),
) -> SimulationResult:
    params = params or SimulationParams(workers=4, slots=4)
    trace = trace or make_trace()
    naive = _Naive(trace, params, lightest=lightest)
    load, post = np.array(naive.loads), np.array(naive.posts)
    duration = (params.step_time.base + params.step_time.per_token * load.max(axis=1)) * scale
    start = np.concatenate(([0.0], np.cumsum(duration)))[:-1]
    steps = StepLog(
        start_s=start,
        duration_s=duration,
        active=np.array(naive.running).sum(axis=1),
        alive=np.full(len(load), params.workers),
        slots=np.full(len(load), sum(params.slots_each())),
        load_max=load.max(axis=1),
        load_min=load.min(axis=1),
        load_sum=load.sum(axis=1),
        post_max=post.max(axis=1),
        post_min=post.min(axis=1),
        post_sum=post.sum(axis=1),
        energy_j=duration * 400.0,
        post_energy_j=duration * 400.0,
        lost_sequences_s=np.zeros(len(load)),
        lost_kv_s=params.step_time.per_token * (load.max(axis=1) - load.mean(axis=1)),
        lost_prefill_s=np.zeros(len(load)),
        lost_padding_s=np.zeros(len(load)),
        prefill_tokens=np.zeros(len(load), np.int64),
        prefill_max=np.zeros(len(load), np.int64),
        held=np.zeros(len(load), np.int64),
    )
    n = len(trace)
    start_s = start[naive.start_step]
    finish_s = (start + duration)[naive.finish_step]
    requests = RequestLog(
        arrival_s=np.zeros(n),
        ready_s=np.zeros(n),
        start_s=start_s,
        first_token_s=(start + duration)[naive.start_step],
        first_token_step=np.array(naive.start_step),
        finish_s=finish_s,
        worker=naive.worker,
        start_step=naive.start_step,
        finish_step=naive.finish_step,
        preemptions=np.zeros(n, dtype=np.int64),
        migrations=np.zeros(n, dtype=np.int64),
        status=np.full(n, RequestStatus.FINISHED.value),
        cached_tokens=np.zeros(n, np.int64),
    )
    return SimulationResult(
        policy=policy,
        policy_params={},
        predictor="none",
        sees_future=False,
        trace_name=trace.name,
        trace_fingerprint=trace.fingerprint(),
        params=params,
        metrics=_metrics(policy, params, trace, steps, requests),
        requests=requests,
        steps=steps,
        samples=LoadSamples(
            step=np.arange(len(steps)),
            time_s=start,
            load=load,
            running=np.array(naive.running),
            backlog=np.zeros(load.shape, np.int64),
        ),
        dispatch_us=np.linspace(1.0, 20.0, 50),
        notes=notes,
    )


def _metrics(
    policy: str, params: SimulationParams, trace: Trace, steps: StepLog, requests: RequestLog
) -> Metrics:
    window = slice(0, int(requests.start_step.max()))
    imbalance = steps.imbalance_sum()[window]
    tpot = (requests.finish_s - requests.start_s) / trace.output_tokens
    makespan = float(steps.start_s[-1] + steps.duration_s[-1])
    zero = dict.fromkeys((f for f, kind in Metrics.__annotations__.items() if kind == "float"), 0.0)
    return Metrics(
        **zero
        | {
            "step_mean_s": float(steps.duration_s[window].mean()),
            "time_lost_share": float(
                steps.lost_kv_s[window].sum() / steps.duration_s[window].sum()
            ),
            "time_lost_kv_share": float(
                steps.lost_kv_s[window].sum() / steps.duration_s[window].sum()
            ),
            "makespan_s": makespan,
            "barrier_time": makespan,
            "throughput_tok_s": float(trace.output_tokens.sum()) / makespan,
            "avg_imbalance_sum": float(imbalance.mean()),
            "avg_imbalance_range": float(steps.imbalance_range()[window].mean()),
            "idle_rate": float((imbalance / (params.workers * steps.load_max[window])).mean()),
            "energy_j": float(steps.energy_j.sum()),
            "tpot_mean_s": float(tpot.mean()),
            "tpot_p95_s": float(np.quantile(tpot, 0.95)),
            "dispatch_us_p50": 10.0,
            "queue_mean_s": float("nan"),
        },
        policy=policy,
        workers=params.workers,
        slots=params.slots_each()[0],
        requests=len(trace),
        finished=len(trace),
        unfinished=0,
        steps=len(steps),
        window_first=0,
        window_end=window.stop,
        preemptions=0,
        migrations=0,
        migrated_tokens=0,
        prefill_tokens=0,
        cached_tokens=0,
        decisions=50,
        seed=params.seed,
        version="0.0.test",
    )


def make_comparison(
    policies: tuple[str, ...] = ("fcfs", "jsq-load"),
    workers: tuple[int, ...] = (2, 4),
    seeds: int = 3,
) -> Comparison:
    base = SimulationParams(slots=4)
    runs = []
    for count in workers:
        for index, policy in enumerate(policies):
            for seed in range(seeds):
                trace = make_trace(seed=seed)
                params = replace(base, workers=count, seed=seed)
                result = make_result(
                    policy,
                    params=params,
                    trace=trace,
                    lightest=index > 0,
                    notes=("surrogate trace",),
                )
                runs.append(Run.of(result, trace, policy=policy, keep_curves=seed == 0))
    return Comparison(
        runs=tuple(runs),
        policies=policies,
        workers=workers,
        seeds=tuple(range(seeds)),
        baseline=policies[0],
        params=base,
        trace_name="synthetic",
        predictor=None,
        version="0.0.test",
        wall_s=1.0,
    )


@pytest.fixture
def quitting_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Install a policy of another package that raises as soon as it is asked."""
    place = tmp_path / "installed"
    info = place / "quitting-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quitting\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[brsolver.policies]\nquits = quitting_policy_module:Quits\n"
    )
    (place / "quitting_policy_module.py").write_text(
        "class Quits:\n"
        "    def route(self, cluster, waiting):\n"
        "        raise RuntimeError('had enough')\n"
    )
    monkeypatch.syspath_prepend(place)
    # Another test's would be taken for it.
    monkeypatch.delitem(sys.modules, "quitting_policy_module", raising=False)
    registry._entries.cache_clear()
    yield "quits"
    sys.modules.pop("quitting_policy_module", None)
    monkeypatch.undo()
    registry._entries.cache_clear()


@pytest.fixture(scope="session")
def result_maker() -> Callable[..., SimulationResult]:
    return make_result


@pytest.fixture(scope="session")
def trace_maker() -> Callable[..., Trace]:
    return make_trace


@pytest.fixture(scope="session")
def comparison_maker() -> Callable[..., Comparison]:
    return make_comparison


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    return make_comparison()
