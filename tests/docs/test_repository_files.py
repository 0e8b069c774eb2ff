"""What a code host and its tools read: citation, issue templates, hooks before a commit."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
import yaml
from snippets import ROOT

from brsolver import __version__

TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in TEMPLATES if path.stem != "config"]


def test_the_citation_is_of_this_version_and_project():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == __version__
    assert (cited["title"], cited["license"]) == (project["name"], project["license"])
    assert [author["name"] for author in cited["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    assert cited["keywords"] == project["keywords"]
    assert cited["message"]
    assert cited["type"] == "software"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_something(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(part["type"] in {"input", "textarea"} for part in form["body"])
    assert all(part["attributes"]["label"] for part in form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_there_is_a_form_for_each_kind_of_issue():
    assert {path.stem for path in FORMS} == {"bug", "format", "policy"}


def test_hooks_are_local_and_are_those_of_make_lint():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    linted = re.findall(r"\$\(BIN\)/([\w-]+)", recipe[1])
    assert [entry[0].removeprefix(".venv/bin/") for entry in entries[:4]] == linted
    assert all(hook["language"] == "system" for hook in repository["hooks"])
