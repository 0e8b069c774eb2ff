"""The simulator held against a server that computes prompts on its decode ranks.

Steps of one load are fitted, and another load's requests are simulated with what came of it: the
whole run, from the first request sent to the last one's end, since the first wave of prompts is
what most of a short run's first tokens wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import TraceError
from brsolver.hardware import Limits, Origin, fit_steps, hardware_of
from brsolver.hardware.readers.step_log import usable
from brsolver.hardware.step_time import BOUND, SHARED
from brsolver.simulator import Arrivals, Prefill, SimulationParams, simulate
from integration.bench.client import Outcome
from integration.bench.counters import Counters
from integration.bench.figures import figures_of
from integration.bench.simulated import TRANSIT_STEPS, staleness_of
from integration.bench.sweep_fit import ALL_PREFILL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.hardware import Fit
    from brsolver.hardware.step_time import StepTime
    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace
    from integration.bench.arms import Arm
    from integration.bench.steps import Steps

    FloatArray = NDArray[np.float64]

JUDGED: Mapping[str, str] = {
    "step_p50_ms": "step, P50, ms",
    "step_p95_ms": "step, P95, ms",
    "step_mean_ms": "step, mean, ms",
    "tpot_p50_ms": "TPOT, P50, ms",
    "tpot_p95_ms": "TPOT, P95, ms",
    "throughput_tok_s": "tok/s, whole run",
}
"""Figures that must be foretold."""
TOLD: Mapping[str, str] = {
    "ttft_p50_ms": "TTFT, P50, ms",
    "ttft_p95_ms": "TTFT, P95, ms",
    "at_engines": "requests at the engines, mean",
    "decode_step_p50_ms": "step without prefill, P50, ms",
    "prefill_step_p50_ms": "step with prefill, P50, ms",
    "prefill_steps": "steps with prefill, share",
    "steps": "steps",
}
"""Figures that say why, or that the model does not promise."""
ASKED = 0.15
"""Relative error that the judged figures are to stay within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A server, and how many requests it has in flight.

    Attributes
    ----------
    ranks, slots : int
        Data-parallel ranks, and sequences that each runs at most.
    budget : int
        Tokens that a rank computes in a step at most (``--max-num-batched-tokens``).
    capacity : int or None
        KV tokens that a rank holds; None is without end.
    concurrency : int
        Requests in flight.
    """

    ranks: int
    slots: int
    budget: int
    capacity: int | None
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A figure, measured and simulated.

    Attributes
    ----------
    name : str
        Of `JUDGED` or `TOLD`.
    rounds : tuple of float
        As each round measured it: what they differ by, nobody can foretell.
    simulated : float
    """

    name: str
    rounds: tuple[float, ...]
    simulated: float

    @property
    def measured(self) -> float:
        """Mean over rounds."""
        return sum(self.rounds) / len(self.rounds)

    @property
    def error(self) -> float:
        """Relative error of the simulation; NaN where nothing was measured."""
        return self.simulated / self.measured - 1 if self.measured else float("nan")

    @property
    def judged(self) -> bool:
        """Whether it is among those that must be foretold."""
        return self.name in JUDGED


def fit_of(steps: Steps) -> Fit:
    """Fit what a run's steps cost, prefill included.

    Raises
    ------
    ParameterError
        The steps do not tell the coefficients.
    """
    origin = Origin(file="the step log", dp=steps.running.shape[1])
    return fit_steps(usable(steps, origin), Limits(prefill_tokens=ALL_PREFILL))


def step_time_of(fit: Fit, *, factor: float = 1.0) -> StepTime:
    """Return the simulator's step time with a fit's coefficients, times a factor."""
    found = hardware_of(fit).step_time
    costs = {name: factor * getattr(found, name) for name in ("base", *BOUND, *SHARED)}
    return replace(found, **costs)


def longer_in_sum(fit: Fit) -> float:
    """Return what the fitted steps took together, over what the fit says of them.

    A fit is of typical steps: those that something else on the machine held up count little
    there, but make a run longer.
    """
    parts = (fit.decode, fit.prefill)
    fitted = sum(float(fit.seconds(part).sum()) for part in parts if len(part))
    return sum(float(part.seconds.sum()) for part in parts) / fitted


def foretell(
    trace: Trace,
    arm: Arm,
    step_time: StepTime,
    setting: Setting,
    *,
    transit_steps: int = TRANSIT_STEPS,
) -> SimulationResult:
    """Simulate the very requests, from the first sent to the last one's end."""
    params = SimulationParams(
        workers=setting.ranks,
        slots=setting.slots,
        capacity=setting.capacity,
        routing="pooled" if arm.mode == "pooled" else "immediate",
        arrivals=Arrivals(mode="closed", concurrency=setting.concurrency),
        prefill=Prefill(mode="colocated", budget=setting.budget, interval=arm.interval),
        step_time=step_time,
        transit_steps=transit_steps,
        staleness=staleness_of(arm),
    )
    return simulate(trace, arm.policy, params)


def foretold_figures(result: SimulationResult, trace: Trace) -> dict[str, float]:
    """Return what a session measures (`integration.bench.figures`), of a simulated run.

    Parameters
    ----------
    result : SimulationResult
    trace : Trace
        Its requests.
    """
    log = result.requests
    rows = zip(log.arrival_s, log.first_token_s, log.finish_s, trace.output_tokens, strict=True)
    outcomes = [
        Outcome(sent_s=float(sent), first_s=float(first), last_s=float(last), tokens=int(tokens))
        for sent, first, last, tokens in rows
    ]
    window = float(np.min(log.finish_s)), float(np.max(log.arrival_s))
    return figures_of(outcomes, window, Counters(), Counters(), None)


def measured_figures(outcomes: Sequence[Outcome], steps: Steps) -> dict[str, float]:
    """Return the figures of a run that was measured.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Of all its requests.
    steps : Steps
        Those that ended within it. The first of a wave has no duration and does not count, nor do
        steps in which no rank computes anything.

    Raises
    ------
    TraceError
        No step of it was logged.
    """
    worked = steps.where((steps.scheduled.sum(axis=1) > 0) & ~np.isnan(steps.duration_s))
    if not len(worked):
        raise TraceError("no step of this run was logged, the server must be started with logs")
    tokens = np.array([outcome.tokens for outcome in outcomes])
    took = max(o.last_s for o in outcomes) - min(o.sent_s for o in outcomes)
    return {
        **_of_steps(worked.duration_s, worked.prefill_tokens.sum(axis=1)),
        **_of_requests(
            np.array([outcome.tpot_s for outcome in outcomes])[tokens > 1],
            np.array([outcome.ttft_s for outcome in outcomes]),
        ),
        "throughput_tok_s": float(tokens.sum()) / took,
        "at_engines": _at_engines(worked),
    }


def simulated_figures(
    result: SimulationResult, trace: Trace, *, before_first_s: float = 0.0
) -> dict[str, float]:
    """Return the same figures of a simulated run.

    Parameters
    ----------
    result : SimulationResult
    trace : Trace
        Its requests.
    before_first_s : float
        Seconds that a request spends outside of any step before its first token comes.
    """
    log, steps, tokens = result.requests, result.steps, trace.output_tokens
    several = tokens > 1
    tpot = (log.finish_s - log.first_token_s)[several] / (tokens[several] - 1)
    return {
        **_of_steps(steps.duration_s, steps.prefill_tokens),
        **_of_requests(tpot, log.ttft_s() + before_first_s),
        "throughput_tok_s": float(tokens.sum()) / float(np.max(log.finish_s)),
        # Little's law: clients send the next request in the step that ends one.
        "at_engines": float(np.sum(log.finish_s - log.arrival_s)) / float(np.max(log.finish_s)),
    }


def outside_of_steps(outcomes: Sequence[Outcome], result: SimulationResult) -> float:
    """Return what the median first token takes beyond the simulated one, in seconds, at least 0.

    Of the load that steps were fitted to: what clients, the API server and sending take.
    """
    measured = np.median([outcome.ttft_s for outcome in outcomes])
    return max(0.0, float(measured - np.median(result.requests.ttft_s())))


def compare(
    rounds: Sequence[Mapping[str, float]], simulated: Mapping[str, float]
) -> tuple[Compared, ...]:
    """Put figures side by side, those that are judged first."""
    return tuple(
        Compared(name=name, rounds=tuple(each[name] for each in rounds), simulated=simulated[name])
        for name in (*JUDGED, *TOLD)
    )


def missed(compared: Iterable[Compared]) -> list[Compared]:
    """Return the judged figures that are further off than `ASKED`."""
    return [each for each in compared if each.judged and not abs(each.error) <= ASKED]


def as_table(compared: Sequence[Compared]) -> str:
    """Return a Markdown table of figures."""
    lines = ["| | rounds | simulated | error |", "|---|---|---|---|"]
    labels = {**JUDGED, **TOLD}
    missing = missed(compared)
    for each in compared:
        error = f"**{each.error:+.1%}**" if each in missing else f"{each.error:+.1%}"
        rounds = ", ".join(map(_number, each.rounds))
        lines.append(f"| {labels[each.name]} | {rounds} | {_number(each.simulated)} | {error} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _of_steps(seconds: FloatArray, prefill: NDArray[np.int64]) -> dict[str, float]:
    with_prefill = prefill > 0
    return {
        "step_p50_ms": _percentile_ms(seconds, 50),
        "step_p95_ms": _percentile_ms(seconds, 95),
        "step_mean_ms": 1e3 * float(np.mean(seconds)),
        "decode_step_p50_ms": _percentile_ms(seconds[~with_prefill], 50),
        "prefill_step_p50_ms": _percentile_ms(seconds[with_prefill], 50),
        "prefill_steps": float(np.mean(with_prefill)),
        "steps": float(seconds.size),
    }


def _at_engines(steps: Steps) -> float:
    """Return the requests that run or wait at the engines, mean over time.

    Fewer than in the simulation means that the API server or the client held some back.
    """
    there = (steps.running + steps.waiting).sum(axis=1)
    return float(np.average(there, weights=steps.duration_s))


def _of_requests(tpot_s: FloatArray, ttft_s: FloatArray) -> dict[str, float]:
    return {
        "tpot_p50_ms": _percentile_ms(tpot_s, 50),
        "tpot_p95_ms": _percentile_ms(tpot_s, 95),
        "ttft_p50_ms": _percentile_ms(ttft_s, 50),
        "ttft_p95_ms": _percentile_ms(ttft_s, 95),
    }


def _percentile_ms(seconds: FloatArray, percent: float) -> float:
    return 1e3 * float(np.percentile(seconds, percent)) if seconds.size else float("nan")
