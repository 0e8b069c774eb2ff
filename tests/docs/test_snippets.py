"""What README and documentation tell readers to type: it is valid, and it runs."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from snippets import PAGES, README, ROOT, TUTORIALS, Block, Command, blocks, commands
from typer.main import get_command
from typer.testing import CliRunner

from brsolver.cli.main import app
from integration.vllm.config import from_environment, misspelt

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Workplace

NEEDS_A_SERVER = {("vllm", "bench"), ("vllm", "calibrate")}
SERVES_ON = {"serve", "picker", "fake-engine"}
PLACEHOLDER = re.compile(r"\[|…")
WRITTEN = re.compile(r"# (?P<path>[\w./-]+\.(py|toml))\n")

# A tutorial is one story; what README shows stands by itself.
RUNS = [blocks(page) for page in TUTORIALS] + [[block] for block in blocks(README)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def brsolver_parses(words: tuple[str, ...]) -> None:
    """Take the command line apart as the command would, and run nothing."""
    command: Any = get_command(app)
    context, rest = command.make_context("brsolver", list(words), resilient_parsing=True), [*words]
    while hasattr(command, "list_commands"):
        called, rest = rest[0], rest[1:]
        command = command.get_command(context, called)
        assert command is not None, f"no command {called}"
    command.make_context(words[0], rest)


def make_has(words: tuple[str, ...]) -> None:
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def pip_can(words: tuple[str, ...]) -> None:
    """Check that the extras exist; a folder of the page's own is installed where pages run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[0] == "install"
    for asked in words[1:]:
        found = re.fullmatch(
            r"(?P<what>\.|\./mypolicies|brsolver)(\[(?P<extras>[\w,-]+)\])?", asked
        )
        assert found, asked
        assert set((found["extras"] or "vllm").split(",")) <= set(project["optional-dependencies"])


def module_is_there(words: tuple[str, ...]) -> None:
    assert words[0] == "-m"
    # vLLM's own are there in the rig only, whose tests start them.
    assert words[1].startswith("vllm.") or find_spec(words[1]) is not None


CHECKS = {
    "brsolver": brsolver_parses,
    "make": make_has,
    "pip": pip_can,
    "python": module_is_there,
    ".vllm-rig/bin/python": module_is_there,
    # What vLLM's own options are is tested against its sources: test_serve_options.py.
    "vllm": lambda words: None,
    "ray": lambda words: None,
    "uv": lambda words: None,
}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_valid(page):
    for command in [command for block in blocks(page) for command in commands(block)]:
        program, *words = command.words
        said = tuple(word for word in words if not PLACEHOLDER.match(word))
        assert misspelt(command.variables) == []
        try:
            CHECKS[program](said)
        except Exception as error:
            error.add_note(str(command))
            raise


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_of_settings_are_toml(page):
    for block in blocks(page):
        if block.language == "toml" and "…" not in block.text:
            tomllib.loads(block.text)


@pytest.mark.parametrize("blocks_in_turn", RUNS, ids=lambda run: run[0].place)
def test_what_readers_are_told_to_run_runs(blocks_in_turn, workplace):
    for block in blocks_in_turn:
        run_block(block, workplace)


def run_block(block: Block, workplace: Workplace) -> None:
    written = WRITTEN.match(block.text)
    if written:
        path = workplace.folder / written["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text)
    elif block.language == "python":
        workplace.python("-c", block.text)
    for command in commands(block):
        run_command(command, workplace)


def run_command(command: Command, workplace: Workplace) -> None:
    program, *words = command.words
    if program == "pip" and words[-1].startswith("./"):
        workplace.install(words[-1])
    elif program == "vllm":
        assert from_environment(command.variables) is not None
    elif (
        program == "brsolver"
        and words[0] not in SERVES_ON
        and tuple(words[:2]) not in NEEDS_A_SERVER
    ):
        run_brsolver(words, workplace, str(command))


def run_brsolver(words: list[str], workplace: Workplace, place: str) -> None:
    if workplace.installed:
        workplace.python("-m", "brsolver", *words)
        return
    ran = CliRunner().invoke(app, words)
    # vLLM is not installed here: `check` says so, and that it would not be active.
    allowed = {0, 1} if words[:2] == ["vllm", "check"] else {0}
    assert ran.exit_code in allowed, f"{place}\n{ran.output}\n{ran.exception!r}"
