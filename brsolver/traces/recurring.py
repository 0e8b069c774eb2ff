"""A preset whose prompts recur: what a forecast by prompt can gain over one by age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from brsolver.traces.draws import (
    Lengths,
    check_between,
    check_common,
    check_tokens,
    gamma,
    poisson,
    scaled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ProprietaryMoments:
    """Size and moments of the stand-ins for the proprietary trace of [BR].

    Attributes
    ----------
    n, seed : int
        Requests, and seed of the generator.
    rate : float
        Poisson arrivals per second.
    prompt_mean, prompt_std, output_mean, output_std : float
        Moments in tokens; the means are the published ones.
    """

    surrogate: ClassVar[bool] = True

    n: int = 8000
    seed: int = 0
    rate: float = 3.0
    prompt_mean: float = 3197.0
    prompt_std: float = 2600.0
    output_mean: float = 1185.0
    output_std: float = 700.0

    def __post_init__(self) -> None:
        check_common(self.n, self.seed, self.rate)
        for name in ("prompt_mean", "prompt_std", "output_mean", "output_std"):
            check_tokens(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurringPrompts(ProprietaryMoments):
    """Stand-in for the proprietary trace of [BR] with its prompts recurring.

    Prompt k of `prompts` is asked with a probability proportional to ``k**-zipf``. It has its
    own gamma-distributed prompt and output lengths; an output differs from its prompt's by a
    lognormal factor, and a share of outputs has nothing to do with the prompt. Both lengths are
    scaled to the published means. The published trace is known by these and by the accuracy of
    two predictors alone, Survival with an AUC of 0.700 and ExactMatch with one of 0.974; the
    defaults come near both when half the trace is history.

    Attributes
    ----------
    prompts : int
        Different prompts.
    zipf : float
        Exponent of their popularity; 0 makes all equally popular.
    sigma : float
        Standard deviation of the logarithm of an output's length over its prompt's.
    stray : float
        Share of outputs of unrelated length.
    """

    summary: ClassVar[str] = "surrogate of the proprietary trace with recurring prompts"

    prompts: int = 2500
    zipf: float = 0.8
    sigma: float = 0.001
    stray: float = 0.04

    def __post_init__(self) -> None:
        ProprietaryMoments.__post_init__(self)
        check_between("prompts", self.prompts, 1, 10_000_000)
        for name, most in (("zipf", 10.0), ("sigma", 10.0), ("stray", 1.0)):
            check_between(name, getattr(self, name), 0.0, most)

    def draw(
        self,
    ) -> tuple[Lengths, Lengths, NDArray[np.float64], dict[str, NDArray[np.int64]]]:
        """Draw which prompts, their lengths, outputs, arrivals."""
        rng = np.random.default_rng(self.seed)
        popularity = np.arange(1, self.prompts + 1, dtype=np.float64) ** -self.zipf
        asked = rng.choice(self.prompts, self.n, p=popularity / popularity.sum())
        prompt = gamma(rng, self.prompts, self.prompt_mean, self.prompt_std)[asked]
        output = self._outputs(rng, asked)
        columns = {"prompt_hash": asked.astype(np.int64)}
        prompt = scaled(prompt.astype(np.float64), self.prompt_mean)
        return prompt, output, poisson(rng, self.n, self.rate), columns

    def _outputs(self, rng: np.random.Generator, asked: NDArray[np.int64]) -> Lengths:
        shape = (self.output_mean / self.output_std) ** 2
        usual, unrelated = rng.gamma(shape, size=self.prompts)[asked], rng.gamma(shape, size=self.n)
        output = usual * rng.lognormal(0.0, self.sigma, self.n)
        output = np.where(rng.random(self.n) < self.stray, unrelated, output)
        return scaled(output, self.output_mean)
