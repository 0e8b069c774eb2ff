"""Columns of keys as 64-bit numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from classifiers.key_columns import key_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTS = st.lists(st.text(max_size=12).filter(lambda text: not text.endswith("\0")), max_size=8)


def plain_fnv(text: str) -> int:
    digest = 0xCBF29CE484222325
    for character in text:
        digest = (digest ^ ord(character)) * 0x100000001B3 % 2**64
    return digest


def test_hashes_of_texts_are_those_published_for_fnv() -> None:
    found = key_numbers("session", np.array(["", "a", "foobar"])).view(np.uint64)
    assert found.tolist() == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8]


@given(TEXTS)
@settings(deadline=None)
def test_a_text_is_one_number_however_its_column_holds_it(texts: list[str]) -> None:
    expected = np.array([plain_fnv(text) for text in texts], np.uint64).view(np.int64).tolist()
    for dtype in (np.str_, ">U20", object, np.dtypes.StringDType()):
        column: NDArray[np.generic] = np.array(texts, dtype)
        assert key_numbers("session", column).tolist() == expected
        strided = np.repeat(column, 2)[::2]
        assert key_numbers("session", strided).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.bool_])
def test_whole_numbers_stand_for_themselves(dtype: type) -> None:
    assert key_numbers("tenant", np.array([0, 1, 1], dtype)).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "gaps", [np.array([1.5]), np.array(["a", None]), np.array(["a", 1], object)]
)
def test_what_is_neither_is_refused(gaps: NDArray[np.generic]) -> None:
    with pytest.raises(ParameterError, match=r"tenant holds .* without gaps"):
        key_numbers("tenant", gaps)
