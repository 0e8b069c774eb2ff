"""How a request ended, by what is left of its result."""

from __future__ import annotations

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayTaskError,
    TaskCancelledError,
)

from integration.picker import End


def end_of(result: object) -> End:
    """Return how a request ended.

    Parameters
    ----------
    result : object
        What Ray hands to a callback of a replica's result once that is done: a value, an error,
        or a gRPC call.
    """
    cause = result.cause if isinstance(result, RayTaskError) else result
    if isinstance(cause, TaskCancelledError) or _cancelled(result):
        return End.DISCONNECTED
    if isinstance(cause, ActorDiedError):
        return End.WORKER_DIED
    if isinstance(cause, ActorUnavailableError):
        return End.RESET
    # What the application raises is no fault of the replica: clients can have that at will.
    return End.REJECTED if isinstance(cause, BaseException) else End.FINISHED


def _cancelled(result: object) -> bool:
    cancelled = getattr(result, "cancelled", None)
    return bool(cancelled()) if callable(cancelled) else False
