"""Workers added and drained by hand: kept in a file, so that no picker after this one forgets."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, OutputError
from brsolver.traces.atomic import replacing
from integration.picker.params import WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "by-hand.json"


class ByHand:
    """What was done by hand since serving began.

    Parameters
    ----------
    path : Path, optional
        Where it is kept; what stands there holds. None keeps it nowhere.

    Attributes
    ----------
    added : dict of str to WorkerSpec
        By name.
    drained : set of str
        Names.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.added: dict[str, WorkerSpec] = {}
        self.drained: set[str] = set()
        # What cannot be read is of no use, and must keep nobody from serving.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, BrsolverError):
            if path is not None:
                values = json.loads(path.read_text(encoding="utf-8"))
                self.drained = set(values["drained"])
                self.added = {each["name"]: WorkerSpec(**each) for each in values["added"]}

    def __bool__(self) -> bool:
        return bool(self.added or self.drained)

    def among(self, named: Iterable[WorkerSpec]) -> list[WorkerSpec]:
        """Return workers that settings name and those added; at a place that has both, the latter.

        Whoever drained one and added another at its place wants that one.
        """
        added = {(each.address, each.rank): each for each in self.added.values()}
        kept = [
            each
            for each in named
            if (each.address, each.rank) not in added or each.name not in self.drained
        ]
        there = {(each.address, each.rank) for each in kept}
        return kept + [each for place, each in added.items() if place not in there]

    def add(self, spec: WorkerSpec) -> None:
        """Note that a worker was added."""
        self.drained.discard(spec.name)
        self.added[spec.name] = spec
        self._save()

    def drain(self, name: str) -> None:
        """Note that a worker was told to drain."""
        self.added.pop(name, None)
        self.drained.add(name)
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        values = {
            "added": [asdict(each) for each in self.added.values()],
            "drained": sorted(self.drained),
        }
        # It holds for this picker all the same.
        with contextlib.suppress(OutputError), replacing(self._path) as part:
            part.write_text(json.dumps(values), encoding="utf-8")
