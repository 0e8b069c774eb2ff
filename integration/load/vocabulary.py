"""What prompts are made of: token numbers, or words that are one token each.

A vocabulary turns numbers below its size into a piece of a body's JSON. Pieces can be put one
after another, so that a block of tokens that many prompts share is written once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from brsolver.errors import MissingExtraError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ORDINARY_TOKENS = (100, 1000)
"""Token numbers that prompts are drawn from: no special tokens in any common vocabulary."""
FILE = "tokenizer.json"
MOST_TRIED = 20_000
MOST_WORDS = 4096
FEWEST_WORDS = 16
_COMMON = """
the and for are but not you all any can had her was one our out day get has him his how man
new now old see two way who boy did its let put say she too use
"""
COMMON = tuple(_COMMON.split())
"""Words of three letters, a token each in nearly all vocabularies of English."""


class Vocabulary(Protocol):
    """What tokens of prompts are written as.

    Attributes
    ----------
    size : int
        Different tokens.
    extra : int
        Tokens that the server adds to a prompt by itself.
    """

    @property
    def size(self) -> int: ...  # noqa: D102 # said above

    @property
    def extra(self) -> int: ...  # noqa: D102 # said above

    def written(self, tokens: NDArray[np.int64]) -> bytes:
        """Return tokens, numbers below `size`, as a piece of JSON."""
        ...

    def whole(self, pieces: bytes) -> bytes:
        """Return pieces, one after another, as a value of JSON."""
        ...


class Numbers:
    """Token numbers, `ORDINARY_TOKENS`: all of three digits, so that they are looked up at once."""

    extra = 0

    def __init__(self) -> None:
        written = [b"%d," % number for number in range(*ORDINARY_TOKENS)]
        self.size = len(written)
        self._table = np.array(written, dtype="S4")

    def written(self, tokens: NDArray[np.int64]) -> bytes:
        """Return numbers with a comma after each."""
        return self._table[tokens].tobytes()

    def whole(self, pieces: bytes) -> bytes:
        """Return a list."""
        return b"[%b]" % pieces[:-1]


class Words:
    """Words, with spaces between them.

    Parameters
    ----------
    words : sequence of str
        Letters and digits only.
    extra : int
        Tokens that the server adds to a prompt.
    """

    def __init__(self, words: Sequence[str] = COMMON, extra: int = 0) -> None:
        self.words, self.extra = tuple(words), extra
        self.size = len(self.words)
        self._written = [word.encode() + b" " for word in self.words]

    def written(self, tokens: NDArray[np.int64]) -> bytes:
        """Return words with a space after each."""
        written = self._written
        return b"".join([written[token] for token in tokens.tolist()])

    def whole(self, pieces: bytes) -> bytes:
        """Return a text."""
        return b'"%b"' % pieces[:-1]


def words_of(path: str, *, chat: bool = False) -> Words:
    """Return words that are one token each, wherever they stand, by a file ``tokenizer.json``.

    Parameters
    ----------
    path : str
        The file, or a folder that has it.
    chat : bool
        Whether a template stands around the prompt, rather than what the tokenizer itself adds.

    Raises
    ------
    ParameterError
        There is no such file, it is no tokenizer's, or it has too few such words.
    MissingExtraError
        Without the package `tokenizers`.
    """
    tokenizer = _tokenizer(path)
    found = sorted({token.lstrip("Ġ▁ ") for token in tokenizer.get_vocab(with_added_tokens=False)})
    tried = [word for word in found if word.isascii() and word.isalnum()]
    rng = np.random.default_rng(0)
    tried = [tried[at] for at in rng.permutation(len(tried))[:MOST_TRIED]]
    # Thrice: at the beginning, in the middle and at the end.
    encoded = tokenizer.encode_batch([f"{w} {w} {w}" for w in tried], add_special_tokens=False)
    words = [word for word, each in zip(tried, encoded, strict=True) if _thrice(each.ids)]
    if len(words) < FEWEST_WORDS:
        raise ParameterError(
            f"tokenizer is {path!r}, must have at least {FEWEST_WORDS} words that are one token, "
            f"has {len(words)}"
        )
    extra = 0 if chat else tokenizer.num_special_tokens_to_add(is_pair=False)
    return Words(words[:MOST_WORDS], extra)


def _thrice(ids: Sequence[int]) -> bool:
    return len(ids) == 3


def _tokenizer(path: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError.for_extra("tokenizers", "load") from error
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise ParameterError(f"tokenizer is {path!r}, must be a file {FILE} or a folder with it")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        # What its parser raises is a plain Exception.
        raise ParameterError(f"tokenizer is {path!r}, must be a {FILE}: {error}") from error
