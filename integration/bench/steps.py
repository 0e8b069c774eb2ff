"""Step logs of the bench: written by the ranks (`integration.vllm.step_log`), read by brsolver."""

from __future__ import annotations

from brsolver.hardware.readers.steps import Steps, joined, read_steps
from integration.vllm.config import STEPS
from integration.vllm.step_log import COLUMNS

__all__ = ["COLUMNS", "STEPS", "Steps", "joined", "read_steps"]
