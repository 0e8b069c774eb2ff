"""What runs in the processes of a Ray cluster."""

from __future__ import annotations

import pickle
import socket
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._code import own_code
from brsolver._version import __version__
from brsolver.executors._base import attempted
from brsolver.executors._shared import SharedValues

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.executors._base import Function


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What all tasks of a lane need, sent once.

    Attributes
    ----------
    version, code : str
        Of brsolver, at the driver; see `brsolver._code.own_code`.
    paths : tuple of str
        Where the driver finds modules besides its own installation.
    function : bytes
        Pickled.
    shared : mapping of str to ObjectRef
        Pickled values in the object store.
    """

    version: str
    code: str
    paths: tuple[str, ...]
    function: bytes
    shared: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherVersion:
    """What comes back of a node that has another brsolver, whose figures may differ.

    Attributes
    ----------
    node, version, code : str
    """

    node: str
    version: str
    code: str


def extra_paths() -> tuple[str, ...]:
    """Return where this process finds modules besides its own installation."""
    installed = {Path(each).resolve() for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    places = [Path(place or ".").resolve() for place in sys.path]
    return tuple(
        str(place) for place in places if not any(place.is_relative_to(own) for own in installed)
    )


def carry_out_there(holder: list[Any], packed: bytes) -> Any:
    """Carry out one task.

    Parameters
    ----------
    holder : list of ObjectRef
        The lane's `Payload`; in a list, for Ray would fetch a bare one for every task.
    packed : bytes
        The task, pickled.
    """
    here = _unpacked(holder[0])
    if isinstance(here, OtherVersion):
        return here
    function, shared = here

    def carry_out(task: bytes, values: Mapping[str, Any]) -> Any:
        return function(pickle.loads(task), values)  # noqa: S301 # our own driver's

    return attempted(carry_out, packed, shared)


@lru_cache(maxsize=1)
def _unpacked(reference: Any) -> tuple[Function, SharedValues] | OtherVersion:
    """Get ready for the tasks of a lane; those of another are forgotten."""
    import ray

    payload: Payload = ray.get(reference)
    if (payload.version, payload.code) != (__version__, own_code()):
        return OtherVersion(node=socket.gethostname(), version=__version__, code=own_code())
    # Last: what is installed here takes precedence.
    sys.path.extend(place for place in payload.paths if place not in sys.path)
    shared = SharedValues(payload.shared, lambda name: ray.get(payload.shared[name]))
    return pickle.loads(payload.function), shared  # noqa: S301 # our own driver's
