"""Step logs of ours as measurements; `brsolver.hardware.readers.steps` says what they hold.

A step lasts from the end of the one before on the last rank to its own end there; ranks that have
no step in common wait for no other, and each counts by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.hardware.measurements import Measurements, Origin
from brsolver.hardware.readers.steps import read_ranks

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from brsolver.hardware.readers.steps import Steps


def recognises(names: Collection[str]) -> bool:
    """Return whether columns are those of a step log."""
    return "end_s" in names and "step" in names


def read(path: Path) -> Measurements:
    """Read a folder of step logs, or the log of one rank."""
    found = [_measured(path, steps) for steps in read_ranks(path)]
    return found[0] if len(found) == 1 else _joined(found)


def usable(steps: Steps, origin: Origin) -> Measurements:
    """Return the steps that can be fitted: with a duration, with work, and known loads."""
    known = (steps.decoding >= 0).all(axis=1) & (steps.scheduled.sum(axis=1) > 0)
    used = steps.where(known & (np.nan_to_num(steps.duration_s) > 0))
    return Measurements(
        sequences=used.decoding.astype(np.float64),
        kv_tokens=used.decode_kv.astype(np.float64),
        prefill_tokens=used.prefill_tokens.astype(np.float64),
        prefill_context=used.prefill_context.astype(np.float64),
        seconds=used.duration_s,
        origin=origin,
    )


def _measured(path: Path, steps: Steps) -> Measurements:
    origin = Origin(file=str(path), dp=steps.running.shape[1])
    found = usable(steps, origin)
    return replace(found, origin=replace(origin, notes=_notes(steps, len(found))))


def _notes(steps: Steps, used: int) -> tuple[str, ...]:
    told = (steps.decoding >= 0).all(axis=1)
    worked = steps.scheduled.sum(axis=1) > 0
    unknown, left = int((~told).sum()), int((told & worked).sum()) - used
    notes = {
        f"{steps.runs} runs of a server, each by itself": steps.runs > 1,
        f"left out {unknown:,} steps with prefill: no column tells its tokens": unknown > 0,
        f"left out {left:,} steps that begin a wave or follow a gap": left > 0,
    }
    return tuple(note for note, holds in notes.items() if holds)


def _joined(ranks: list[Measurements]) -> Measurements:
    """Put the steps of ranks that do not wait for each other one after another."""
    note = f"{len(ranks)} ranks have no step in common: each is taken by itself"
    notes = dict.fromkeys(note for each in ranks for note in each.origin.notes)
    arrays = {
        name: np.concatenate([getattr(each, name) for each in ranks])
        for name in ("sequences", "kv_tokens", "prefill_tokens", "prefill_context", "seconds")
    }
    return Measurements(**arrays, origin=replace(ranks[0].origin, notes=(note, *notes)))
