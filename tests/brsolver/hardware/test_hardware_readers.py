"""Measurements are read by column, and what is wrong is named with file, row and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.readers import Selection, read_measurements

if TYPE_CHECKING:
    from pathlib import Path

DECODE = {"total_prefill_tokens": 0, "kv_seed_regime": "real_kv"}
SERVER = {"model_path": "org/Mini-1", "parallel_strategy": "dep", "dp": 4, "tp": 1}


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    file = path / "passes.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def passes(**more: Any) -> list[dict[str, Any]]:
    rows = [
        {"batch_size": 8, "total_kv_read_tokens": 800, "latency_ms": 12.5, **DECODE},
        {"batch_size": 16, "total_kv_read_tokens": 9, "latency_ms": 1.5, **DECODE}
        | {"kv_seed_regime": "fake_fallback"},
        {"batch_size": 2, "total_kv_read_tokens": 200, "latency_ms": 40.0, **DECODE}
        | {"total_prefill_tokens": 64, "kv_seed_regime": "n/a"},
    ]
    return [SERVER | row | more for row in rows]


def test_passes_are_read_by_name(tmp_path: Path) -> None:
    found = read_measurements(parquet(tmp_path, passes()))
    assert found.seconds.tolist() == [0.0125, 0.04]
    assert found.sequences[:, 0].tolist() == [8, 0]
    assert found.kv_tokens[:, 0].tolist() == [800, 0]
    assert found.prefill_tokens[:, 0].tolist() == [0, 64]
    # Two chunks of 32 tokens, each behind 100: 2·(32·100 + 1 + … + 32).
    assert found.prefill_context[:, 0].tolist() == [0, 2 * (3200 + 528)]
    assert found.origin.model == "org/Mini-1"
    assert (found.origin.dp, found.origin.tp) == (4, 1)
    assert "left out 1 rows with kv_seed_regime = fake_fallback" in found.origin.notes[0]
    assert found.ranks == 1


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1e-3), ("us", 1e-6)])
def test_the_unit_is_in_the_name(tmp_path: Path, unit: str, scale: float) -> None:
    rows = [{k: v for k, v in row.items() if k != "latency_ms"} for row in passes()]
    rows = [row | {f"latency_{unit}": 7.0} for row in rows]
    assert read_measurements(parquet(tmp_path, rows)).seconds.tolist() == [7 * scale] * 2


def several() -> list[dict[str, Any]]:
    return [*passes(), *passes(dp=2), *passes(parallel_strategy="tep", dp=1, tp=4)]


@pytest.mark.parametrize(
    ("selection", "dp"),
    [
        (Selection(parallel="dep", dp=2), 2),
        (Selection(dp=4), 4),
        (Selection(tp=4), 1),
        (Selection(model="mini-1", parallel="tep"), 1),
    ],
)
def test_one_of_several_servers_is_chosen(tmp_path: Path, selection: Selection, dp: int) -> None:
    found = read_measurements(parquet(tmp_path, several()), selection)
    assert len(found) == 2
    assert found.origin.dp == dp


def refused(path: Path, selection: Selection | None = None) -> str:
    with pytest.raises(ParameterError) as caught:
        read_measurements(path, selection)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_servers_of_which_none_is_chosen_are_listed(tmp_path: Path) -> None:
    text = refused(parquet(tmp_path, several()))
    assert "holds 3 servers, one must be chosen by --model, --parallel, --dp, --tp" in text
    assert "parallel=tep dp=1 tp=4" in text


def test_servers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, several())
    assert "dp is 3, must be one of 1, 2, 4" in refused(path, Selection(dp=3))
    with pytest.raises(UnknownNameError, match="'dpe': did you mean 'dep'"):
        read_measurements(path, Selection(parallel="dpe"))
    assert "unknown model" in refused(path, Selection(model="other"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_ms": -1.0}, "row 1: latency_ms is -1.0, must be a positive number"),
        ({"latency_ms": float("nan")}, "row 1: latency_ms is nan"),
        ({"latency_ms": None}, "row 1: latency_ms is nothing"),
        ({"batch_size": 0}, "row 1: batch_size is 0, must be a positive number"),
        ({"total_kv_read_tokens": -5}, "row 1: total_kv_read_tokens is -5, must be a number"),
    ],
)
def test_bad_passes_name_row_and_value(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    assert message in refused(parquet(tmp_path, passes(**change)))


@pytest.mark.parametrize(
    ("given", "degree"),
    [(4.0, 4), ("4", 4), ("4.0", 4), (None, 0), (float("nan"), 0)],
)
def test_degrees_may_be_floats_or_nothing(tmp_path: Path, given: object, degree: int) -> None:
    found = read_measurements(parquet(tmp_path, passes(dp=given, tp=given)))
    assert (found.origin.dp, found.origin.tp) == (degree, degree)


@pytest.mark.parametrize("column", ["dp", "tp"])
@pytest.mark.parametrize("given", [4.5, "four", 0, -1, float("inf")])
def test_bad_degrees_name_row_and_value(tmp_path: Path, column: str, given: object) -> None:
    text = refused(parquet(tmp_path, passes(**{column: given})))
    assert f"row 1: {column} is {given}, must be a whole number, at least 1, or nothing" in text


def test_a_float_degree_is_chosen_by_a_whole_number(tmp_path: Path) -> None:
    rows = [*passes(dp=4.0), *passes(dp=None)]
    assert read_measurements(parquet(tmp_path, rows), Selection(dp=4)).origin.dp == 4
    assert "dp=unknown tp=1" in refused(parquet(tmp_path, rows))
    assert "dp is 2, must be one of 4" in refused(parquet(tmp_path, rows), Selection(dp=2))


def test_what_a_file_leaves_out_is_empty(tmp_path: Path) -> None:
    origin = read_measurements(parquet(tmp_path, passes(model_path=None, system=None))).origin
    assert (origin.model, origin.system) == ("", "")


def test_missing_columns_and_unknown_units_are_refused(tmp_path: Path) -> None:
    def without(name: str, **more: Any) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != name} | more for row in passes()]

    assert "column batch_size is missing" in refused(parquet(tmp_path, without("batch_size")))
    text = refused(parquet(tmp_path, without("latency_ms", latency_min=1.0)))
    assert "durations are in latency_min, must be in one of latency_s, latency_ms" in text
    text = refused(parquet(tmp_path, without("latency_ms")))
    assert "durations are in no column" in text


def test_what_is_no_parquet_file_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    assert "cannot be read" in refused(broken)
    assert "cannot be read: No such file" in refused(tmp_path / "none.parquet")


ATTENTION = """prefill_chunk,kv_prefill,n_decode,kv_decode,time_us
0,0,1,16,8
0,0,4,128,20
512,2048,0,0,180
512,2048,4,128,220
"""


def text_file(path: Path, text: str, name: str = "attention.csv") -> Path:
    file = path / name
    file.write_text(text)
    return file


def test_attention_tables_are_one_layer(tmp_path: Path) -> None:
    path = text_file(tmp_path, ATTENTION)
    found = read_measurements(path, Selection(layers=10))
    assert found.seconds == pytest.approx([8e-5, 2e-4, 1.8e-3, 2.2e-3])
    assert found.sequences[:, 0].tolist() == [1, 4, 0, 4]
    assert found.kv_tokens[:, 0].tolist() == [16, 512, 0, 512]
    assert found.prefill_tokens[:, 0].tolist() == [0, 0, 512, 512]
    assert found.prefill_context[:, 0].tolist() == [0, 0, *[512 * (2048 + 256.5)] * 2]
    assert "attention only" in found.origin.notes[0]
    assert "--layers must say how many" in refused(path)


def test_attention_tables_of_several_kernels_are_summed(tmp_path: Path) -> None:
    text = """layer,prefill_chunk,prefill_key,n_decode,kv_decode,decode_q_len,time_us
attention,0,0,4,128,1,20
indexer,0,0,4,128,1,5
attention,64,132,0,0,1,30
indexer,64,132,0,0,1,10
attention,0,0,4,128,2,33
attention,0,0,8,128,1,40
"""
    found = read_measurements(text_file(tmp_path, text), Selection(layers=1))
    assert sorted(found.seconds.tolist()) == pytest.approx([25e-6, 40e-6])
    assert found.prefill_context.max() == 64 * 132.5
    assert "left out 1 rows with decode_q_len above 1" in found.origin.notes


def test_attention_tables_with_vidurs_columns(tmp_path: Path) -> None:
    text = """time_stats.attn_prefill.median,time_stats.attn_decode.median,batch_size,\
prefill_chunk_size,kv_cache_size,is_prefill
0.5,,1,32,64,True
,0.25,8,0,1024,False
"""
    found = read_measurements(text_file(tmp_path, text), Selection(layers=2))
    assert found.seconds == pytest.approx([1e-3, 0.5e-3])
    assert found.sequences[:, 0].tolist() == [0, 8]
    assert found.kv_tokens[:, 0].tolist() == [0, 8192]
    assert found.prefill_tokens[:, 0].tolist() == [32, 0]
    assert found.prefill_context[:, 0].tolist() == [32 * (64 + 16.5), 0]
    bad = text_file(tmp_path, text.replace("True", "maybe"))
    assert "row 2: is_prefill is maybe, must be True or False" in refused(bad, Selection(layers=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ATTENTION.replace("time_us", "time"), "durations are in time, must be in one of time_s"),
        (ATTENTION.replace("n_decode", "n"), "column n_decode is missing"),
        (ATTENTION.replace("kv_prefill", "kv_before"), "must have one of the columns kv_prefill"),
        (ATTENTION.replace("0,0,4,128,20", "0,0,4,128,x"), "row 3: time_us is x, must be a posit"),
        (ATTENTION.replace("0,0,4,128,20", "0,0,4,128"), "row 3 has 4 fields, must have 5"),
        ("a,b\n1,2\n", "columns are a, b, must be those of a known layout: AIConfigurator"),
        ("", "is empty, must have a row of column names"),
    ],
)
def test_bad_tables_name_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(text_file(tmp_path, text), Selection(layers=1))


OLD = "wave,step,end_s,kv_tokens,running,waiting,scheduled"
NEW = f"{OLD},decoding,decode_kv,prefill_tokens,prefill_context"


def logs(path: Path, header: str, *ranks: list[str]) -> Path:
    folder = path / "steps"
    folder.mkdir(exist_ok=True)
    for rank, rows in enumerate(ranks):
        (folder / f"rank-{rank}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_logs_are_put_side_by_side(tmp_path: Path) -> None:
    folder = logs(
        tmp_path,
        NEW,
        ["0,1,10.0,100,2,0,2,2,100,0,0", "0,2,10.5,600,3,0,502,2,102,500,125250"],
        ["0,1,10.1,50,1,0,1,1,50,0,0", "0,2,10.4,51,1,0,1,1,51,0,0", "0,3,11,52,1,0,1,1,52,0,0"],
    )
    found = read_measurements(folder)
    assert found.seconds == pytest.approx([0.4])
    assert found.sequences.tolist() == [[2, 1]]
    assert found.kv_tokens.tolist() == [[102, 51]]
    assert found.prefill_tokens.tolist() == [[500, 0]]
    assert found.prefill_context.tolist() == [[125250, 0]]
    assert found.origin.dp == 2
    assert found.origin.notes == ("left out 1 steps that begin a wave or follow a gap",)


def test_old_logs_leave_out_steps_with_prefill(tmp_path: Path) -> None:
    rows = ["0,1,1.0,10,2,0,2", "0,2,2.0,12,2,0,2", "0,3,3.0,90,3,0,80", "0,4,5.0,93,3,0,3"]
    found = read_measurements(logs(tmp_path, OLD, rows))
    assert found.seconds.tolist() == [1.0, 2.0]
    assert found.sequences[:, 0].tolist() == [2, 3]
    assert "left out 1 steps with prefill" in found.origin.notes[0]


def test_gaps_and_waves_have_no_duration(tmp_path: Path) -> None:
    rows = ["0,1,1,9,1,0,1", "0,3,9,9,1,0,1", "1,4,10,9,1,0,1", "1,5,11,9,1,0,1", "1,6,12,9,1,0,0"]
    assert read_measurements(logs(tmp_path, OLD, rows)).seconds.tolist() == [1.0]


def test_ranks_without_a_barrier_count_by_themselves(tmp_path: Path) -> None:
    folder = logs(
        tmp_path,
        OLD,
        ["0,0,1,9,1,0,1", "0,1,2,9,1,0,1"],
        ["1000000,0,1,8,2,0,2", "1000000,1,4,8,2,0,2"],
    )
    found = read_measurements(folder)
    assert found.seconds.tolist() == [1.0, 3.0]
    assert found.sequences.tolist() == [[1], [2]]
    assert found.origin.dp == 1
    assert "no step in common" in found.origin.notes[0]


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    path = text_file(tmp_path, f"{OLD}\n0,1,1,9,1,0,1\n0,2,2,9,1,0,1\n0,3,2.", "rank-0.csv")
    assert read_measurements(path).seconds.tolist() == [1.0]


def test_columns_stand_in_any_order(tmp_path: Path) -> None:
    text = "scheduled,running,extra,kv_tokens,end_s,step\n1,1,x,7,1,1\n1,1,x,8,3,2\n"
    found = read_measurements(text_file(tmp_path, text, "rank-0.csv"))
    assert found.kv_tokens.tolist() == [[8]]


def test_bad_logs_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no rank-R.csv" in refused(empty)
    folder = logs(tmp_path, OLD, ["0,1,x,9,1,0,1"])
    with pytest.raises(ParameterError, match="row 2: end_s is x, must be a number"):
        read_measurements(folder)
    text = NEW.replace(",decode_kv", "") + "\n0,1,1,9,1,0,1,1,0,0\n"
    with pytest.raises(ParameterError, match="column decode_kv is missing"):
        read_measurements(text_file(tmp_path, text, "rank-0.csv"))
    folder = logs(tmp_path, OLD, ["0,1,1,9,1,0,1"], [])
    (folder / "rank-1.csv").write_text(f"{NEW}\n0,1,1,9,1,0,1,1,9,0,0\n")
    with pytest.raises(ParameterError, match="some logs have a column decoding"):
        read_measurements(folder)


def test_loads_stand_in_one_array(tmp_path: Path) -> None:
    found = read_measurements(parquet(tmp_path, passes()))
    assert found.loads.shape == (4, 2, 1)
    assert np.array_equal(found.loads[1], found.kv_tokens)
