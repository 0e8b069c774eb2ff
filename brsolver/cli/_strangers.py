"""What a stranger's policy raises, in one line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.registry import PolicySpec


@contextmanager
def named_if_raising(spec: PolicySpec) -> Iterator[None]:
    """Name the policy that raised in the block; what our own raise is a mistake of ours.

    Parameters
    ----------
    spec : PolicySpec

    Raises
    ------
    PolicyError
        The policy is a stranger's, and something other than a `BrsolverError` was raised.
    """
    try:
        yield
    except BrsolverError:
        raise
    except Exception as error:
        if spec.ours:
            raise
        cause = str(error).strip().partition("\n")[0]
        raise PolicyError(f"{spec.text}: {type(error).__name__}: {cause}") from error
