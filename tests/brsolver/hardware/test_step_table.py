"""Files of measured step durations: columns by name and unit, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from brsolver.errors import ParameterError
from brsolver.hardware.step_table import read_step_table

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path, text: str) -> dict[str, tuple[float, ...]]:
    path = folder / "steps.csv"
    path.write_text(text)
    return read_step_table(path)


@pytest.mark.parametrize(
    ("text", "axes", "seconds"),
    [
        ("load,seconds\n0,0.008\n10000,0.009\n", {"loads": (0, 10000)}, (0.008, 0.009)),
        ("load,ms\n0,8\n100000,20\n", {"loads": (0, 100000)}, (0.008, 0.02)),
        ("kv_tokens, latency_us\n0,8000\n9,9000\n", {"loads": (0, 9)}, (0.008, 0.009)),
        (
            "batch_size,seconds\n1,0.0081\n32,0.02\n64,0.031\n",
            {"sequences": (1, 32, 64)},
            (0.0081, 0.02, 0.031),
        ),
        (
            "ms,load,sequences\n4,100,8\n1,0,1\n3,0,8\n2,100,1\n",
            {"sequences": (1, 8), "loads": (0, 100)},
            (0.001, 0.002, 0.003, 0.004),
        ),
    ],
)
def test_columns_are_read_by_name_and_unit(
    tmp_path: Path, text: str, axes: dict[str, tuple[float, ...]], seconds: tuple[float, ...]
) -> None:
    found = read(tmp_path, text)
    assert found.pop("seconds") == pytest.approx(seconds)
    assert found == axes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, must name its columns, e.g. kv_tokens,seconds"),
        ("0,0.1\n10,0.2\n", "row 1: column is '0', must be one of: loads sequences, batch_size"),
        ("kv_tokens_dp8,p50_s\n0,1\n", "row 1: column is 'kv_tokens_dp8', must be one of"),
        ("load,seconds,ms\n0,1,1\n", "row 1: columns are load,seconds,ms, must be one or more"),
        ("load,kv_tokens,ms\n0,1,1\n", "row 1: load and kv_tokens are given, must be one"),
        ("seconds\n0\n", "row 1: columns are seconds, must be one or more"),
        ("load,seconds\n0,1\n5,x\n", "row 3 is '5,x', must be two numbers: load,seconds"),
        ("load,batch_size,ms\n0,1\n", "row 2 is '0,1', must be 3 numbers: load,batch_size,ms"),
        ("load,batch_size,ms\n0,1,1\n0,1,2\n", "row 3 has the loads of row 2"),
        ("load,batch_size,ms\n0,1,1\n5,2,2\n", "there is no row with batch_size 1, load 5"),
        ("load,batch_size,ms\n0,nan,1\n", "row 2 is (nan, 0.0), must be finite numbers"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "steps.csv" in str(caught.value)
