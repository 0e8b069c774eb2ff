"""Many independent cells, each a row of figures: carried out anywhere, and never twice.

A cell's row is written as soon as it is there. What was interrupted goes on where it was: only
what is missing is computed.
"""

from __future__ import annotations

from brsolver.campaign.cells import FAILED, WALL_S, Campaign, Cell
from brsolver.campaign.run import run_campaign
from brsolver.campaign.store import ResultStore

__all__ = ["FAILED", "WALL_S", "Campaign", "Cell", "ResultStore", "run_campaign"]
