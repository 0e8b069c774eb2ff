"""How many tokens a prompt has: by a tokenizer, or by characters per token learned from usage."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.picker.bodies import Body, Prompt

FIRST = 4.0
"""Units of text per token, of a model of which nothing is known yet."""
_LEAST, _MOST = 0.25, 64.0
_MEMORY_TOKENS = 50_000.0
_MOST_MODELS = 256
_AT_ONCE = 16_384
"""Characters of a request that are tokenized; if it has more, the rest counts in proportion."""
_BEYOND_ASCII = 0.75
"""What a byte weighs that UTF-8 adds to a character: tokens of other scripts are shorter."""


def units(text: str) -> float:
    """Return how long a text is: its characters, those beyond ASCII counting for more."""
    extra = len(text.encode("utf-8", "surrogatepass")) - len(text)
    return len(text) + _BEYOND_ASCII * extra


class Lengths:
    """Counts tokens of prompts.

    Parameters
    ----------
    tokenizer : str or Path, optional
        A ``tokenizer.json``; None learns.

    Raises
    ------
    ParameterError
        The file cannot be read.
    MissingExtraError
        The package that reads it is not installed.
    """

    def __init__(self, tokenizer: str | Path | None = None) -> None:
        self._encode = None if tokenizer is None else _encoder(Path(tokenizer))
        self._seen: dict[str, tuple[float, float]] = {}

    def of(self, body: Body) -> int:
        """Return the prompt tokens of a request, all its prompts together; at least 1."""
        texts = [each for each in body.prompts if isinstance(each, str)]
        given = sum(len(each) for each in body.prompts if not isinstance(each, str))
        return max(math.ceil(self._of_texts(texts, body.model)) + given + body.more_tokens, 1)

    def parts(self, body: Body) -> tuple[int, ...]:
        """Return the tokens of each prompt of several, roughly and at least 1; empty for one."""
        if len(body.prompts) < 2:
            return ()
        # Which has how much of them is all that is asked: no tokenizer is.
        each = self.per_token(body.model)
        sizes = (units(one) / each if isinstance(one, str) else len(one) for one in body.prompts)
        return tuple(max(math.ceil(size), 1) for size in sizes)

    def as_ids(self, prompt: Prompt) -> Prompt:
        """Return the token ids of a text; the text where there is no tokenizer, or it is long."""
        if self._encode is None or not isinstance(prompt, str) or len(prompt) > _AT_ONCE:
            return prompt
        return tuple(self._encode(prompt))

    def per_token(self, model: str) -> float:
        """Return units of text per token."""
        text, tokens = self._seen.get(model, (0.0, 0.0))
        # What was taken for granted counts as some tokens that have been seen.
        prior = 64.0
        return min(max((text + FIRST * prior) / (tokens + prior), _LEAST), _MOST)

    def learn(self, model: str, text_units: float, tokens: int) -> None:
        """Take in that a text of so many units had so many tokens."""
        if self._encode is not None or tokens <= 0 or not text_units:
            return
        if not _LEAST <= text_units / tokens <= _MOST:
            return
        if model not in self._seen and len(self._seen) >= _MOST_MODELS:
            del self._seen[next(iter(self._seen))]
        text, before = self._seen.get(model, (0.0, 0.0))
        keep = math.exp(-tokens / _MEMORY_TOKENS)
        self._seen[model] = keep * text + text_units, keep * before + tokens

    def _of_texts(self, texts: list[str], model: str) -> float:
        if self._encode is None:
            return sum(map(units, texts)) / self.per_token(model)
        # Each costs something, be it empty.
        seen = tokens = 0
        for text in texts:
            if seen >= _AT_ONCE:
                break
            head = text[: _AT_ONCE - seen]
            tokens += len(self._encode(head))
            seen += len(head) + 1
        return tokens * (sum(map(len, texts)) + len(texts)) / max(seen, 1)


def _encoder(path: Path) -> Callable[[str], list[int]]:
    try:
        tokenizers: Any = import_module("tokenizers")
    except ImportError as error:
        raise MissingExtraError.for_extra("tokenizers", "proxy") from error
    try:
        made = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"tokenizer {path} cannot be read: {reason}") from error

    def encode(text: str) -> list[int]:
        # It takes no lone surrogates.
        whole = text.encode("utf-8", "replace").decode()
        ids: list[int] = made.encode(whole, add_special_tokens=True).ids
        return ids

    return encode
