import numpy as np
import pytest

from brsolver.traces.model import Trace


@pytest.fixture
def uniform_trace():
    """Rebuild a trace of the published recipe (formulation §6)."""

    def make(seed, n, s_high, o_high, s_low=50, o_low=10):
        rng = np.random.default_rng(seed)
        prompt = rng.integers(s_low, s_high, size=n)
        output = rng.integers(o_low, o_high, size=n)
        return Trace(prompt_tokens=prompt, output_tokens=output)

    return make
