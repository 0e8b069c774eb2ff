"""Measured servers against simulated ones: reading, halves, and fits of what we simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import bench_silicon
from benchmarks._silicon import DATA_PARALLEL, Row, distinct, halves, irregular, read_rows
from benchmarks._silicon_fit import Fit, Reading, data_sheet
from benchmarks._silicon_server import overloaded, server_of

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "id,system,precision,isl,osl,batch_size,attention_dp_size,silicon_ttft_ms,silicon_tpot_ms"
TENSOR, DATA = "cfg1", DATA_PARALLEL[0]
READING = Reading(DATA_PARALLEL, rounds=3)


def row(concurrency: int = 8, **changes: object) -> Row:
    fields = {
        "id": f"x_c{concurrency}_{TENSOR}",
        "system": "b200_sxm",
        "precision": "fp8",
        "configuration": TENSOR,
        "isl": 128,
        "osl": 64,
        "gpus": 2,
        "concurrency": concurrency,
        "ttft_s": 0.1,
        "tpot_s": 0.01,
    }
    return Row(**{**fields, **changes})  # type: ignore[arg-type] # names and kinds are Row's


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join((HEADER, *lines)) + "\n")
    return path


def test_a_measurement_told_twice_is_read_once(tmp_path: Path) -> None:
    rows = read_rows(
        write(
            tmp_path / "rows.csv",
            "a_c8_cfg1,b200_sxm,fp8,1024,1024,4.0,2.0,82.8,11.07",
            "b_c8_tp2_ep2_1399,b200_sxm,fp8,1024,1024,4.0,2.0,82.8,11.07",
            "c_c8_cfg9,b200_sxm,fp8,1024,1024,4.0,2.0,83.5,11.1",
            "d_c8_cfg2,b200_sxm,fp8,1024,1024,4.0,2.0,60.0,11.07",
            "e_c8_tp2_ep2_7,b200_sxm,fp4,1024,1024,4.0,2.0,82.8,11.07",
        )
    )
    assert [each.configuration for each in rows] == ["cfg1", "cfg2", "tp2_ep2"]
    assert (rows[0].concurrency, rows[0].gpus) == (8, 2)
    assert (rows[0].ttft_s, rows[0].tpot_s) == pytest.approx((0.0828, 0.01107))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,b200_sxm,fp8,1024,1024,4,2,nan,11", "line 2: silicon_ttft_ms is 'nan', must be"),
        ("a,b200_sxm,fp8,1024,1024,4,-2,80,11", "line 2: attention_dp_size is '-2', must be"),
        ("a,b200_sxm,fp8,1024,1024,4,2,80", "line 2: silicon_tpot_ms is None, must be"),
        (",b200_sxm,fp8,1024,1024,4,2,80,11", "line 2: id is missing, must be there"),
        ("a,b100,fp8,1024,1024,4,2,80,11", "line 2: system is 'b100', must be one of b200_sxm"),
        ("a,h100_sxm,fp4,1024,1024,4,2,80,11", "line 2: precision is 'fp4', must be one of fp8"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_rows(write(tmp_path / "rows.csv", line))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no rows, must have"):
        read_rows(write(tmp_path / "rows.csv"))


def test_halves_alternate_within_each_configuration() -> None:
    rows = [
        row(concurrency, configuration=configuration, ttft_s=0.01 * concurrency)
        for configuration in ("cfg1", "cfg2")
        for concurrency in (64, 2, 8, 4, 32)
    ]
    first, second = halves(rows)
    assert len(first) == len(second) == 5
    assert {id(each) for each in (*first, *second)} == {id(each) for each in rows}
    loads = [(each.configuration, each.concurrency) for each in first]
    assert loads[:3] == [("cfg1", 2), ("cfg1", 8), ("cfg1", 64)]
    assert loads[3:] == [("cfg2", 4), ("cfg2", 32)]
    assert distinct(rows) == rows[:5]


def test_fewer_requests_per_second_with_more_clients_is_irregular() -> None:
    rows = [row(4), row(8, tpot_s=0.012), row(16, tpot_s=0.05), row(32, tpot_s=0.04)]
    assert irregular(rows) == [rows[2]]


def test_gpus_share_a_request_or_have_their_own() -> None:
    costs = replace(data_sheet(row()), base={"tp2": 0.004, "dp2": 0.005})
    tensor, data = (
        server_of(row(configuration=each), reserve=5e9, data_parallel=DATA_PARALLEL)
        for each in (TENSOR, DATA)
    )
    assert (tensor.ranks, data.ranks) == (1, 2)
    together, own = costs.step_time(tensor), costs.step_time(data)
    assert (together.base, own.base) == (0.004, 0.005)
    assert own.per_token == pytest.approx(2 * together.per_token)
    assert own.all_experts == together.all_experts
    aligned = own.per_prefill_token + own.per_mean_prefill_token - costs.token
    assert aligned == pytest.approx(2 * (together.per_prefill_token - costs.token))
    assert server_of(row(), reserve=5e9, data_parallel=None).ranks == 2
    with pytest.raises(ValueError, match="no row of layout dp2 was fitted"):
        replace(costs, base={"tp2": 0.004}).step_time(data)


def test_more_kv_than_fits_is_overload() -> None:
    asked = {"isl": 8192, "osl": 1024}
    for system, clients, over in (
        ("h100_sxm", 16, False),
        ("h100_sxm", 64, True),
        ("b300_sxm", 64, False),
    ):
        each = row(clients, system=system, gpus=4, **asked)
        server = server_of(each, reserve=5e9, data_parallel=())
        assert overloaded(each, server) is over


def test_a_fit_tells_the_rows_it_has_not_seen_of_servers_that_we_simulated() -> None:
    truth = replace(
        data_sheet(row()),
        base={"tp2": 0.007, "dp2": 0.009},
        token=9e-6,
        decoded=4e-5,
        prefill=3e-5,
        front=0.02,
    )
    rows = [
        row(concurrency, configuration=configuration, isl=isl)
        for configuration in (TENSOR, DATA)
        for isl in (128, 512)
        for concurrency in (2, 4, 8, 16, 32, 64)
    ]
    measured = []
    for each in rows:
        tpot, ttft = READING.predict(each, truth).tolist()
        measured.append(replace(each, tpot_s=tpot, ttft_s=ttft))
    fitted, asked = halves(measured)
    predictions, costs = bench_silicon.predict(fitted, asked, READING)
    assert np.abs([each.errors for each in predictions]).max() < 0.005
    (found,) = costs.values()
    assert found.experts == pytest.approx(truth.experts, rel=0.02)
    assert found.front == pytest.approx(truth.front, rel=0.02)
    assert found.base == pytest.approx(truth.base, rel=0.02)


def test_a_coefficient_left_out_is_zero() -> None:
    reading = Reading(DATA_PARALLEL, rounds=2, without=frozenset({"token"}))
    costs = Fit([row(2), row(8, tpot_s=0.012)], reading).costs(turns=0)
    assert costs.token == 0
    assert costs.experts > 0


def test_the_benchmark_tells_both_halves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        f"x_c{clients}_cfg1,b200_sxm,fp8,128,64,{clients / 2},2,{90 + clients},{9 + clients / 4}"
        for clients in (2, 4, 8, 16)
    ]
    bench_silicon.main([str(write(tmp_path / "rows.csv", *lines)), "--labelled"])
    told = capsys.readouterr().out
    assert "Errors, first half fitted, second predicted" in told
    assert "Errors, second half fitted, first predicted" in told
    assert told.count("all and irregular") == 2
