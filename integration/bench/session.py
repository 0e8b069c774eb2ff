"""An interleaved session: in every round each policy serves the same requests once."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from integration.bench.client import drive_server, warm_up
from integration.bench.counters import Counters, parse_counters
from integration.bench.figures import figures_of
from integration.bench.steps import STEPS, read_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from integration.bench.arms import Arm
    from integration.bench.client import Outcome
    from integration.bench.server import Server
    from integration.bench.steps import Steps
    from integration.bench.switching import Stage
    from integration.bench.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParams:
    """How the session is run.

    Attributes
    ----------
    rounds : int
        Rounds; each runs every arm once.
    waiting : int or None
        Requests in flight beyond what the slots hold, so that there is something to choose
        from; None means ``4·G``, the simulator's pool.
    confidence : float
        Level of the intervals.
    """

    rounds: int = 5
    waiting: int | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ParameterError(f"rounds is {self.rounds}, must be at least 1")
        if self.waiting is not None and self.waiting < 0:
            raise ParameterError(f"waiting is {self.waiting}, must be at least 0")
        if not 0 < self.confidence < 1:
            raise ParameterError(f"confidence is {self.confidence}, must be between 0 and 1")

    def concurrency(self, ranks: int, slots: int) -> int:
        """Return the requests in flight on `ranks` ranks of `slots` slots."""
        return ranks * slots + (4 * ranks if self.waiting is None else self.waiting)

    def require_window(self, requests: int, ranks: int, slots: int) -> None:
        """Raise `ParameterError` if so many requests leave no window to measure in."""
        concurrency = self.concurrency(ranks, slots)
        if requests < concurrency + 2:
            raise ParameterError(
                f"requests is {requests}, must be at least {concurrency + 2}: with {concurrency} "
                "in flight nothing else is left to measure"
            )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """The part of a run that counts: from the first request's end to the last one's sending.

    Attributes
    ----------
    first_s, end_s : float
        On the monotonic clock.
    before, after : Counters
        The adapter's metrics then; empty where it is not active.
    """

    first_s: float
    end_s: float
    before: Counters = field(default_factory=Counters)
    after: Counters = field(default_factory=Counters)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """One arm's run in one round.

    Attributes
    ----------
    arm : str
    round : int
    figures : mapping of str to float
        See `integration.bench.figures.FIGURES`; NaN where there is no source.
    steps : Steps or None
        Steps within the window, if the server's ranks log them.
    """

    arm: str
    round: int
    figures: Mapping[str, float]
    steps: Steps | None


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def run_session(
    arms: Sequence[Arm],
    workloads: Sequence[Workload],
    stage: Stage,
    params: SessionParams,
    *,
    report: Callable[[str], None] = _to_stderr,
) -> list[Run]:
    """Run every arm once per round, in an order that rotates.

    Parameters
    ----------
    arms : sequence of Arm
    workloads : sequence of Workload
        One per round; every arm gets its lengths, with prompts that no run before had.
    stage : Stage
        Where runs take place.
    params : SessionParams
    report : callable
        Takes lines about progress.

    Returns
    -------
    list of Run
        In the order in which they were made.

    Raises
    ------
    BrsolverError
        If a server does not start or breaks a request off.
    """
    runs: list[Run] = []
    for round_, workload in enumerate(workloads):
        for arm in rotated(arms, round_):
            label = f"round{round_}-" + "".join(c if c.isalnum() else "_" for c in arm.name)
            with stage.running(arm, label) as server:
                fresh = workload.with_new_prompts(len(runs))
                runs.append(_run(server, arm, round_, fresh, params))
            figures = runs[-1].figures
            report(
                f"round {round_ + 1}/{len(workloads)}, {arm.name}: "
                f"{figures['throughput_tok_s']:.1f} tok/s, "
                f"KV max/mean {figures['kv_imbalance']:.3f}"
            )
    return runs


def rotated(arms: Sequence[Arm], round_: int) -> list[Arm]:
    """Return the arms of a round: each leads in turn, so that drifts fall on all alike."""
    at = round_ % len(arms)
    return [*arms[at:], *arms[:at]]


def _run(server: Server, arm: Arm, round_: int, workload: Workload, params: SessionParams) -> Run:
    given = server.params
    warm_up(server, workload)
    concurrency = params.concurrency(given.ranks, given.slots)
    params.require_window(len(workload), given.ranks, given.slots)
    outcomes, window = measured(server, workload, concurrency)
    interval = (window.first_s, window.end_s)
    folder = given.environment.get(STEPS)
    steps = read_steps(Path(folder)).between(*interval) if folder else None
    figures = figures_of(outcomes, interval, window.before, window.after, steps)
    return Run(arm=arm.name, round=round_, figures=figures, steps=steps)


def measured(server: Server, workload: Workload, concurrency: int) -> tuple[list[Outcome], Window]:
    """Drive the workload, and note when the window begins and ends."""
    all_sent = len(workload) - concurrency
    marks: dict[str, _Mark] = {}

    def note(finished: int, _: int) -> None:
        for name, at in (("first", 1), ("end", all_sent)):
            if finished == at:
                marks[name] = _Mark(server)

    outcomes = drive_server(server, workload, concurrency=concurrency, progress=note)
    first, end = marks["first"], marks["end"]
    window = Window(
        first_s=first.at_s, end_s=end.at_s, before=first.counters(), after=end.counters()
    )
    return outcomes, window


class _Mark:
    """A moment, and the adapter's metrics at it, fetched beside the running load."""

    def __init__(self, server: Server) -> None:
        self.at_s = time.monotonic()
        self._text = ""
        self._thread = threading.Thread(target=self._fetch, args=(server,), daemon=True)
        self._thread.start()

    def _fetch(self, server: Server) -> None:
        try:
            self._text = server.get("/metrics", timeout_s=30.0)
        except OSError:
            self._text = ""

    def counters(self) -> Counters:
        self._thread.join()
        return parse_counters(self._text)
