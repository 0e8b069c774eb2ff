"""The requests of a round: lengths from a trace, prompts of random tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.compare import TraceSource
from brsolver.errors import ParameterError
from integration.load.vocabulary import ORDINARY_TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadParams:
    """What is sent.

    Attributes
    ----------
    trace : str or TraceSource
        Trace file or preset that lengths are taken from.
    requests : int
        Requests per round; the rounds take consecutive parts of the trace.
    scale : float
        Factor on all lengths, to fit a small machine.
    max_tokens : int
        Longest prompt plus output after scaling; longer requests are cut in proportion.
    seed : int
        Seed of the prompts.
    """

    trace: str | TraceSource = "preset:uniform:n=20000,s_low=32,s_high=1536,o_low=16,o_high=160"
    requests: int = 120
    scale: float = 1.0
    max_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ParameterError(f"requests is {self.requests}, must be at least 1")
        if not self.scale > 0:
            raise ParameterError(f"scale is {self.scale}, must be positive")
        if self.max_tokens < 2:
            raise ParameterError(f"max_tokens is {self.max_tokens}, must be at least 2")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Workload:
    """Requests in the order in which they are sent.

    Attributes
    ----------
    prompts : tuple of list of int
        Token numbers of each prompt.
    output_tokens : ndarray of int64, shape (n,)
        Tokens that each request generates, exactly.
    trace : Trace
        The same lengths as a trace, for the simulator.
    """

    prompts: tuple[list[int], ...]
    output_tokens: NDArray[np.int64]
    trace: Trace

    def __len__(self) -> int:
        return len(self.prompts)

    def with_new_prompts(self, seed: int) -> Workload:
        """Return the same lengths with other tokens, of which no cache has seen any."""
        rng = np.random.default_rng(seed)
        return replace(self, prompts=random_prompts(rng, self.trace.prompt_tokens))


def workloads(params: WorkloadParams, rounds: int) -> list[Workload]:
    """Return one workload per round.

    Raises
    ------
    BrsolverError
        If the trace cannot be read or holds too few requests.
    """
    source = params.trace
    if not isinstance(source, TraceSource):
        source = TraceSource(source=source)
    trace = source.load(0)
    if trace.delay_s is not None:
        raise ParameterError(
            f"turns of {trace.name} follow others, must follow none: clients send requests that "
            "know nothing of each other"
        )
    needed = params.requests * rounds
    if len(trace) < needed:
        raise ParameterError(
            f"requests of {trace.name} is {len(trace)}, must be at least {needed} for {rounds} "
            f"rounds of {params.requests}"
        )
    return [_workload(params, trace, round_) for round_ in range(rounds)]


def random_prompts(rng: np.random.Generator, lengths: NDArray[np.int64]) -> tuple[list[int], ...]:
    """Return a prompt of ordinary tokens for each length."""
    return tuple(rng.integers(*ORDINARY_TOKENS, size=size).tolist() for size in lengths)


def _workload(params: WorkloadParams, trace: Trace, round_: int) -> Workload:
    part = slice(round_ * params.requests, (round_ + 1) * params.requests)
    prompt, output = _scaled(trace.prompt_tokens[part], trace.output_tokens[part], params)
    rng = np.random.default_rng((params.seed, round_))
    prompts = random_prompts(rng, prompt)
    lengths = replace(
        trace, prompt_tokens=prompt, output_tokens=output, arrival_s=None, columns={}, rows=None
    )
    return Workload(prompts=prompts, output_tokens=output, trace=lengths)


def _scaled(
    prompt: NDArray[np.int64], output: NDArray[np.int64], params: WorkloadParams
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    factor = np.minimum(params.scale, (params.max_tokens - 2) / (prompt + output))
    shorter = (np.maximum(1, np.round(lengths * factor)) for lengths in (prompt, output))
    prompt, output = (lengths.astype(np.int64) for lengths in shorter)
    return prompt, output
