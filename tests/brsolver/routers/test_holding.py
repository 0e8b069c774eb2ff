"""How long steps last, as br-t takes it from the moments at which it is asked."""

from __future__ import annotations

import math

import pytest

from brsolver.routers import BRT, BRTParams
from brsolver.routers._holding import Holding


def test_a_step_lasts_from_the_first_time_asked_in_it_to_that_in_the_next():
    holding = Holding()
    for step, clock_s in ((0, 0.0), (1, 0.05), (1, 0.08), (1, 0.09), (2, 0.10), (4, 0.20)):
        holding.look(step, clock_s)
    assert holding.step_s == pytest.approx(0.05)


def test_time_in_which_nothing_ran_is_no_step():
    holding = Holding()
    for step in range(20):
        holding.look(step, 0.05 * step)
    holding.look(20, 3600.0, idle=True)
    holding.look(21, 3600.05)
    assert holding.step_s == pytest.approx(0.05)


def test_what_is_held_counts_between_all_times_asked():
    holding = Holding()
    holding.look(1, 0.0)
    assert math.isnan(holding.step_s)
    holding.hold(3, 6)
    for clock_s in (0.01, 0.03, 0.04):
        holding.look(1, clock_s)
    assert holding.spent == pytest.approx(0.04 * 3 / 6)
    assert holding.tally.held_s == pytest.approx(0.12)
    assert holding.held_s(0.04) == pytest.approx(0.04)
    holding.release(3, 0.5)
    assert (holding.tally.waves, holding.tally.released, holding.spent) == (1, 3, 0.0)


def test_a_router_says_for_how_long_it_holds_and_what_that_came_to():
    router = BRT(BRTParams(hold_s=7.0))
    assert router.holds_s == 7.0
    assert dict(router.tally()) == {
        "waves": 0, "released": 0, "filled": 0, "held_s": 0.0, "stalled_s": 0.0,
    }  # fmt: skip
