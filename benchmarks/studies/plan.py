"""What is run: parts, policies, sizes of cluster."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from brsolver.campaign import Campaign, Cell
from brsolver.errors import BrsolverError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from brsolver import Trace

SLOTS = 64
"""Requests that a worker runs at once, B."""
BUDGET = 8192
"""Tokens that a worker computes in a step, where it computes its own prompts."""
WORKERS = (64, 256, 1024)
REQUESTS = 1_000_000
BASELINE = "vllm"

ELSEWHERE, COLOCATED = "elsewhere", "colocated"
PARTS = (
    ELSEWHERE, COLOCATED, "cells", "colocated-cells", "cells-by-time", "cells-at-once"
)  # fmt: skip
POOLED, IMMEDIATE = "pooled", "immediate"
LOAD = 0.9
"""Of the slots in use, in the mean, where requests come by time."""
POLICIES = MappingProxyType(
    {
        ELSEWHERE: (BASELINE, "jsq-load", "br-0", "br-h", "br-ramp"),
        COLOCATED: (BASELINE, "jsq-load", "br-t"),
    }
)
"""By where prompts are computed."""
CELLS = MappingProxyType(
    {
        ELSEWHERE: (
            "cells:size=64,d=2,inner=br-ramp",
            "cells:size=64,d=1,inner=br-ramp",
            "cells:size=64,d=16,inner=br-ramp",
            "cells:size=64,d=2,inner=br-ramp,by=requests",
            "cells:size=64,d=2,inner=br-ramp,by=load",
            "cells:size=256,d=2,inner=br-ramp",
            "cells:size=16,d=2,inner=br-ramp",
            "cells:size=64,d=2,inner=jsq-load",
            "cells:size=64,d=2,inner=br-0",
        ),
        COLOCATED: (
            "cells:size=64,d=2,inner=br-t",
            "cells:size=256,d=2,inner=br-t",
        ),
    }
)
"""Cells of workers instead of one router, by where prompts are computed."""
ONE_ROUTER = MappingProxyType(
    {ELSEWHERE: (BASELINE, "jsq-load", "br-0", "br-ramp"), COLOCATED: (BASELINE, "br-t")}
)
"""What cells are held against."""
INTERVAL = 32
"""Steps between two of prefill, with which cells that compute prompts are tried, too."""
WITH_INTERVAL = (
    "vllm",
    "jsq-load",
    "br-t",
    "cells:size=64,d=2,inner=br-t",
    "cells:size=64,d=2,inner=jsq-load",
)


BY_TIME = (
    "br-ramp",
    "cells:size=64,d=2,inner=br-ramp",
    "cells:size=64,d=1,inner=br-ramp",
)
"""Where requests come by time."""
AT_ONCE = ("jsq-load", "cells:size=64,d=2,inner=jsq-load")
"""Where every request is sent as it comes, by time as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a study.

    Attributes
    ----------
    prefill : {"elsewhere", "colocated"}
    source : str
        File of a trace, or ``preset:NAME``.
    workers : int
    policy : str
    seed : int
        Of the requests that are drawn, and of the run.
    requests : int
    per_slot : int
        Requests per slot that there are, where their number goes by the cluster; else 0.
    interval : int
        Workers compute prompts in steps divisible by this only (``prefill_schedule_interval``).
    routing : {"pooled", "immediate"}
    load : float
        Share of the slots that are in use in the mean, requests coming by time (Poisson); 0 keeps
        all slots full from a pool.
    """

    prefill: str
    source: str
    workers: int
    policy: str
    seed: int
    requests: int
    per_slot: int = 0
    interval: int = 1
    routing: str = POOLED
    load: float = 0.0

    @property
    def trace(self) -> str:
        """What tables call the trace."""
        return self.source.removeprefix("preset:") if self.drawn else Path(self.source).stem

    @property
    def drawn(self) -> bool:
        """Whether it is a preset."""
        return self.source.startswith("preset:")

    @property
    def key(self) -> dict[str, str | int | float]:
        """What tells it from others, wherever the file lies: of a file, what is in it."""
        return {
            "prefill": self.prefill,
            "trace": self.trace,
            "file": "" if self.drawn else print_of_file(self.source),
            "workers": self.workers,
            "policy": self.policy,
            "seed": self.seed,
            "requests": self.requests,
            "per_slot": self.per_slot,
            "interval": self.interval,
            "routing": self.routing,
            "load": self.load,
        }


@cache
def print_of_file(path: str) -> str:
    """Tell a file apart by its bytes; empty if it cannot be read, which its runs say."""
    with suppress(OSError), Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """How many requests runs have.

    Attributes
    ----------
    requests : int
        Whatever the cluster is.
    per_slot : int
        Per slot instead, if it is not 0.
    """

    requests: int = REQUESTS
    per_slot: int = 0

    def run(self, *, workers: int, **of: Any) -> Run:
        """Return a run of that many."""
        requests = self.per_slot * workers * SLOTS if self.per_slot else self.requests
        return Run(requests=requests, per_slot=self.per_slot, workers=workers, **of)


def runs(
    prefill: str, source: str, workers: Iterable[int], seeds: Iterable[int], sized: Sized
) -> list[Run]:
    """Return the runs of a part for one trace: by seed, small clusters first."""
    return [
        sized.run(prefill=prefill, source=source, workers=each, policy=policy, seed=seed)
        for seed in seeds
        for each in workers
        for policy in POLICIES[prefill]
    ]


def cell_runs(
    prefill: str, source: str, workers: int, seeds: Iterable[int], sized: Sized
) -> list[Run]:
    """Return the runs of cells instead of one router, and those that they are held against."""
    tried = [(policy, 1) for policy in (*ONE_ROUTER[prefill], *CELLS[prefill])]
    if prefill == COLOCATED:
        tried += [(policy, INTERVAL) for policy in WITH_INTERVAL]
    return [
        sized.run(
            prefill=prefill, source=source, workers=workers, policy=policy, seed=seed,
            interval=interval,
        )
        for seed in seeds
        for policy, interval in tried
    ]  # fmt: skip


def other_runs(
    policies: Iterable[str],
    source: str,
    workers: int,
    seeds: Iterable[int],
    sized: Sized,
    *,
    routing: str = POOLED,
    load: float = 0.0,
) -> list[Run]:
    """Return runs, prompts computed elsewhere, that are routed otherwise or come by time."""
    return [
        sized.run(
            prefill=ELSEWHERE, source=source, workers=workers, policy=policy, seed=seed,
            routing=routing, load=load,
        )
        for seed in seeds
        for policy in policies
    ]  # fmt: skip


def part_of(
    name: str, source: str, workers: Sequence[int], seeds: Sequence[int], sized: Sized
) -> list[Run]:
    """Return the runs of one of `PARTS` for one trace; of cells at the largest cluster."""
    most = max(workers)
    match name:
        case "elsewhere" | "colocated":
            return runs(name, source, workers, seeds, sized)
        case "cells" | "colocated-cells":
            prefill = ELSEWHERE if name == "cells" else COLOCATED
            return cell_runs(prefill, source, most, seeds, sized)
        case "cells-by-time":
            return other_runs(BY_TIME, source, most, seeds, sized, load=LOAD)
        case "cells-at-once":
            return other_runs(AT_ONCE, source, most, seeds, sized, routing=IMMEDIATE, load=LOAD)
    raise UnknownNameError.suggest("part", name, PARTS)


def _traces(planned: Sequence[Run]) -> dict[str, Trace]:
    from brsolver import load_trace

    found = {}
    for source in dict.fromkeys(run.source for run in planned if not run.drawn):
        # The runs of a file that is none say so.
        with suppress(BrsolverError):
            found[source] = load_trace(source)
    return found


def campaign_of(planned: Sequence[Run]) -> Campaign:
    """Return the campaign that carries out these runs."""
    from benchmarks.studies.measure import CLOCKED, alone

    return Campaign(
        name="studies",
        function=alone,
        cells=tuple(Cell(key=run.key, task=asdict(run)) for run in planned),
        shared=_traces(planned),
        settings={"slots": SLOTS, "budget": BUDGET},
        clocked=CLOCKED,
    )
