"""The optional packages behind trained classifiers."""

from __future__ import annotations

from importlib.util import find_spec

from brsolver.errors import MissingExtraError

EXTRA = "classifiers"
_SHOWN = (("sklearn", "scikit-learn"), ("skops", "skops"))


def require_extra() -> None:
    """Make sure that trained classifiers can be used.

    Raises
    ------
    MissingExtraError
        A package is not installed.
    """
    for module, package in _SHOWN:
        if find_spec(module) is None:
            raise MissingExtraError.for_extra(package, EXTRA)
