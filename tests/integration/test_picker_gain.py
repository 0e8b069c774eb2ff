"""The core in front of ranks with a barrier, held to what `simulate` says of the same policies."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from picking import HARDWARE, Clock, Log, spec

from brsolver import simulate
from brsolver.cluster.state import ClusterState
from brsolver.hardware.model import step_time_of
from brsolver.simulator.live import LiveRanks
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill
from brsolver.traces.trace import Trace
from integration.picker import Ask, Core, End, PickerParams, Usage
from integration.picker.events import Fault

WORKERS, SLOTS, BUDGET, REQUESTS = 8, 12, 2048, 500
PREFILL = Prefill(mode="colocated", budget=BUDGET)
LATENCY_S = 0.003


class Served:
    """Requests that come at once, through a core, to ranks that are not its model.

    Each message takes `LATENCY_S`; the ranks' steps last `slower` times what the hardware says.
    """

    def __init__(self, policy: str, mode: str, prompts, outputs, *, slower: float = 1.0) -> None:
        self.clock = Clock()
        params = PickerParams(
            policy=policy,
            mode=mode,
            hardware=HARDWARE,
            slots=SLOTS,
            budget=BUDGET,
            wait_max_s=10_000.0,
            start_max_s=0.0,
            block_tokens=0,
            budget_ms=60_000.0,
        )
        workers = [spec(index, rank=index, port=80) for index in range(WORKERS)]
        self.core = Core(params, workers, clock=self.clock)
        self.log = Log()
        self.core.listeners.append(self.log)
        self.ranks = LiveRanks(
            ClusterState([SLOTS] * WORKERS), step_time_of(HARDWARE), prefill=PREFILL
        )
        self.prompts, self.outputs, self.slower = prompts, outputs, slower
        self.coming: list[tuple[float, int, tuple]] = []
        self.stepping = False
        self.finished = 0
        self.first_s = np.zeros(len(prompts))
        self.finish_s = np.zeros(len(prompts))

    def after(self, seconds, *what):
        heapq.heappush(self.coming, (self.clock.now + seconds, len(self.log.events), what))

    def run(self) -> dict[str, float]:
        """Return when all have ended, and percentiles of what a request took."""
        for index, prompt in enumerate(self.prompts.tolist()):
            self.core.request(
                Ask(str(index), prompt),
                lambda answer, index=index: self.after(LATENCY_S, "send", index, answer.worker),
            )
        while self.finished < len(self.prompts):
            delay = self.core.advance()
            wanted = self.clock.now + (np.inf if delay is None else delay)
            if self.coming and self.coming[0][0] <= wanted:
                self.clock.now, _, (what, *given) = heapq.heappop(self.coming)
                getattr(self, what)(*given)
            else:
                self.clock.now = wanted + 1e-9
        return figures(self.first_s, self.finish_s, self.outputs)

    def send(self, index, worker):
        self.core.started(str(index), worker)
        tokens = int(self.outputs[index])
        self.ranks.send(index, worker, int(self.prompts[index]), output_tokens=tokens)
        if not self.stepping:
            self.stepping = True
            self.step()

    def step(self):
        if not self.ranks.busy:
            self.stepping = False
            return
        step = self.ranks.step()
        lasts = self.slower * step.duration_s
        self.first_s[step.first] = self.clock.now + lasts
        for index in step.ended:
            self.finish_s[index] = self.clock.now + lasts
            self.after(lasts + LATENCY_S, "end", index)
        self.after(lasts, "step")

    def end(self, index):
        self.finished += 1
        usage = Usage(int(self.prompts[index]), int(self.outputs[index]))
        assert self.core.ended(str(index), End.FINISHED, usage)


def figures(first_s, finish_s, outputs):
    decoding = outputs > 1
    tpot_s = (finish_s - first_s)[decoding] / (outputs[decoding] - 1)
    return {
        "makespan": float(finish_s.max()),
        # All come at once, at zero.
        "e2e_p95": float(np.percentile(finish_s, 95)),
        "tpot_p95": float(np.percentile(tpot_s, 95)),
    }


def trace():
    rng = np.random.default_rng(7)
    prompts = np.minimum(rng.lognormal(6.5, 1.0, REQUESTS).astype(np.int64) + 10, 8000)
    outputs = np.minimum(rng.lognormal(4.4, 0.8, REQUESTS).astype(np.int64) + 2, 800)
    return prompts, outputs


def simulated(policy: str, routing: str, prompts, outputs) -> dict[str, float]:
    made = Trace(
        prompt_tokens=prompts, output_tokens=outputs, arrival_s=np.zeros(REQUESTS), name="all"
    )
    params = SimulationParams(
        workers=WORKERS,
        slots=SLOTS,
        routing=routing,
        prefill=PREFILL,
        step_time=step_time_of(HARDWARE),
        request_tokens="auto",
    )
    times = simulate(made, policy, params).requests
    return figures(times.first_token_s, times.finish_s, outputs)


@pytest.mark.parametrize("slower", [1.0, 1.6])
def test_what_is_gained_is_what_the_simulator_says(slower):
    prompts, outputs = trace()
    taken, said = {}, {}
    for policy, mode in (("br-t", "pooled"), ("vllm", "immediate")):
        served = Served(policy, mode, prompts, outputs, slower=slower)
        taken[policy] = served.run()
        said[policy] = simulated(policy, mode, prompts, outputs)
        found = served.core.audit()
        assert found.balanced
        assert (found.held, found.reserved) == (0, 0)
        assert not served.log.of(Fault)
        assert found.scale == pytest.approx(slower, rel=0.05)
    for figure in taken["br-t"]:
        gain, expected = (each["vllm"][figure] / each["br-t"][figure] - 1 for each in (taken, said))
        assert expected > 0.1, figure
        assert gain == pytest.approx(expected, rel=0.2), figure
