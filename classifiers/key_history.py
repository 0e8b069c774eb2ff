"""What has finished so far, by key and lately, in bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from classifiers._history_kernels import Counted, add_batch, look_up_batch, replay
from classifiers._key_store import MOST_KEYS, make_store
from classifiers.key_columns import key_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from brsolver.predictors import FloatArray, IntArray

KEY_COLUMNS = ("session", "hash_values", "prompt_hash", "tenant")
"""Columns that can be a request's key; the first that there is counts."""


def ragged_keys(columns: Mapping[str, NDArray[np.generic]], size: int) -> tuple[IntArray, IntArray]:
    """Return each request's keys as a ragged pair (offsets, values), the most telling last.

    Prefix-hash chains have one key per block, other columns one per request. Without any of
    `KEY_COLUMNS` nobody has a key.

    Parameters
    ----------
    columns : mapping of str to ndarray
        As in `brsolver.traces.Trace` or `brsolver.predictors.ForecastQuery`.
    size : int
        Number of requests.

    Raises
    ------
    ParameterError
        The column holds neither whole numbers nor texts.
    """
    column = next((name for name in KEY_COLUMNS if name in columns), None)
    if column is None:
        return np.zeros(size + 1, np.int64), np.zeros(0, np.int64)
    offsets = columns["hash_offsets"] if column == "hash_values" else np.arange(size + 1)
    return offsets.astype(np.int64), key_numbers(column, columns[column])


class KeyHistory:
    """Numbers and mean lengths of finished requests by key, and their mean of late.

    The recent mean weighs the n-th last finished request by ``exp(-n/m)``. A request with
    several keys (the blocks of a prefix-hash chain) counts under each, and is looked up by the
    last of its keys that has a history: its longest known prefix.

    Parameters
    ----------
    capacity : int
        Keys held, 1 to 2³⁰; the one least recently added to makes room. 41 to 49 bytes each.
    memory : float
        Finished requests m over which the recent mean forgets, at least 1.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    def __init__(self, *, capacity: int = 1 << 20, memory: float = 500.0) -> None:
        if not 1 <= capacity <= MOST_KEYS:
            raise ParameterError(f"capacity is {capacity}, must be from 1 to {MOST_KEYS:,} keys")
        if not memory >= 1:
            raise ParameterError(f"memory is {memory}, must be at least 1 request")
        self._keep = math.exp(-1.0 / memory)
        self._counted = Counted(make_store(capacity), np.zeros((capacity, 2)), np.zeros(3))

    @property
    def finished(self) -> int:
        """Requests added so far."""
        return int(self._counted.recent[2])

    def add(self, columns: Mapping[str, NDArray[np.generic]], output_tokens: IntArray) -> None:
        """Count finished requests, in order of their end."""
        offsets, keys = ragged_keys(columns, len(output_tokens))
        lengths = output_tokens.astype(np.float64)
        add_batch(self._counted, offsets, keys, lengths, self._keep)

    def look_up(self, columns: Mapping[str, NDArray[np.generic]], size: int) -> FloatArray:
        """Return key count, key mean and recent mean of `size` requests, shape (size, 3).

        What is not known is NaN, but the count of an unknown key is 0.
        """
        out = np.empty((size, 3))
        look_up_batch(self._counted, *ragged_keys(columns, size), out)
        return out

    def replay(
        self,
        columns: Mapping[str, NDArray[np.generic]],
        output_tokens: IntArray,
        finish_s: FloatArray,
        asked_s: FloatArray,
        row: IntArray,
    ) -> FloatArray:
        """Look samples up as `look_up` would have when each was asked about.

        Parameters
        ----------
        columns, output_tokens
            Of all requests that finish.
        finish_s : ndarray of float64, shape (requests,)
            When each does.
        asked_s : ndarray of float64, shape (n,)
            When each sample is asked about.
        row : ndarray of int64, shape (n,)
            The request that it asks about.

        Returns
        -------
        ndarray of float64, shape (n, 3)
        """
        order = np.argsort(asked_s, kind="stable")
        found = np.empty((len(row), 3))
        offsets, keys = ragged_keys(columns, len(output_tokens))
        finished = np.argsort(finish_s, kind="stable")
        replay(
            self._counted,
            offsets,
            keys,
            output_tokens.astype(np.float64),
            self._keep,
            finish_s,
            finished,
            asked_s[order],
            row[order],
            found,
        )
        out = np.empty_like(found)
        out[order] = found
        return out
