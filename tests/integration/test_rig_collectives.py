"""The rig's plug-in: the collectives that expert parallelism needs, against plain sums."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.vllm

SIZES = [3, 0, 5]
WIDTH = 4


def rows(rank: int) -> np.ndarray:
    rng = np.random.default_rng(rank)
    return rng.integers(-9, 9, size=(SIZES[rank], WIDTH)).astype(np.float32)


def parts(rank: int) -> np.ndarray:
    rng = np.random.default_rng(100 + rank)
    return rng.integers(-9, 9, size=(sum(SIZES), WIDTH)).astype(np.float32)


def collect(rank: int, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from brsolver_vllm_cpu_ep import all_gatherv, reduce_scatterv

    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=len(SIZES))
    group = SimpleNamespace(world_size=len(SIZES), rank_in_group=rank, device_group=None)
    mine, whole = torch.from_numpy(rows(rank)), torch.from_numpy(parts(rank))
    kept = whole.clone()
    gathered = all_gatherv(group, [mine, mine.to(torch.int64)], dim=0, sizes=SIZES)
    summed = reduce_scatterv(group, whole, dim=0, sizes=SIZES)
    assert torch.equal(whole, kept), "the input was changed"
    for name, tensor in (("floats", gathered[0]), ("ints", gathered[1]), ("sum", summed)):
        np.save(f"{folder}/{name}-{rank}.npy", tensor.numpy())
    dist.destroy_process_group()


def test_ranks_of_any_size_gather_all_rows_and_sum_their_own(tmp_path: Path) -> None:
    from torch import multiprocessing

    multiprocessing.spawn(collect, args=(str(tmp_path),), nprocs=len(SIZES))
    everything = np.concatenate([rows(rank) for rank in range(len(SIZES))])
    total = sum(parts(rank) for rank in range(len(SIZES)))
    ends = np.cumsum(SIZES)
    for rank, (end, size) in enumerate(zip(ends, SIZES, strict=True)):
        assert np.array_equal(np.load(tmp_path / f"floats-{rank}.npy"), everything)
        assert np.array_equal(np.load(tmp_path / f"ints-{rank}.npy"), everything.astype(np.int64))
        assert np.array_equal(np.load(tmp_path / f"sum-{rank}.npy"), total[end - size : end])


def test_experts_are_numbered_by_place_and_those_elsewhere_weigh_nothing() -> None:
    import torch
    from brsolver_vllm_cpu_ep import local_experts

    weights = torch.tensor([[0.7, 0.3], [0.6, 0.4]])
    ids = torch.tensor([[4, 1], [7, 5]], dtype=torch.int32)
    here = torch.tensor([-1, -1, -1, -1, 0, 1, 2, 3], dtype=torch.int32)
    found, places = local_experts(weights, ids, here)
    assert places.tolist() == [[0, 0], [3, 1]]
    assert places.dtype == ids.dtype
    assert torch.equal(found, torch.tensor([[0.7, 0.0], [0.6, 0.4]]))
    assert torch.equal(weights, torch.tensor([[0.7, 0.3], [0.6, 0.4]]))


def test_other_dimensions_are_refused() -> None:
    import torch
    from brsolver_vllm_cpu_ep import all_gatherv, reduce_scatterv

    for operation in (all_gatherv, reduce_scatterv):
        with pytest.raises(NotImplementedError, match="dim = 1"):
            operation(SimpleNamespace(), torch.zeros(2, 2), dim=1, sizes=[1, 1])


@pytest.mark.filterwarnings("default")  # vLLM's and torch's own imports warn
def test_the_communicator_has_both_after_registering_twice() -> None:
    import brsolver_vllm_cpu_ep as plugin
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    plugin.register()
    once = CPUUnquantizedExperts.apply
    plugin.register()
    assert CpuCommunicator.all_gatherv is plugin.all_gatherv
    assert CpuCommunicator.reduce_scatterv is plugin.reduce_scatterv
    assert CPUUnquantizedExperts.apply is once


def test_the_plugin_imports_nothing_of_vllm_by_itself() -> None:
    import subprocess

    code = "import sys, brsolver_vllm_cpu_ep; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
