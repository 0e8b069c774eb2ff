"""A process that had to compile begins anew, once, as itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = """
import numba

@numba.njit(cache=True)
def twice(value):
    return 2 * value
"""
BEATS = 3


@pytest.mark.parametrize("kept", [True, False])
def test_a_process_begins_anew_once_and_shows_its_owner_signs_all_the_same(tmp_path, kept):
    source = KERNEL if kept else KERNEL.replace("cache=True", "")
    (tmp_path / "kernel_of_test.py").write_text(source)
    command = [sys.executable, Path(__file__).with_name("begins_anew.py"), tmp_path]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run():
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        ) as child:
            # All that its owner hears are signs of life, the first of them that it is ready.
            assert child.stdout.read(1 + BEATS) == b"R" + BEATS * b"."
            child.stdin.close()
            *lines, last = child.stderr.read().decode().splitlines()
        assert last == "left alone"
        assert {line.split()[0] for line in lines} == {str(child.pid)}
        return [line.split()[1] for line in lines]

    # Where nothing can be kept, it does not try for ever.
    assert run() == (["True", "False"] if kept else ["True", "True"])
    assert run() == (["False"] if kept else ["True", "True"])
