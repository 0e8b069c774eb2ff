"""Runs in every regime under every policy, each drawn from its number, and their digests.

Names no module below the public ones, so that the same file runs on any version of the code.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver import BrsolverError, SimulationParams, SimulationResult, Trace, simulate
from brsolver.simulator import Arrivals, Prefill, Staleness, StepTime, WorkerEvent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]
    Digests = tuple[str, str]

SOLVED = 12
"""The last runs, tiny ones, whose policies call a solver."""

RUNS = 2012
RECORDED = Path(__file__).with_name("golden_runs.csv")

# As often as each stands here.
POLICIES = (
    *("br-h",) * 11, *("br-0",) * 5, *("bf-io",) * 3, *("phi", "fast-phi", "local-search") * 2,
    "random", "round-robin", "p2c", "p2c-load", "jsq", "jsq-load", "vllm-0.20", "vllm",
    "sglang-total-tokens", "atom-least-tokens", "fcfs", "lpt",
)  # fmt: skip

_STAGES = {"s_greedy": (0, 1, 3, 20, 1000), "r_max": (1, 2, 4, 8, 9, 16)}
_STEP = {
    "objective": ("score", "imbalance"),
    "horizon": (0, 3, 12, 40),
    "gamma": (0.5, 1),
    "alpha": (2,),
    "beta": (0, 3),
    "growth": ("true",),
    "hold": ("true",),
}
OPTIONS: dict[str, dict[str, tuple[object, ...]]] = {
    "br-0": {**_STAGES, "patience": (0, 1, 3, 10, 40)},
    "br-h": {
        **_STAGES,
        "patience": (0, 1, 3, 10, 40),
        "horizon": (0, 1, 5, 20, 40, 150),
        "gamma": ("auto", 0.5, 0.86, 0.98, 1),
        "projection": ("expected", "expected", "survival"),
        "growth": ("true",),
        "alpha": (0.5, 2),
        "beta": (0, 1.5, 8),
    },
    "bf-io": {
        "horizon": (0, 1, 8, 40),
        "s_greedy": (0, 3, 1000),
        "window": (1, 4, 16, 64),
        "alpha": (0.5,),
        "beta": (0, 8),
        "gamma": (0.5, 1),
    },
    "phi": {"horizon": (1, 8, 50)},
    "fast-phi": {"k": (2, 3, 9, 40)},
    "atom-least-tokens": {"request_tokens": (0, 64)},
    "local-search": {**_STEP, "kicks": (0, 3, 10)},
    "milp-step": _STEP,
    "lp-round": _STEP,
}
EXACT = (
    "exact", "exact", "exact:withdraw=false", "exact:shrinkage=3", "exact:samples=2,capacity=8",
    "exact:train=0.3", "exact:key=prompt,least=2", "exact:key=session,shrinkage=0.01",
    "exact:key=session,withdraw=false", "exact:key=tenant", "exact:key=prefix,blocks=2",
    "exact:memory=30,growth=0", "exact:pending=3",
)  # fmt: skip
SURVIVAL = (
    "survival", "survival:memory=20", "survival:growth=0", "survival:growth=0.5",
    "survival:train=0.3", "survival:train=0.2,memory=40",
)  # fmt: skip


class _Dice:
    """Draws from a seed, by what no version of numpy has drawn differently."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._rng.random())

    def chance(self, probability: float) -> bool:
        return float(self._rng.random()) < probability

    def pick(self, *among: Any) -> Any:
        return among[int(self._rng.integers(len(among)))]

    def order(self, *items: Any) -> list[Any]:
        return [items[at] for at in self._rng.permutation(len(items))]

    def wholes(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        return self._rng.integers(low, high + 1, count)

    def reals(self, count: int) -> NDArray[np.float64]:
        return self._rng.random(count)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a trace is drawn from."""

    seed: int
    count: int
    prompts: str
    longest_prompt: int
    outputs: str
    longest_output: int
    gaps: str
    gap_s: float
    columns: tuple[str, ...]

    def trace(self) -> Trace:
        dice = _Dice(self.seed, 1)
        prompt = _lengths(dice, self.prompts, self.longest_prompt, self.count)
        output = _lengths(dice, self.outputs, self.longest_output, self.count)
        columns: Columns = {}
        if "prompt_hash" in self.columns:
            keys = dice.wholes(0, self.count // 5, self.count)
            columns["prompt_hash"] = keys
            output = np.minimum(output[keys] + dice.wholes(0, 2, self.count), self.longest_output)
        if "session" in self.columns:
            columns["session"] = dice.wholes(0, self.count // 4, self.count)
        if "tenant" in self.columns:
            columns["tenant"] = np.array(["ada", "bob", "eve"])[dice.wholes(0, 2, self.count)]
        if "chains" in self.columns:
            columns |= _chains(dice, self.count)
        if "max_tokens" in self.columns:
            spare = dice.wholes(0, self.longest_output, self.count)
            columns["max_tokens"] = output + spare * (dice.reals(self.count) < 0.6)
        return Trace(
            prompt_tokens=prompt,
            output_tokens=output,
            arrival_s=_arrivals(dice, self.gaps, self.gap_s, self.count),
            columns=columns,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: what `simulate` is given."""

    number: int
    requests: Recipe
    policy: str
    predictor: str | None
    params: SimulationParams

    def simulate(self) -> SimulationResult:
        trace = self.requests.trace()
        return simulate(trace, self.policy, self.params, predictor=self.predictor)


def _lengths(dice: _Dice, kind: str, longest: int, count: int) -> NDArray[np.int64]:
    if kind == "equal":
        return np.full(count, longest)
    if kind == "two":
        return np.where(dice.reals(count) < 0.8, 1 + longest // 9, longest)
    if kind == "skewed":
        return 1 + (longest * dice.reals(count) ** 3).astype(np.int64)
    drawn = dice.wholes(1, longest, count)
    if kind == "drifting":
        drawn[: count // 2] = 1 + drawn[: count // 2] // 6
    return drawn


def _arrivals(dice: _Dice, kind: str, gap_s: float, count: int) -> NDArray[np.float64] | None:
    if kind == "none":
        return None
    gaps = 2 * gap_s * dice.reals(count)
    if kind == "bursts":
        gaps *= 8 * (dice.reals(count) < 1 / 8)
    gaps[0] = 0.0
    return np.cumsum(gaps)


def _chains(dice: _Dice, count: int) -> Columns:
    lengths = dice.wholes(0, 4, count)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    depth = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    branch = np.repeat(dice.wholes(0, 5, count), lengths)
    return {"hash_offsets": offsets, "hash_values": 100 * depth + branch * (depth > 0)}


def draw(number: int) -> Run:
    """Draw a run: its cluster, its load, its regime, what routes and what forecasts."""
    dice = _Dice(number)
    tiny = RUNS - SOLVED <= number < RUNS
    names = ("milp-step", "lp-round") if tiny else POLICIES
    name = names[number % len(names)]
    workers = dice.whole(2, 3) if tiny else dice.whole(1, 9)
    slots = tuple(dice.wholes(1, 3 if tiny else 12, workers).tolist())
    if dice.chance(0.7):
        slots = (slots[0],) * workers
    # Decisions cost time, steps hardly any: a few runs outgrow logs and samples of loads.
    steps = dice.pick(6000, 14000) if dice.chance(0.05) else dice.whole(8, 400)
    steps = dice.whole(8, 30) if tiny else steps
    count = dice.whole(8, 20) if tiny else dice.whole(20, dice.pick(80, 300))
    longest_output = min(max(2 * steps * sum(slots) // count, 2), 5000)
    longest_prompt = dice.pick(3, 40, 900, 900, 6000)
    step_time, step_s = _step_time(dice, 0.75 * max(slots) * (longest_prompt + longest_output))
    work_s = step_s * count * longest_output / sum(slots) / 2
    predictor, columns = _predictor(dice, name)
    arrivals, prefill, gaps = _arrival_regime(dice, count / work_s)
    requests = Recipe(
        seed=number,
        count=count,
        prompts=dice.pick("uniform", "uniform", "skewed", "two", "equal"),
        longest_prompt=longest_prompt,
        outputs=dice.pick("uniform", "uniform", "skewed", "two", "equal", "drifting", "drifting"),
        longest_output=longest_output,
        gaps=gaps,
        gap_s=work_s / count * dice.pick(0.3, 0.9, 1.2, 4.0),
        columns=columns,
    )
    capacity = _capacity(dice, requests, workers)
    slow = steps > 1000
    params = SimulationParams(
        workers=workers,
        slots=slots if dice.chance(0.9) or len(set(slots)) > 1 else slots[0],
        capacity=capacity,
        routing=dice.pick("pooled", "pooled", "pooled", "immediate", "immediate"),
        arrivals=arrivals,
        prefill=prefill,
        step_time=step_time,
        staleness=Staleness() if slow or dice.chance(0.7) else _staleness(dice, step_s),
        events=_events(dice, slots, capacity, steps, step_s) if dice.chance(0.45) else (),
        transit_steps=dice.pick(0, 0, 0, 0, 1, 1, 2, 5),
        refresh_steps=dice.pick(1, 2, 2, 5, 5, 32, 100),
        seed=dice.whole(0, 2**40),
        warmup_steps=dice.pick(0, 0, 0, 3, steps),
        drain=dice.pick("exclude", "exclude", "include"),
        max_steps=dice.whole(1, steps) if dice.chance(0.1) else None,
        clients=dice.pick(1, 2, 4),
    )
    policy = _policy(dice, name)
    return Run(number=number, requests=requests, policy=policy, predictor=predictor, params=params)


def _policy(dice: _Dice, name: str) -> str:
    options = OPTIONS.get(name, {})
    given = [f"{key}={dice.pick(*among)}" for key, among in options.items() if dice.chance(0.4)]
    if name in {"br-0", "br-h"}:
        given.append("guard=false")  # it came later, and is on by default
    if name in {"milp-step", "lp-round"}:
        given.append("time_limit_s=600")
    return f"{name}:{','.join(given)}" if given else name


def _predictor(dice: _Dice, name: str) -> tuple[str | None, tuple[str, ...]]:
    kinds = [None, SURVIVAL, EXACT, EXACT, ("oracle",), ("none",)]
    if name in {"phi", "fast-phi"} and dice.chance(0.9):
        kinds = [None, SURVIVAL]
    among = dice.pick(*kinds)
    predictor = None if among is None else dice.pick(*among)
    columns = [
        column
        for column, wish in (
            ("prompt_hash", "key=prompt"), ("session", "key=session"), ("tenant", "key=tenant"),
            ("chains", "key=prefix"), ("max_tokens", "exact"),
        )
        if dice.chance(0.95 if predictor is not None and wish in predictor else 0.3)
    ]  # fmt: skip
    return predictor, tuple(columns)


def _step_time(dice: _Dice, load: float) -> tuple[StepTime, float]:
    """Draw a model; return it with the duration of a step at about this load."""
    per_token = dice.pick(0.0, 1e-7, 1e-6, 1e-5)
    base = 0.0 if per_token and dice.chance(0.2) else dice.pick(0.005, 0.02)
    model = dice.pick("affine", "affine", "max-mean", "table")
    if model == "table":
        loads = (0.0, *sorted(dice.real(0.01, 0.9) * load for _ in range(dice.whole(1, 3))))
        *first, longest = sorted(dice.real(0.005, 0.03) for _ in loads)
        seconds = (*dice.order(*first), longest)
        return StepTime(model="table", loads=loads, seconds=seconds), longest
    if model == "max-mean":
        per_mean = dice.pick(0.0, 1e-7, 3e-6)
        params = StepTime(model=model, base=base, per_token=per_token, per_mean_token=per_mean)
        return params, base + (per_token + per_mean) * load / 2
    given = StepTime() if dice.chance(0.4) else StepTime(base=base, per_token=per_token)
    return given, given.base + given.per_token * load / 2


def _arrival_regime(dice: _Dice, rate: float) -> tuple[Arrivals, Prefill, str]:
    mode = dice.pick("pool", "pool", "timestamps", "rate", "utilization")
    gaps = dice.pick("even", "even", "bursts", "bursts", "none")
    if mode == "pool":
        pool = dice.pick(None, 1, dice.whole(2, 60))
        return Arrivals(pool=pool), Prefill(), gaps
    if mode == "timestamps":
        gaps = gaps if dice.chance(0.1) else dice.pick("even", "bursts")
        arrivals = Arrivals(mode="timestamps")
    elif mode == "rate":
        arrivals = Arrivals(mode="rate", rate=rate * dice.pick(0.3, 0.9, 1.2, 4.0))
    else:
        arrivals = Arrivals(mode="utilization", utilization=dice.pick(0.3, 0.9, 1.2, 4.0))
    prefill = dice.pick(
        Prefill(),
        Prefill(mode="delay", delay_s=dice.pick(0.0, 0.3 / rate, 10 / rate), tokens_per_s=2e5),
        Prefill(mode="tier", tokens_per_s=dice.pick(1e4, 1e6), workers=dice.whole(1, 3)),
    )
    return arrivals, prefill, gaps


def _capacity(dice: _Dice, requests: Recipe, workers: int) -> int | tuple[int, ...] | None:
    if dice.chance(0.5):
        return None
    trace = requests.trace()
    largest = int((trace.prompt_tokens + trace.output_tokens - 1).max())
    if dice.chance(0.04):
        return largest - 1
    if dice.chance(0.1):
        return 1000 * largest
    spare = dice.pick(0, largest // 4, largest, 4 * largest)
    if dice.chance(0.5):
        return largest + spare
    each = [largest + dice.whole(0, spare), *(dice.wholes(1, 2 * largest, workers - 1).tolist())]
    return tuple(dice.order(*each))


def _staleness(dice: _Dice, step_s: float) -> Staleness:
    age = dice.pick(1, 2, 5, 20)
    by_steps = dice.chance(0.5)
    return Staleness(
        steps=age if by_steps else 0,
        ms=0.0 if by_steps else 1000 * step_s * age * dice.real(0.5, 1.5),
        mode=dice.pick("delay", "periodic"),
        local_correction=dice.chance(0.5),
    )


def _events(
    dice: _Dice,
    slots: tuple[int, ...],
    capacity: int | tuple[int, ...] | None,
    steps: int,
    step_s: float,
) -> tuple[WorkerEvent, ...]:
    """Draw failures, most of which are mended, and new workers, some of which fail in turn."""
    events = []
    timed = dice.chance(0.5)

    def add(kind: Any, worker: int, at: int) -> None:
        at_step, at_s = (None, at * step_s) if timed ^ dice.chance(0.02) else (at, None)
        size, room = dice.pick(None, dice.whole(1, 12)), None
        if kind == "join" and isinstance(capacity, tuple):
            room = dice.pick(None, max(capacity))
        size = size if kind == "join" else None
        events.append(
            WorkerEvent(
                kind=kind, worker=worker, at_step=at_step, at_s=at_s, slots=size, capacity=room
            )
        )

    count, latest = len(slots), max(2, 2 * steps // 3)
    victims = count if dice.chance(0.15) else dice.whole(0, min(count, 3))
    for victim in dice.order(*range(count))[:victims]:
        failed = dice.whole(0, latest)
        add("fail", victim, failed)
        if dice.chance(0.7):
            add("join", victim, failed + dice.whole(1, latest))
    joined = 0
    for new in range(dice.pick(0, 0, 1, 2) if victims else dice.whole(1, 2)):
        joined = dice.whole(joined, max(joined, latest))
        add("join", count + new, joined)
        if dice.chance(0.3):
            add("fail", count + new, joined + dice.whole(1, latest))
    if dice.chance(0.03):
        add(dice.pick("fail", "join"), count + dice.whole(0, 3), latest)
    return tuple(dice.order(*events))


def outcome(run: Run) -> Digests:
    """Carry a run out; return the digests of its trajectory and of its times.

    In place of the trajectory stands the class of the exception if the run raises one.
    """
    try:
        result = run.simulate()
    except BrsolverError as error:
        return type(error).__name__, ""
    return digest(*trajectory(result)), digest(*times(result))


def trajectory(result: SimulationResult) -> list[object]:
    """Return who ran where and when, in steps, and how loads went."""
    log, steps, samples, metrics = result.requests, result.steps, result.samples, result.metrics
    # Recorded when nobody was told of steps outside a table.
    notes = [note for note in result.notes if "measured table of step times" not in note]
    return [
        log.worker, log.start_step, log.finish_step, log.preemptions, log.status,
        steps.active, steps.alive, steps.slots,
        steps.load_max, steps.load_min, steps.load_sum,
        steps.post_max, steps.post_min, steps.post_sum,
        samples.step, samples.load, samples.running,
        result.dispatch_us.size, metrics.window_first, metrics.window_end, len(notes),
    ]  # fmt: skip


def times(result: SimulationResult) -> list[object]:
    """Return what happened when, in seconds."""
    log, steps = result.requests, result.steps
    return [
        log.arrival_s, log.ready_s, log.start_s, log.first_token_s, log.finish_s,
        steps.start_s, steps.duration_s, result.samples.time_s,
    ]  # fmt: skip


def digest(*figures: object) -> str:
    """Return 16 hexadecimal digits that stand for these figures to the last bit."""
    sha = hashlib.sha256()
    for figure in figures:
        array = np.ascontiguousarray(figure)
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64, copy=False)
        sha.update(repr(array.shape).encode() + array.tobytes())
    return sha.hexdigest()[:16]


def recorded() -> dict[int, Digests]:
    """Return the digests on record, by the number of the run."""
    with RECORDED.open(encoding="ascii", newline="") as file:
        return {
            int(row["number"]): (row["trajectory"], row["times"]) for row in csv.DictReader(file)
        }
