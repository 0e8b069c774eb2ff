"""The workers: which of them take requests, and what their engines say."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.picker.asks import Gauges
    from integration.picker.params import PickerParams, WorkerSpec

LONGEST = 2**20
"""Tokens of a prompt, where no worker's capacity is known."""


class Witness(Enum):
    """By whose word a worker is down."""

    REQUESTS = auto()
    PROBES = auto()
    OPERATOR = auto()


class Worker:
    """A worker and how it is.

    Attributes
    ----------
    spec : WorkerSpec
    index : int
    slots : int
    capacity : int or None
        KV tokens.
    draining, gone : bool
        Whether it gets no more requests, has been taken away.
    failures : dict of Witness to int
        In a row, as requests and as probes tell.
    down_until : dict of Witness to float
        By whose word it is down, and when it is tried again if nobody says so before.
    suspect_since_s : float or None
        Since when it has been down, or on trial, without a sign of life.
    trial : int or None
        While it is tried again: how many requests it may have.
    reserved : int
        Slots that requests have there by the books: one for each of their sequences.
    sent, lost : int
        Sequences that were ever sent there by the books, and those that ended in any way but
        finished.
    foreign : int
        Requests that its engine says it has beyond those reserved.
    gauges : Gauges or None
        What its engine said last.
    """

    def __init__(self, spec: WorkerSpec, index: int, params: PickerParams) -> None:
        self.spec = spec
        self.index = index
        self.give_room(spec, params)
        self.draining = self.gone = False
        self.failures: dict[Witness, int] = {}
        self.down_until: dict[Witness, float] = {}
        self.suspect_since_s: float | None = None
        self.trial: int | None = None
        self.reserved = 0
        self.sent = self.lost = 0
        self.foreign = 0
        self.gauges: Gauges | None = None

    def give_room(self, spec: WorkerSpec, params: PickerParams) -> None:
        """Take in the slots and the capacity of a spec."""
        self.spec = replace(self.spec, slots=spec.slots, capacity=spec.capacity)
        self.slots = params.slots if spec.slots is None else spec.slots
        self.capacity = params.capacity if spec.capacity is None else spec.capacity

    @property
    def is_down(self) -> bool:
        """Whether it is taken to be down, by whose word ever."""
        return bool(self.down_until)

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return not (self.is_down or self.draining or self.gone)

    @property
    def withheld(self) -> int:
        """How many of its slots are not to be used while it is tried again."""
        return 0 if self.trial is None else max(self.slots - self.trial, 0)

    @property
    def state(self) -> str:
        """``up``, ``down``, ``draining`` or ``gone``."""
        if self.gone:
            return "gone"
        if self.is_down:
            return "down"
        return "draining" if self.draining else "up"


class Workers:
    """All of them, by index.

    Parameters
    ----------
    params : PickerParams
    """

    def __init__(self, params: PickerParams) -> None:
        self._params = params
        self._all: list[Worker] = []

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._all)

    def __getitem__(self, index: int) -> Worker:
        if not 0 <= index < len(self._all):
            raise StateError(f"no worker {index}: there are {len(self._all)}")
        return self._all[index]

    def made(self, spec: WorkerSpec) -> Worker:
        """Return a new worker, or one that is to take the place of one that is gone.

        Raises
        ------
        ParameterError
            There is one of that name, or it has more slots than a step has tokens.
        """
        gone = [other for other in self._all if other.gone]
        if any(other.spec.name == spec.name for other in self._all if not other.gone):
            raise ParameterError(f"worker {spec.name!r} is there already")
        # Indices are used again, a namesake's first: where every pod has a new name, they would
        # grow for ever.
        gone.sort(key=lambda other: other.spec.name != spec.name)
        index = gone[0].index if gone else len(self._all)
        self.check(spec)
        return Worker(spec, index, self._params)

    def check(self, spec: WorkerSpec) -> None:
        """Raise `ParameterError` where a worker would have more slots than a step has tokens."""
        slots = self._params.slots if spec.slots is None else spec.slots
        if self._params.prefill and slots > self._params.budget:
            raise ParameterError(
                f"slots of worker {spec.name!r} is {slots}, must be at most "
                f"{self._params.budget}, the tokens of a step"
            )

    def put(self, worker: Worker) -> None:
        """Enter a worker."""
        if worker.index == len(self._all):
            self._all.append(worker)
        else:
            self._all[worker.index] = worker

    @property
    def closed(self) -> list[int]:
        """Those that take no requests."""
        return [each.index for each in self._all if not each.open]

    @property
    def any_open(self) -> bool:
        """Whether any takes requests."""
        return any(each.open for each in self._all)

    def most_tokens(self) -> int:
        """KV tokens that the largest open worker holds, as far as any model goes."""
        sizes = [each.capacity or LONGEST for each in self._all if each.open]
        return max(sizes, default=LONGEST)
