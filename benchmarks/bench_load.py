"""`brsolver load` beside other clients on the same server, and how many streams it sustains.

    python -m benchmarks.bench_load capacity --streams 100,500,1000
    python -m benchmarks.bench_load agree --rounds 6 --vllm .vllm-rig/bin/python \
        --guidellm guidellm --aiperf aiperf

`agree` sends the same requests at the same times to a fake engine (or to --target) by each client
in turn, first one, then another in each round, and holds what they say against what the engine
wrote down. Figures whose intervals lie more than 3 % from ours are marked. `--vllm` is an
interpreter that has vLLM, `--guidellm` and `--aiperf` are those programs; a client that is not
named is left out. All need a tokenizer; without `--tokenizer` one is trained on the documentation.
 `capacity` has compiled fake engines, whose tokens come every 40 ms,
and raises the number of streams; a C compiler is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from benchmarks._load_clients import (
    BLOCK,
    FIGURES,
    LATENCIES,
    Seen,
    aiperfs,
    guidellms,
    ours,
    vllms,
)
from benchmarks._load_truth import Log, Served, beside, lateness, served
from benchmarks._load_wire import Wire
from benchmarks._table import show
from benchmarks.serve.programs import compile_all, running_engines
from brsolver.traces import Trace
from integration.bench.statistics import relative_difference
from integration.load.params import ContentParams, LoadParams, Pace, TargetParams
from integration.load.running import run_load
from integration.serve.processes import Running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks._load_clients import Client

CLOCK_S = 0.04
TOKENS = 100
CHARACTERS = 2.54
"""Of a token of guidellm's texts, by the tokenizer that is trained here; others send numbers."""
VOCABULARY = 3000
WITHIN = 0.03
"""By how much figures of two clients may differ."""
APART = "apart"
"""Said of a figure whose interval lies beyond that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a client's round.

    Attributes
    ----------
    seen : Seen
    truth : Served or None
        What the server wrote down, if it does.
    due_s : ndarray of float64, shape (n,)
        When requests were due.
    """

    seen: Seen
    truth: Served | None
    due_s: NDArray[np.float64]


class Engine(Running):
    """A fake engine; its `url` is known once it is up."""

    def __init__(self, ranks: int, speed: float, log: Path) -> None:
        self.url = ""
        options = ["--ranks", str(ranks), "--slots", "32", "--port", "0", "--speed", str(speed)]
        options += ["--characters-per-token", str(CHARACTERS), "--log", str(log)]
        super().__init__(["fake-engine", *options], ready=self._said)

    def _said(self, line: str) -> bool:
        if line.startswith("http"):
            self.url = line.split(maxsplit=1)[0]
        return line == "ready"


def write_tokenizer(folder: Path) -> None:
    """Train a small tokenizer on the documentation, and write it as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pages = sorted(Path(__file__).parents[1].glob("docs/*.md"))
    made.train_from_iterator((page.read_text(encoding="utf-8") for page in pages), trainer)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_requests(
    path: Path, requests: int, rate: float, seed: int, lead_s: float = 0.0
) -> NDArray[np.float64]:
    """Write requests as a Mooncake file, which all clients read, and return when they are due.

    No two prompts begin alike, nor are equally long as long as there are lengths left. The first
    comes `lead_s` seconds before what follows.
    """
    rng = np.random.default_rng(seed)
    lengths = np.arange(100, 900)
    prompts = np.concatenate([rng.permutation(lengths) for _ in range(-(-requests // 800))])
    at = np.cumsum(rng.exponential(1 / rate, requests))
    at = np.round(at - at[0], 3) + np.where(np.arange(requests) > 0, lead_s, 0.0)
    # Nor does one of another round, which a prefix cache would still hold.
    block = seed * 10**6
    with path.open("w", encoding="utf-8") as stream:
        for seconds, prompt in zip(at, prompts.tolist(), strict=False):
            blocks = -(-prompt // BLOCK)
            row = {
                "timestamp": round(1000 * float(seconds)),
                "input_length": prompt,
                "output_length": int(rng.integers(10, 80)),
                "hash_ids": list(range(block, block + blocks)),
            }
            block += blocks
            stream.write(json.dumps(row) + "\n")
    return at


def clients_of(given: argparse.Namespace) -> dict[str, Client]:
    """Return those that are to be had, ours first."""
    clients: dict[str, Client] = {"brsolver load": ours}
    if given.vllm:
        clients["vllm bench serve"] = vllms
    if given.guidellm:
        clients["guidellm"] = guidellms
    if given.guidellm and given.guidellm_slots:
        slots = given.guidellm_slots
        clients[f"guidellm, {slots} slots"] = partial(guidellms, slots=slots)
    if given.aiperf:
        clients["aiperf"] = aiperfs
    return clients


def agree(given: argparse.Namespace) -> None:
    """Print the figures of each client, how far ours are from the others', and the server's."""
    pace = f"{given.concurrency} in flight" if given.concurrency else f"{given.rate:g} per second"
    _print(measured(given), f"{given.requests} requests, {pace}, {given.rounds} rounds", given)


def measured(given: argparse.Namespace) -> dict[str, list[Outcome]]:
    """Return what became of each client's rounds."""
    clients = clients_of(given)
    found: dict[str, list[Outcome]] = {name: [] for name in clients}
    with tempfile.TemporaryDirectory(prefix="brsolver-load-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        if given.tokenizer is None:
            given.tokenizer = str(folder / "tokenizer")
            write_tokenizer(Path(given.tokenizer))
        url, log = given.target, cast("Log | Wire | None", None)
        if url is None:
            url = stack.enter_context(Engine(given.ranks, given.speed, folder / "log.jsonl")).url
            log = Log(folder / "log.jsonl")
        if given.wire:
            log = stack.enter_context(Wire(int(url.rpartition(":")[2])))
        for round_ in range(given.rounds):
            path = folder / f"requests{round_}.jsonl"
            due = write_requests(path, given.requests, given.rate, round_, given.lead)
            names = list(clients)
            # Each is first in its turn: what others leave behind meets all alike.
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                found[name].append(_round(clients[name], url, path, log, due, given))
                print(f"round {round_}, {name}: {_short(found[name][-1])}", file=sys.stderr)
    return found


def _round(
    client: Client,
    url: str,
    path: Path,
    log: Log | Wire | None,
    due: NDArray[np.float64],
    given: argparse.Namespace,
) -> Outcome:
    if log is not None:
        log.skip()
    seen = client(url, path, given)
    truth = None if log is None else served(log.rows(), seen, due.size)
    return Outcome(seen=seen, truth=truth, due_s=due)


def _short(outcome: Outcome) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in outcome.seen.told.items())


def _print(found: Mapping[str, Sequence[Outcome]], title: str, given: argparse.Namespace) -> None:
    told = {name: [each.seen.told for each in runs] for name, runs in found.items()}
    alike = {name: [each.seen.figures for each in runs] for name, runs in found.items()}
    _show_beside(f"{title}: as each reports them", told)
    _show_beside(f"{title}: percentiles of all by one definition", alike)
    if any(each.truth is None for runs in found.values() for each in runs):
        return
    by = "loopback device" if given.wire else "server's log"
    _show_truth(f"{title}: beside the {by}, means of rounds", found)
    _show_arrivals(f"{title}: when requests came, by the {by}", found, given.concurrency)


def _show_beside(title: str, told: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print means of rounds, and ours to others' with intervals over rounds."""
    mine, *others = told
    rows: list[list[object]] = []
    for figure in FIGURES:
        values = {name: [each[figure] for each in runs] for name, runs in told.items()}
        means = [f"{np.mean(each):.2f}" for each in values.values()]
        rows.append([figure, *means, *(_to(values[mine], values[name]) for name in others)])
    show(title, ["figure", *told, *(f"to {name}" for name in others)], rows)


def _to(mine: Sequence[float], others: Sequence[float]) -> str:
    found = relative_difference(mine, others)
    if len(mine) < 2:
        return f"{found.mean:+.1%}"
    apart = f" {APART}" if found.low > WITHIN or found.high < -WITHIN else ""
    return f"{found.mean:+.1%} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{apart}"


def _show_truth(title: str, found: Mapping[str, Sequence[Outcome]]) -> None:
    rows: list[list[object]] = []
    for name, runs in found.items():
        truths = [beside(each.seen, each.truth) for each in runs if each.truth is not None]
        for latency in LATENCIES:
            p99 = f"{latency}_p99_ms"
            mean = {key: float(np.mean([truth[key] for truth in truths])) for key in truths[0]}
            ratio = _to([each.seen.figures[p99] for each in runs], [t[p99] for t in truths])
            columns = ("p50", "p99", "more_p50", "more_p99")
            cells = [f"{mean[f'{latency}_{column}_ms']:.2f}" for column in columns]
            rows.append([name, latency, *cells, ratio])
    header = ["client", "latency", "server P50, ms", "P99", "client sees more, P50", "P99"]
    show(title, [*header, "client's P99 to server's"], rows)


def _show_arrivals(title: str, found: Mapping[str, Sequence[Outcome]], concurrency: int) -> None:
    """Print how late requests came; of a closed loop, how its start went, when all come at once."""
    header = ["client", "it tells of", "later than the trace, ms, P50", "P99", "most"]
    if concurrency:
        some = f"TTFT P99, ms, of the first {concurrency}"
        header = ["client", "it tells of", f"{concurrency} within, ms", some, "of the rest"]
    rows: list[list[object]] = []
    for name, runs in found.items():
        pairs = [(each, each.truth) for each in runs if each.truth is not None]
        told = sum(truth.place.size for _, truth in pairs) / sum(
            each.due_s.size for each, _ in pairs
        )
        figures = [
            _start(truth, concurrency) if concurrency else _late(each, truth)
            for each, truth in pairs
        ]
        rows.append([name, f"{told:.1%}", *(f"{value:.1f}" for value in np.mean(figures, axis=0))])
    show(title, header, rows)


def _late(outcome: Outcome, truth: Served) -> list[float]:
    late = lateness(truth, outcome.due_s)
    return [float(1e3 * np.percentile(late, p)) for p in (50, 99, 100)]


def _start(truth: Served, concurrency: int) -> list[float]:
    first = truth.place < concurrency
    span = 1e3 * float(np.ptp(truth.came_s[:concurrency]))
    return [span, *(float(1e3 * np.percentile(truth.ttft_s[of], 99)) for of in (first, ~first))]


def capacity(given: argparse.Namespace) -> None:
    """Print what the client makes of more and more streams."""
    with tempfile.TemporaryDirectory(prefix="brsolver-load-") as folder:
        compile_all(Path(folder))
        with running_engines(Path(folder), 1) as engines:
            engines.set_clock(CLOCK_S)
            url = f"http://127.0.0.1:{engines.ports[0]}"
            rows = [_streams(url, int(streams)) for streams in given.streams.split(",")]
    show(
        f"streams of a token every {1e3 * CLOCK_S:g} ms, {TOKENS} tokens each",
        [
            "streams",
            "tok/s",
            "to the server's",
            "busy",
            "CPU us/tok",
            "TPOT P50, ms",
            "P99",
            "lag P99",
        ],
        rows,
    )


def _streams(url: str, streams: int) -> list[object]:
    requests = 3 * streams
    trace = Trace(
        prompt_tokens=np.full(requests, 100), output_tokens=np.full(requests, TOKENS), name="equal"
    )
    params = LoadParams(
        target=TargetParams(url=url),
        pace=Pace(concurrency=streams),
        content=ContentParams(),
        warm_up=0,
    )
    figures = run_load(trace, params).figures
    return [
        streams,
        f"{figures.output_tok_s:,.0f}",
        f"{figures.output_tok_s / (streams / CLOCK_S):.1%}",
        f"{figures.busy:.0%}",
        f"{1e6 * figures.busy / figures.output_tok_s:.1f}",
        f"{1e3 * figures.tpot.p50:.2f}",
        f"{1e3 * figures.tpot.p99:.2f}",
        f"{1e3 * figures.lag.p99:.1f}",
    ]


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = made.add_subparsers(required=True)
    one = parts.add_parser("agree")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--requests", type=int, default=200)
    one.add_argument("--rate", type=float, default=8.0)
    one.add_argument("--concurrency", type=int, default=0, help="a closed loop instead of times")
    one.add_argument("--ranks", type=int, default=2)
    one.add_argument("--speed", type=float, default=1.0, help="of the fake engine")
    one.add_argument("--target", help="a server of your own instead of a fake engine")
    one.add_argument("--model", default="fake")
    one.add_argument("--vllm", help="interpreter that has vLLM")
    one.add_argument("--guidellm", help="the program")
    one.add_argument(
        "--guidellm-slots", type=int, help="guidellm a second time, with so many requests at most"
    )
    one.add_argument("--aiperf", help="the program")
    one.add_argument(
        "--wire", action="store_true", help="listen to the loopback device, not to the log (root)"
    )
    one.add_argument("--lead", type=float, default=0.0, help="seconds after the first request")
    one.add_argument("--tokenizer", help="folder of the model's tokenizer")
    one.set_defaults(part=agree)
    two = parts.add_parser("capacity")
    two.add_argument("--streams", default="100,250,500,1000,1500,2000")
    two.set_defaults(part=capacity)
    return made


def main(arguments: list[str] | None = None) -> None:
    """Run the part that is asked for."""
    given = parser().parse_args(arguments)
    given.part(given)


if __name__ == "__main__":
    main()
