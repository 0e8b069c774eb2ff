"""The parts of a gap: carried out here or anywhere, and kept as they end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from brsolver.campaign import FAILED, WALL_S, Cell, ResultStore
from brsolver.errors import BrsolverError
from brsolver.executors import Lost, executor_of
from brsolver.executors.inline import InlineExecutor
from brsolver.oracles._kept import RESULT, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brsolver.campaign.cells import Plain
    from brsolver.executors import ExecutorParams, Lane
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

Progress = Callable[[int, int], None]

BY_ITSELF, BY_CLOCK, BROKEN_OFF = "by itself", "by the clock", "broken off"
"""How a part ended. By itself, it gives the same wherever and whenever it is carried out."""

AHEAD = 4
"""Parts that are handed in for each one that is carried out: some may hold much memory."""

LIMIT_S, ENDED = "limit_s", "ended"
"""Columns besides a campaign's, and `RESULT`: what it might take, and how it ended."""


def _by_itself(value: Any, seconds: float) -> str:
    del value, seconds
    return BY_ITSELF


def _no_figures(value: Any) -> Mapping[str, Plain]:
    del value
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One unit of work.

    Attributes
    ----------
    kind : str
        What it is: the first column of its row.
    name : str
        What it is called in messages.
    function : callable
        Of a module's top level; takes the `HeldOut` and `arguments`.
    arguments : tuple
    key : mapping of str to plain value
        What its result depends on besides trace, parameters and predictor; limits aside.
    ready : callable, optional
        Called before the clock starts, where it is carried out: compiles, loads solvers.
    limit_s : float or None
        Seconds that it may take.
    ended : callable
        Says of result and seconds how it ended: `BY_ITSELF`, `BY_CLOCK` or `BROKEN_OFF`.
    figures : callable
        Says of a result which figures its row shows.
    """

    kind: str
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    key: Mapping[str, Plain] = field(default_factory=dict)
    ready: Callable[[], object] | None = None
    limit_s: float | None = None
    ended: Callable[[Any, float], str] = _by_itself
    figures: Callable[[Any], Mapping[str, Plain]] = _no_figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a part.

    Attributes
    ----------
    at : int
        Its place among those that were handed in.
    value : object
        What it gave, or the `BrsolverError` by which it failed.
    seconds : float
        What it took, when it was carried out.
    """

    at: int
    value: Any
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether there is nothing but an error."""
        return isinstance(self.value, BrsolverError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Where parts are kept, and what all of them depend on; see `brsolver.campaign`.

    Attributes
    ----------
    folder : str or Path
    settings : mapping of str to plain value
    key : mapping of str to plain value
        What the parts of one call have in common, and those of another in the folder may not.
    """

    folder: str | Path
    settings: Mapping[str, Plain]
    key: Mapping[str, Plain]

    @property
    def name(self) -> str:
        """Return what campaign it is."""
        return "gap"

    @property
    def key_names(self) -> tuple[str, ...]:
        """Return the first columns of rows."""
        return ("part", "policy", *self.key)


class Parts:
    """Carries out parts, by one lane for all, and keeps what they give.

    The lane is opened when a part is first missing: where all are kept, nothing is started.

    Parameters
    ----------
    held : HeldOut
    params : SimulationParams
    executor : ExecutorParams or None
        None: in this process, one after the other.
    kept : Kept or None
    progress : callable, optional
        Called with (parts that are there, all parts that are known of).
    """

    def __init__(
        self,
        held: HeldOut,
        params: SimulationParams,
        *,
        executor: ExecutorParams | None = None,
        kept: Kept | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.held, self.params = held, params
        self._executor = InlineExecutor() if executor is None else executor_of(executor)
        self._kept, self._progress = kept, progress
        self._store: ResultStore | None = None
        self._open = ExitStack()
        self._lane: Lane | None = None
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._done = self._expected = self._handed_in = 0

    def __enter__(self) -> Self:
        if self._kept is not None:
            self._store = self._open.enter_context(ResultStore(self._kept.folder, self._kept))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def expect(self, more: int) -> None:
        """Say that so many more parts will be handed in, or fewer."""
        self._expected += more
        self._tell()

    def results(
        self, parts: Iterable[Part], *, most_s: float = math.inf, least: int = 0
    ) -> Iterator[Done]:
        """Carry out parts, unless they are kept; yields what came of each as it ends.

        Parameters
        ----------
        parts : iterable of Part
        most_s : float
            Once those that have ended took so many seconds together, also in earlier calls, no
            more is handed in. What is kept beyond is there all the same: an earlier call had it
            under way when its time was up.
        least : int
            So many are handed in whatever the others took.
        """
        waiting: Iterator[tuple[int, Part]] = enumerate(parts)
        running: dict[int, tuple[int, Part]] = {}
        first, spent_s = self._handed_in, 0.0
        # What is under way when a limit is reached takes its seconds all the same.
        ahead = AHEAD if most_s == math.inf else 1
        while True:
            while not running or len(running) < ahead * self._slots():
                at_end = self._handed_in - first >= least and spent_s >= most_s
                if (asked := next(waiting, None)) is None:
                    break
                done = self._found(first, *asked)
                if done is None and at_end:
                    waiting = iter(())
                    break
                self._handed_in += 1
                if done is None:
                    running[self._submit(asked[1])] = asked
                    continue
                spent_s += done.seconds
                yield done
            if not running:
                return
            number, outcome = self._opened().next()
            done = self._ended(first, *running.pop(number), outcome)
            spent_s += done.seconds
            yield done

    def finish(self) -> None:
        """Write ``results.parquet``, if anything is kept: a row per part, in their order."""
        if self._store is None or self._kept is None:
            return
        from brsolver.campaign.tables import as_table

        rows = [self._rows[at] for at in sorted(self._rows)]
        self._store.finish(as_table(rows, self._kept.key_names))

    def _opened(self) -> Lane:
        if self._lane is None:
            opened = self._executor.open(_carried_out, {"held": self.held})
            self._lane = self._open.enter_context(opened)
        return self._lane

    def _slots(self) -> int:
        return self._opened().slots

    def _submit(self, part: Part) -> int:
        return self._opened().submit((part.name, part.function, part.arguments, part.ready))

    def _cell(self, part: Part) -> Cell:
        beside = {} if self._kept is None else self._kept.key
        return Cell(key={"part": part.kind, **beside, **part.key}, task=None)

    def _found(self, first: int, at: int, part: Part) -> Done | None:
        """Return what is kept of a part, if the clock leaves it as good as what is asked for."""
        if self._store is None:
            return None
        row = self._store.rows.get(self._cell(part).identity)
        if row is None or row[FAILED] is not None:
            return None
        if row[ENDED] != BY_ITSELF and (row[LIMIT_S] or 0.0) < (part.limit_s or 0.0):
            return None
        self._note(first + at, row)
        return Done(at=at, value=unpacked(row[RESULT], self.params), seconds=row[WALL_S])

    def _ended(self, first: int, at: int, part: Part, outcome: Any) -> Done:
        if isinstance(outcome, Lost):
            outcome = BrsolverError(f"{part.name}: {outcome.reason}"), 0.0
        value, seconds = outcome
        done = Done(at=at, value=value, seconds=seconds)
        self._keep(first + at, part, done)
        return done

    def _keep(self, place: int, part: Part, done: Done) -> None:
        if self._store is None:
            self._note(place, {})
            return
        cell, row = self._cell(part), self._row(part, done)
        self._note(place, row)
        if row[FAILED] is not None or row[ENDED] != BROKEN_OFF:
            self._store.add(cell.identity, row)

    def _row(self, part: Part, done: Done) -> Mapping[str, Any]:
        key = self._cell(part).key
        if done.failed:
            reason = " ".join(str(done.value).split()).removeprefix(f"{part.name}: ")
            return {**key, FAILED: reason, WALL_S: None}
        return {
            **key,
            **part.figures(done.value),
            LIMIT_S: part.limit_s,
            ENDED: part.ended(done.value, done.seconds),
            RESULT: packed(done.value),
            FAILED: None,
            WALL_S: done.seconds,
        }

    def _note(self, place: int, row: Mapping[str, Any]) -> None:
        if row:
            self._rows[place] = row
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None and self._done:
            self._progress(self._done, max(self._done, self._expected))


def _carried_out(task: Any, shared: Mapping[str, Any]) -> tuple[Any, float]:
    """Return what a part gives, or the error by which it fails, and its seconds."""
    name, function, arguments, ready = task
    began = time.perf_counter()
    try:
        if ready is not None:
            ready()
            began = time.perf_counter()
        value = function(shared["held"], *arguments)
    except BrsolverError as error:
        value = error
    except (Exception, SystemExit) as error:  # noqa: BLE001 # a policy may raise anything
        cause = str(error).strip().partition("\n")[0]
        value = BrsolverError(f"{name}: {type(error).__name__}: {cause}")
    return value, time.perf_counter() - began
