from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from snippets import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PRESETS = ROOT / "brsolver/hardware/presets"


@dataclass
class Workplace:
    """A folder in which a page's commands run one after the other, as a reader would run them."""

    folder: Path
    installed: list[str] = field(default_factory=list)

    def python(self, *words: str) -> None:
        """Run Python on `words`; what it says is shown where it fails."""
        path = os.pathsep.join([*self.installed, str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "160"}
        ran = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{' '.join(words)}\n{ran.stdout}{ran.stderr}"

    def install(self, package: str) -> None:
        """Install a folder's package beside the others, without asking any index."""
        target = str(self.folder / "site-packages")
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
        self.python("-m", "pip", "install", *offline, "--target", target, package)
        self.installed.append(target)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Return a folder with what pages take for given: traces, and hardware that was measured."""
    monkeypatch.chdir(tmp_path)
    requests = [(i / 20, 100 + 37 * i % 900, 3 + 11 * i % 40) for i in range(400)]
    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    rows = [",".join(map(str, request)) for request in requests]
    (tmp_path / "trace.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    lines = [json.dumps(dict(zip(columns, request, strict=True))) for request in requests]
    (tmp_path / "served.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copy(PRESETS / "minimax-m2.7-h200-dp4.toml", tmp_path / "mine.toml")
    return Workplace(folder=tmp_path)
