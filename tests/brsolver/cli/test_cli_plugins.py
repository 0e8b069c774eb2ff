"""Commands that other packages add."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from brsolver.cli import plugins
from brsolver.cli.main import app


@pytest.fixture
def added(monkeypatch):
    def add(**values):
        entries = {
            name.replace("_", "-"): EntryPoint(name.replace("_", "-"), value, plugins.COMMAND_GROUP)
            for name, value in values.items()
        }
        monkeypatch.setattr(plugins, "_entries", lambda: entries)

    return add


def run(*args):
    return CliRunner().invoke(app, list(args))


def test_added_commands_are_listed_with_their_help():
    listed = run("--help").output
    assert "classifier" in listed
    assert "vllm" in listed


def test_added_command_shows_its_own_help_without_completion_options():
    shown = run("classifier", "--help")
    assert shown.exit_code == 0
    assert "completion" not in shown.output


@pytest.mark.parametrize(
    "value", ["no_such_module:app", "brsolver.errors:BrsolverError", "math:nothing"]
)
def test_broken_command_is_listed_and_says_why_when_run(added, value):
    added(mine=value)
    assert "mine" in run("--help").output
    refused = run("mine", "whatever", "--even=this")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("brsolver: error: command 'mine'")
    assert value in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_built_in_command_is_not_replaced(added):
    added(simulate="no_such_module:app")
    assert run("simulate", "--help").exit_code == 0


def test_function_is_a_command_with_the_first_line_of_its_docstring(added):
    added(one="integration.cli_check:check")
    assert "Say whether the router would be active" in run("--help").output
    assert "--router" in run("one", "--help").output
