"""Variable-size collectives for vLLM's CPU communicator. For tests only.

vLLM's expert parallelism over data-parallel ranks gathers the tokens of every rank before the
experts (``all_gatherv``) and sums and splits their results after them (``reduce_scatterv``).
Its CPU communicator has neither, so that a mixture-of-experts model with more than one
data-parallel rank cannot run on CPU. With both, each step waits for the slowest rank, which is
the barrier that the project's routers are about.

vLLM's CPU experts moreover take the global numbers of the chosen experts for positions in the
rank's own weights, beyond which they read; `local_experts` translates them.

Nothing is imported or changed until vLLM calls `register`.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

FORK = "BRSOLVER_RIG_FORK"
"""Environment variable: 1 lets vLLM fork its processes."""


def all_gatherv(
    communicator: Any,
    input_: torch.Tensor | list[torch.Tensor],
    dim: int = 0,
    sizes: Sequence[int] | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """Concatenate every rank's rows.

    Parameters
    ----------
    communicator : DeviceCommunicatorBase
        The group that takes part.
    input_ : tensor or list of tensors
        This rank's rows, ``(sizes[rank], ...)`` each.
    dim : int
        Must be 0, as vLLM has it.
    sizes : sequence of int, optional
        Rows of each rank; None when all have as many as this one.

    Returns
    -------
    tensor or list of tensors
        ``(sum(sizes), ...)`` each, in rank order.

    Raises
    ------
    NotImplementedError
        For another dimension.
    """
    _first_dimension_only(dim)
    if isinstance(input_, list):
        return [_gather_rows(communicator, tensor, sizes) for tensor in input_]
    return _gather_rows(communicator, input_, sizes)


def reduce_scatterv(
    communicator: Any,
    input_: torch.Tensor,
    dim: int = -1,
    sizes: Sequence[int] | None = None,
) -> torch.Tensor:
    """Sum over ranks, and keep this rank's rows.

    Parameters
    ----------
    communicator : DeviceCommunicatorBase
        The group that takes part.
    input_ : tensor, shape (sum(sizes), ...)
        This rank's part of the sum.
    dim : int
        Must be 0, as vLLM has it.
    sizes : sequence of int, optional
        Rows of each rank; None when they are to be split evenly.

    Returns
    -------
    tensor, shape (sizes[rank], ...)
        The sum's rows of this rank.

    Raises
    ------
    NotImplementedError
        For another dimension.
    """
    _first_dimension_only(dim)
    import torch.distributed as dist

    world, rank = communicator.world_size, communicator.rank_in_group
    rows = list(sizes) if sizes is not None else [input_.shape[0] // world] * world
    total = input_.contiguous().clone()
    dist.all_reduce(total, group=communicator.device_group)
    return total.split(rows)[rank].contiguous()


def local_experts(
    topk_weights: torch.Tensor, topk_ids: torch.Tensor, expert_map: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the chosen experts by their place on this rank; those of other ranks weigh nothing.

    Parameters
    ----------
    topk_weights : tensor, shape (tokens, k)
        Weights of the chosen experts.
    topk_ids : tensor, shape (tokens, k)
        Their global numbers.
    expert_map : tensor, shape (experts,)
        Place on this rank of each expert, -1 for experts of other ranks.

    Returns
    -------
    topk_weights, topk_ids : tensor, shape (tokens, k)
        What the rank's own experts have to compute.
    """
    places = expert_map[topk_ids.long()]
    elsewhere = places < 0
    weights = topk_weights.masked_fill(elsewhere, 0.0)
    return weights, places.masked_fill(elsewhere, 0).to(topk_ids.dtype)


def _first_dimension_only(dim: int) -> None:
    if dim != 0:
        raise NotImplementedError(f"dim = {dim}: only dim = 0 is used by vLLM's expert parallelism")


def _gather_rows(
    communicator: Any, tensor: torch.Tensor, sizes: Sequence[int] | None
) -> torch.Tensor:
    """Pad to the longest rank's rows, as gloo gathers equal shapes only, and cut afterwards."""
    import torch
    import torch.distributed as dist

    world = communicator.world_size
    rows = list(sizes) if sizes is not None else [tensor.shape[0]] * world
    longest = max(rows)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=communicator.device_group)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


def _translate_experts(experts: Any) -> None:
    """Let the CPU experts' `apply` see places on the rank instead of global numbers."""
    original = experts.apply
    signature = inspect.signature(original)

    @functools.wraps(original)
    def apply(*args: Any, **kwargs: Any) -> None:
        call = signature.bind(*args, **kwargs).arguments
        if call["expert_map"] is not None:
            call["topk_weights"], call["topk_ids"] = local_experts(
                call["topk_weights"], call["topk_ids"], call["expert_map"]
            )
        original(**call)

    experts.apply = apply


def _fork_processes(platform: Any) -> None:
    """Let engines and workers be forked, as on GPUs, where each start imports vLLM once.

    vLLM spawns on CPU for the sake of OpenMP, whose threads do not survive a fork; the rig runs
    every process with one thread. Five imports of vLLM are most of a spawned server's start.
    """
    original = platform.check_and_update_config.__func__

    @functools.wraps(original)
    def check_and_update_config(cls: Any, *args: Any, **kwargs: Any) -> None:
        original(cls, *args, **kwargs)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)


def register() -> None:
    """Make expert parallelism work on CPU, where vLLM does not by itself."""
    from vllm.distributed.device_communicators.base_device_communicator import (
        DeviceCommunicatorBase,
    )
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
    from vllm.platforms.cpu import CpuPlatform

    if CpuCommunicator.all_gatherv is not DeviceCommunicatorBase.all_gatherv:
        return
    CpuCommunicator.all_gatherv = all_gatherv
    CpuCommunicator.reduce_scatterv = reduce_scatterv
    _translate_experts(CPUUnquantizedExperts)
    if os.environ.get(FORK) == "1":
        _fork_processes(CpuPlatform)
