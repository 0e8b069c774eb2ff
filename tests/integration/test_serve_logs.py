"""The log of ``brsolver serve``."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import pytest

from brsolver.errors import ParameterError
from integration.serve.logs import LOGGER, LogFile, set_up
from integration.settings.tables import Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    yield
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


class Disk:
    """A file on a disk that may be full."""

    def __init__(self) -> None:
        self.full = True
        self.written = ""

    def write(self, text: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += text

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_full_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger, disk = set_up(Log(file="serve.log"), tmp_path), Disk()
    (handler,) = logger.handlers
    assert isinstance(handler, LogFile)
    if (opened := handler.setStream(disk)) is not None:  # type: ignore[type-var] # as a file
        opened.close()
    for full, said in ((True, 1), (False, 0), (True, 1)):
        disk.full = full
        for at in range(3):
            logger.info("line %s", at)
        told = capsys.readouterr().err
        assert told.count("\n") == said
        assert "Traceback" not in told
    assert disk.written.count("\n") == 3


@pytest.mark.parametrize("name", ["no/such/folder.log", "a\0b", "."])
def test_a_file_that_cannot_be_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match=r"^\[log\] file is .* must be a file"):
        set_up(Log(file=name), tmp_path)
