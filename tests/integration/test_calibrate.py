"""Calibration without a server: the sweep's design, fits of made steps, and what is refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from brsolver.errors import BrsolverError, ParameterError
from brsolver.hardware import Origin, read_hardware
from brsolver.hardware.readers.step_log import usable
from integration.bench.calibrate import Measured, Served, _logged, ask, longer, measure
from integration.bench.calibrated import as_json, as_text, worst
from integration.bench.kinds import is_scant, kinds_of
from integration.bench.steps import COLUMNS, joined, read_steps
from integration.bench.sweep import Point, Room, SweepParams, fitting
from integration.bench.sweep_fit import calibrate
from integration.cli import app
from integration.vllm.step_log import loads_of

if TYPE_CHECKING:
    from pathlib import Path

BASE, SEQUENCE, TOKEN, PREFILL, CONTEXT = 0.02, 4e-4, 4e-6, 2e-4, 1.5e-7
SWEEP = SweepParams(held_out=4, rounds=2)
ORIGIN = Origin(file="the sweep", model="tiny", engine="vllm 0.32.0", dp=2, notes=("a note",))


class Engines:
    """Writes the step logs that ranks of a known step time would, a point after the other."""

    def __init__(self, folder: Path, ranks: int, *, noise: float = 0.03) -> None:
        self.rng = np.random.default_rng(0)
        self.folder, self.ranks, self.noise = folder, ranks, noise
        self.clock, self.wave, self.step = 10.0, 0, 0
        self.rows: list[list[str]] = [[] for _ in range(ranks)]

    def one(self, loads: list[tuple[int, int, int, int]]) -> None:
        costs = (SEQUENCE, TOKEN, PREFILL, CONTEXT)
        own = max(sum(c * x for c, x in zip(costs, rank, strict=True)) for rank in loads)
        seconds = (BASE + own) * (1 + self.noise * self.rng.normal())
        # Something else takes the cores now and then.
        self.clock += seconds * (4 if self.rng.random() < 0.05 else 1)
        for rank, (n, kv, p, x) in enumerate(loads):
            running = n + (p > 0)
            row = (self.wave, self.step, self.clock, kv + p, running, 0, n + p, n, kv, p, x)
            self.rows[rank].append(",".join(map(str, row)))
        self.step += 1

    def run(self, point: Point, *, every: int = 5, steps: int = 40) -> tuple[float, float]:
        """Decode at a point, with a chunk every so many steps; return when it began and ended."""
        began = self.clock
        self.wave, self.step = self.wave + 1, 0
        fill = [(0, 0, n * point.context, n * point.context**2 // 2) for n in point.sequences]
        self.one(fill)
        chunk = (point.chunk, point.chunk * (point.chunk + 1) // 2)
        for at in range(steps):
            chunks = at % every == 0
            inside = [chunk if chunks and (r == 0 or at % 2) else (0, 0) for r in range(self.ranks)]
            kv = [n * (point.context + at + 1) for n in point.sequences]
            rows = zip(point.sequences, kv, inside, strict=True)
            self.one([(n, tokens, *prefill) for n, tokens, prefill in rows])
        return began, self.clock

    def write(self) -> None:
        for rank, rows in enumerate(self.rows):
            path = self.folder / f"rank-{rank}.csv"
            path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")


def measured(folder: Path, ranks: int = 2) -> list[Measured]:
    engines = Engines(folder, ranks)
    points = SWEEP.points(ranks) * SWEEP.rounds
    spans = [engines.run(point) for point in points]
    engines.write()
    steps = read_steps(folder)
    parts = [steps.between(began + 1e-9, end) for began, end in spans]
    return [Measured(point=p, steps=s) for p, s in zip(points, parts, strict=True)]


@given(
    steps=st.integers(8, 2000),
    attempt=st.integers(0, 8),
    longest=st.none() | st.integers(100, 20_000),
    capacity=st.none() | st.integers(1_000, 200_000),
)
def test_every_attempt_asks_for_more_steps_as_far_as_the_server_takes_them(
    steps: int, attempt: int, longest: int | None, capacity: int | None
) -> None:
    point = Point(sequences=(3, 2), context=64, chunk=32)
    served = Served(url="", model="", title="", version="", longest=longest, capacity=capacity)
    asked = longer(point, steps, attempt, served)
    assert steps <= asked <= steps << attempt
    fits = (longest is None or point.longest(asked) <= longest) and (
        capacity is None or point.kv_tokens(asked) < capacity
    )
    assert fits or asked == steps
    if longest is None and capacity is None:
        assert asked == steps << attempt


@pytest.mark.parametrize("ranks", [1, 2])
def test_known_coefficients_are_found_and_written(tmp_path: Path, ranks: int) -> None:
    found = calibrate(measured(tmp_path, ranks), ORIGIN, name="made")
    found.hardware.to_toml(tmp_path / "made.toml")
    step_time = read_hardware(str(tmp_path / "made.toml")).step_time
    assert step_time.model == "loads"
    assert step_time.base == pytest.approx(BASE, rel=0.05)
    assert step_time.per_sequence == pytest.approx(SEQUENCE, rel=0.2)
    assert step_time.per_token == pytest.approx(TOKEN, rel=0.05)
    prefill = step_time.per_prefill_token + step_time.per_mean_prefill_token
    assert prefill == pytest.approx(PREFILL, rel=0.15)
    assert step_time.per_prefill_context == pytest.approx(CONTEXT, rel=0.3)
    assert worst(found) < 0.1


def test_what_was_found_is_told(tmp_path: Path) -> None:
    found = calibrate(measured(tmp_path), ORIGIN, name="made")
    data = json.loads(json.dumps(as_json(found)))
    assert data["held_out"]["worst_error"] == worst(found)
    assert {tuple(p["sequences"]) for p in data["points"]} == {
        point.sequences for point in SWEEP.points(2)
    }
    kinds = {p["steps_of"] for p in data["points"]}
    assert kinds == {"decode", "chunk on one rank", "chunk on all"}
    text = as_text(found)
    assert "held-out points: median error" in text
    assert text.startswith("made: ")
    assert "held-out points: median error" in found.hardware.conditions
    assert "a note" in found.hardware.conditions


def test_without_held_out_points_nothing_is_said_of_them(tmp_path: Path) -> None:
    seen = [each for each in measured(tmp_path) if not each.point.held_out]
    found = calibrate(seen, ORIGIN)
    assert found.held_out() == ()
    assert "held-out" not in as_text(found)
    assert as_json(found)["held_out"]["worst_error"] is None


def test_steps_of_a_point_are_told_apart(tmp_path: Path) -> None:
    each = measured(tmp_path)[0]
    steps = usable(each.steps, ORIGIN)
    kinds = kinds_of(each.point, steps)
    assert sum(int(mask.sum()) for mask in kinds.values()) <= len(steps)
    for kind, computing in (("decode", 0), ("chunk on one rank", 1), ("chunk on all", 2)):
        prefill = steps.where(kinds[kind]).prefill_tokens
        assert ((prefill > 0).sum(axis=1) == computing).all()


@given(
    batches=st.lists(st.integers(1, 200), min_size=2, max_size=5, unique=True),
    contexts=st.lists(st.integers(1, 4000), min_size=2, max_size=5, unique=True),
    chunks=st.lists(st.integers(1, 4000), min_size=1, max_size=4, unique=True),
    ranks=st.integers(1, 4),
    held_out=st.integers(0, 6),
)
def test_every_batch_meets_every_context(batches, contexts, chunks, ranks, held_out) -> None:
    sweep = SweepParams(
        batches=tuple(batches), contexts=tuple(contexts), chunks=tuple(chunks), held_out=held_out
    )
    points = sweep.points(ranks)
    grid, drawn = points[: len(batches) * len(contexts)], points[len(batches) * len(contexts) :]
    assert {(p.sequences[0], p.context) for p in grid} == {
        (b, c) for b in batches for c in contexts
    }
    assert {p.chunk for p in grid} <= set(chunks)
    assert len(drawn) == held_out
    for point in points:
        assert len(point.sequences) == ranks
        assert 1 <= min(point.sequences) <= max(point.sequences) == point.sequences[0]
        assert point.held_out == (point in drawn)
    for point in drawn:
        assert min(batches) <= point.sequences[0] <= max(batches)
        assert min(contexts) <= point.context <= max(contexts)
        assert min(chunks) <= point.chunk <= max(chunks)


def test_a_context_does_not_meet_one_chunk_only() -> None:
    points = SweepParams(held_out=0).points(2)
    met = {(point.context, point.chunk) for point in points}
    assert len(met) > len({point.context for point in points})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batches": (4,)}, "batches is '4', must be at least 2 sizes"),
        ({"contexts": (8, 8)}, "contexts is '8,8', must be at least 2 sizes"),
        ({"chunks": ()}, "chunks is '', must be at least 1 sizes"),
        ({"chunks": (0,)}, "a size of chunks is 0, must be at least 1"),
        ({"steps": 2}, "decode_steps is 2, must be at least 8"),
        ({"held_out": -1}, "held_out is -1, must be at least 0"),
        ({"rounds": 0}, "rounds is 0, must be at least 1"),
    ],
)
def test_a_sweep_that_tells_nothing_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SweepParams(**values)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (Room(slots=15, longest=None, capacity=None), "batches has 15, must be at most 14: a rank"),
        (Room(slots=16, longest=1400, capacity=None), "contexts has 1536, must be at most"),
        (Room(slots=16, longest=None, capacity=900), "a rank holds 900 KV tokens, must hold"),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused(room: Room, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as refused:
        fitting(SWEEP.points(2), SWEEP, room)
    assert "\n" not in str(refused.value)


def test_points_that_the_cache_does_not_hold_are_left_out() -> None:
    points = SWEEP.points(2)
    kept = fitting(points, SWEEP, Room(slots=16, longest=8192, capacity=16_000))
    assert 0 < len(kept) < len(points)
    assert all(point.kv_tokens(SWEEP.steps) < 16_000 for point in kept)


def test_folders_without_this_servers_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds no step logs, must be the folder"):
        _logged(tmp_path, 2)
    measured(tmp_path, 2)
    with pytest.raises(ParameterError, match="--ranks is 4, must be 2: so many log their steps"):
        _logged(tmp_path, 4)


def test_steps_of_the_server_before_are_left_out(tmp_path: Path) -> None:
    measured(tmp_path, 2)
    for path in tmp_path.glob("rank-*.csv"):
        first = path.read_text(encoding="utf-8")
        _, rows = first.split("\n", 1)
        path.write_text(first + rows, encoding="utf-8")
    once = len(rows.splitlines())
    assert read_steps(tmp_path).runs == 2
    assert len(_logged(tmp_path, 2)) == once


def test_a_sweep_of_no_ranks_is_refused() -> None:
    with pytest.raises(ParameterError, match="ranks is 0, must be at least 1"):
        SWEEP.points(0)


def test_steps_of_another_time_are_refused(tmp_path: Path, monkeypatch) -> None:
    measured(tmp_path, 2)

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr("integration.bench.calibrate._run", nothing)
    served = Served(url="", model="", title="", version="", longest=None, capacity=None)
    with pytest.raises(ParameterError, match="none of them of this sweep"):
        measure(served, SWEEP.points(2), SWEEP, tmp_path, report=lambda _: None)


@pytest.mark.parametrize(("every", "visits"), [(3, 1), (5, 2), (19, 2)])
def test_points_with_too_few_steps_of_a_kind_are_visited_again(
    tmp_path: Path, monkeypatch, every: int, visits: int
) -> None:
    engines, seen = Engines(tmp_path, 2), []

    async def run(_served: Served, point: Point, *_: object) -> None:
        seen.append(point)
        engines.run(point, every=every, steps=60)
        engines.write()

    monkeypatch.setattr("integration.bench.calibrate._run", run)
    monkeypatch.setattr("integration.bench.calibrate.time.monotonic", lambda: engines.clock)
    served = Served(url="", model="", title="", version="", longest=None, capacity=None)
    sweep = SweepParams(held_out=1, rounds=1)
    points, said = sweep.points(2), []
    found = measure(served, points, sweep, tmp_path, report=said.append)
    assert len(found) == len(said) == visits * len(points)
    assert sorted(map(repr, seen[1:])) == sorted(map(repr, points * visits))
    scant = is_scant(points[0], joined([m.steps for m in found if m.point == points[0]]))
    assert scant == (every == 19)


ANSWERS = {
    "/v1/models": json.dumps({"data": [{"id": "m", "root": "/models/deep/m", "max_model_len": 9}]}),
    "/version": json.dumps({"version": "0.32.0"}),
    "/metrics": 'vllm:cache_config_info{block_size="16",num_gpu_blocks="10",engine="0"} 1.0\n',
}


class Answering(BaseHTTPRequestHandler):
    answers = ANSWERS

    def do_GET(self) -> None:
        body = self.answers.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def answering():
    """A server that answers as vLLM does."""
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_says_what_it_can_take(answering: str) -> None:
    served = ask(f"{answering}/")
    assert served == Served(
        url=answering, model="m", title="m", version="0.32.0", longest=9, capacity=160
    )
    assert served.room(4) == Room(slots=4, longest=9, capacity=160)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("{}", "must be vLLM's OpenAI server"),
        ('{"data": []}', "must be vLLM's OpenAI server"),
        ("<html>", "must be a server that answers"),
    ],
)
def test_what_does_not_answer_as_vllm_is_refused(
    answering: str, monkeypatch, models: str, message: str
) -> None:
    monkeypatch.setattr(Answering, "answers", ANSWERS | {"/v1/models": models})
    with pytest.raises(ParameterError, match=message):
        ask(answering)


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(ParameterError, match=r"--url is '.*', must be a server that answers") as no:
        ask("http://127.0.0.1:9")
    assert "\n" not in str(no.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL or --url: neither is given"),
        (["m", "--url", "http://x", "--steps", "s"], "MODEL or --url: both are given"),
        (["--url", "http://x"], "--url is given without --steps"),
        (["m", "--ranks", "0"], "--ranks is 0, must be at least 1"),
        (["--url", "http://x", "--steps", "s", "--ranks", "0"], "--ranks is 0, must be at least 1"),
        (["m", "--ranks", "99999"], "--ranks is 99999, must be at most 65,536"),
        (["m", "--slots", "2"], "--slots is 2, must be at least 3: for two batches, and a chunk"),
        (["m", "--startup", "nan"], "--startup is nan, must be a finite number"),
        (["m", "--startup", "0"], "--startup is 0, must be at least 1"),
        (["m", "--decode-steps", "0"], "decode_steps is 0, must be at least 8"),
        (["m", "--held-out", "-1"], "held_out is -1, must be at least 0"),
        (["m", "--rounds", "0"], "rounds is 0, must be at least 1"),
        (["m", "--seed", "-1"], "seed is -1, must be at least 0"),
        (["m", "--contexts", "64,99999999"], "contexts is 99999999, must be at most 10,000,000"),
        (["m", "--chunks", "9" * 5000], "must be whole numbers, e.g. 1,8,32"),
        (["m", "--batches", "1,16"], "batches has 16, must be at most 15: a rank runs 16"),
        (["m", "--out", "a.json"], "--out is 'a.json', must end in .toml"),
        (["m", "--out", "not/there/a.toml"], "there is no such folder"),
        (["m", "--name", "rack 7"], "--name is 'rack 7', must be letters, digits and . _ + -"),
        (["m", "--batches", "1,x"], "batches is '1,x', must be whole numbers"),
        (["m", "--batches", "8"], "batches is '8', must be at least 2 sizes"),
        (["./no-such-model"], "MODEL is './no-such-model', must be a folder that is there"),
    ],
)
def test_the_command_refuses_before_it_starts_anything(arguments, message, monkeypatch) -> None:
    monkeypatch.setattr("integration.load.http.require_aiohttp", lambda *_: None)
    done = CliRunner().invoke(app, ["calibrate", *arguments])
    assert isinstance(done.exception, BrsolverError)
    assert message in str(done.exception)


def test_folders_that_hold_other_steps_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("integration.load.http.require_aiohttp", lambda *_: None)
    (tmp_path / "rank-0.csv").touch()
    done = CliRunner().invoke(app, ["calibrate", "m", "--steps", str(tmp_path)])
    assert "holds step logs, must be empty or new" in str(done.exception)


def test_a_step_is_what_each_request_computes_in_it() -> None:
    def request(prompt: int, computed: int) -> SimpleNamespace:
        return SimpleNamespace(num_prompt_tokens=prompt, num_computed_tokens=computed)

    requests = {
        "decodes": request(10, 15),
        "begins": request(100, 30),
        "goes on": request(100, 100),
        "found in the cache": request(64, 64),
    }
    scheduled = {"decodes": 1, "begins": 30, "goes on": 40, "found in the cache": 1}
    context = sum(range(1, 31)) + sum(range(61, 101)) + 64
    assert loads_of(requests, scheduled) == (1, 15, 30 + 40 + 1, context)
