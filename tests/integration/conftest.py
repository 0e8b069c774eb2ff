"""Tests marked ``vllm`` run where the rig's own interpreter runs pytest, and nowhere else.

Those marked ``chaos``, ``fuzz`` or ``rayllm`` take minutes and run when ``-m`` asks for them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

# gRPC's threads would else be started anew in every child between fork and exec, and fail there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

REASON = "not run by the vLLM rig's interpreter; use: make test-vllm"
ON_DEMAND = ("chaos", "fuzz", "rayllm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("markexpr")
    for item in items:
        for name in ON_DEMAND:
            if item.get_closest_marker(name) is not None and name not in asked:
                item.add_marker(pytest.mark.skip(reason=f"takes minutes; use: make {name}"))
    if find_spec("brsolver_vllm_cpu_ep") is not None:
        return
    for item in items:
        if item.get_closest_marker("vllm") is not None:
            item.add_marker(pytest.mark.skip(reason=REASON))
