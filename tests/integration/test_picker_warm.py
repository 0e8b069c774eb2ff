"""All that is compiled is compiled before the picker is there, whatever it is told afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("picker_compiles.py")


@pytest.mark.parametrize(
    ("policy", "mode", "predictor"),
    [
        ("br-t", "pooled", "none"),
        ("br-t", "immediate", "survival"),
        ("br-0", "pooled", "survival"),
        ("br-h", "pooled", "survival"),
        ("vllm", "immediate", "none"),
    ],
)
def test_nothing_is_compiled_while_serving(policy, mode, predictor):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), policy, mode, predictor],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout, f"compiled while serving:\n{done.stdout}"
