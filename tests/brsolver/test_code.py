"""What tells code apart: our own wherever it is, a stranger's as it was imported."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver import _code
from brsolver._code import own_code, sources_in
from brsolver.errors import ParameterError
from brsolver.registry import PolicySpec, PredictorSpec
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.held_out import hold_out
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = "code_of_a_stranger"
TEXT = """
from dataclasses import dataclass
from pathlib import Path

from brsolver import BasePredictor


class Emptiest:
    @dataclass(frozen=True, kw_only=True)
    class Params:
        table: str = ""

    def __init__(self, params):
        self.text = Path(params.table).read_text() if params.table else ""

    def route(self, cluster, waiting):
        return [(0, int(cluster.room.argmax()))]


class Never(BasePredictor):
    def predict(self, query, horizon):
        raise NotImplementedError
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a stranger's file, which can be imported."""
    file = tmp_path / f"{MODULE}.py"
    file.write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield file
    sys.modules.pop(MODULE, None)


def edit(file: Path) -> None:
    file.write_text(file.read_text() + "# changed\n")


def elsewhere() -> None:
    """Import anew, as another process does."""
    sys.modules.pop(MODULE, None)


def package(folder: Path, **texts: str) -> Path:
    for name, text in {"__init__": "", **texts}.items():
        path = folder / f"{name.replace('__of__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the digest of the package `ours` in a folder."""
    monkeypatch.setattr(_code, "COMPUTING", ("ours_of_a_test",))
    monkeypatch.setattr(_code, "SHOWING", ("ours_of_a_test/cli/",))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return own_code.__wrapped__()


def test_our_code_is_told_by_what_it_says_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"kernels": "x = 1\n", "deep__of__more": "y = 2\n", "cli__of__table": "z = 3\n"}
    variants = {
        "one": texts,
        "again": dict(reversed(texts.items())),
        "shown otherwise": {**texts, "cli__of__table": "z = 4\n"},
        "another kernel": {**texts, "kernels": "x = 2\n"},
        "one file less": {"kernels": "x = 1\n", "cli__of__table": "z = 3\n"},
        "another name": {"kernels": "x = 1\n", "deep__of__others": "y = 2\n"},
        "split otherwise": {**texts, "kernels": "x = 1\ny = ", "deep__of__more": "2\n"},
    }
    found = {}
    for name, given in variants.items():
        package(tmp_path / name / "ours_of_a_test", **given)
        found[name] = told(tmp_path / name, monkeypatch)
    same = {name for name, code in found.items() if code == found["one"]}
    assert same == {"one", "again", "shown otherwise"}
    assert len(set(found.values())) == 1 + len(variants) - len(same)


def test_what_nothing_imports_does_not_count(tmp_path: Path) -> None:
    whole = package(tmp_path / "whole", kernels="x = 1\n")
    before = list(sources_in(whole))
    (whole / ".#kernels.py").symlink_to("nobody@nowhere")
    (whole / "kernels.nbi").write_text("compiled")
    (whole / "__pycache__").mkdir()
    (whole / "__pycache__" / "kernels.pyc").write_text("compiled")
    assert list(sources_in(whole)) == before == [("__init__.py", b""), ("kernels.py", b"x = 1\n")]


def test_all_processes_say_the_same_of_our_code() -> None:
    text = "from brsolver._code import own_code; print(own_code())"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own_code()
    assert len(own_code()) == 12


def test_a_policy_that_travels_is_the_one_that_was_read(stranger: Path) -> None:
    spec = PolicySpec.parse(f"{MODULE}:Emptiest")
    sent = pickle.dumps(spec)
    edit(stranger)
    assert pickle.loads(sent) == spec  # noqa: S301 # pickled here
    elsewhere()
    line = f"^{MODULE}:Emptiest: module {MODULE} is not what it was when it was read first, must"
    with pytest.raises(ParameterError, match=line):
        pickle.loads(sent)  # noqa: S301 # pickled here
    stranger.write_text(TEXT)
    elsewhere()
    assert pickle.loads(sent).prints == spec.prints  # noqa: S301 # pickled here


def test_a_predictor_that_travels_is_the_one_that_was_read(stranger: Path) -> None:
    requests = Trace(prompt_tokens=np.array([5, 6]), output_tokens=np.array([3, 2]))
    spec = PredictorSpec.of(f"{MODULE}:Never", {})
    held = (hold_out(requests, spec), hold_out(requests, spec.make()))
    sent = [pickle.dumps(each) for each in (spec, *held)]
    assert held[0].code == held[1].code != ""
    edit(stranger)
    for each in sent:
        elsewhere()
        with pytest.raises(ParameterError, match=f"module {MODULE} is not what it was"):
            pickle.loads(each)  # noqa: S301 # pickled here


def test_a_file_that_parameters_name_is_the_one_that_was_read(
    stranger: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.txt"
    table.write_text("one")
    spec = PolicySpec.parse(f"{MODULE}:Emptiest:table={table}")
    sent = pickle.dumps(spec)
    requests = Trace(prompt_tokens=np.array([5, 6]), output_tokens=np.array([3, 2]))
    params = SimulationParams(workers=2, slots=1)
    assert simulate(requests, spec, params).metrics.finished == 2
    table.write_text("other")
    with pytest.raises(ParameterError, match=r"table\.txt is not what it was"):
        simulate(requests, spec, params)
    with pytest.raises(ParameterError, match=r"table\.txt is not what it was"):
        pickle.loads(sent)  # noqa: S301 # pickled here
    again = PolicySpec.parse(spec.text)
    assert again.prints != spec.prints
    assert simulate(requests, again, params).metrics.finished == 2


def test_a_file_that_changes_while_it_is_imported_is_refused(stranger: Path) -> None:
    stranger.write_text(f"{TEXT}\nPath(__file__).write_text('')\n")
    line = "cannot be loaded: its file was changed while it was imported: start again"
    with pytest.raises(ParameterError, match=line):
        PolicySpec.parse(f"{MODULE}:Emptiest")
