"""Bodies of OpenAI requests: what of them routing goes by.

Only what cannot be a request at all is refused here. What an engine may think of a field of another
type than it asks for is the engine's to say, in its own words: such a field counts as not given.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from brsolver.errors import BrsolverError

COMPLETIONS, CHAT, EMBEDDINGS, RESPONSES = "completions", "chat", "embeddings", "responses"
_KINDS = {
    "completions": COMPLETIONS,
    "chat/completions": CHAT,
    "messages": CHAT,
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
}
MOST_TOKENS = 2**40
MOST_CHOICES = 1024
PART_TOKENS = 512
"""Of an image or another part that is no text."""
_MESSAGE_TOKENS = 4
"""That a chat template puts around a message."""
_LONGEST_NAME = 256
MOST_VALUES = 500_000
"""In a body that is read: JSON of more takes seconds, in which nobody else is answered."""
_BYTES_PER_TOKEN = 4

Prompt = str | tuple[int, ...]


class BodyError(BrsolverError, ValueError):
    """A body is none that any engine would take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a request asks for.

    Attributes
    ----------
    kind : str
        `COMPLETIONS`, `CHAT`, `EMBEDDINGS` or `RESPONSES`.
    model : str
        Empty if it names none.
    prompts : tuple of str or of tuple of int
        Texts or token ids, each a prompt of its own.
    more_tokens : int
        Prompt tokens besides: around messages, and of what is no text.
    max_tokens : int or None
    stream : bool
    n : int
        Choices for each prompt.
    user : str or None
    include_usage : bool
        Whether its stream is asked to say what it took.
    """

    kind: str
    model: str = ""
    prompts: tuple[Prompt, ...] = ()
    more_tokens: int = 0
    max_tokens: int | None = None
    stream: bool = False
    n: int = 1
    user: str | None = None
    include_usage: bool = False

    @property
    def sequences(self) -> int:
        """Sequences that an engine decodes for it: each prompt has as many as there are choices."""
        if self.kind == EMBEDDINGS:
            return 1
        return self.n * max(len(self.prompts), 1)


def kind_of(path: str) -> str | None:
    """Return what a path asks for; None if it generates nothing."""
    steps = [step for step in path.partition("?")[0].split("/") if step]
    for take in (2, 1):
        if len(steps) > take - 1 and (kind := _KINDS.get("/".join(steps[-take:]))):
            return kind
    return None


def usage_on_demand(path: str) -> bool:
    """Tell whether streams of a path say what they took only where that is asked for.

    Those of the APIs of messages and of responses always do.
    """
    return path.partition("?")[0].rstrip("/").endswith("completions")


def read_body(kind: str, content: bytes) -> Body:
    """Read a body; of one with too many values to be read only its length is known.

    Parameters
    ----------
    kind : str
        As of `kind_of`.
    content : bytes

    Raises
    ------
    BodyError
        It is no JSON object.
    """
    if not is_readable(content):
        return Body(kind=kind, more_tokens=len(content) // _BYTES_PER_TOKEN)
    return body_of(kind, _loaded(content))


def body_of(kind: str, values: dict[str, Any]) -> Body:
    """Return what a body asks for that has been taken apart.

    Parameters
    ----------
    kind : str
        As of `kind_of`.
    values : dict of str to object
        Its fields; one of another type than the API says counts as not given.
    """
    messages = _Text()
    prompts = _prompts(kind, values, messages)
    return Body(
        kind=kind,
        model=_text(values.get("model")) or "",
        prompts=prompts,
        more_tokens=messages.tokens,
        max_tokens=_limit(kind, values),
        stream=values.get("stream") is True,
        n=_choices(values.get("n")),
        user=_text(values.get("user")),
        include_usage=_includes_usage(values.get("stream_options")),
    )


def is_readable(content: bytes) -> bool:
    """Tell whether a body has so few values that reading it holds nobody up."""
    return sum(map(content.count, (b",", b"{", b"["))) <= MOST_VALUES


def _loaded(content: bytes) -> dict[str, Any]:
    try:
        values = _DECODER.decode(content.decode(json.detect_encoding(content), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        # Neither the error's own text nor the body: both may hold the prompt.
        reason = "is nested too deep" if isinstance(error, RecursionError) else "is no JSON"
        raise BodyError(f"the body {reason}, must be a JSON object") from None
    if not isinstance(values, dict):
        raise BodyError(f"the body is a JSON {_named(values)}, must be an object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
"""What `json.loads` would make anew for each body."""


def _named(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _limit(kind: str, values: dict[str, Any]) -> int | None:
    if kind == EMBEDDINGS:
        return 1
    names = {CHAT: ("max_completion_tokens", "max_tokens"), RESPONSES: ("max_output_tokens",)}
    for name in names.get(kind, ("max_tokens",)):
        found = _whole(values.get(name))
        if found is not None:
            return min(max(found, 0), MOST_TOKENS)
    # The API's own default, of which only completions have one.
    return 16 if kind == COMPLETIONS and values.get("max_tokens") is None else None


def _choices(value: object) -> int:
    found = _whole(value)
    return 1 if found is None else min(max(found, 1), MOST_CHOICES)


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def _includes_usage(options: object) -> bool:
    return isinstance(options, dict) and options.get("include_usage") is True


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    # What JSON may hold and UTF-8 may not would trip whoever writes it down.
    return value[:_LONGEST_NAME].encode("utf-8", "replace").decode()


class _Text:
    """Gathers texts of messages, and tokens besides them."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.tokens = 0

    def message(self, message: object) -> None:
        """Take in a message."""
        if isinstance(message, str):
            self.parts.append(message)
            return
        if not isinstance(message, dict):
            return
        self.tokens += _MESSAGE_TOKENS
        if isinstance(role := message.get("role"), str):
            self.parts.append(role)
        self.content(message.get("content"))
        for name in ("reasoning_content", "tool_calls", "name", "arguments", "output"):
            self.other(message.get(name))

    def content(self, content: object) -> None:
        """Take in what a message says."""
        if isinstance(content, str):
            self.parts.append(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, dict) else part
                if isinstance(text, str):
                    self.parts.append(text)
                else:
                    self.tokens += PART_TOKENS

    def other(self, value: object) -> None:
        """Take in what templates write as JSON, such as tools."""
        if isinstance(value, str):
            self.parts.append(value)
        elif value:
            try:
                self.parts.append(json.dumps(value))
            except (ValueError, RecursionError):
                self.tokens += PART_TOKENS


def _prompts(kind: str, values: dict[str, Any], text: _Text) -> tuple[Prompt, ...]:
    if kind == COMPLETIONS:
        return _listed(values.get("prompt"))
    if kind == EMBEDDINGS:
        return _listed(values.get("input"))
    # Templates write tools before all that is said.
    text.other(values.get("tools"))
    text.content(values.get("system") or values.get("instructions"))
    said = values.get("messages" if kind == CHAT else "input")
    for message in said if isinstance(said, list) else [said]:
        text.message(message)
    return ("\n".join(text.parts),) if text.parts else ()


def _listed(given: object) -> tuple[Prompt, ...]:
    """Return prompts as completions take them: one or several, texts or token ids."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        return ()
    if _are_ids(given):
        return (tuple(given),)
    return tuple(
        each if isinstance(each, str) else tuple(each)
        for each in given
        if isinstance(each, str) or (isinstance(each, list) and _are_ids(each))
    )


def _are_ids(values: list[Any]) -> bool:
    return all(type(each) is int for each in values)
