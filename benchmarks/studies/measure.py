"""One run of a study, in a process of its own, so that its memory is its own.

``python -m benchmarks.studies.measure`` reads a run as JSON and writes its figures as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, thread_time_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.plan import BUDGET, COLOCATED, SLOTS, Run
from brsolver.errors import BrsolverError
from brsolver.policy import BasePolicy, as_policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver import SimulationParams, SimulationResult, Trace
    from brsolver.cluster.view import ClusterView, Decision, Waiting

ROOT = Path(__file__).parents[2]
"""Where this package is found, wherever an executor's process has been started."""
STEADY = (0.25, 0.9)
"""Quantiles of admissions between which a run is looked at."""
CLOCKED = frozenset(
    {"decision_us_p50", "decision_us_p99", "decisions_s", "run_s", "trace_s", "peak_mib"}
)
"""Figures that a clock, or the machine, made."""


def alone(task: Mapping[str, Any], shared: Mapping[str, Trace]) -> dict[str, Any]:
    """Carry out a run in a process of its own; a campaign's function.

    Parameters
    ----------
    task : mapping
        The fields of a `Run`.
    shared : mapping of str to Trace
        The traces of files by name: another node need not have the files.

    Raises
    ------
    BrsolverError
        The process ended otherwise than with figures.
    """
    with TemporaryDirectory(prefix="brsolver-study-") as folder:
        whole = shared.get(task["source"])
        lengths = None if whole is None else _written(whole, Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.studies.measure"],
            input=json.dumps({"run": dict(task), "lengths": lengths}),
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise BrsolverError(f"the run ended with status {done.returncode}: {last}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _written(whole: Trace, folder: Path) -> str:
    path = folder / "lengths.npz"
    np.savez(path, prompt_tokens=whole.prompt_tokens, output_tokens=whole.output_tokens)
    return str(path)


def trace_of(run: Run, lengths: str | None = None) -> Trace:
    """Return the requests of a run: drawn anew, or with replacement from those of a file.

    Parameters
    ----------
    run : Run
    lengths : str, optional
        Where the file's lengths lie, as `alone` has written them; None reads the file.
    """
    from brsolver import Trace, load_trace

    if run.drawn:
        return load_trace(f"{run.source}:n={run.requests},seed={run.seed}")
    if lengths is None:
        whole = load_trace(run.source)
        prompts, outputs = whole.prompt_tokens, whole.output_tokens
    else:
        with np.load(lengths) as kept:
            prompts, outputs = kept["prompt_tokens"], kept["output_tokens"]
    rows = np.random.default_rng(run.seed).integers(0, len(prompts), run.requests)
    return Trace(prompt_tokens=prompts[rows], output_tokens=outputs[rows], name=run.trace)


def params_of(run: Run) -> SimulationParams:
    """Return the parameters of a run: slots kept full from a pool of 4·G, unless it has a load."""
    from brsolver import SimulationParams
    from brsolver.simulator import Arrivals, Prefill

    own = run.prefill == COLOCATED
    prefill, arrivals = Prefill(), Arrivals()
    if own:
        prefill = Prefill(mode="colocated", budget=BUDGET, interval=run.interval)
    if run.load:
        arrivals = Arrivals(mode="utilization", utilization=run.load)
    return SimulationParams(
        workers=run.workers, slots=SLOTS, prefill=prefill, arrivals=arrivals, routing=run.routing,
        seed=run.seed,
    )  # fmt: skip


def window_of(result: SimulationResult) -> slice:
    """Return the steps between the quantiles of admissions; all, where these are too few."""
    started = np.sort(result.requests.start_step)
    first, end = (int(started[int(q * started.size)]) for q in STEADY)
    return slice(first, end) if first < end else slice(0, len(result.steps))


def figures_of(result: SimulationResult) -> dict[str, float]:
    """Return a run's figures: all but waits and decisions are of the steady window.

    ``imbalance`` is ``G·max - sum`` of KV tokens, ``imbalance_share`` that over ``G·max``;
    ``lost_share`` and its parts are shares of the window's time.
    """
    steps, window, m = result.steps, window_of(result), result.metrics
    seconds = float(steps.duration_s[window].sum())
    imbalance = float(steps.imbalance_sum()[window].mean())
    envelope = float((steps.alive * steps.load_max)[window].mean())
    return {
        "steps": len(steps),
        "window_steps": window.stop - window.start,
        "imbalance": imbalance,
        "imbalance_share": imbalance / envelope,
        "step_ms": 1e3 * seconds / (window.stop - window.start),
        "lost_share": float(steps.lost_s()[window].sum()) / seconds,
        "lost_kv_share": float(steps.lost_kv_s[window].sum()) / seconds,
        "lost_prefill_share": float(steps.lost_prefill_s[window].sum()) / seconds,
        "tokens_s": float(steps.active[window].sum()) / steps.span_s(window),
        "slots_in_use": float(steps.active[window].sum() / steps.slots[window].sum()),
        "max_wait_s": m.max_wait_s,
        "ttft_p99_s": m.ttft_p99_s,
        "tpot_p50_s": m.tpot_p50_s,
        "decisions": m.decisions,
        "unfinished": m.unfinished,
    }


class OnProcessor(BasePolicy):
    """A policy, and the processor's time for each of its decisions, whoever else computes.

    Parameters
    ----------
    inner : Policy
    """

    def __init__(self, inner: object) -> None:
        self.inner = as_policy(inner)
        self.horizon, self.holds_s = self.inner.horizon, self.inner.holds_s
        self.steps: list[int] = []
        self.took_ns: list[int] = []

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Ask the policy; see `brsolver.Policy`."""
        self.steps.append(cluster.step)
        began = thread_time_ns()
        pairs = self.inner.route(cluster, waiting)
        self.took_ns.append(thread_time_ns() - began)
        return pairs

    def took_us(self, window: slice) -> np.ndarray:
        """Return microseconds of decisions in a window of steps."""
        steps = np.array(self.steps)
        inside = (steps >= window.start) & (steps < window.stop)
        return np.array(self.took_ns)[inside] / 1000.0


def clocked_of(result: SimulationResult, policy: OnProcessor) -> dict[str, float]:
    """Return what decisions in the steady window, and the run, took on this machine."""
    took = policy.took_us(window_of(result))
    return {
        "decision_us_p50": float(np.percentile(took, 50)),
        "decision_us_p99": float(np.percentile(took, 99)),
        "decisions_s": sum(policy.took_ns) / 1e9,
        "run_s": result.metrics.wall_s,
    }


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB.

    Linux counts that of the process which started it into ``ru_maxrss``, and tells its own apart.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but bytes on macOS.
    return most / 1024**2 if sys.platform == "darwin" else most / 1024


def measured(run: Run, lengths: str | None = None) -> dict[str, float]:
    """Carry out a run in this process; `lengths` as of `trace_of`."""
    from brsolver import simulate
    from brsolver.registry import PolicySpec
    from brsolver.streams import stream

    began = perf_counter()
    trace = trace_of(run, lengths)
    drawn_s = perf_counter() - began
    spec = PolicySpec.parse(run.policy)
    policy = OnProcessor(spec.make(rng=stream(run.seed, "policy")))
    result = simulate(trace, policy, params_of(run))
    return {
        **figures_of(result),
        **clocked_of(result, policy),
        "trace_s": drawn_s,
        "peak_mib": peak_mib(),
    }


def main() -> None:
    """Read a run, write its figures; what is wrong is one line and status 1."""
    given = json.load(sys.stdin)
    run = Run(**given["run"])
    try:
        figures = measured(run, given["lengths"])
    except BrsolverError as error:
        sys.exit(f"{run.policy}: {error}")
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
