"""The code blocks of Markdown pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))

_BLOCK = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"[A-Z][A-Z_]*=")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: its language, its text, and the line of the page that it begins on."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command line: variables set for it, and its words."""

    place: str
    variables: dict[str, str]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place} {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=found["language"],
            text=found["text"],
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block, without prompts, comments and line breaks."""
    if block.language != "console":
        return []
    joined = block.text.replace("\\\n", " ").splitlines()
    split = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined]
    return [_command(block, words) for words in split if words]


def _command(block: Block, words: list[str]) -> Command:
    count = next(i for i, word in enumerate(words) if not _VARIABLE.match(word))
    variables = dict(word.split("=", 1) for word in words[:count])
    return Command(place=block.place, variables=variables, words=tuple(words[count:]))
