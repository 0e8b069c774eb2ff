"""Random streams: one per subsystem, all from one seed."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, subsystem: str) -> np.random.Generator:
    """Return the generator of one subsystem.

    Streams of different names are independent, so that drawing more in one subsystem leaves
    every other as it was.

    Parameters
    ----------
    seed : int
        The run's seed, at least 0.
    subsystem : str
        Name of the stream, e.g. ``"arrivals"`` or ``"policy"``.
    """
    key = zlib.crc32(subsystem.encode())
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))
