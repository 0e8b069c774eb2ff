"""A trace of any format, written in our schema and read again, gives the same simulation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from brsolver.simulator import Arrivals, Prefill, SimulationParams, simulate
from brsolver.traces import FORMATS, load_trace, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from brsolver.traces.trace import Trace

ROWS = 40
PROMPTS = [37 * i % 900 + 600 for i in range(ROWS)]
OUTPUTS = [11 * i % 60 + 2 for i in range(ROWS)]
TICKS = np.cumsum([7 * i % 5 for i in range(ROWS)]).tolist()
"""In units of 0.1 s, some at the same time."""
HASHES = [[i % 3, 10 + i % 3, 100 + i][: -(-PROMPTS[i] // 512)] for i in range(ROWS)]
"""By blocks of 512 tokens."""


def table(header: str, row: str) -> str:
    rows = zip(TICKS, PROMPTS, OUTPUTS, strict=True)
    return "\n".join([header, *(row.format(t=t / 10, p=p, o=o) for t, p, o in rows)]) + "\n"


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def lengths(prompt: str, output: str) -> list[dict[str, Any]]:
    return [{prompt: p, output: o} for p, o in zip(PROMPTS, OUTPUTS, strict=True)]


def chats() -> list[dict[str, Any]]:
    return [
        {
            "chat_id": i, "parent_chat_id": i - 2 if i % 4 > 1 else -1, "timestamp": TICKS[i] / 10,
            "input_length": PROMPTS[i], "output_length": OUTPUTS[i], "hash_ids": HASHES[i],
        }
        for i in range(ROWS)
    ]  # fmt: skip


def mooncake() -> list[dict[str, Any]]:
    return [
        {"timestamp": 100 * TICKS[i], **record, "hash_ids": HASHES[i]}
        for i, record in enumerate(lengths("input_length", "output_length"))
    ]


def azure() -> str:
    rows = zip(TICKS, PROMPTS, OUTPUTS, strict=True)
    lines = (f"2023-11-16 18:15:{t / 10:010.7f},{p},{o}" for t, p, o in rows)
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n"


def bench() -> str:
    times = [5000.5 + tick / 10 for tick in TICKS]
    return json.dumps({"input_lens": PROMPTS, "output_lens": OUTPUTS, "start_times": times})


def servegen(folder: Path) -> Path:
    path = folder / "chunk-1-trace.csv"
    path.write_text("0,0.05,1.1,Gamma,0.5,0.1\n600,0.05,1.1,Gamma,0.5,0.1\n")
    data = {"0": {"input_tokens": "{90: 0.5, 250: 0.5}", "output_tokens": "{5: 0.5, 40: 0.5}"}}
    (folder / "chunk-1-dataset.json").write_text(json.dumps(data))
    return path


def file(content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "trace.dat"
        path.write_text(content)
        return path

    return write


FILES: dict[str, Callable[[Path], Path]] = {
    "brsolver": file(
        json_lines(
            {**record, "arrival_s": tick / 10, "session": f"s{tick}", "hash_ids": chain}
            for record, tick, chain in zip(
                lengths("prompt_tokens", "output_tokens"), TICKS, HASHES, strict=True
            )
        )
    ),
    "azure": file(azure()),
    "burstgpt": file(
        table(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            "{t},GPT-4,{p},{o},9,API log",
        )
    ),
    "bailian": file(json_lines(chats())),
    "mooncake": file(json_lines(mooncake())),
    "vidur": file(table("arrived_at,num_prefill_tokens,num_decode_tokens", "{t},{p},{o}")),
    "splitwise": file(table("arrival_timestamp,prompt_size,token_size", "{t},{p},{o}")),
    "servegen": servegen,
    "bfio": file(json.dumps({"data": lengths("input_length", "output_length")})),
    "vllm-bench": file(bench()),
    "gateway": file(
        json_lines(
            {"ts": 1767225600 + tick / 10, "usage": usage}
            for tick, usage in zip(
                TICKS, lengths("prompt_tokens", "completion_tokens"), strict=True
            )
        )
    ),
    "sharegpt-lengths": file(table("input_len,output_len", "{p},{o}")),
}
"""A file of every format; a new reader needs one here."""


def figures(trace: Trace, *, caches: bool) -> str:
    timed = trace.arrival_s is not None
    params = SimulationParams(
        workers=3,
        slots=4,
        arrivals=Arrivals(mode="timestamps") if timed else Arrivals(),
        prefill=Prefill(mode="colocated", budget=512, cache=4000) if caches else Prefill(),
    )
    result = simulate(trace, "br-0", params)
    metrics = result.metrics.to_dict()
    # What was measured of this machine, not simulated.
    simulated = {k: v for k, v in metrics.items() if k != "wall_s" and "dispatch_us" not in k}
    assert len(simulated) > 30
    # As text: figures that are not there are NaN, which equals nothing.
    return repr((simulated, result.requests.finish_s.tolist()))


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_the_simulation_is_the_same(tmp_path: Path, format_: str) -> None:
    trace = load_trace(FILES[format_](tmp_path), seed=3)
    assert trace.source_format == format_
    caches = "hash_offsets" in trace.columns
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"ours{suffix}"
        write_trace(trace, path, drop_hashes=suffix == ".csv")
        again = load_trace(path)
        assert again.fingerprint() == trace.fingerprint()
        assert figures(again, caches=False) == figures(trace, caches=False)
        if caches and suffix != ".csv":
            assert figures(again, caches=True) == figures(trace, caches=True)
