from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_board import TINY, UNKNOWN

from brsolver.board.definition import load_definition

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.board.definition import BoardDefinition


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(digest=UNKNOWN))
    return path


@pytest.fixture
def tiny(tiny_file: Path) -> BoardDefinition:
    return load_definition(tiny_file)
