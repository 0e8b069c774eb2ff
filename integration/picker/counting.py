"""How many tokens a request has had: by its engine, by the bytes of its stream, or by the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import NONE
from integration.picker.asks import End

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.picker.asks import Usage
    from integration.picker.requests import Request

_UNANSWERED = (End.REJECTED, End.REFUSED)
_MOST_TOKENS = 2**40


def tokens_of(
    request: Request,
    end: End,
    usage: Usage | None,
    *,
    by_bytes: Callable[[Request], int | None],
    by_model: Callable[[Request], int],
) -> tuple[int, int]:
    """Return how many tokens a request has had: of all its sequences, and of each on average.

    Parameters
    ----------
    request : Request
    end : End
    usage : Usage or None
        What its engine says. Most clients do not ask for it, and then their streams do not tell.
    by_bytes, by_model : callable
        Return what each sequence has had, by what the proxy saw, None where that tells nothing;
        and what came of each slot, by the model of the ranks, in which all run to the end.
    """
    told, sequences = None if usage is None else usage.completion_tokens, request.ask.sequences
    if told is not None:
        # Engines count those of all sequences together.
        total = min(max(told, 0), _MOST_TOKENS)
    elif _had_none(request, end, usage):
        total = 0
    else:
        each = by_bytes(request)
        total = by_model(request) * request.slots if each is None else each * sequences
        # What has finished had one at least, however far the model is.
        total = max(total, sequences if end is End.FINISHED else 0)
        if request.ask.max_tokens is not None:
            total = min(total, request.ask.max_tokens * sequences)
    return total, -(-total // sequences)


def _had_none(request: Request, end: End, usage: Usage | None) -> bool:
    """Tell whether a request surely had no token, whatever the model has of it."""
    if request.worker == NONE or end in _UNANSWERED:
        return True
    if usage is not None and usage.prompt_tokens is not None:
        # Engines that count a prompt and nothing else, as for embeddings, generate nothing.
        return True
    if end is End.FINISHED:
        return False
    seen = request.seen
    no_bytes = seen is not None and request.ask.stream and seen.first_s is None
    return not request.started or no_bytes
