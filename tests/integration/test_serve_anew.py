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


@pytest.mark.parametrize("kept", [True, False])
def test_a_process_begins_anew_once_and_keeps_what_it_reads_and_writes(tmp_path, kept):
    source = KERNEL if kept else KERNEL.replace("cache=True", "")
    (tmp_path / "kernel_of_test.py").write_text(source)
    script = Path(__file__).with_name("begins_anew.py")
    command = [sys.executable, script, tmp_path]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run():
        done = subprocess.run(
            command,
            input="to the end\n",
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        *lines, last = done.stdout.splitlines()
        assert last == "to the end"
        pids, compiled = zip(*map(str.split, lines), strict=True)
        assert len(set(pids)) == 1
        return list(compiled)

    # Where nothing can be kept, it does not try for ever.
    assert run() == ["True", "True" if not kept else "False"]
    assert run() == (["False"] if kept else ["True", "True"])
