"""Files of operators are read by the names of their columns, or refused with one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import made_operators as made
import pytest

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.operators import operators_of
from brsolver.hardware.readers.operator_tables import LAYOUTS, read_tables
from brsolver.hardware.shape import Shape, read_shape, shape_names, shape_of_model

if TYPE_CHECKING:
    from pathlib import Path

MOE = made.made_rows()["moe"]


def moe(folder: Path, rows: list[dict[str, Any]], suffix: str = ".parquet") -> Path:
    return made.write(folder, {"moe": rows}, suffix)


def test_a_folder_of_folders_is_read_and_one_file_alone(tmp_path: Path) -> None:
    rows = made.made_rows()
    for operator, mine in rows.items():
        made.write(tmp_path / "data" / operator, {operator: mine})
    (tmp_path / "data" / "encoder_attention_perf.parquet").write_bytes(b"not looked at")
    tables = read_tables(tmp_path)
    assert set(tables) == set(rows) < set(LAYOUTS)
    assert {operator: len(table) for operator, table in tables.items()} == {
        operator: len(mine) for operator, mine in rows.items()
    }
    (alone,) = read_tables(tmp_path / "data" / "moe" / "moe_perf.parquet").values()
    assert (alone.operator, alone.engine, alone.version) == ("moe", "VLLM", "0.24.0")


@pytest.mark.parametrize("suffix", [".parquet", ".txt"])
@pytest.mark.parametrize(
    ("name", "per_ms"), [("latency_us", 1e3), ("latency_ms", 1), ("latency_s", 1e-3)]
)
def test_durations_have_the_unit_of_their_name(
    tmp_path: Path, suffix: str, name: str, per_ms: float
) -> None:
    (plain,) = read_tables(moe(tmp_path / "a", MOE)).values()
    named = [
        {**{key: row[key] for key in row if key != "latency"}, name: row["latency"] * per_ms}
        for row in MOE
    ]
    (found,) = read_tables(moe(tmp_path / "b", named, suffix)).values()
    assert found.seconds == pytest.approx(plain.seconds)
    assert plain.seconds[0] == pytest.approx(MOE[0]["latency"] * 1e-3)


def test_the_newest_version_of_the_engine_that_was_measured_is_read(tmp_path: Path) -> None:
    for at, (engine, version) in enumerate(
        [("VLLM", "0.9.1"), ("VLLM", "0.24.0"), ("VLLM", "0.24.0rc2"), ("SGLang", "9.9")]
    ):
        rows = [{**row, "latency": at + 1} for row in MOE]
        made.write(tmp_path / str(at), {"moe": rows}, framework=engine, version=version)
    (found,) = read_tables(tmp_path, "vllm 0.25.1").values()
    assert (found.engine, found.version) == ("VLLM", "0.24.0")
    assert found.seconds[0] == pytest.approx(2e-3)
    (found,) = read_tables(tmp_path, "sglang").values()
    assert found.engine == "SGLang"
    with pytest.raises(ParameterError, match="moe_perf is there of SGLang, VLLM, must be of one"):
        read_tables(tmp_path)
    with pytest.raises(ParameterError, match="must be of one engine: name its folder"):
        read_tables(tmp_path, "trtllm 1.0")


def test_collectives_are_of_no_engine(tmp_path: Path) -> None:
    made.write(tmp_path / "a", {"nccl": made.made_rows()["nccl"]}, framework="TRTLLM", version="2")
    made.write(tmp_path / "b", {"nccl": made.made_rows()["nccl"]}, framework="VLLM", version="1")
    (found,) = read_tables(tmp_path, "vllm").values()
    assert found.version == "2"


def test_windows_of_attention_are_told_apart(tmp_path: Path) -> None:
    rows = made.made_rows()
    short = [{**row, "window_size": 128, "latency": 1e-3} for row in rows["context_attention"]]
    whole = [{**row, "window_size": 0} for row in rows["context_attention"]]
    ranges = {"ranks": 4, "prefill": (256, 4096), "sequences": (32, 256)}
    plain = operators_of(read_tables(made.write(tmp_path / "a", rows)), made.SHAPE, **ranges)
    rows["context_attention"] = short + whole
    found = operators_of(read_tables(made.write(tmp_path / "b", rows)), made.SHAPE, **ranges)
    assert found.prefill == plain.prefill


def test_columns_that_are_the_same_in_all_rows_change_nothing(tmp_path: Path) -> None:
    rows = [{**row, "power": at, "clock": "max", "sizes": [1]} for at, row in enumerate(MOE)]
    (found,) = read_tables(moe(tmp_path, rows)).values()
    assert len(found) == len(MOE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1}, "column tokens is not known and differs between rows, columns must be of "),
        ({"sizes": [1, 2]}, "column sizes is not known and differs between rows, columns must be"),
        ({"sizes": {"m": 1}}, "column sizes is not known and differs between rows, columns must "),
        ({"moe_dtype": None}, "row 1: moe_dtype is nothing, must be a text"),
        ({"topk": -1}, "row 1: topk is -1, must be a number, at least 0"),
        ({"latency": 0}, "row 1: latency is 0.0, must be a positive number"),
        ({"latency": None}, "row 1: latency is nothing, must be a positive number"),
        ({"latency_us": 1}, "durations are in latency, latency_us, must be in one of latency, lat"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    others = {name: type(value)() for name, value in change.items() if name not in MOE[0]}
    rows = [{**MOE[0], **change}, *({**row, **others} for row in MOE[1:])]
    with pytest.raises(ParameterError, match=message) as refused:
        read_tables(moe(tmp_path, rows))
    assert "moe_perf.parquet" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_tokens", "tokens", "column num_tokens is missing, must have num_tokens, hidden_size"),
        ("latency", "latency_ns", "durations are in latency_ns, must be in one of latency, latenc"),
        ("latency", "duration_ms", r"in no column, must be in one of latency, .*\(latency is mill"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    rows = [{new if key == old else key: value for key, value in row.items()} for row in MOE]
    with pytest.raises(ParameterError, match=message):
        read_tables(moe(tmp_path, rows))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds no operator table, must hold gemm_perf, moe_"):
        read_tables(tmp_path)
    with pytest.raises(ParameterError, match="none: cannot be read: there is no such file or fol"):
        read_tables(tmp_path / "none")
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ParameterError, match=r"mine.csv is no operator table, must be one of gemm"):
        read_tables(tmp_path / "mine.csv")
    pointer = tmp_path / "gemm_perf.txt"
    pointer.write_text("version https://git-lfs.example/spec/v1\noid sha256:12\nsize 9\n")
    with pytest.raises(ParameterError, match="is a pointer of Git LFS, must be the table itself"):
        read_tables(tmp_path)
    pointer.write_text("gemm_dtype,m,n,k,latency\nfp8,1,2\n")
    with pytest.raises(ParameterError, match="row 2 has 3 fields, must have 5: gemm_dtype,m,n,k"):
        read_tables(tmp_path)
    pointer.write_text("")
    with pytest.raises(ParameterError, match="is empty, must have a row of column names"):
        read_tables(pointer)


def test_known_shapes_are_whole() -> None:
    assert shape_names() == ("glm-5", "minimax-m2.7")
    for name in shape_names():
        found = read_shape(name)
        assert found.source
        assert shape_of_model(found.name) == found
    assert shape_of_model("someone/minimax-m2.7").layers == 62
    with pytest.raises(UnknownNameError, match="unknown shape 'glm5': did you mean 'glm-5'"):
        read_shape("glm5")
    for model in ("org/Other", ""):
        with pytest.raises(
            ParameterError, match=r"--shape is not given and none is known of .*must"
        ):
            shape_of_model(model)


def test_shapes_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "mini.toml"
    path.write_text(made.SHAPE_TOML)
    assert read_shape(str(path)) == made.SHAPE
    assert made.SHAPE.moe_layers == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[model]", "[modell]", "holds modell, must hold one table .model. with name, layers,"),
        ("layers = 3", "", "parameter 'layers' is missing"),
        ("layers = 3", "layer = 3", "unknown parameter of model 'layer': did you mean 'layers'"),
        ("layers = 3", "layers = 0", "layers is 0, must be at least 1"),
        ("layers = 3", 'layers = "3"', "layers"),
        ("kv_heads = 2", "", "kv_heads is 0, must be at least 1 with gqa"),
        (
            "layers = 3",
            "layers = 3\ndense_layers = 3",
            "dense_layers is 3, must be below layers, 3",
        ),
        ("layers = 3", "layers = 3\ndense_layers = 1", "dense_size is 0, must be given where"),
        ("experts = 8\n", "experts = 1\n", "experts_per_token is 2, must be at most experts, 1"),
        ("layers = 3", 'layers = 3\nattention = "dsa"', "architecture is missing, must be that of"),
        ("layers = 3", 'layers = 3\nattention = "mha"', "attention"),
        ('name = "org/Mini-1"', 'name = ""', "name is '', must be the model's"),
        ("layers = 3", "layers = ", "cannot be read as TOML"),
    ],
)
def test_bad_shapes_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mini.toml"
    path.write_text(made.SHAPE_TOML.replace(old, new, 1))
    with pytest.raises(ParameterError, match=message) as refused:
        Shape.from_toml(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
