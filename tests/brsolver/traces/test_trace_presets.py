"""Presets are what they are documented to be."""

from __future__ import annotations

import numpy as np
import pytest

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from brsolver.traces import PRESETS, Trace, load_trace, preset_trace


def arrivals(trace: Trace) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    assert trace.arrival_s is not None
    return trace.arrival_s  # type: ignore[return-value]


def test_uniform_is_the_reference_recipe() -> None:
    trace = load_trace("preset:uniform:seed=7,n=2000,s_low=50,s_high=8000,o_low=10,o_high=900")
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(trace.prompt_tokens, rng.integers(50, 8000, size=2000))
    np.testing.assert_array_equal(trace.output_tokens, rng.integers(10, 900, size=2000))
    assert trace.arrival_s is None
    assert (trace.name, trace.source_format) == ("preset:uniform", "preset")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_seed_and_size(name: str) -> None:
    trace = preset_trace(name, seed=5, n=50)
    assert len(trace) == 50
    assert preset_trace(name, seed=5, n=50).fingerprint() == trace.fingerprint()
    assert preset_trace(name, seed=6, n=50).fingerprint() != trace.fingerprint()
    assert preset_trace(name, n=1).prompt_tokens.size == 1
    if trace.arrival_s is not None:
        assert trace.arrival_s[0] == 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_seed_in_the_specification_goes_first(name: str) -> None:
    inside = load_trace(f"preset:{name}:n=20,seed=4", seed=9)
    assert inside.fingerprint() == preset_trace(name, seed=4, n=20).fingerprint()
    outside = load_trace(f"preset:{name}:n=20", seed=9)
    assert outside.fingerprint() == preset_trace(name, seed=9, n=20).fingerprint()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "n", "prompt", "output"),
    [
        ("proprietary-like", 8000, 3197, 1185),
        ("azure2024-long-like", 10_000, 4652, 1052),
        ("recurring-prompts", 8000, 3197, 1185),
    ],
)
def test_surrogates_meet_the_published_means(
    name: str, n: int, prompt: float, output: float, seed: int
) -> None:
    trace = preset_trace(name, seed=seed)
    assert len(trace) == n
    assert trace.surrogate
    assert trace.name == f"preset:{name} (surrogate)"
    assert trace.prompt_tokens.mean() == pytest.approx(prompt, rel=0.01)
    assert trace.output_tokens.mean() == pytest.approx(output, rel=0.01)
    assert np.diff(arrivals(trace)).mean() == pytest.approx(1 / 3, rel=0.05)


def test_surrogates_differ_in_how_broad_outputs_are() -> None:
    azure = preset_trace("azure2024-long-like").output_tokens
    proprietary = preset_trace("proprietary-like").output_tokens
    assert azure.min() > 1000
    assert azure.std() / azure.mean() < 0.06
    assert proprietary.std() / proprietary.mean() > 0.5


def test_recurring_prompts_have_lengths_of_their_own() -> None:
    trace = preset_trace("recurring-prompts", prompts=50, stray=0.1, sigma=0.01)
    asked = trace.columns["prompt_hash"]
    counts = np.bincount(asked.astype(np.int64), minlength=50)
    assert counts[0] > 2 * counts[9] > 2 * counts[49] > 0
    for prompt in (0, 10, 40):
        rows = np.flatnonzero(asked == prompt)
        assert len(set(trace.prompt_tokens[rows].tolist())) == 1
        outputs = trace.output_tokens[rows]
        usual = np.abs(outputs / np.median(outputs) - 1) < 0.05
        assert 0.8 < usual.mean() < 1.0


def test_only_surrogates_are_called_so() -> None:
    called = {name for name in PRESETS if preset_trace(name, n=2).surrogate}
    assert called == {"proprietary-like", "azure2024-long-like", "recurring-prompts"}


def test_bfio_normal_has_its_moments_where_nothing_is_cut() -> None:
    trace = preset_trace("bfio-normal", n=20_000, prompt_std=600, output_std=200, rho=-0.5)
    prompt, output = trace.prompt_tokens, trace.output_tokens
    assert prompt.mean() == pytest.approx(3200, rel=0.01)
    assert prompt.std() == pytest.approx(600, rel=0.03)
    assert output.mean() == pytest.approx(1200, rel=0.01)
    assert output.std() == pytest.approx(200, rel=0.03)
    assert np.corrcoef(prompt, output)[0, 1] == pytest.approx(-0.5, abs=0.03)


def test_bfio_normal_is_truncated_at_one_token() -> None:
    trace = preset_trace("bfio-normal")
    assert trace.prompt_tokens.min() >= 1
    assert trace.output_tokens.min() >= 1
    # Mean of a normal distribution of 3200 and 2600 above 0.5.
    assert trace.prompt_tokens.mean() == pytest.approx(3746, rel=0.03)


def test_chat_is_lognormal() -> None:
    trace = preset_trace("chat", n=20_000)
    assert np.median(trace.prompt_tokens) == pytest.approx(500, rel=0.05)
    assert np.log(trace.prompt_tokens).std() == pytest.approx(1.2, rel=0.03)
    assert trace.output_tokens.max() <= 8192
    assert preset_trace("chat", output_max=100).output_tokens.max() == 100


@pytest.mark.parametrize(("name", "cv"), [("chat", 1.0), ("bursty", 4.0)])
def test_burstiness(name: str, cv: float) -> None:
    gaps = np.diff(arrivals(preset_trace(name, n=20_000, rate=8)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("preset:chatt", "unknown preset 'chatt': did you mean 'chat'"),
        ("preset:", "has no name"),
        ("preset:chat:rates=3", "unknown parameter of preset:chat 'rates': did you mean 'rate'"),
        ("preset:chat:n=many", "preset:chat: n is 'many', must be a whole number"),
        ("preset:chat:n=0", "preset:chat: n is 0, must be from 1 to 1e+09"),
        ("preset:chat:seed=-1", "preset:chat: seed is -1, must be at least 0"),
        ("preset:chat:rate=0", "preset:chat: rate is 0.0, must be from 1e-06"),
        ("preset:chat:rate=nan", "preset:chat: rate is 'nan', must be a number"),
        ("preset:bursty:cv=0", "preset:bursty: cv is 0.0, must be from 0.01"),
        ("preset:uniform:s_low=0", "preset:uniform: s_low is 0, must be from 1"),
        ("preset:uniform:s_low=9,s_high=9", "s_high is 9, must be from 10"),
        ("preset:bfio-normal:rho=1.5", "rho is 1.5, must be from -1 to 1"),
        ("preset:azure2024-long-like:output_floor=1052", "output_floor is 1052, must be from 0"),
        ("preset:chat:n", "'n' is not KEY=VALUE"),
    ],
)
def test_bad_specifications_are_one_line(spec: str, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_trace(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_known_as_such() -> None:
    with pytest.raises(UnknownNameError):
        preset_trace("none")
    with pytest.raises(UnknownNameError):
        preset_trace("chat", colour=3)
    assert issubclass(UnknownNameError, BrsolverError)


def test_limit_applies_to_presets() -> None:
    whole = preset_trace("chat", n=100)
    assert load_trace("preset:chat:n=100", limit=7).fingerprint() == whole.head(7).fingerprint()
