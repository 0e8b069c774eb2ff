"""Which of several measured servers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of the servers that a file holds; empty and 0 choose nothing.

    Attributes
    ----------
    model : str
        Its name, or the end of it: ``MiniMax-M2.7``.
    parallel : str
        Strategy of parallelism: ``dep``, ``tep``, ``pure_tp``.
    dp, tp : int
        Degrees of data and tensor parallelism.
    layers : int
        Attention layers of the model, for tables that hold one.
    """

    model: str = ""
    parallel: str = ""
    dp: int = 0
    tp: int = 0
    layers: int = 0
