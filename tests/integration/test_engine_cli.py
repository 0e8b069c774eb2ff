"""``brsolver fake-engine`` as it is called."""

import signal
import subprocess
import sys

import httpx
import pytest
from engine_client import PATIENCE_S, counted, exactly

ENGINE = (sys.executable, "-m", "integration.engines")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ranks", "0"], "ranks is 0, must be at least 1"),
        (["--hardware", "abacus"], "unknown hardware 'abacus': known:"),
        (["--slots", "many"], "Invalid value for '--slots'"),
        (["--nothing"], "No such option: --nothing"),
        (["--host", "192.0.2.1"], "port is 8000, must be free to listen on at 192.0.2.1"),
    ],
)
def test_bad_options_are_one_line(arguments, says):
    done = subprocess.run(
        [*ENGINE, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("brsolver: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_it_says_where_it_listens_and_ends_when_told():
    options = ["--port", "0", "--ranks", "2", "--ports-per-rank", "0", "--speed", "1000"]
    with subprocess.Popen([*ENGINE, *options], stdout=subprocess.PIPE, text=True) as engine:
        lines = iter(engine.stdout.readline, "ready\n")
        found = dict(line.strip().split(" ", 1) for line in lines)
        assert list(found.values()) == ["all 2 ranks", "rank 0", "rank 1"]
        for url in found:
            answer = httpx.post(f"{url}/v1/completions", json=exactly(3), timeout=PATIENCE_S)
            assert answer.json()["choices"][0]["text"] == counted(3)
        taken = next(iter(found)).rpartition(":")[2]
        second = subprocess.run(
            [*ENGINE, "--port", taken], capture_output=True, text=True, check=False, timeout=60
        )
        assert f"port is {taken}, must be free" in second.stderr
        assert second.returncode == 2
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(PATIENCE_S) == 0
