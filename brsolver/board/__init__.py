"""A board of routers: every policy on the same traces, regimes and hardware, with its gap."""

from __future__ import annotations

from brsolver.board.choice import read_choice
from brsolver.board.definition import BoardDefinition, BoardTrace, Regime, load_definition
from brsolver.board.policies import BoardPolicy, policies_of
from brsolver.board.result import Board
from brsolver.board.run import run_board
from brsolver.board.standings import Part, Standing

__all__ = [
    "Board",
    "BoardDefinition",
    "BoardPolicy",
    "BoardTrace",
    "Part",
    "Regime",
    "Standing",
    "load_definition",
    "policies_of",
    "read_choice",
    "run_board",
]
