"""What answers say: the texts of tokens, bodies, and the events of streams as bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from integration.engines.stopping import characters

if TYPE_CHECKING:
    from integration.engines.asking import Asked

DONE = b"data: [DONE]\n\n"
_MARK = "\ue000"
"""Stands for a token's text where events are prepared."""
_MARK_BYTES = json.dumps(_MARK)[1:-1].encode()
_LOGPROB = -0.5
_NUMBERS = tuple(b" %d" % k for k in range(4096))


def event(body: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


class Head:
    """What all events and bodies of an answer begin with.

    Parameters
    ----------
    name : str
        The answer's identity.
    created : int
        Unix time in seconds.
    model : str
    asked : Asked
    """

    def __init__(self, name: str, created: int, model: str, asked: Asked) -> None:
        self.asked = asked
        kind = "chat.completion" if asked.chat else "text_completion"
        self._whole = {"id": name, "object": kind, "created": created, "model": model}
        chunk = "chat.completion.chunk" if asked.chat else kind
        self._part = self._whole | {"object": chunk}

    def usage(self, completion_tokens: int) -> dict[str, int]:
        """Return the usage at so many tokens of output."""
        prompt = sum(self.asked.prompt_tokens)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion_tokens,
            "completion_tokens": completion_tokens,
        }

    def part(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return an event's body."""
        return self._part | more | {"choices": choices}

    def whole(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return the body of an answer without streaming."""
        usage = self.usage(sum(self.asked.output_tokens))
        return self._whole | {"choices": choices, "usage": usage} | more


class Choice:
    """The events of one choice, one per token.

    Parameters
    ----------
    head : Head
    index : int
        Of the choice.
    """

    def __init__(self, head: Head, index: int) -> None:
        self.head, self.index = head, index
        asked = head.asked
        self.total = asked.output_tokens[index]
        self.reason = "length" if self.total >= asked.max_tokens else "stop"
        if asked.tool is not None:
            self.reason = "tool_calls"
        self._shown: int | None = None
        if asked.stop is not None and self.total == asked.stop.tokens:
            self.reason, self._shown = "stop", asked.stop.shown
        full = asked.running_usage or asked.logprobs is not None or asked.tool
        self._plain = not full and self._shown is None
        if self._plain:
            self._before, self._after = self._prepared(None)
            self._last = self._prepared(self.reason)[1]

    def opening(self) -> bytes:
        """Return the event that comes before the first token's, empty if there is none."""
        if not self.head.asked.chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        return event(self.head.part([self._choice({"delta": delta}, None, None)]))

    def events(self, first: int, end: int) -> bytes:
        """Return the events of tokens `first` to `end`, the latter left out."""
        each = self._plain_event if self._plain else self._full_event
        data = each(first) if end == first + 1 else b"".join(map(each, range(first, end)))
        return self.opening() + data if first == 0 else data

    def whole(self) -> dict[str, Any]:
        """Return the choice as it stands in an answer without streaming."""
        text = "".join(map(self.text, range(self.total)))
        logprobs = self._logprobs(range(self.total))
        asked = self.head.asked
        if not asked.chat:
            return self._choice({"text": text}, logprobs, self.reason)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if asked.tool is not None:
            message |= {"content": None, "tool_calls": [self._call(arguments=text)]}
        return self._choice({"message": message}, logprobs, self.reason)

    def text(self, k: int) -> str:
        """Return the text of token k: its number, or its part of a tool's arguments."""
        if self.head.asked.tool is None:
            said = f" {k}"
            return said if self._shown is None else said[: max(self._shown - characters(k), 0)]
        if self.total == 1:
            return "{}"
        return '{"text":"' if k == 0 else '"}' if k == self.total - 1 else f" {k}"

    def _plain_event(self, k: int) -> bytes:
        number = _NUMBERS[k] if k < len(_NUMBERS) else b" %d" % k
        return self._before + number + (self._last if k == self.total - 1 else self._after)

    def _full_event(self, k: int) -> bytes:
        reason = self.reason if k == self.total - 1 else None
        choice = self._choice(self._said(k), self._logprobs(range(k, k + 1)), reason)
        more = {"usage": self.head.usage(k + 1)} if self.head.asked.running_usage else {}
        return event(self.head.part([choice], **more))

    def _said(self, k: int) -> dict[str, Any]:
        asked, text = self.head.asked, self.text(k)
        if not asked.chat:
            return {"text": text}
        if asked.tool is None:
            return {"delta": {"content": text}}
        call = {"index": 0, "function": {"arguments": text}}
        if k == 0:
            call = {"index": 0, **self._call(arguments=text)}
        return {"delta": {"tool_calls": [call]}}

    def _call(self, *, arguments: str) -> dict[str, Any]:
        function = {"name": self.head.asked.tool, "arguments": arguments}
        return {"id": f"call_{self.index}", "type": "function", "function": function}

    def _choice(self, said: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        return {"index": self.index, **said, "logprobs": logprobs, "finish_reason": reason}

    def _prepared(self, reason: str | None) -> tuple[bytes, bytes]:
        said = {"delta": {"content": _MARK}} if self.head.asked.chat else {"text": _MARK}
        data = event(self.head.part([self._choice(said, None, reason)]))
        before, _, after = data.rpartition(_MARK_BYTES)
        return before, after

    def _logprobs(self, tokens: range) -> dict[str, Any] | None:
        alternatives = self.head.asked.logprobs
        if alternatives is None:
            return None
        texts = list(map(self.text, tokens))
        if self.head.asked.chat:
            return {"content": [_chat_logprob(text, alternatives) for text in texts]}
        offset = len("".join(map(self.text, range(tokens.start))))
        return {
            "tokens": texts,
            "token_logprobs": [_LOGPROB] * len(texts),
            "top_logprobs": [{text: _LOGPROB} if alternatives else {} for text in texts],
            "text_offset": [offset + len("".join(texts[:j])) for j in range(len(texts))],
        }


def _chat_logprob(text: str, alternatives: int) -> dict[str, Any]:
    one = {"token": text, "logprob": _LOGPROB, "bytes": list(text.encode())}
    others = [
        {"token": f"{text}~{j}", "logprob": _LOGPROB - j, "bytes": None}
        for j in range(1, alternatives)
    ]
    return one | {"top_logprobs": [one, *others] if alternatives else []}
