"""What the page on Kubernetes says can be used as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from integration.admin.params import AdminParams
from integration.picker import Core, WorkerSpec
from integration.settings import load

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"


def test_the_settings_are_settings(tmp_path: Path) -> None:
    found = re.search(r"  serve.toml: \|\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    path = tmp_path / "serve.toml"
    path.write_text(textwrap.dedent(found[1]), encoding="utf-8")
    config = load(path)
    token = None if config.admin.token_env is None else "sixteen letters!"
    AdminParams(host=config.admin.host, port=config.admin.port, token=token)
    pod = WorkerSpec(name="pod", address="10.0.0.1:8000")
    Core(config.router, [pod], clock=lambda: 0.0)


def test_secrets_that_are_named_are_given() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r'_env = "(\w+)"', text):
        assert f"- name: {name}" in text
