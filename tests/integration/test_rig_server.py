"""The rig's server: two ranks answer, in lockstep, and every process goes when it should."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rig import tiny_model
from rig.servers import MODEL, rig_server

from integration.bench.client import drive
from integration.bench.skew import SkewParams, run_skew
from integration.bench.steps import read_steps
from integration.bench.workload import Workload, WorkloadParams, workloads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.bench.server import Server

pytestmark = pytest.mark.vllm

PROMPT = [17, 230, 961, 404, 3, 77, 512]


@pytest.fixture(scope="module")
def steps_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def server(steps_folder: Path) -> Iterator[Server]:
    with rig_server(
        weights=True, steps=steps_folder, arguments=("--no-enable-prefix-caching",)
    ) as running:
        yield running


def complete(
    server: Server, prompt: list[int] | str, tokens: int, rank: int | None = None
) -> list[int]:
    import httpx

    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0.0,
        "ignore_eos": True,
    }
    headers = {} if rank is None else {"X-data-parallel-rank": str(rank)}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=120)
    answer.raise_for_status()
    words = answer.json()["choices"][0]["text"].split()
    return [int(word.removeprefix("w")) for word in words if word.startswith("w")]


def test_both_ranks_generate_the_same_from_the_same_prompt(server: Server) -> None:
    first, second = (complete(server, PROMPT, 12, rank=rank) for rank in (0, 1))
    assert len(first) == 12
    assert first == second


def test_what_is_generated_depends_on_the_first_word_of_the_prompt(server: Server) -> None:
    assert complete(server, PROMPT, 12) != complete(server, [18, *PROMPT[1:]], 12)


def test_words_are_read_as_the_tokens_they_name(server: Server) -> None:
    text = " ".join(tiny_model.word(token) for token in PROMPT)
    assert complete(server, text, 6) == complete(server, PROMPT, 6)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_idle_rank_steps_along_and_the_log_is_exact(
    server: Server, steps_folder: Path, rank: int
) -> None:
    done = steps_so_far(steps_folder)
    complete(server, PROMPT, 9, rank=rank)
    steps_so_far(steps_folder)
    steps = read_steps(steps_folder)
    # The wave may begin before the request that it is begun for has come.
    first = done + int(np.flatnonzero(steps.kv_tokens[done:, rank])[0])
    assert not steps.kv_tokens[done:first].any()
    loads = steps.kv_tokens[first:]
    # s + j - 1 at the j-th token, and nothing once it has ended.
    busy = np.arange(len(PROMPT), len(PROMPT) + 9)
    assert loads[:9, rank].tolist() == busy.tolist()
    assert len(loads) > 9
    assert not loads[9:, rank].any()
    assert not loads[:, 1 - rank].any()
    assert steps.running[first : first + 9, rank].tolist() == [1] * 9


def test_a_burst_fills_the_slots_of_both_ranks_and_ends_at_zero(
    server: Server, steps_folder: Path
) -> None:
    before = steps_so_far(steps_folder)
    load = short_load(48, shortest=100)
    outcomes = drive(server.url, MODEL, load, concurrency=48)
    assert [outcome.tokens for outcome in outcomes] == load.output_tokens.tolist()
    steps_so_far(steps_folder)
    steps = read_steps(steps_folder)
    assert steps.running[before:].max(axis=0).tolist() == [16, 16]
    assert not steps.running[-1].any()
    assert not steps.kv_tokens[-1].any()


def test_pinned_requests_run_where_they_are_pinned(server: Server, steps_folder: Path) -> None:
    before = steps_so_far(steps_folder)
    load = short_load(6, shortest=60)
    drive(server.url, MODEL, load, concurrency=6, ranks=[0, 1, 1, 1, 1, 1])
    steps_so_far(steps_folder)
    assert read_steps(steps_folder).running[before:].max(axis=0).tolist() == [1, 5]


def test_the_skewed_placement_is_skewed_and_the_balanced_is_not(
    server: Server, steps_folder: Path
) -> None:
    before = steps_so_far(steps_folder)
    # Long enough that the first still run when the last have come.
    result = run_skew(
        server, SkewParams(long_tokens=400, short_tokens=8, output_tokens=80, rounds=1)
    )
    assert min(result.balanced.mean, result.skewed.mean) > 0
    steps_so_far(steps_folder)
    steps = read_steps(steps_folder)
    # A prompt that is computed in parts counts with what is done of it.
    decoding = steps.scheduled[before:] == steps.running[before:]
    full = ((steps.running[before:] == 16) & decoding).all(axis=1)
    kv = steps.kv_tokens[before:]
    ratio = kv[full].max(axis=1) / kv[full].mean(axis=1)
    skewed = ratio > 1.4
    assert (skewed | (ratio < 1.05)).all()
    switch = int(np.argmax(skewed))
    assert not skewed[:switch].any()
    assert skewed[switch:].all()
    assert min(switch, len(skewed) - switch) >= 12


def test_every_process_is_gone_once_the_context_is_left() -> None:
    with rig_server() as running:
        started = processes_of(running)
        # API server, coordinator, two engines, two workers.
        assert len(started) >= 6
    assert not [pid for pid in started if is_alive(pid)]


def steps_so_far(folder: Path, quiet_s: float = 1.0) -> int:
    """Return the steps logged once no more come: ranks step on a while after the last request."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < quiet_s:
        found = len(read_steps(folder)) if any(folder.iterdir()) else 0
        if found != seen:
            seen, since = found, time.monotonic()
        time.sleep(0.1)
    return seen


def short_load(requests: int, shortest: int = 4) -> Workload:
    outputs = f"o_low={shortest},o_high={shortest + 16}"
    params = WorkloadParams(
        trace=f"preset:uniform:n=60,s_low=4,s_high=40,{outputs}", requests=requests
    )
    return workloads(params, 1)[0]


def processes_of(server: Server) -> list[int]:
    """Processes whose session is that of the server's main process."""
    port = re.escape(f"--port\0{server.port}\0")
    sessions = {
        os.getsid(pid) for pid in all_processes() if re.search(port, command_of(pid)) is not None
    } - {os.getsid(0)}
    return [pid for pid in all_processes() if session_of(pid) in sessions]


def all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] != "Z"
