"""The compiler's code is let go of, and there again when it is wanted."""

from __future__ import annotations

import sys

import numba
import pytest

from integration.serve.trimming import forget_compiler


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is done")
def test_what_is_forgotten_can_be_used():
    assert forget_compiler() > 0

    @numba.njit
    def more(number):
        return number + 1

    assert more(2) == 3
    assert forget_compiler() > 0
    assert more(3) == 4
