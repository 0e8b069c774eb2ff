"""Golden figures: what the public [BFIO] simulator printed for traces anyone can rebuild."""

import pytest

from brsolver.hardware.model import step_time_of
from brsolver.simulator import SimulationParams, simulate

SMALL = {"seed": 7, "n": 2000, "s_high": 8000, "o_high": 900}, 8, 32
LARGE = {"seed": 11, "n": 3000, "s_high": 4000, "o_high": 400}, 16, 72

GOLDEN = [
    (
        SMALL,
        "fcfs",
        4112,
        78.47483079999992,
        145617.89984779299,
        12307.444103939199,
        0.11429346902158706,
        0.020480015406453042,
        0.9989345509893455,
        204796.15764273462,
        3285,
    ),
    (
        SMALL,
        "round-robin",
        4112,
        78.88305500000003,
        146871.21856925418,
        12298.787888824025,
        0.11539635102381428,
        0.020534290589826802,
        0.9989345509893455,
        204865.31405626575,
        3285,
    ),
    (
        SMALL,
        "jsq-load",
        4112,
        78.54813099999994,
        152269.63561643835,
        12257.76138652128,
        0.11914885686215072,
        0.02056780090516921,
        0.9989345509893455,
        205096.05747656312,
        3285,
    ),
    (
        LARGE,
        "fcfs",
        806,
        13.889977100000012,
        344038.8894348894,
        51466.81441323735,
        0.12837840626845493,
        0.021017940766462143,
        0.9790770884520884,
        52942.236467071896,
        407,
    ),
    (
        LARGE,
        "round-robin",
        806,
        13.591150499999998,
        275014.2604422604,
        52521.002754900226,
        0.1061819857938928,
        0.020642909557122564,
        0.9790770884520884,
        52783.36671325645,
        407,
    ),
    (
        LARGE,
        "jsq-load",
        806,
        13.54056790000001,
        232301.2972972973,
        53158.83537481515,
        0.08868166110463313,
        0.020496028271223165,
        0.9790770884520884,
        52618.854359181016,
        407,
    ),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[1]}-G{row[0][1]}")
def test_figures_equal_the_peers(row, uniform_trace):
    (recipe, workers, slots), policy = row[:2]
    params = SimulationParams(workers=workers, slots=slots, step_time=step_time_of("bfio"))
    m = simulate(uniform_trace(**recipe), policy, params).metrics
    ours = (
        m.steps,
        m.makespan_s,
        m.avg_imbalance_sum_post,
        m.throughput_tok_s,
        m.idle_rate_post,
        m.tpot_mean_s,
        m.slot_utilization,
        m.energy_j_post,
        m.window_end,
    )
    assert ours == pytest.approx(row[2:], rel=1e-9)


BETTER = [
    (SMALL, "br-0:guard=false", None, 20736.909923664123),
    (SMALL, "br-h", "oracle", 11481.02438281012),
    (LARGE, "br-h", "oracle", 36819.67733990148),
]


@pytest.mark.parametrize(("setting", "policy", "predictor", "bfio"), BETTER)
def test_routers_beat_the_peers_best_of_the_same_information(
    setting, policy, predictor, bfio, uniform_trace
):
    """BR-0 without its guard; the fourth comparison (BR-0, G = 16) is lost, see the docs."""
    recipe, workers, slots = setting
    params = SimulationParams(workers=workers, slots=slots, step_time=step_time_of("bfio"))
    m = simulate(uniform_trace(**recipe), policy, params, predictor=predictor).metrics
    assert m.avg_imbalance_sum_post < bfio
