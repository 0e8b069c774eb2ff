"""What the load generator makes of servers that fail, on real sockets."""

from __future__ import annotations

import contextlib
import itertools
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from brsolver.errors import MissingExtraError, ParameterError
from integration.bench import preflight
from integration.bench.arms import parse_arms
from integration.bench.client import drive, drive_server
from integration.bench.server import Server, ServerError, ServerParams
from integration.bench.session import SessionParams
from integration.bench.workload import WorkloadParams, workloads
from integration.free_ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

TRACE = "preset:uniform:n=200,s_low=3,s_high=9,o_low=2,o_high=4"
CHUNK = 'data: {"choices":[{"text":"a"}]}\n\n'
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
CUT_SHORT = f"{HEAD}Content-Length: 5000\r\n\r\n{CHUNK}"
REFUSAL = '{"error": {"message": "max_tokens is\\nfar too large", "code": 400}}'


def refused(body: str, status: str = "400 Bad Request") -> str:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"


@contextlib.contextmanager
def answering(answer: str | None, *, hangs_up: int = 0):
    """A server that gives every request this answer, or none; it hangs up on the first few."""
    over = threading.Event()
    asked = itertools.count()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            if next(asked) < hangs_up:
                return
            if answer is None:
                over.wait(60)
            else:
                self.request.sendall(answer.encode())

    class Threaded(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """The client has gone; nobody wants to read that."""

    with Threaded(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def load(requests: int = 12):
    return workloads(WorkloadParams(trace=TRACE, requests=requests), 1)[0]


FAILURES = {
    "status 400": (refused(REFUSAL), r"status 400: max_tokens is far too large$"),
    "status, no JSON": (refused("<html>" + "x" * 5000, "502 Bad Gateway"), "status 502: <html>x+…"),
    "cut short": (CUT_SHORT, r"failed: ClientPayloadError: "),
    "no HTTP": ("what?\r\n\r\n", r"failed: (ClientResponseError|ServerDisconnectedError)"),
    "hangs up": ("", r"failed: (ServerDisconnectedError|ClientOSError)"),
    "no usage": (f"{HEAD}\r\n{CHUNK}", "broken off: its stream ended without usage"),
    "dies in the stream": (
        f'{HEAD}\r\n{CHUNK}data: {{"error": {{"message": "engine dead"}}}}\n\ndata: [DONE]\n\n',
        "broken off: engine dead$",
    ),
    "odd usage": (
        f'{HEAD}\r\ndata: {{"usage":{{}}}}\n\n',
        "broken off: its stream ended without usage$",
    ),
    "hangs": (None, r"failed: TimeoutError"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_server_that_fails_is_one_line_that_names_it(name):
    answer, told = FAILURES[name]
    timeout_s = 0.3 if answer is None else 30.0
    with answering(answer) as url, pytest.raises(ServerError, match=told) as error:
        drive(url, "m", load(), concurrency=6, timeout_s=timeout_s)
    assert str(error.value).startswith(f"{url}: request ")
    assert "\n" not in str(error.value)


def test_a_connection_that_is_closed_as_it_is_taken_up_is_no_failure():
    usage = 'data: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
    with answering(f"{HEAD}\r\n{CHUNK}{usage}", hangs_up=1) as url:
        outcomes = drive(url, "m", load(), concurrency=1)
    assert [outcome.tokens for outcome in outcomes] == [3] * 12


def test_a_server_that_is_not_there_is_one_line_too():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        ServerError, match=rf"^{url}: request \d+ failed: ClientConnectorError"
    ) as error:
        drive(url, "m", load(), concurrency=6)
    assert "\n" not in str(error.value)


def test_an_error_of_the_generators_own_is_not_taken_for_the_servers(monkeypatch):
    monkeypatch.setattr("integration.bench.client.Load._body", lambda *_: 1 / 0)
    with pytest.raises(ExceptionGroup) as error:
        drive("http://127.0.0.1:1", "m", load(), concurrency=2)
    assert error.group_contains(ZeroDivisionError)


def test_the_log_of_a_server_of_ours_is_named(tmp_path):
    server = Server(ServerParams(model="m", log=tmp_path / "server.log"))
    server.log.write_text("engine core died\n")
    with pytest.raises(ServerError) as error:
        drive_server(server, load(), concurrency=2)
    text = str(error.value)
    assert f"{server.url}: request" in text
    assert f"the server has ended: engine core died (all of it: {server.log})" in text


def python_that(folder: Path, answer: str, server: str = "exit 3") -> str:
    """A program that answers what it has, and as a server does as told."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{answer}'; exit; fi\n{server}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_must_be_there_and_have_what_is_needed(tmp_path):
    with pytest.raises(ParameterError, match="is 'nowhere/python', must be a program"):
        preflight.require_vllm("nowhere/python", {}, plugin=True)
    path = python_that(tmp_path, "what?")
    with pytest.raises(ParameterError, match="must be a Python that can be asked"):
        preflight.require_vllm(path, {}, plugin=True)
    path = python_that(tmp_path, "[false, true]")
    with pytest.raises(MissingExtraError, match=r"vllm is not installed for .*brsolver\[vllm\]"):
        preflight.require_vllm(path, {}, plugin=False)
    path = python_that(tmp_path, "[true, false]")
    with pytest.raises(MissingExtraError, match=r"brsolver is not installed for .* as a plug-in"):
        preflight.require_vllm(path, {}, plugin=True)
    preflight.require_vllm(path, {}, plugin=False)
    preflight.require_vllm(python_that(tmp_path, "[true, true]"), {}, plugin=True)


def test_this_interpreter_has_the_plugin():
    assert preflight._look(sys.executable, {})[1]


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c"])
def test_a_model_that_looks_like_a_path_must_be_there(model):
    with pytest.raises(ParameterError, match="must be a folder that is there"):
        preflight.require_model(model)


def test_other_models_are_vllms_to_find(tmp_path):
    for model in ("model", "org/model", "s3://bucket/some/model", str(tmp_path)):
        preflight.require_model(model)


@pytest.mark.parametrize(
    ("arm", "told"),
    [("br-0:r_max=0", "r_max is 0"), ("br-h:horizon=x@immediate", "horizon is 'x'")],
)
def test_policies_are_tried_beforehand(arm, told):
    with pytest.raises(ParameterError, match=told):
        preflight.require(parse_arms(["default", arm]), ServerParams(model="m"), None)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 2.0, float("nan")])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ParameterError, match=r"confidence is .*, must be between 0 and 1"):
        SessionParams(confidence=confidence)


def test_too_few_requests_to_measure_are_refused():
    params = SessionParams(waiting=3)
    params.require_window(9, ranks=2, slots=2)
    with pytest.raises(ParameterError, match="requests is 8, must be at least 9"):
        params.require_window(8, ranks=2, slots=2)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brsolver", "vllm", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_refuses_before_it_starts_anything(tmp_path):
    started = tmp_path / "started"
    python = python_that(tmp_path, "[true, true]", f"touch {started}; exit 3")
    common = ("--python", python, "--trace", TRACE, "--requests", "40", "--rounds", "1")
    common += ("--slots", "4", "--policies", "default,br-0@pooled")
    for arguments in (
        ("model", "--confidence", "2"),
        (str(tmp_path / "nowhere"),),
        ("model", "--requests", "4"),
        ("model", "--policies", "br-0:r_max=0"),
        ("model", "--logs", f"{python}/logs"),
        ("model", "--policies", "off,br-0"),
    ):
        done = bench(*common, *arguments)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not started.exists()
    assert bench(*common, "model").returncode == 2
    assert started.exists()


BROKEN = """
import http.server, signal, sys

# Whoever supervises it ignores the signal, which is inherited.
signal.signal(signal.SIGTERM, signal.SIG_DFL)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, "brsolver_reloads_total 0\\n")

    def do_POST(self):
        self.answer(400, '{"error": {"message": "the model is broken"}}')

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.mark.parametrize("how", [(), ("--restart",)], ids=["reload", "restart"])
def test_the_command_says_in_one_line_what_became_of_a_server(tmp_path, how):
    (tmp_path / "broken.py").write_text(BROKEN)
    serve = f'exec {sys.executable} {tmp_path / "broken.py"} "$@"'
    done = bench(
        *("model", "--python", python_that(tmp_path, "[true, true]", serve), "--rounds", "1"),
        *("--trace", TRACE, "--requests", "40", "--slots", "4", "--logs", str(tmp_path / "logs")),
        *("--policies", "br-0@pooled", *how),
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "was answered with status 400: the model is broken" in line
    assert str(tmp_path / "logs") in line
