"""Results as bytes, and back again as they were, without running what the bytes say.

A JSON text, in which arrays stand by their numbers, and the arrays' bytes, compressed. Only classes
that the reader names come out of it.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import fields
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ModelError
from brsolver.results.barrier import StepBands, TimeLost
from brsolver.results.comparison import Run
from brsolver.results.curves import Curves, Gantt, Waves
from brsolver.results.metrics import Metrics
from brsolver.results.request_times import RequestTimes
from brsolver.results.waiting import RankFigures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Arrays = list[NDArray[Any]]
    Kinds = Mapping[str, type]


def kinds_of(classes: Iterable[type]) -> Kinds:
    """Return dataclasses and enumerations by name, as `to_bytes` and `from_bytes` take them."""
    return MappingProxyType({kind.__name__: kind for kind in classes})


_KINDS = kinds_of(
    (Run, Metrics, Curves, Gantt, Waves, StepBands, TimeLost, RankFigures, RequestTimes)
)
_SIZE_BYTES = 8
"""Of the number that says how long the text is."""


def run_to_bytes(run: Run) -> bytes:
    """Return a run as bytes: same run, same bytes.

    A policy's parameter that is neither a number, a text, an array nor made of these becomes its
    text.
    """
    return to_bytes(run, _KINDS)


def run_from_bytes(data: bytes) -> Run:
    """Return the run that `run_to_bytes` was given.

    Raises
    ------
    ModelError
        The bytes are damaged.
    """
    run = from_bytes(data, _KINDS, what="a run")
    if not isinstance(run, Run):
        raise ModelError(f"a run that was kept is a {type(run).__name__}, must be a Run")
    return run


def to_bytes(value: Any, kinds: Kinds) -> bytes:
    """Return a value as bytes: same value, same bytes.

    Parameters
    ----------
    value : object
        Made of numbers, texts, arrays, tuples, lists, mappings and `kinds`; anything else becomes
        its text.
    kinds : mapping of str to type
        See `kinds_of`.
    """
    arrays: Arrays = []
    told = _told(value, arrays, kinds)
    laid = [np.ascontiguousarray(array) for array in arrays]
    shapes = [(array.dtype.str, array.shape) for array in arrays]
    head = json.dumps({"arrays": shapes, "told": told}).encode()
    parts = (len(head).to_bytes(_SIZE_BYTES, "little"), head, *(each.tobytes() for each in laid))
    return zlib.compress(b"".join(parts))


def from_bytes(data: bytes, kinds: Kinds, *, what: str = "a result") -> Any:
    """Return the value that `to_bytes` was given; `what` names it in messages.

    Raises
    ------
    ModelError
        The bytes are damaged.
    """
    try:
        plain = zlib.decompress(data)
        at = _SIZE_BYTES + int.from_bytes(plain[:_SIZE_BYTES], "little")
        head = json.loads(plain[_SIZE_BYTES:at])
        return _made(head["told"], _arrays(head["arrays"], memoryview(plain)[at:]), kinds)
    except (ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
        raise ModelError(f"{what} that was kept cannot be read: {error}") from error


def _arrays(shapes: list[Any], data: memoryview) -> Arrays:
    found: Arrays = []
    for kind, shape in shapes:
        dtype = np.dtype(kind)
        size = dtype.itemsize * math.prod(shape)
        found.append(np.frombuffer(data[:size], dtype).reshape(shape).copy())
        data = data[size:]
    return found


def _told(value: Any, arrays: Arrays, kinds: Kinds) -> Any:
    """Return what JSON says of a value: containers as ``[kind, content]``."""
    if (kind := type(value).__name__) in kinds and kinds[kind] is type(value):
        return [kind, _told_of_kind(value, arrays, kinds)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        arrays.append(value)
        return ["array", len(arrays) - 1]
    if isinstance(value, tuple | list):
        of = [_told(each, arrays, kinds) for each in value]
        return ["tuple" if isinstance(value, tuple) else "list", of]
    if isinstance(value, dict | MappingProxyType):
        return ["dict", [[str(key), _told(each, arrays, kinds)] for key, each in value.items()]]
    return str(value)


def _told_of_kind(value: Any, arrays: Arrays, kinds: Kinds) -> Any:
    if isinstance(value, Enum):
        return value.value
    own = fields(value)
    return {each.name: _told(getattr(value, each.name), arrays, kinds) for each in own}


def _made(told: Any, arrays: Arrays, kinds: Kinds) -> Any:
    if not isinstance(told, list):
        return told
    kind, content = told
    if kind == "array":
        return arrays[content]
    if kind in ("tuple", "list"):
        items = [_made(each, arrays, kinds) for each in content]
        return tuple(items) if kind == "tuple" else items
    if kind == "dict":
        return {key: _made(each, arrays, kinds) for key, each in content}
    if not isinstance(content, dict):
        return kinds[kind](content)
    return kinds[kind](**{name: _made(each, arrays, kinds) for name, each in content.items()})
