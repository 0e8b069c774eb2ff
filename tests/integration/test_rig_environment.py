"""The rig's environment script, where nothing can be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rig import environment

if TYPE_CHECKING:
    import pytest

SCRIPT = Path(environment.__file__)


def test_packages_that_cannot_be_had_give_one_line_and_a_status_of_their_own(
    tmp_path: Path,
) -> None:
    nothing = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    nothing |= {
        environment.LOCATION: str(tmp_path / "rig"),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    for _ in ("from nothing", "from what the first attempt left"):
        done = subprocess.run(
            [sys.executable, str(SCRIPT)], env=nothing, capture_output=True, text=True, check=False
        )
        assert done.returncode == environment.CANNOT_BE_HAD, done.stderr
        assert done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("vllm rig: cannot be had here: pip install uv failed: ERROR")
    assert not environment.is_ready(tmp_path / "rig")


def test_the_location_is_ours_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(environment.LOCATION, raising=False)
    assert environment.location() == environment.REPOSITORY / ".vllm-rig"
    assert (environment.REPOSITORY / "pyproject.toml").exists()
    monkeypatch.setenv(environment.LOCATION, str(tmp_path))
    assert environment.location() == tmp_path
    assert environment.interpreter() == tmp_path / "bin" / "python"


def test_a_rig_made_by_another_version_of_the_script_is_not_ready(tmp_path: Path) -> None:
    assert not environment.is_ready(tmp_path)
    (tmp_path / ".ready").write_text("older", encoding="utf-8")
    assert not environment.is_ready(tmp_path)
    (tmp_path / ".ready").write_text(environment._fingerprint(), encoding="utf-8")
    assert environment.is_ready(tmp_path)
    assert environment.create(tmp_path) == tmp_path / "bin" / "python"
