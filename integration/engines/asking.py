"""What a request asks for, read from its body; what vLLM would refuse is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeGuard

from brsolver.errors import BrsolverError
from integration.engines.stopping import Stop, stop_of

if TYPE_CHECKING:
    from integration.engines.params import EngineParams

MAX_CHOICES = 128
MESSAGE_TOKENS = 4
"""Of a chat's message, besides its text."""
COMPLETION_TOKENS = 16
"""Most output tokens of a completion that names no limit, as OpenAI has it."""
_SHOWN = 512
"""Of a prompt, at its beginning and at its end, by which its output's length is drawn."""
_TYPES = {bool: "true or false", str: "a text", dict: "an object", list: "a list"}


class RequestRefused(BrsolverError):  # noqa: N818 # an answer, not a failure of the engine
    """A request is answered with an error in OpenAI's format.

    Attributes
    ----------
    status : int
    kind, param : str, str or None
        As the answer names the error, and the part of the request that it is about.
    rank : int or None
        That refuses, if it is one of the ranks that does.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
        param: str | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.rank = status, kind, param, rank

    def body(self) -> dict[str, Any]:
        """Return the answer's body."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return {"error": error}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for completions.

    Attributes
    ----------
    chat : bool
        Whether it is a chat's.
    prompt_tokens : tuple of int
        Of every prompt.
    output_tokens : tuple of int
        Of every choice, those of the first prompt first.
    n : int
        Choices per prompt.
    max_tokens : int
        Beyond which an output is cut off.
    stream, usage, running_usage : bool
        Whether tokens are sent as they come; with the usage at the end; with it in each event.
    logprobs : int or None
        How many alternatives a token has, None for no such figures.
    tool : str or None
        Function that is called instead of an answer in words.
    kv : dict
        ``kv_transfer_params``, empty if there are none.
    stop : Stop or None
        Where `stop` ends an output, if it ends any.
    """

    chat: bool
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    n: int
    max_tokens: int
    stream: bool
    usage: bool
    running_usage: bool
    logprobs: int | None
    tool: str | None
    kv: dict[str, Any]
    stop: Stop | None = None


def read_body(raw: bytes) -> dict[str, Any]:
    """Return a body's JSON object.

    Raises
    ------
    RequestRefused
        It is none.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestRefused(f"the body is no JSON: {reason}") from error
    if not isinstance(body, dict):
        raise RequestRefused(f"the body is {_shown(body)}, must be an object")
    return body


def read_completion(body: dict[str, Any], params: EngineParams, *, chat: bool) -> Asked:
    """Return what a body for ``/v1/completions`` or ``/v1/chat/completions`` asks for.

    Raises
    ------
    RequestRefused
        vLLM would answer with an error.
    """
    check_model(body, params)
    _check_sampling(body)
    stream = bool(_typed(body, "stream", bool))
    if body.get("stream_options") is not None and not stream:
        raise RequestRefused(
            "Stream options can only be defined when `stream=True`.", param="stream_options"
        )
    options = _typed(body, "stream_options", dict) or {}
    prompts = [_chat(body, params)] if chat else read_prompts(body, "prompt", params)
    n = _whole(body, "n", 1, MAX_CHOICES) or 1
    tokens = tuple(count for count, _ in prompts)
    most = _max_tokens(body, max(tokens), params, chat=chat)
    tool = _tool(body) if chat else None
    lengths = _lengths(body, prompts, n, most, params)
    stop = None if tool else stop_of(_stops(body), _least(body, most), max(lengths))
    return Asked(
        chat=chat,
        prompt_tokens=tokens,
        output_tokens=lengths if stop is None else tuple(min(k, stop.tokens) for k in lengths),
        n=n,
        max_tokens=most,
        stream=stream,
        usage=bool(_typed(options, "include_usage", bool)),
        running_usage=bool(_typed(options, "continuous_usage_stats", bool)),
        logprobs=_logprobs(body, chat=chat),
        tool=tool,
        kv=_transfer(body, params),
        stop=stop,
    )


def check_model(body: dict[str, Any], params: EngineParams) -> None:
    """Raise `RequestRefused` if a body names a model that is not served."""
    name = _typed(body, "model", str)
    if name not in {None, "", params.model}:
        raise RequestRefused(
            f"The model `{name}` does not exist.", status=404, kind="NotFoundError", param="model"
        )


def read_prompts(
    body: dict[str, Any], name: str, params: EngineParams
) -> list[tuple[int, list[Any] | str]]:
    """Return tokens and content of every prompt: texts, token identities, or lists of either."""
    given = body.get(name)
    if isinstance(given, str) or _are_tokens(given):
        given = [given]
    if not isinstance(given, list) or not given:
        raise RequestRefused(
            f"{name} is {_shown(given)}, must be a text, a list of token identities, or a list "
            "of such",
            param=name,
        )
    return [(_prompt_tokens(one, name, params), one) for one in given]


def _prompt_tokens(one: object, name: str, params: EngineParams) -> int:
    if isinstance(one, str) and one:
        return max(1, math.ceil(len(one) / params.characters_per_token))
    if _are_tokens(one):
        return len(one)
    raise RequestRefused(
        f"{name} has {_shown(one)}, must be a text or a list of token identities, and not empty",
        param=name,
    )


def _are_tokens(given: object) -> TypeGuard[list[int]]:
    # Prompts of a hundred thousand tokens are looked at while all ranks wait.
    return isinstance(given, list) and set(map(type, given)) == {int} and min(given) >= 0


def _chat(body: dict[str, Any], params: EngineParams) -> tuple[int, list[Any] | str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestRefused(
            f"messages is {_shown(messages)}, must be a list of messages", param="messages"
        )
    characters = sum(map(_message_characters, messages))
    characters += sum(len(json.dumps(tool)) for tool in _typed(body, "tools", list) or [])
    words = math.ceil(characters / params.characters_per_token)
    return MESSAGE_TOKENS * len(messages) + words, messages


def _message_characters(message: object) -> int:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestRefused(
            f"messages has {_shown(message)}, must be objects with a role", param="messages"
        )
    content = message.get("content")
    if content is None or isinstance(content, str):
        return len(content or "")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RequestRefused(
            f"content of a message is {_shown(content)}, must be a text or a list of parts",
            param="messages",
        )
    return sum(len(part["text"]) for part in content if isinstance(part.get("text"), str))


def _max_tokens(body: dict[str, Any], prompt: int, params: EngineParams, *, chat: bool) -> int:
    most = _whole(body, "max_tokens", 1, None)
    if chat:
        most = _whole(body, "max_completion_tokens", 1, None) or most
    left = params.longest - prompt
    if most is None:
        most = left if chat else min(COMPLETION_TOKENS, left)
    if left < 1 or most > left:
        raise RequestRefused(
            f"This model's maximum context length is {params.longest} tokens. However, you "
            f"requested {prompt + max(most, 1)} tokens ({prompt} in the prompt, {max(most, 1)} in "
            "the completion).",
            param="max_tokens",
        )
    return most


def _lengths(
    body: dict[str, Any],
    prompts: list[tuple[int, list[Any] | str]],
    n: int,
    most: int,
    params: EngineParams,
) -> tuple[int, ...]:
    least = _least(body, most)
    if _typed(body, "ignore_eos", bool):
        return (most,) * (n * len(prompts))
    seed = _whole(body, "seed", None, None) or 0
    drawn = (
        _drawn_length(content, params, f"{params.seed}/{seed}/{index}")
        for _, content in prompts
        for index in range(n)
    )
    return tuple(min(max(length, least), most) for length in drawn)


def _least(body: dict[str, Any], most: int) -> int:
    return _whole(body, "min_tokens", 0, most) or 1


def _stops(body: dict[str, Any]) -> list[str]:
    """Return the texts at which an output ends; `_check_sampling` has looked at them."""
    stop = body.get("stop") or []
    return [one for one in ([stop] if isinstance(stop, str) else stop) if one]


def _drawn_length(content: list[Any] | str, params: EngineParams, draw: str) -> int:
    """Return when an output ends by itself: geometric, the same for the same request."""
    shown = content if len(content) <= 2 * _SHOWN else (content[:_SHOWN], content[-_SHOWN:])
    text = f"{draw}/{len(content)}/{json.dumps(shown)}"
    digest = blake2b(text.encode(), digest_size=8).digest()
    share = (int.from_bytes(digest) + 0.5) / 2**64
    return 1 + int(-params.mean_output * math.log(share))


def _check_sampling(body: dict[str, Any]) -> None:
    for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
        value = body.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and low <= value <= high):
            raise RequestRefused(
                f"{name} is {_shown(value)}, must be a number from {low:g} to {high:g}", param=name
            )
    stop = body.get("stop")
    texts = isinstance(stop, list) and all(isinstance(one, str) for one in stop)
    if not (stop is None or isinstance(stop, str) or texts):
        raise RequestRefused(
            f"stop is {_shown(stop)}, must be a text or a list of texts", param="stop"
        )
    for name in ("suffix", "echo"):
        if body.get(name):
            raise RequestRefused(f"{name} is not currently supported", param=name)


def _logprobs(body: dict[str, Any], *, chat: bool) -> int | None:
    if not chat:
        return _whole(body, "logprobs", 0, 20)
    if not _typed(body, "logprobs", bool):
        return None
    return _whole(body, "top_logprobs", 0, 20) or 0


def _transfer(body: dict[str, Any], params: EngineParams) -> dict[str, Any]:
    kv = _typed(body, "kv_transfer_params", dict) or {}
    for name, refusing in (("do_remote_decode", "decode"), ("do_remote_prefill", "prefill")):
        if kv.get(name) and params.role == refusing:
            raise RequestRefused(
                f"kv_transfer_params has {name}, which an engine with role {refusing} has not",
                param="kv_transfer_params",
            )
    return kv


def _tool(body: dict[str, Any]) -> str | None:
    tools = _typed(body, "tools", list) or []
    names = [_tool_name(tool) for tool in tools]
    choice = body.get("tool_choice")
    if choice is None or (isinstance(choice, str) and choice in {"auto", "none"}):
        return None
    if choice == "required" and names:
        return names[0]
    if isinstance(choice, dict) and (name := _tool_name(choice)) in names:
        return name
    raise RequestRefused(
        f"tool_choice is {_shown(choice)}, must be none, auto, required, or one of the tools "
        f"{', '.join(names) or '(there are none)'}",
        param="tool_choice",
    )


def _tool_name(tool: object) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RequestRefused(
            f"tools has {_shown(tool)}, must be objects with a function that has a name",
            param="tools",
        )
    return name


def _typed(body: dict[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise RequestRefused(f"{name} is {_shown(value)}, must be {_TYPES[kind]}", param=name)
    return value


def _whole(body: dict[str, Any], name: str, low: int | None, high: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or (low is not None and value < low) or (high is not None and value > high):
        span = "" if low is None else f" from {low}" if high is None else f" from {low} to {high}"
        raise RequestRefused(f"{name} is {_shown(value)}, must be a whole number{span}", param=name)
    return int(value)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
