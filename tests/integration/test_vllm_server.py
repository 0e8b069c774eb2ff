"""The adapter in a real vLLM: two ranks behind a real expert-parallel barrier."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from brsolver.registry import policy_names
from brsolver.traces import load_trace

pytestmark = pytest.mark.vllm

# How fast decisions are is not asked here, on machines that do much else meanwhile.
RELOADED = 'policy = "{policy}"\nmode = "{mode}"\nreload_s = 0.2\nbudget_ms = 5000\n{more}'
# Solvers of a step are for small clusters and minutes, not for serving.
SERVE = Path(__file__).with_name("serve_cli.py")
NOT_FOR_SERVING = {"milp-step", "lp-round", "local-search"}
POLICIES = [name for name in policy_names() if name not in NOT_FOR_SERVING]
# One by one, a policy is asked through the same call as for a pool; these differ in what they keep.
ONE_BY_ONE = ["vllm", "jsq-load", "br-0", "br-h", "prefix-affinity"]

FAULTY = '''
import time


class Faulty:
    """Raises three times, then hangs."""

    def __init__(self):
        self.calls = 0

    def route(self, cluster, waiting):
        self.calls += 1
        if self.calls <= 3:
            raise ValueError("no idea")
        while True:
            time.sleep(0.01)
'''


def configuration(policy: str, mode: str = "pooled", **more: object) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    return RELOADED.format(policy=policy, mode=mode, more="\n".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def own_answers() -> list[list[str]]:
    """What vLLM answers when it routes by itself, the plug-in being inert."""
    from rig.servers import rig_server
    from serving import complete_all, prompts

    with rig_server(weights=True, slots=4, max_model_len=200) as server:
        answers = complete_all(server, prompts(24))
        assert "brsolver_" not in server.get("/metrics")
        assert "brsolver:" not in server.log_text()
    return answers


@pytest.fixture(scope="module")
def tight_server(folder: Path, own_answers: list[list[str]]):
    """A server of few slots and little KV cache, whose policy can be changed."""
    del own_answers  # not two servers at a time
    from rig.servers import rig_server

    path = folder / "router.toml"
    path.write_text(configuration("br-0", record=str(folder / "served.jsonl")))
    with rig_server(
        router=str(path),
        weights=True,
        slots=4,
        kv_mib=8,
        max_model_len=200,
        arguments=("--block-size", "32"),
    ) as server:
        yield server, path


def test_greedy_answers_are_vllms_own_with_every_policy(own_answers, tight_server):
    from serving import await_figures, complete_all, empty, prompts, reconfigure

    server, path = tight_server
    chosen = [(each, "pooled") for each in POLICIES] + [(each, "immediate") for each in ONE_BY_ONE]
    for policy, mode in chosen:
        reconfigure(server, path, configuration(policy, mode))
        assert complete_all(server, prompts(24)) == own_answers, (policy, mode)
        found = await_figures(server, empty)
        assert empty(found), (policy, mode, found)
        assert found.get("brsolver_fallbacks_total", 0) == 0, server.log_text()[-2000:]


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        *(("br-0", mode) for mode in ("pooled", "immediate", "observe")),
        *(("br-h:horizon=20", mode) for mode in ("pooled", "immediate")),
    ],
)
def test_books_come_back_to_zero_after_requests_of_all_kinds(tight_server, policy, mode):
    from serving import await_figures, empty, figures, mixed, reconfigure

    server, path = tight_server
    reconfigure(server, path, configuration(policy, mode))
    before = figures(server)
    served = mixed(server, 120, seed=3)
    assert sum(served.values()) == 120
    assert min(served.values()) > 10, served
    found = await_figures(server, empty)
    assert empty(found), found
    assert found.get("brsolver_fallbacks_total", 0) == 0, server.log_text()[-2000:]
    assert found["brsolver_preemptions_total"] > before["brsolver_preemptions_total"]


def test_ranks_find_in_their_caches_what_the_books_expect(tight_server):
    from serving import await_figures, complete_all, empty, figures, prompts, reconfigure

    server, path = tight_server
    reconfigure(server, path, configuration("prefix-affinity", "immediate"))
    (prompt,) = prompts(1, seed=8, longest=3)
    prompt = (prompt * 129)[:129]
    before = figures(server)
    for _ in range(4):
        complete_all(server, [prompt])
    found = await_figures(server, empty)

    def gained(name: str) -> float:
        return found[name] - before[name]

    # Two blocks of 64, whatever else was there before.
    assert gained("brsolver_expected_cached_tokens_total") == 3 * 128
    assert gained("brsolver_cached_tokens_total") >= 3 * 128


def test_held_requests_end_cleanly_when_cancelled(tight_server):
    from serving import (
        at_ranks,
        await_figures,
        await_figures_meanwhile,
        complete,
        empty,
        prompts,
        reconfigure,
        session,
    )

    server, path = tight_server
    reconfigure(server, path, configuration("br-0"))

    async def scenario() -> float:
        async with session(server) as client:
            # All slots, for several times as long as these ranks' KV cache lets them run at once.
            long = [
                complete(client, each, max_tokens=180, ignore_eos=True, rank=i % 2)
                for i, each in enumerate(prompts(8, longest=10))
            ]
            running = list(map(asyncio.create_task, long))
            await await_figures_meanwhile(server, lambda now: at_ranks(now) == len(long))
            held = [complete(client, each, max_tokens=60) for each in prompts(6, seed=1)]
            waiting = list(map(asyncio.create_task, held))
            found = await await_figures_meanwhile(
                server, lambda now: now["brsolver_held_requests"] > 0
            )
            for task in waiting:
                task.cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert not [each for each in ended if isinstance(each, Exception)]
            await asyncio.gather(*running)
        return found["brsolver_held_requests"]

    assert asyncio.run(scenario()) > 0
    found = await_figures(server, empty)
    assert empty(found), found
    assert found.get("brsolver_fallbacks_total", 0) == 0


def test_what_was_served_is_recorded_as_a_trace(tight_server, folder: Path):
    server, path = tight_server
    del server, path
    trace = load_trace(folder / "served.jsonl")
    assert len(trace) > 200
    assert trace.arrival_s is not None
    assert (trace.output_tokens <= trace.columns["max_tokens"]).all()
    # Those asked for two answers are two requests of one prompt and time to vLLM, and here.
    hashes = trace.columns["prompt_hash"].tolist()
    rows = Counter(zip(trace.arrival_s.tolist(), hashes, strict=True))
    assert set(rows.values()) == {1, 2}
    assert sum(each == 2 for each in rows.values()) > 20


def test_a_router_that_raises_and_hangs_stands_down_while_all_is_served(folder: Path):
    from rig.servers import rig_server
    from serving import await_figures, complete_all, empty, prompts

    site = folder / "site"
    meta = site / "faulty_policy-1.dist-info"
    meta.mkdir(parents=True)
    (site / "faulty_policy.py").write_text(FAULTY)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-policy\nVersion: 1\n")
    (meta / "entry_points.txt").write_text("[brsolver.policies]\nfaulty = faulty_policy:Faulty\n")
    with rig_server(
        router="faulty", mode="pooled", slots=4, environment={"PYTHONPATH": str(site)}
    ) as server:
        answers = complete_all(server, prompts(40), max_tokens=20)
        assert len(answers) == 40
        found = await_figures(server, empty)
        assert found["brsolver_active"] == 0
        assert found['brsolver_fallbacks_total{reason="decision"}'] == 5
        assert empty(found), found
        log = server.log_text()
        assert log.count("decision failed (ValueError: no idea)") == 1
        assert log.count("stands down for good") == 1


@pytest.mark.parametrize("mode", ["pooled", "immediate"])
def test_several_api_servers_share_what_they_know(shared_server, mode):
    from serving import await_figures, empty, mixed, reconfigure

    server, path = shared_server
    reconfigure(server, path, configuration("br-h:horizon=20", mode))
    served = mixed(server, 200, seed=5)
    assert sum(served.values()) == 200
    found = await_figures(server, empty)
    assert empty(found), found
    assert found.get("brsolver_fallbacks_total", 0) == 0, server.log_text()[-2000:]
    assert found["brsolver_active"] == 2


@pytest.fixture(scope="module")
def shared_server(folder: Path):
    from rig.servers import rig_server
    from serving import PATIENCE_S, await_figures

    from integration.bench.server import Server

    path = folder / "shared.toml"
    path.write_text(configuration("br-h:horizon=20"))
    single = rig_server(router=str(path), slots=4, api_servers=2, max_model_len=500)
    serve = folder / "serve"
    serve.write_text(f'#!/bin/sh\nexec {sys.executable} {SERVE} "$@"\n')
    serve.chmod(0o755)
    with Server(replace(single.params, python=str(serve))) as server:
        # Who answers first is not the only one: another may read the file only as it starts.
        found = await_figures(server, lambda now: now.get("brsolver_active") == 2, PATIENCE_S)
        assert found.get("brsolver_active") == 2, server.log_text()[-3000:]
        yield server, path
