"""Requests held back until slots are free, as vLLM's client knows them."""

from __future__ import annotations

from integration.routing.pool import LEFT
from integration.routing.pool import Held as AnyHeld
from integration.routing.pool import Pool as AnyPool
from integration.vllm.requests import Request

__all__ = ["LEFT", "Held", "Pool", "Released"]

Held = AnyHeld[Request]
Pool = AnyPool[Request]
Released = list[tuple[Held, int]]
"""Requests, and the rank that each is given, or `LEFT`."""
