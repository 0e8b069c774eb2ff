"""Mean imbalance on rebuildable traces against what the public [BFIO] simulator printed.

And the order of the policies of [BR]'s table on surrogates with that table's means.
"""

from __future__ import annotations

from benchmarks._table import show
from brsolver import SimulationParams, load_trace, simulate
from brsolver.hardware.model import step_time_of

SETTINGS = (
    ("preset:uniform:seed=7,n=2000,s_low=50,s_high=8000,o_low=10,o_high=900", 8, 32),
    ("preset:uniform:seed=11,n=3000,s_low=50,s_high=4000,o_low=10,o_high=400", 16, 72),
)
PEER = {
    8: {"h0": 20736.909923664123, "h20": 11481.02438281012, "h80": 35699.225875190255},
    16: {"h0": 28082.928571428572, "h20": 36819.67733990148, "h80": 58480.078624078626},
}
OURS = (
    ("br-0", None, "h0"),
    ("br-0:r_max=4", None, "h0"),
    ("br-h", "oracle", "h20"),
    ("br-h", "oracle", "h80"),
    ("br-h:r_max=4", "oracle", "h80"),
    ("br-h:r_max=4,beta=43", "oracle", "h80"),
    ("bf-io:horizon=0", None, "h0"),
    ("bf-io:horizon=20", "oracle", "h20"),
    ("bf-io:horizon=80", "oracle", "h80"),
)
SURROGATES = ("preset:proprietary-like", "preset:azure2024-long-like")
TABLE = (
    ("random", None), ("round-robin", None), ("p2c", None), ("jsq", None), ("br-0:r_max=4", None),
    ("br-0", None), ("br-h:r_max=4", "oracle"), ("br-h", "oracle"),
    ("br-h", "survival"),
)  # fmt: skip


def main() -> None:
    """Print both tables."""
    rows = []
    for source, workers, slots in SETTINGS:
        trace = load_trace(source)
        params = SimulationParams(workers=workers, slots=slots, step_time=step_time_of("bfio"))
        for policy, predictor, row in OURS:
            m = simulate(trace, policy, params, predictor=predictor).metrics
            peer = PEER[workers][row]
            ours = m.avg_imbalance_sum_post
            rows.append((workers, policy, predictor or "-", ours, f"bfio_{row}", peer, ours / peer))
    show(
        "Mean imbalance after departures against the peer's rows of the same information",
        ("G", "policy", "predictor", "ours", "row", "peer", "ours / peer"),
        rows,
    )
    _surrogates()


def _surrogates() -> None:
    rows = []
    params = SimulationParams(workers=8, slots=32, step_time=step_time_of("bfio"))
    for source in SURROGATES:
        trace = load_trace(source)
        for policy, predictor in TABLE:
            m = simulate(trace, policy, params, predictor=predictor).metrics
            rows.append(
                (trace.name, policy, predictor or "-", m.avg_imbalance_range, m.idle_rate * 100,
                 m.tpot_p95_s * 1000, m.throughput_tok_s, m.max_wait_s)
            )  # fmt: skip
    show(
        "The policies of [BR]'s table on surrogates, G = 8, B = 32",
        ("trace", "policy", "predictor", "imbalance (range)", "idle %", "TPOT P95 ms", "tok/s",
         "longest wait s"),
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
