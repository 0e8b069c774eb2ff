"""The keys that requests may recur by: from columns to 64-bit numbers, most particular first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from brsolver.errors import ParameterError
from classifiers._match_kernels import fnv_all, join_candidates, mix_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from brsolver.predictors import IntArray

    Columns: TypeAlias = Mapping[str, NDArray[np.generic]]

KeyKind: TypeAlias = Literal["auto", "prompt", "prefix", "session", "tenant", "model"]

COLUMN_OF = {
    "prompt": "prompt_hash",
    "prefix": "hash_values",
    "session": "session",
    "tenant": "tenant",
    "model": "model",
}
"""Column that each kind of key is in."""

# One salt each, so that session 7 is not prompt 7.
_SALTS = {kind: 17 + number for number, kind in enumerate(COLUMN_OF)}
_AUTO = ("prompt", "prefix", "session")
_NO_CHAINS: IntArray = np.zeros(0, np.int64)


def kinds_in(columns: Columns, kind: KeyKind) -> tuple[str, ...]:
    """Return the kinds of key that requests with these columns go by.

    Raises
    ------
    ParameterError
        A particular kind is asked for, and its column is not there.
    """
    if kind == "auto":
        return tuple(name for name in _AUTO if COLUMN_OF[name] in columns)
    if COLUMN_OF[kind] not in columns:
        there = [name for name, column in COLUMN_OF.items() if column in columns]
        raise ParameterError(
            f"key is {kind}, but the requests have no {COLUMN_OF[kind]}; "
            f"they can go by {', '.join(there) or 'no key at all'}"
        )
    return (kind,)


def candidates(
    columns: Columns, kind: KeyKind, blocks: int, rows: IntArray
) -> tuple[IntArray, IntArray]:
    """Return the keys of the requests at `rows`, the most particular of each first.

    Parameters
    ----------
    columns : mapping of str to ndarray
        As in `brsolver.predictors.ForecastQuery.keys`.
    kind : str
        Kind of key; ``auto`` takes prompt, prefix and session, where they are there.
    blocks : int
        Longest prefixes of a chain that count.
    rows : ndarray of int64, shape (n,)
        Which requests.

    Returns
    -------
    offsets : ndarray of int64, shape (n + 1,)
    keys : ndarray of int64
        Ragged pair.

    Raises
    ------
    ParameterError
        A column is missing, or holds neither whole numbers nor texts.
    """
    kinds = kinds_in(columns, kind)
    at = kinds.index("prefix") if "prefix" in kinds else len(kinds)
    size = int(rows.max()) + 1 if len(rows) else 0
    chains = _NO_CHAINS, _NO_CHAINS
    if "prefix" in kinds:
        offsets = columns["hash_offsets"].astype(np.int64, copy=False)
        chains = offsets, key_numbers("hash_values", columns["hash_values"])
    before = _matrix(columns, kinds[:at], size)
    after = _matrix(columns, kinds[at + 1 :], size)
    joined: tuple[IntArray, IntArray] = join_candidates(
        before, *chains, _SALTS["prefix"], blocks, after, rows
    )
    return joined


def key_numbers(name: str, values: NDArray[np.generic]) -> IntArray:
    """Return the values of a column as 64-bit numbers, the same ones in every process.

    Whole numbers stand for themselves, texts for the FNV-1a hash of their code points.

    Parameters
    ----------
    name : str
        Of the column, for the message.
    values : ndarray, shape (n,)

    Returns
    -------
    ndarray of int64, shape (n,)

    Raises
    ------
    ParameterError
        The values are neither whole numbers nor texts.

    References
    ----------
    Fowler, Noll and Vo, The FNV non-cryptographic hash algorithm
    (draft-eastlake-fnv).
    """
    if values.dtype.kind in "iub":
        return np.ascontiguousarray(values).astype(np.int64, copy=False)
    if values.dtype.kind == "U":
        return _digests(values)
    if all(issubclass(own, str) for own in set(map(type, values))):
        return _digests(np.array(values.tolist(), np.str_))
    raise ParameterError(
        f"{name} holds {values.dtype} values, must hold whole numbers or texts without gaps"
    )


def _matrix(columns: Columns, kinds: tuple[str, ...], size: int) -> IntArray:
    out = np.empty((size, len(kinds)), np.int64)
    for at, kind in enumerate(kinds):
        name = COLUMN_OF[kind]
        out[:, at] = mix_all(key_numbers(name, columns[name][:size]), _SALTS[kind])
    return out


def _digests(texts: NDArray[np.generic]) -> IntArray:
    native = texts.astype(texts.dtype.newbyteorder("="), copy=False)
    codes, width = np.ascontiguousarray(native).view(np.uint32), native.dtype.itemsize // 4
    found: IntArray = fnv_all(codes.reshape(len(texts), width))
    return found
