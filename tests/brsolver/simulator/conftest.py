import numpy as np
import pytest

from brsolver.traces.trace import Trace


@pytest.fixture
def uniform_trace():
    """Rebuild a trace by [BFIO]'s recipe, which is also that of the preset ``uniform``."""

    def make(seed, n, s_high, o_high, s_low=50, o_low=10):
        rng = np.random.default_rng(seed)
        prompt = rng.integers(s_low, s_high, size=n)
        output = rng.integers(o_low, o_high, size=n)
        return Trace(prompt_tokens=prompt, output_tokens=output)

    return make
