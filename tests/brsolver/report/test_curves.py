from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.report import curves as module
from brsolver.report.curves import assign_lanes, curves_of, gantt_of
from tests.brsolver.report.conftest import make_result, make_trace

if TYPE_CHECKING:
    from brsolver.simulator.result import SimulationResult
    from brsolver.traces.model import Trace
