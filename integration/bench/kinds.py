"""The kinds of steps at a point of a sweep: decoding only, and with chunks between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.hardware import Origin
from brsolver.hardware.readers.step_log import usable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.hardware import Measurements
    from integration.bench.steps import Steps
    from integration.bench.sweep import Point

    BoolArray = NDArray[np.bool_]

ENOUGH = 8
"""Steps of a kind, of which a median tells something where steps of one load differ twofold."""


def kinds_of(point: Point, steps: Measurements) -> dict[str, BoolArray]:
    """Return, by kind, which steps have all of a point's sequences decoding, shape (K,) each."""
    full = (steps.sequences == np.array(point.sequences)).all(axis=1)
    prefill = steps.prefill_tokens
    computing = (prefill > 0).sum(axis=1)
    whole = ((prefill == 0) | (prefill == point.chunk)).all(axis=1)
    ranks = len(point.sequences)
    kinds = {
        "decode": full & (computing == 0),
        "chunk on one rank": full & whole & (computing == 1),
    }
    if ranks > 1:
        kinds["chunk on all"] = full & whole & (computing == ranks)
    return {kind: mask for kind, mask in kinds.items() if mask.any()}


def is_scant(point: Point, steps: Steps) -> bool:
    """Tell whether some kind of step at a point was seen less than `ENOUGH` times."""
    found = kinds_of(point, usable(steps, Origin(file="")))
    counts = [int(mask.sum()) for mask in found.values()]
    return len(counts) < (3 if len(point.sequences) > 1 else 2) or min(counts) < ENOUGH
