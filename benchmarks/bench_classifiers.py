"""Predictors of when requests end: time of a forecast, of training, and memory.

Run ``python -m benchmarks.bench_classifiers [--million]``; with the flag, training on a million
requests too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._table import show, times_us
from brsolver.predictors import ForecastQuery
from brsolver.traces import load_trace
from brsolver.traces.trace import Trace
from classifiers.evaluation.candidates import KINDS, make

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIVE = 512
HORIZON = 80
REPEAT = 2000
TRAINED_ON = 20_000

TRAINING = """
import resource, sys, time
from brsolver.traces import load_trace
from classifiers.evaluation.candidates import train
trace = load_trace("preset:chat:n={requests}")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
began = time.perf_counter()
train({kind!r}, trace, horizon=80, seed=0)
seconds = time.perf_counter() - began
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before)
"""
KEYS = """
import resource, time
import numpy as np
from brsolver.predictors import FinishedRequests
from classifiers.exact_match import ExactMatchPredictor
def observe(predictor, first, count):
    lengths = 1 + np.arange(count) % 800
    predictor.observe(FinishedRequests(
        request=np.arange(first, first + count), prompt_tokens=lengths, output_tokens=lengths,
        censored=np.zeros(count, bool),
        keys={"prompt_hash": np.arange(first, first + count) * 2654435761 % 2**61},
    ))
observe(ExactMatchPredictor(), 0, 1000)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began = peak(), time.perf_counter()
predictor = ExactMatchPredictor()
for turn in range(3):
    for first in range(0, 1_000_000, 10_000):
        observe(predictor, first, 10_000)
print(peak() - before, time.perf_counter() - began)
"""


def main(*, million: bool = False) -> None:
    """Print the tables."""
    _prediction()
    _training((TRAINED_ON, 1_000_000) if million else (TRAINED_ON,))
    _keys()


def _prediction() -> None:
    """Time forecasts of half-known requests: every second has a prompt seen before."""
    past, rng = _recurring(TRAINED_ON), np.random.default_rng(1)
    rows = rng.integers(len(past), size=ACTIVE)
    fresh = rng.random(ACTIVE) < 0.5
    query = ForecastQuery(
        request=np.arange(ACTIVE),
        age=rng.integers(0, past.output_tokens[rows]),
        prompt_tokens=past.prompt_tokens[rows],
        arrival_s=np.full(ACTIVE, 3600.0),
        keys={"prompt_hash": np.where(fresh, -1 - rows, past.columns["prompt_hash"][rows])},
    )
    table = []
    for kind in KINDS:
        predictor = make(kind, past, horizon=HORIZON, seed=0)
        forecast = times_us(lambda p=predictor: p.predict(query, HORIZON), REPEAT)
        curves = times_us(lambda p=predictor: p.survival(query, HORIZON), REPEAT // 10)
        table.append((kind, *np.percentile(forecast, (50, 99)).tolist(), float(np.median(curves))))
    show(
        f"Forecasts of {ACTIVE} active requests, H = {HORIZON}",
        ("predictor", "P50 us", "P99 us", "survival curves, P50 us"),
        table,
    )


def _recurring(requests: int) -> Trace:
    """Return a trace in which prompts come back, with output lengths of their own."""
    chat = load_trace(f"preset:chat:n={requests}")
    prompts = np.random.default_rng(0).zipf(1.3, size=requests) % (requests // 4)
    scale = np.random.default_rng(2).lognormal(0.0, 0.6, size=requests // 4)[prompts]
    return Trace(
        prompt_tokens=chat.prompt_tokens,
        output_tokens=np.maximum(1, np.rint(chat.output_tokens * scale)).astype(np.int64),
        arrival_s=chat.arrival_s,
        name="chat with recurring prompts",
        columns={"prompt_hash": prompts},
    )


def _training(sizes: Sequence[int]) -> None:
    rows = [
        (kind, requests, *_measured(TRAINING.format(requests=requests, kind=kind)))
        for requests in sizes
        for kind in KINDS
        if kind.startswith("hazard")
    ]
    show(
        "Training, H = 80",
        ("kind", "requests", "seconds", "peak MiB", "of which before training"),
        rows,
    )


def _keys() -> None:
    show(
        "ExactMatch, one million keys seen three times",
        ("peak MiB above the start", "seconds"),
        [_measured(KEYS)],
    )


def _measured(code: str) -> tuple[float, ...]:
    """Run code in a process of its own, whose peak memory is nobody else's."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(map(float, run.stdout.split()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true", help="train on a million requests too")
    main(million=parser.parse_args().million)
