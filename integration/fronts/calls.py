"""Calls of Python functions: what of them routing goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from integration.picker.bodies import (
    CHAT,
    COMPLETIONS,
    MOST_CHOICES,
    MOST_TOKENS,
    Body,
    body_of,
    read_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

UNKNOWN_TOKENS = 256
"""Of a prompt that is not seen: all such requests weigh the same."""
_IDS = ("prompt_token_ids", "prompt_ids", "input_ids")
_LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens")
_SAMPLING = "sampling_params"
_OTHERS = ("messages", "prompt", "tools", "model", "n", "user", "stream", _SAMPLING)
_FIELDS = (*_OTHERS, *_LIMITS, *_IDS)


def prompt_body(ids: Sequence[int] | None, sampling: object = None) -> Body:
    """Return what a prompt of token ids asks for.

    Parameters
    ----------
    ids : sequence of int or None
        None if it is not known.
    sampling : object, optional
        A mapping, or an object with attributes, that may have ``max_tokens`` or
        ``max_new_tokens``, and ``n``.
    """
    limit = _limit(sampling)
    choices = min(max(_whole(_get(sampling, "n")) or 1, 1), MOST_CHOICES)
    if ids is None:
        return Body(kind=COMPLETIONS, more_tokens=UNKNOWN_TOKENS, max_tokens=limit, n=choices)
    return Body(kind=COMPLETIONS, prompts=(_plain(ids),), max_tokens=limit, n=choices)


def request_body(args: Iterable[object], kwargs: Mapping[Any, object]) -> Body:
    """Return what a call asks for, by its arguments.

    The first that is, or has, a prompt counts: a request of the OpenAI API as an object or as a
    mapping, a text, a list of token ids, or keyword arguments with such names (``messages``,
    ``prompt``, ``prompt_ids``, ``prompt_token_ids``, ``input_ids``).

    Parameters
    ----------
    args : iterable of object
    kwargs : mapping of str to object
    """
    named = {str(name): value for name, value in kwargs.items()}
    for each in (*args, named):
        body = _body(each, named)
        if body is not None:
            return body
    return prompt_body(None, named.get(_SAMPLING, named))


def _body(given: object, named: Mapping[str, object]) -> Body | None:
    """Return what an argument asks for; None if it has no prompt."""
    sampling = named.get(_SAMPLING, named)
    if isinstance(given, (bytes, str)):
        return _by_text(given, sampling)
    if _are_ids(given):
        return prompt_body(_plain(given), sampling)
    return _by_fields({name: _get(given, name) for name in _FIELDS}, sampling)


def _by_text(given: bytes | str, sampling: object) -> Body | None:
    if isinstance(given, bytes):
        return read_body(COMPLETIONS, given) if given.lstrip().startswith(b"{") else None
    limit = _limit(sampling)
    return Body(kind=COMPLETIONS, prompts=(given,), max_tokens=limit) if given else None


def _by_fields(values: dict[str, Any], sampling: object) -> Body | None:
    if values["messages"] is not None:
        said = {name: _plainly(values[name]) for name in ("messages", "tools")}
        return body_of(CHAT, values | said)
    if values["prompt"] is not None:
        # Completions alone have a limit of their own where none is given.
        return body_of(COMPLETIONS, values)
    ids = next((values[name] for name in _IDS if values[name] is not None), None)
    if ids is None:
        return None
    # Beside the prompt, with it, or among the keywords.
    told = (values[_SAMPLING], values, sampling)
    limited = next((each for each in told if _limit(each) is not None), None)
    return prompt_body(_plain(ids), limited)


def _get(given: object, name: str) -> Any:
    if isinstance(given, dict):
        return given.get(name)
    return getattr(given, name, None)


def _limit(sampling: object) -> int | None:
    for name in _LIMITS:
        found = _whole(_get(sampling, name))
        if found is not None:
            return min(max(found, 0), MOST_TOKENS)
    return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _are_ids(given: object) -> bool:
    if isinstance(given, (list, tuple)):
        return bool(given) and type(given[0]) is int
    # Arrays, of whatever library.
    return getattr(given, "ndim", None) == 1 and hasattr(given, "tolist")


def _plain(ids: Any) -> tuple[int, ...]:
    return tuple(ids.tolist() if hasattr(ids, "tolist") else ids)


def _plainly(given: Any) -> list[object]:
    """Return messages, or tools, as JSON has them: some libraries make objects of them."""
    if not isinstance(given, list):
        return []
    return [each.model_dump() if hasattr(each, "model_dump") else each for each in given]
