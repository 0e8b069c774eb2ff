"""Workers added and drained by hand: kept in a file, so that no picker after this one forgets."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, OutputError
from brsolver.traces.atomic import replacing
from integration.picker.params import WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE, PREFILL_FILE = "by-hand.json", "prefill-by-hand.json"
"""Of the workers that decode, and of those that compute prompts."""
MOST_KEPT = 4096
"""Of those drained: pods that are gone for good are told apart from no others."""


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
    drained : dict of str to (str or None)
        Names, and what ran there, where that is known: `WorkerSpec.uid`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.added: dict[str, WorkerSpec] = {}
        self.drained: dict[str, str | None] = {}
        # What cannot be read is of no use, and must keep nobody from serving.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, BrsolverError):
            if path is not None:
                values = json.loads(path.read_text(encoding="utf-8"))
                self.drained = dict(values["drained"])
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
            if (each.address, each.rank) not in added or not self.has_drained(each)
        ]
        there = {(each.address, each.rank) for each in kept}
        return kept + [each for place, each in added.items() if place not in there]

    def add(self, spec: WorkerSpec) -> None:
        """Note that a worker was added."""
        self.drained.pop(spec.name, None)
        self.added[spec.name] = spec
        self._save()

    def drain(self, name: str, uid: str | None = None) -> None:
        """Note that a worker was told to drain."""
        self.added.pop(name, None)
        self.drained[name] = uid
        self._save()

    def has_drained(self, spec: WorkerSpec) -> bool:
        """Tell whether a worker was told to drain: this one, not one of its name before it."""
        if spec.name not in self.drained:
            return False
        return not spec.is_another_than(replace(spec, uid=self.drained[spec.name]))

    def forget_left(self, named: Iterable[WorkerSpec]) -> None:
        """Forget who was drained and has left for good, now that these are there.

        Who comes under that name again is another one. One that has a uid may come back as itself,
        as a pod that was not ready for a while.
        """
        there = {each.name: each for each in named}
        kept = {
            name: uid
            for name, uid in self.drained.items()
            if (self.has_drained(there[name]) if name in there else uid is not None)
        }
        if kept != self.drained:
            self.drained = dict(list(kept.items())[-MOST_KEPT:])
            self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        values = {
            "added": [asdict(each) for each in self.added.values()],
            "drained": self.drained,
        }
        # It holds for this picker all the same.
        with contextlib.suppress(OutputError), replacing(self._path) as part:
            part.write_text(json.dumps(values), encoding="utf-8")
