"""Exceptions of brsolver.

Every error that bad input can cause derives from `BrsolverError`; its message is one line that
states the value, the cause and what would be accepted. The command line prints that line on
standard error and exits with code 2.

- `BrsolverError`
    - `ParameterError`: a parameter has a value it cannot have.
    - `UnknownNameError`: no policy, predictor, preset or format of that name.
    - `TraceError`: a trace cannot be read or holds a bad row.
    - `CapacityError`: a request fits no worker.
    - `PolicyError`: a policy returned a decision that the cluster cannot carry out.
    - `StateError`: an event names a request or a worker the cluster state does not hold.
    - `OutputError`: a result cannot be written where it was asked for.
    - `ModelError`: a file with a trained model cannot be used.
    - `MissingExtraError`: an optional part is not installed.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class BrsolverError(Exception):
    """Base class of all errors that brsolver raises on purpose."""


class ParameterError(BrsolverError, ValueError):
    """A parameter has a value it cannot have."""


class UnknownNameError(ParameterError):
    """No plug-in, parameter, preset or format has the name that was asked for."""

    @classmethod
    def suggest(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Name the nearest known names, or all of them if none is near.

        Parameters
        ----------
        kind : str
            What was looked up, for the message: ``"policy"``, ``"parameter of br-h"``.
        name : str
            The name that was asked for.
        known : iterable of str
            The names that would have been accepted.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return cls(f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}")


class TraceError(BrsolverError, ValueError):
    """A trace cannot be read, or one of its rows is bad."""


class CapacityError(BrsolverError, ValueError):
    """A request fits no worker, whatever the routing."""


class PolicyError(BrsolverError, RuntimeError):
    """A policy returned a decision that the cluster cannot carry out."""


class StateError(BrsolverError, RuntimeError):
    """An event names a request or a worker that the cluster state does not hold."""


class ModelError(BrsolverError, ValueError):
    """A file with a trained model is damaged, not to be trusted, or not what was asked for."""


class OutputError(BrsolverError, OSError):
    """A result cannot be written where it was asked for."""


class MissingExtraError(BrsolverError, ImportError):
    """An optional part of brsolver is not installed."""

    @classmethod
    def for_extra(cls, package: str, extra: str) -> MissingExtraError:
        """Name the extra that brings `package`."""
        return cls(f"{package} is not installed; install it with: pip install 'brsolver[{extra}]'")
