"""The adapter's logger."""

from __future__ import annotations

import logging

# A child of vLLM's own logger: its handlers and its format, in all of its processes.
logger = logging.getLogger("vllm.brsolver")
