"""Synthetic presets: traces that anyone can draw again from a name and a seed.

A preset is a dataclass of parameters with a ``draw`` method, which returns prompt lengths, output
lengths, arrival times and, if there are any, optional columns. Lengths are in tokens, times in
seconds, rates in requests per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from brsolver.errors import UnknownNameError
from brsolver.specs import build_params
from brsolver.traces.draws import (
    MAX_TOKENS,
    Lengths,
    check_between,
    check_common,
    check_range,
    check_tokens,
    gamma,
    poisson,
    since_first,
    tokens,
)
from brsolver.traces.recurring import ProprietaryMoments, RecurringPrompts
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def preset_trace(name: str, seed: int | None = None, **params: object) -> Trace:
    """Draw the trace of a preset.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    seed : int, optional
        Seed of the generator; the preset's default without it.
    **params
        Other parameters of the preset, as values or as texts.

    Returns
    -------
    Trace
        Named ``preset:NAME``; surrogates of published traces say so in their name.

    Raises
    ------
    UnknownNameError
        If there is no such preset or parameter.
    ParameterError
        If a parameter has a value it cannot have.
    """
    if name not in PRESETS:
        raise UnknownNameError.suggest("preset", name, PRESETS)
    given = params if seed is None else {"seed": seed, **params}
    preset = build_params(PRESETS[name], given, f"preset:{name}")
    prompt, output, arrival, *columns = preset.draw()
    return Trace(
        prompt_tokens=prompt,
        output_tokens=output,
        arrival_s=arrival,
        name=f"preset:{name} (surrogate)" if preset.surrogate else f"preset:{name}",
        source_format="preset",
        surrogate=preset.surrogate,
        columns=columns[0] if columns else {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Uniform lengths without times, the traces of the reference results.

    Attributes
    ----------
    n : int
        Requests.
    seed : int
        Seed of `numpy.random.default_rng`.
    s_low, s_high : int
        Prompt lengths in tokens, from `s_low` to below `s_high`.
    o_low, o_high : int
        Output lengths in tokens, from `o_low` to below `o_high`.
    """

    summary: ClassVar[str] = "uniform lengths, no times (the reference traces)"
    surrogate: ClassVar[bool] = False

    n: int = 2000
    seed: int = 0
    s_low: int = 50
    s_high: int = 8000
    o_low: int = 10
    o_high: int = 900

    def __post_init__(self) -> None:
        check_common(self.n, self.seed)
        check_range("s_low", self.s_low, "s_high", self.s_high)
        check_range("o_low", self.o_low, "o_high", self.o_high)

    def draw(self) -> tuple[Lengths, Lengths, None]:
        """Draw the prompts first, then the outputs."""
        rng = np.random.default_rng(self.seed)
        prompt = rng.integers(self.s_low, self.s_high, size=self.n)
        output = rng.integers(self.o_low, self.o_high, size=self.n)
        return prompt, output, None


@dataclass(frozen=True, slots=True, kw_only=True)
class BfioNormal:
    """Correlated normal lengths of [BFIO]; pairs with a length below 1 token are drawn again.

    Attributes
    ----------
    n, seed : int
        Requests, and seed of the generator.
    rate : float
        Poisson arrivals per second.
    prompt_mean, prompt_std, output_mean, output_std : float
        Moments in tokens of the normal distribution before it is truncated.
    rho : float
        Its correlation, from -1 to 1.
    """

    summary: ClassVar[str] = "correlated normal lengths of the BF-IO paper, Poisson arrivals"
    surrogate: ClassVar[bool] = False

    n: int = 8000
    seed: int = 0
    rate: float = 3.0
    prompt_mean: float = 3200.0
    prompt_std: float = 2600.0
    output_mean: float = 1200.0
    output_std: float = 700.0
    rho: float = -0.1

    def __post_init__(self) -> None:
        check_common(self.n, self.seed, self.rate)
        for name in ("prompt_mean", "output_mean"):
            check_tokens(name, getattr(self, name))
        for name in ("prompt_std", "output_std"):
            check_between(name, getattr(self, name), 0.0, MAX_TOKENS)
        check_between("rho", self.rho, -1.0, 1.0)

    def draw(self) -> tuple[Lengths, Lengths, NDArray[np.float64]]:
        """Draw lengths, then arrivals."""
        rng = np.random.default_rng(self.seed)
        kept = np.empty((2, 0), dtype=np.int64)
        while kept.shape[1] < self.n:
            pairs = self._pairs(rng)
            kept = np.concatenate((kept, pairs[:, (pairs >= 1).all(axis=0)]), axis=1)
        return kept[0, : self.n], kept[1, : self.n], poisson(rng, self.n, self.rate)

    def _pairs(self, rng: np.random.Generator) -> NDArray[np.int64]:
        first, second = rng.standard_normal((2, self.n))
        prompt = self.prompt_mean + self.prompt_std * first
        mixed = self.rho * first + math.sqrt(1.0 - self.rho**2) * second
        output = self.output_mean + self.output_std * mixed
        pairs: NDArray[np.int64] = np.rint(np.stack((prompt, output))).astype(np.int64)
        return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class ProprietaryLike(ProprietaryMoments):
    """Stand-in for the proprietary trace of [BR]: its size and means, broad outputs.

    Gamma lengths, scaled to the published means. The published trace's shape is not known beyond
    them, nor are its times.
    """

    summary: ClassVar[str] = "surrogate of the proprietary trace: broad outputs"

    def draw(self) -> tuple[Lengths, Lengths, NDArray[np.float64]]:
        """Draw prompts, outputs, arrivals."""
        rng = np.random.default_rng(self.seed)
        prompt = gamma(rng, self.n, self.prompt_mean, self.prompt_std)
        output = gamma(rng, self.n, self.output_mean, self.output_std)
        return prompt, output, poisson(rng, self.n, self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Azure2024LongLike:
    """Stand-in for Azure-2024 conversations with outputs above 1000 tokens, as used in [BR].

    Prompts are gamma distributed; outputs exceed `output_floor` by a gamma distributed amount of
    small deviation, so all are nearly alike. Both are scaled to the published means. The
    deviation is chosen so that the mean error of a forecast by age alone is about what [BR] reports
    for the trace (5.4 tokens).

    Attributes
    ----------
    n, seed : int
        Requests, and seed of the generator.
    rate : float
        Poisson arrivals per second.
    prompt_mean, prompt_std, output_mean : float
        Moments in tokens.
    output_floor : int
        Tokens that every output exceeds.
    output_std : float
        Deviation in tokens.
    """

    summary: ClassVar[str] = "surrogate of Azure-2024 with outputs just over 1000 tokens"
    surrogate: ClassVar[bool] = True

    n: int = 10_000
    seed: int = 0
    rate: float = 3.0
    prompt_mean: float = 4652.0
    prompt_std: float = 3700.0
    output_mean: float = 1052.0
    output_floor: int = 1000
    output_std: float = 7.0

    def __post_init__(self) -> None:
        check_common(self.n, self.seed, self.rate)
        for name in ("prompt_mean", "prompt_std", "output_mean", "output_std"):
            check_tokens(name, getattr(self, name))
        check_between("output_floor", self.output_floor, 0, self.output_mean - 1)

    def draw(self) -> tuple[Lengths, Lengths, NDArray[np.float64]]:
        """Draw prompts, outputs, arrivals."""
        rng = np.random.default_rng(self.seed)
        prompt = gamma(rng, self.n, self.prompt_mean, self.prompt_std)
        excess = gamma(rng, self.n, self.output_mean - self.output_floor, self.output_std)
        return prompt, self.output_floor + excess, poisson(rng, self.n, self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Heavy-tailed chat: lognormal lengths.

    Attributes
    ----------
    n, seed : int
        Requests, and seed of the generator.
    rate : float
        Poisson arrivals per second.
    prompt_median, output_median : float
        Medians in tokens.
    prompt_sigma, output_sigma : float
        Standard deviations of the natural logarithms.
    prompt_max, output_max : int
        Longer ones are cut to this many tokens.
    """

    summary: ClassVar[str] = "chat with lognormal, heavy-tailed lengths, Poisson arrivals"
    surrogate: ClassVar[bool] = False

    n: int = 5000
    seed: int = 0
    rate: float = 5.0
    prompt_median: float = 500.0
    prompt_sigma: float = 1.2
    prompt_max: int = 131_072
    output_median: float = 200.0
    output_sigma: float = 1.0
    output_max: int = 8192

    def __post_init__(self) -> None:
        check_common(self.n, self.seed, self.rate)
        for name in ("prompt_median", "prompt_max", "output_median", "output_max"):
            check_tokens(name, getattr(self, name))
        for name in ("prompt_sigma", "output_sigma"):
            check_between(name, getattr(self, name), 0.0, 10.0)

    def draw(self) -> tuple[Lengths, Lengths, NDArray[np.float64]]:
        """Draw prompts, outputs, arrivals."""
        rng = np.random.default_rng(self.seed)
        return *self._lengths(rng), poisson(rng, self.n, self.rate)

    def _lengths(self, rng: np.random.Generator) -> tuple[Lengths, Lengths]:
        prompt = rng.lognormal(math.log(self.prompt_median), self.prompt_sigma, self.n)
        output = rng.lognormal(math.log(self.output_median), self.output_sigma, self.n)
        return tokens(prompt, self.prompt_max), tokens(output, self.output_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursty(Chat):
    """Chat whose arrivals come in bursts: gamma gaps with a large coefficient of variation.

    Attributes
    ----------
    cv : float
        Standard deviation of the gaps over their mean; 1 is Poisson.
    """

    summary: ClassVar[str] = "chat lengths with bursty (gamma) arrivals"

    cv: float = 4.0

    def __post_init__(self) -> None:
        Chat.__post_init__(self)
        check_between("cv", self.cv, 0.01, 100.0)

    def draw(self) -> tuple[Lengths, Lengths, NDArray[np.float64]]:
        """Draw prompts, outputs, arrivals."""
        rng = np.random.default_rng(self.seed)
        prompt, output = self._lengths(rng)
        shape = 1.0 / self.cv**2
        return prompt, output, since_first(rng.gamma(shape, 1.0 / (shape * self.rate), self.n))


Preset: TypeAlias = (
    Uniform | BfioNormal | ProprietaryLike | Azure2024LongLike | RecurringPrompts | Chat
)

PRESETS: Mapping[str, type[Preset]] = MappingProxyType(
    {
        "uniform": Uniform,
        "bfio-normal": BfioNormal,
        "proprietary-like": ProprietaryLike,
        "azure2024-long-like": Azure2024LongLike,
        "recurring-prompts": RecurringPrompts,
        "chat": Chat,
        "bursty": Bursty,
    }
)
"""Parameter class of every preset, by name."""
