"""Links between pages, as a code host follows them: files exist, and headings that are named."""

from __future__ import annotations

import re

import pytest
from snippets import PAGES, ROOT

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the names that code hosts and MyST give to a page's headings."""
    words = (found["text"].lower() for found in _HEADING.finditer(_FENCED.sub("", text)))
    kept = (re.sub(r"[^\w\- ]", "", heading).strip() for heading in words)
    return {heading.replace(" ", "-") for heading in kept}


def links(text: str) -> list[str]:
    targets = (found["target"] for found in _LINK.finditer(_FENCED.sub("", text)))
    return [target for target in targets if "://" not in target]


def broken(page, target: str) -> bool:
    path, _, anchor = target.partition("#")
    aim = page.parent / path if path else page
    return not aim.exists() or bool(anchor and anchor not in anchors(aim.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert [target for target in links(page.read_text()) if broken(page, target)] == []


def test_a_wrong_link_is_seen(tmp_path):
    (tmp_path / "there.md").write_text("# A heading, with `code`\n")
    page = tmp_path / "page.md"
    text = "[a](there.md#a-heading-with-code) [b](there.md#none) [c](none.md) [d](#none)"
    page.write_text(text)
    assert [t for t in links(text) if broken(page, t)] == ["there.md#none", "none.md", "#none"]


def test_every_page_is_in_the_index():
    listed = (ROOT / "docs/index.md").read_text() + (ROOT / "docs/reference/index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.stem == "index" or re.search(rf"^(\w+/)?{page.stem}$", listed, re.MULTILINE)
