"""Workers as proxies know them, by address and rank, and as the picker does, by number."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from integration.picker import Pump, WorkerSpec

    _Key = tuple[str, int | None]


class Fleet:
    """The workers there are, kept equal to what a source of endpoints says.

    Parameters
    ----------
    pump : Pump
        Its core was made with `specs`, in this order.
    specs : sequence of WorkerSpec
    is_open : callable, optional
        Tells whether a worker takes requests; by default the pump's core does.
    renamed : callable, optional
        Told in one line that a worker is not called what it was named; by default the pump's core.

    Attributes
    ----------
    specs : list of WorkerSpec
        Of every worker there ever was, by number.
    """

    def __init__(
        self,
        pump: Pump,
        specs: Sequence[WorkerSpec],
        *,
        is_open: Callable[[int], bool] | None = None,
        renamed: Callable[[str], object] | None = None,
    ) -> None:
        self._pump = pump
        self._renamed = partial(pump.core.fault, "renamed") if renamed is None else renamed
        self._is_open = self._by_core if is_open is None else is_open
        self.specs = list(specs)
        self._there = {_key(spec): worker for worker, spec in enumerate(self.specs)}
        self._turn = 0
        self._given = {_key(spec): spec.name for spec in self.specs}

    def __len__(self) -> int:
        return len(self._there)

    @property
    def there(self) -> list[int]:
        """Workers that have not been retired."""
        return list(self._there.values())

    @property
    def live(self) -> list[int]:
        """Workers that take requests: neither retired nor down."""
        return [worker for worker in self._there.values() if self._is_open(worker)]

    def _by_core(self, worker: int) -> bool:
        return self._pump.core.workers[worker].open

    def any_live(self) -> int | None:
        """Return one of the live workers, in turn; None if there is none."""
        live = self.live
        if not live:
            return None
        self._turn += 1
        return live[self._turn % len(live)]

    def worker(self, address: str, rank: int | None = None) -> int | None:
        """Return the worker at an address, of a rank where one server has several.

        Returns
        -------
        int or None
            None if there is none.
        """
        return self._there.get((address, rank))

    def at(self, address: str) -> list[int]:
        """Return the workers at an address: all ranks of a server."""
        return [worker for (where, _), worker in self._there.items() if where == address]

    def addresses(self) -> list[str]:
        """Return every server's address once."""
        return list(dict.fromkeys(address for address, _ in self._there))

    def set(self, specs: Iterable[WorkerSpec]) -> None:
        """Add the workers that are new, and retire those that are gone: their streams run on.

        Where another runs by now at the same address, one is gone and one is new: by its UID, or
        since either of two names is that of a worker elsewhere. Those that stay get the slots and
        the capacity that are said of them now.
        """
        wanted = {_key(spec): spec for spec in specs}
        moved = _moved(self._given, wanted)
        for key, worker in list(self._there.items()):
            spec = wanted.get(key)
            if spec is None or key in moved or spec.is_another_than(self.specs[worker]):
                del self._there[key]
                self._pump.retire(worker)
        for key, spec in wanted.items():
            if key in self._there:
                self._keep(self._there[key], spec)
            else:
                self._there[key] = self._add(spec)
        self._given = {key: spec.name for key, spec in wanted.items()}

    def _keep(self, worker: int, spec: WorkerSpec) -> None:
        there = self.specs[worker]
        if (spec.slots, spec.capacity) != (there.slots, there.capacity):
            self._pump.keep(worker, spec)
            self.specs[worker] = replace(there, slots=spec.slots, capacity=spec.capacity)

    def _add(self, spec: WorkerSpec) -> int:
        try:
            worker = self._pump.add_worker(spec)
        except ParameterError:
            given, names = spec.name, {each.name for each in self.specs}
            if given not in names:
                raise
            # Its namesake may still be draining: a pod that came back at the same address.
            free = next(n for n in count(2) if f"{given}~{n}" not in names)
            spec = replace(spec, name=f"{given}~{free}")
            worker = self._pump.add_worker(spec)
            text = f"{given} still has requests: its successor is called {spec.name}"
            self._renamed(text)
        self.specs[worker : worker + 1] = [spec]
        return worker


def _key(spec: WorkerSpec) -> _Key:
    return spec.address, spec.rank


def _moved(given: Mapping[_Key, str], wanted: Mapping[_Key, WorkerSpec]) -> set[_Key]:
    """Return places to which a name has come from elsewhere, or whose name is elsewhere by now."""
    before = {name: key for key, name in given.items()}
    after = {spec.name: key for key, spec in wanted.items()}
    return {
        key
        for key, name in given.items()
        if key in wanted
        and (after.get(name, key) != key or before.get(wanted[key].name, key) != key)
    }
