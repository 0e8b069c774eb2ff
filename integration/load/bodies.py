"""Bodies of requests, written as bytes right before they are sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.traces.trace import Trace
    from integration.load.prompts import Prompts

_MARK = "\ue000"
_MARK_BYTES = json.dumps(_MARK).encode()


class Bodies:
    """The bodies of a trace's requests.

    Parameters
    ----------
    trace : Trace
    prompts : Prompts
    model : str
    chat : bool
        Whether prompts are a user's message.
    exact : bool
        Ask for exactly as many tokens as the trace has.
    more : mapping of str to object
        Further fields; they take precedence.
    """

    def __init__(
        self,
        trace: Trace,
        prompts: Prompts,
        *,
        model: str,
        chat: bool = False,
        exact: bool = True,
        more: Mapping[str, object] | None = None,
    ) -> None:
        self.trace, self._prompts = trace, prompts
        self._chat, self._exact = chat, exact
        fields: dict[str, Any] = {
            "model": model,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **(more or {}),
        }
        if chat:
            fields["messages"] = [{"role": "user", "content": _MARK}]
        else:
            fields["prompt"] = _MARK
        self._before, _, self._after = json.dumps(fields).encode()[:-1].partition(_MARK_BYTES)

    def of(self, row: int) -> bytes:
        """Return the body of a request."""
        return self._body(self._prompts.of(row), int(self.trace.output_tokens[row]))

    def warm(self, number: int, row: int) -> bytes:
        """Return the body of a request that is as long as that of a row, and begins like none."""
        prompt = self._prompts.warm(number, int(self.trace.prompt_tokens[row]))
        return self._body(prompt, int(self.trace.output_tokens[row]))

    def _body(self, prompt: bytes, tokens: int) -> bytes:
        return b"%b%b%b%b}" % (self._before, prompt, self._after, self._limits(tokens))

    def _limits(self, tokens: int) -> bytes:
        most = b"max_completion_tokens" if self._chat else b"max_tokens"
        if not self._exact:
            return b', "%b": %d' % (most, tokens)
        return b', "%b": %d, "min_tokens": %d, "ignore_eos": true' % (most, tokens, tokens)


def exact_body(model: str, prompt: object, tokens: int, **more: object) -> bytes:
    """Return the body of one completion that streams exactly so many tokens.

    Parameters
    ----------
    model : str
    prompt : str or list of int
    tokens : int
    **more
        Further fields.
    """
    fields = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    return json.dumps(fields).encode()
