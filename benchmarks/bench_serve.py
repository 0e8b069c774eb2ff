"""The front door beside other routers: what each costs between client and engines.

Compiled fake engines (4, one clock of 40 ms) and a compiled client; each arm is measured in every
round, one after the other, and held against `vllm-router` and against no router at all:

    python -m benchmarks.bench_serve --parts idle,paced200 --seconds 8 --rounds 2

`vllm-router` and `smg` are looked for in the folder that BRSOLVER_BENCH_ROUTERS names, and else
installed into an environment of their own. Linux only: processor time is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks._table import show
from benchmarks.serve.arms import BUILT_IN, DIRECT, commands, running
from benchmarks.serve.processes import NOTHING, Memory, Peak, cpu_seconds
from benchmarks.serve.programs import Load, compile_all, run_client, running_engines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.serve.arms import Listening
    from benchmarks.serve.programs import Engines

PARTS = {
    "idle": Load(streams=1, tokens=2),
    "paced200": Load(streams=200, spread_s=4.0),
    "paced500": Load(streams=500, spread_s=4.0),
    "saturated": Load(streams=200, clock_s=0.0),
    "soak": Load(streams=2000, spread_s=4.0),
}
"""`idle`: one request at a time. `paced`: so many streams at the engines' clock. `saturated`:
tokens as fast as sockets take them. `soak`: for memory and lost streams, with --seconds 300."""
USUAL = "idle,paced200,paced500,saturated"
BASELINE = "vllm-router"
BAD = ("lost", "torn", "refused", "broken", "unended")


@dataclass
class Measured:
    """An arm in one part, over rounds.

    Attributes
    ----------
    reports : list of dict
        Of the load client.
    cpu_ms : list of float
        Processor time of the arm per request, in ms.
    memory : Memory
        At most, in MiB.
    apart : dict of str to Memory
        Likewise, by program.
    """

    reports: list[dict[str, Any]] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    memory: Memory = NOTHING
    apart: dict[str, Memory] = field(default_factory=dict)

    def grown(self, peak: Peak) -> None:
        """Take in what memory it had at most."""
        self.memory = Memory(*map(max, self.memory, peak.most))
        for name, most in peak.apart.items():
            self.apart[name] = Memory(*map(max, self.apart.get(name, NOTHING), most))

    def rate(self) -> float:
        """Return tokens per second."""
        return median(report["tokens"] / report["seconds"] for report in self.reports)

    def of(self, name: str) -> float:
        """Return a figure of the client's."""
        return median(float(report[name]) for report in self.reports)

    def cpu(self) -> float:
        """Return processor time per request, in ms."""
        return median(self.cpu_ms)

    def bad(self) -> str:
        """Return what went wrong, by kind."""
        counts = {name: sum(report[name] for report in self.reports) for name in BAD}
        statuses = Counter[str]()
        for report in self.reports:
            statuses.update(report["statuses"])
        said = [f"{count} {name}" for name, count in counts.items() if count]
        said += [f"{count} answers {status}" for status, count in sorted(statuses.items())]
        return ", ".join(said) or "none"


def measure(
    folder: Path, engines: Engines, arm: Listening, load: Load, *, warm_s: float, seconds: float
) -> tuple[dict[str, Any], float, Peak]:
    """Measure an arm once; return the client's report, CPU ms per request and its memory."""
    used: dict[str, float] = {}
    engines.set_clock(load.clock_s)
    with Peak(arm.pids) as peak:
        report = run_client(
            folder,
            arm.ports,
            load,
            warm_s=warm_s + load.spread_s,
            seconds=seconds,
            on=lambda word: used.__setitem__(word, cpu_seconds(arm.pids)),
        )
    engines.set_clock(PARTS["idle"].clock_s)
    cpu_ms = (used["end"] - used["begin"]) * 1e3 / max(report["finished"], 1)
    return report, cpu_ms, peak


def rows(found: dict[str, Measured]) -> Iterable[list[object]]:
    """Return a part's table, an arm per row."""
    base, direct = found.get(BASELINE), found.get(DIRECT)
    for name, one in found.items():
        row: list[object] = [name, one.rate()]
        row.append(one.rate() / base.rate() if base else "-")
        ttft = one.of("ttft_p50_ms")
        row += [ttft, ttft - direct.of("ttft_p50_ms") if direct else "-"]
        row += [one.of("ttft_p95_ms"), one.of("tpot_p95_ms")]
        through = name != DIRECT
        row.append(one.cpu() if through else "-")
        row.append(one.cpu() / base.cpu() if base and through and base.cpu() else "-")
        row += [*(one.memory if through else ("-", "-"))]
        row.append(sum(report["all_finished"] for report in one.reports))
        row.append(one.bad())
        yield row


HEADER = (
    *("arm", "tok/s", f"of {BASELINE}", "TTFT P50 ms", "added", "TTFT P95 ms", "TPOT P95 ms"),
    *("CPU ms/request", f"of {BASELINE}", "RSS MiB", "PSS MiB", "requests", "bad"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table per part."""
    options = _options(arguments)
    parts = _named(options.parts, PARTS, "parts")
    arms = commands(options.arms.split(",") if options.arms else [], options.command)
    found = {part: {arm: Measured() for arm in arms} for part in parts}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_all(folder)
        engines = stack.enter_context(running_engines(folder, options.engines))
        up = [
            stack.enter_context(running(name, command, folder / name, engines.ports))
            for name, command in arms.items()
        ]
        for round_ in range(options.rounds):
            for part in parts:
                # Each arm is the first one in turn.
                for arm in up[round_ % len(up) :] + up[: round_ % len(up)]:
                    _measure_into(found[part][arm.name], folder, engines, arm, part, options)
    for part in parts:
        streams, ticks = PARTS[part].streams, PARTS[part].clock_s * 1e3
        asked = "" if options.usage else ", no usage asked for"
        title = f"{part}: {streams} streams, clock {ticks:g} ms{asked}"
        show(title, HEADER, list(rows(found[part])))
    if options.json:
        Path(options.json).write_text(json.dumps(_as_json(found, options), indent=1))


def _measure_into(
    one: Measured,
    folder: Path,
    engines: Engines,
    arm: Listening,
    part: str,
    options: argparse.Namespace,
) -> None:
    load = replace(PARTS[part], usage=options.usage)
    report, cpu_ms, peak = measure(
        folder, engines, arm, load, warm_s=options.warm, seconds=options.seconds
    )
    one.reports.append(report)
    one.cpu_ms.append(cpu_ms)
    one.grown(peak)
    rate = report["tokens"] / report["seconds"]
    mib = "".join(f", {name} {most.rss:.0f} MiB" for name, most in peak.apart.items())
    sys.stderr.write(f"{part} {arm.name}: {rate:,.0f} tok/s, {cpu_ms:.2f} ms/request{mib}\n")


def _as_json(found: dict[str, dict[str, Measured]], options: argparse.Namespace) -> dict[str, Any]:
    cells = {part: {arm: asdict(one) for arm, one in of.items()} for part, of in found.items()}
    return {"options": vars(options), "parts": cells}


def _named(text: str, known: dict[str, Load], what: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            sys.exit(f"bench_serve: --{what} has {name!r}, must be of {', '.join(known)}")
    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_serve", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", default=USUAL, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--arms", default=",".join(BUILT_IN), help=f"of {', '.join(BUILT_IN)}")
    parser.add_argument(
        "--command",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="a further arm; {port}, {engines} and {config} stand for where it is to listen,\n"
        "host:port of the engines, and a file for brsolver serve. Repeatable",
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before each")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument(
        "--no-usage",
        dest="usage",
        action="store_false",
        help="streams do not ask what they took, as most applications do not",
    )
    parser.add_argument("--json", metavar="FILE", help="also write all reports there")
    options = parser.parse_args(arguments)
    for name, least in (("seconds", 0.1), ("warm", 0.0), ("rounds", 1), ("engines", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}, must be at least {least}")
    return options


if __name__ == "__main__":
    main()
