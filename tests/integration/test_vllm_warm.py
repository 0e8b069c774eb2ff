"""All that is compiled is compiled before it is needed, whatever happens while serving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("nothing_compiles.py")


@pytest.mark.parametrize(
    ("policy", "mode", "predictor"),
    [
        ("br-0", "pooled", "survival"),
        ("br-ramp", "pooled", "survival"),
        ("br-ramp", "immediate", "survival"),
        ("br-0", "immediate", "survival"),
        ("br-h", "pooled", "survival"),
        ("br-h", "immediate", "survival"),
        ("br-h", "pooled", "exact"),
        ("br-h:projection=expected,growth=true", "pooled", "survival"),
        ("br-h:projection=expected", "immediate", "none"),
        ("bf-io", "pooled", "survival"),
        ("br-t", "pooled", "none"),
        ("br-t", "immediate", "none"),
        ("phi", "immediate", "survival"),
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
