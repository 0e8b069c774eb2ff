"""Ray Serve LLM itself: an application of `LLMConfig`, two replicas of a real vLLM, our router."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from integration.picker import End

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.rayllm

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; use: make rayllm", allow_module_level=True)
pytest.importorskip("ray.serve", reason="Ray Serve is not installed", exc_type=ImportError)

import ray  # noqa: E402
from ray import serve  # noqa: E402
from rig.servers import MODEL, model_folder, rig_environment  # noqa: E402

from integration.ray_serve import router_config  # noqa: E402

NAME, SLOTS, LONG, PATIENCE_S = "llm", 2, 3000, 300.0
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def config() -> Any:
    """As a user's, but for what makes vLLM start small and on a CPU."""
    from ray.serve.llm import LLMConfig

    # A process of Ray's that has threads is not to be forked.
    variables = {**rig_environment(), "BRSOLVER_RIG_FORK": "0"}
    return LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": str(model_folder())},
        accelerator_config={"kind": "cpu"},
        engine_kwargs={
            "dtype": "float32", "enforce_eager": True, "load_format": "dummy",
            "max_model_len": 4096, "max_num_seqs": 16, "kv_cache_memory_bytes": 256 * 2**20,
            "chat_template": TEMPLATE,
        },
        deployment_config={
            "num_replicas": 2,
            "graceful_shutdown_timeout_s": 5.0,
            "request_router_config": router_config(
                policy="jsq", predictor="none", slots=SLOTS, budget_ms=60_000.0
            ),
        },
        runtime_env={"env_vars": variables},
    )  # fmt: skip


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    # Ray's workers are nice, so that beside other work they would take an hour to start.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(
        "local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100_000_000,
    )
    try:
        with warnings.catch_warnings(action="ignore"):
            import ray_llm_ingress
            from ray.serve.llm import build_openai_app

            ray.cloudpickle.register_pickle_by_value(ray_llm_ingress)
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            ingress = {"ingress_cls": ray_llm_ingress.Watched}
            app = build_openai_app({"llm_configs": [config()], "ingress_cls_config": ingress})
        serve.run(app, name=NAME)
        url = f"http://127.0.0.1:{port}/v1/"
        with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
            yield Application(client)
    finally:
        serve.shutdown()
        ray.shutdown()


class Application:
    """An application that serves, and the books of the router in its ingress."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self._ingress = serve.get_deployment_handle("Watched", NAME)

    def ask(self, user: str, *, chat: bool, limit: int, stream: bool) -> tuple[str, dict[str, Any]]:
        body = {
            "model": MODEL, "user": user, "ignore_eos": True, "max_tokens": limit, "stream": stream
        }  # fmt: skip
        if not chat:
            return "completions", {**body, "prompt": [5, 6, 7]}
        parts = [{"type": "text", "text": "w5 w6"}]
        messages = [{"role": "system", "content": "w9"}, {"role": "user", "content": parts}]
        told = {"messages": messages, "tools": TOOLS, "tool_choice": "none"}
        return "chat/completions", {**body, **told}

    def books(self, **wanted: int) -> dict[str, Any]:
        """Wait until figures of the books are these; return all of them."""
        return self._ingress.books.remote(wanted).result(timeout_s=PATIENCE_S)

    def stream(self, user: str, *, chat: bool) -> Stream:
        found = Stream(self.client, *self.ask(user, chat=chat, limit=LONG, stream=True))
        found.start()
        return found


class Stream(threading.Thread):
    """An answer that is read until its end, or until whoever reads has had enough."""

    def __init__(self, client: httpx.Client, path: str, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._client, self._path, self._body = client, path, body
        self._enough = threading.Event()
        self.lines: list[str] = []

    def run(self) -> None:
        with self._client.stream("POST", self._path, json=self._body) as answer:
            for line in answer.iter_lines():
                self.lines.append(line)
                if self._enough.is_set():
                    return

    def leave(self) -> None:
        """Close the connection with the next piece that comes."""
        self._enough.set()

    def over(self) -> list[str]:
        """Wait for the end; return the lines."""
        self.join(PATIENCE_S)
        assert not self.is_alive()
        return self.lines


def test_answers_are_placed_by_the_router_streamed_or_not(application):
    for at, (chat, stream) in enumerate(
        [(True, False), (True, True), (False, False), (False, True)]
    ):
        path, body = application.ask(f"r{at}", chat=chat, limit=4, stream=stream)
        answer = application.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        if stream:
            assert answer.text.rstrip().endswith("data: [DONE]")
        else:
            assert answer.json()["usage"]["completion_tokens"] == 4
    books = application.books(reserved=0)
    assert (books["begun"], books[End.FINISHED], books["wrong"]) == (4, 4, ())


def test_books_follow_who_is_held_who_leaves_and_who_dies(application):
    before = application.books(reserved=0)
    sent = {}
    for at in range(6):
        user = f"s{at}"
        sent[user] = application.stream(user, chat=at % 2 == 1)
        application.books(begun=before["begun"] + at + 1)
    running = application.books(started=4, held=2)["running"]
    assert sorted(running) == ["s0", "s1", "s2", "s3"]
    assert len({replica for replica, _ in running.values()}) == 2
    # What is read of Ray Serve LLM's own objects.
    completion, chat = running["s0"][1], running["s1"][1]
    assert (completion.prompts, completion.max_tokens) == (((5, 6, 7),), LONG)
    assert chat.max_tokens == LONG
    [text] = chat.prompts
    assert text.startswith('[{"type": "function"')
    assert text.endswith("system\nw9\nuser\nw5 w6")
    sent.pop("s0").leave()
    running = application.books(started=4, held=1, disconnected=1)["running"]
    assert "s4" in running
    victim = running["s1"][0]
    dying = [user for user, (replica, _) in running.items() if replica == victim]
    ray.kill(actor_of(victim))
    books = application.books(started=2, held=1, up=1, **{End.WORKER_DIED: len(dying)})
    assert set(books["running"]) == set(running) - set(dying)
    for user in dying:
        assert "data: [DONE]" not in sent.pop(user).over()
    for each in sent.values():
        each.leave()
    books = application.books(reserved=0, held=0)
    assert books["wrong"] == ()
    assert books["begun"] == sum(books.get(end, 0) for end in End)


def actor_of(replica: str) -> Any:
    [found] = [
        each for each in ray.util.list_named_actors(all_namespaces=True) if replica in each["name"]
    ]
    return ray.get_actor(**found)
