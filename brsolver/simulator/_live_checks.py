"""Checks of what `LiveRanks` are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._limits import require
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from brsolver.simulator.prefill import Prefill


def check_ranks(prefill: Prefill, state: ClusterState) -> None:
    """Raise `ParameterError` if live ranks cannot compute prompts this way."""
    require(
        prefill.scheduler == "v1",
        f"prefill: scheduler is {prefill.scheduler}, must be v1 where steps are live",
    )
    require(
        prefill.delayer == "none",
        f"prefill: delayer is {prefill.delayer}, must be none where steps are live",
    )
    require(
        prefill.cache == 0,
        f"prefill: cache is {prefill.cache}, must be 0 where steps are live: what is cached is "
        "told with each request",
    )
    prefill.check_slots(int(state.slots.max()))


def check_lengths(
    request: int, prompt_tokens: int, output_tokens: int | None, cached_tokens: int, generated: int
) -> None:
    """Raise `ParameterError` if a length of a request is out of range."""
    for name, value, least in (
        ("prompt_tokens", prompt_tokens, 1),
        ("cached_tokens", cached_tokens, 0),
        ("generated", generated, 0),
        ("output_tokens", output_tokens, generated + 1),
    ):
        if value is not None and value < least:
            raise ParameterError(f"request {request}: {name} is {value}, must be at least {least}")
