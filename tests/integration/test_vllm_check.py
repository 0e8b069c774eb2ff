"""``brsolver vllm check``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from vllm_sources import OfflineError, sources

from integration.vllm.inspection import _coverage

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_VLLM = pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")


def check(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BRSOLVER_")}
    return subprocess.run(
        [sys.executable, "-m", "brsolver", "vllm", "check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=kept | environ,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which a vLLM seems to be installed, of which only the sources matter."""
    names = ["vllm/v1/engine/core_client.py", "vllm/v1/engine/__init__.py"]
    try:
        root = sources("0.32.0", names)
    except OfflineError as error:
        pytest.skip(str(error))
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((root / name).read_text())
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('imported')\n")
    meta = tmp_path / "vllm-0.32.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    return tmp_path


@WITHOUT_VLLM
def test_without_vllm_the_extra_is_named():
    done = check()
    assert done.returncode == 1
    assert "extra 'vllm'" in done.stdout
    assert done.stderr == ""


@WITHOUT_VLLM
def test_with_vllm_it_says_what_would_be_active_and_imports_nothing_of_it(site):
    done = check("--json", PYTHONPATH=str(site), BRSOLVER_ROUTER="br-h:horizon=40")
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["vllm"] == "0.32.0"
    assert found["verdict"] == "active: br-h:horizon=40, pooled"


@WITHOUT_VLLM
def test_it_says_what_is_missing_to_be_active(site):
    done = check(PYTHONPATH=str(site))
    assert done.returncode == 0
    assert "inert: set BRSOLVER_ROUTER" in done.stdout


@WITHOUT_VLLM
@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"VLLM_USE_RUST_FRONTEND": "1"}, "Rust front end"),
        ({"VLLM_PLUGINS": "other"}, "VLLM_PLUGINS does not name brsolver"),
        ({"BRSOLVER_RECORD": "nowhere/to/x.jsonl"}, "there is no folder nowhere/to"),
    ],
)
def test_it_says_what_stands_in_the_way(site, environ, told):
    done = check(PYTHONPATH=str(site), BRSOLVER_ROUTER="br-0", **environ)
    assert done.returncode == 1
    assert told in done.stdout


@WITHOUT_VLLM
def test_a_vllm_of_another_shape_is_told_from_ours(site):
    path = site / "vllm" / "v1" / "engine" / "core_client.py"
    path.write_text(path.read_text().replace("reqs_in_flight", "requests"))
    done = check(PYTHONPATH=str(site), BRSOLVER_ROUTER="br-0")
    assert done.returncode == 1
    assert "sets no attribute reqs_in_flight" in done.stdout


@WITHOUT_VLLM
def test_variables_that_nobody_reads_are_named(site):
    environ = {"BRSOLVER_ROUTER": "br-0", "BRSOLVER_MODES": "observe", "BRSOLVER_RIG_STEPS": "x"}
    done = check(PYTHONPATH=str(site), **environ)
    assert done.returncode == 0
    assert "ignored     BRSOLVER_MODES is not read: did you mean BRSOLVER_MODE?" in done.stdout
    assert "RIG" not in done.stdout
    found = json.loads(check("--json", PYTHONPATH=str(site), **environ).stdout)
    assert len(found["ignored"]) == 1


@pytest.mark.parametrize(
    ("version", "coverage"),
    [
        ("0.20.2", "tested"),
        ("0.20.3", "tested"),
        ("0.20.1", "older than any tested"),
        ("0.19.0", "older than any tested"),
        ("0.25.1+cu130", "tested"),
        ("0.28.0", "between tested versions"),
        ("0.32.0rc1", "tested"),
        ("0.33.2", "tested"),
        ("0.34.0", "newer than any tested"),
        ("1.0", "newer than any tested"),
        ("of unknown version", "of unknown version"),
    ],
)
def test_only_versions_that_are_tested_count_as_tested(version, coverage):
    assert _coverage(version) == coverage


@WITHOUT_VLLM
def test_a_version_that_is_not_tested_is_said_to_be_none(site):
    meta = site / "vllm-0.32.0.dist-info" / "METADATA"
    meta.write_text(meta.read_text().replace("0.32.0", "0.28.0"))
    done = check(PYTHONPATH=str(site), BRSOLVER_ROUTER="br-0")
    assert "0.28.0 (between tested versions)" in done.stdout
    found = json.loads(check("--json", PYTHONPATH=str(site)).stdout)
    assert (found["tested"], found["coverage"]) == (False, "between tested versions")


@pytest.mark.parametrize("router", ["br-zero", "br-0:r_max=0", "nowhere.toml"])
def test_what_makes_no_sense_is_one_line_and_exit_code_2(router):
    done = check("--router", router)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
