"""`vllm serve` as the documentation writes it: vLLM has every option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vllm_sources import OfflineError, sources

ROOT = Path(__file__).parents[2]
DEFINED_IN = ("vllm/engine/arg_utils.py", "vllm/entrypoints/launchers/cli_args.py")
SERVE = re.compile(r"^(?:[A-Z_]+=\S+ )*vllm serve (?P<rest>(?:\\\n|[^\n#])*)", re.MULTILINE)


def written() -> dict[str, str]:
    """Return the options that pages pass to ``vllm serve``, each with a page that does."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return {
        option: page.name
        for page in pages
        for command in SERVE.finditer(page.read_text(encoding="utf-8").replace("\\\n   ", " "))
        for option in re.findall(r"--[a-z-]+", command["rest"])
    }


def test_options_are_found_in_the_pages():
    assert {"--data-parallel-size", "--enable-expert-parallel", "--api-server-count"} <= set(
        written()
    )


def test_vllm_has_every_option_that_pages_pass():
    try:
        folder = sources("0.32.0", DEFINED_IN)
    except OfflineError as error:
        pytest.skip(str(error))
    defined = "".join((folder / module).read_text(encoding="utf-8") for module in DEFINED_IN)
    assert [option for option in written() if f'"{option}"' not in defined] == []
