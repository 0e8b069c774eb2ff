"""What is written while serving: one line per event, as text or JSON; never prompts, never keys."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration.picker.events import Event
    from integration.settings import Log

LOGGER = "brsolver"
_SAID = {"WorkerChanged": logging.INFO, "Fault": logging.WARNING}
"""Events that are logged, and how loud; what happens for every request is debugging."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, message, and what it was given besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(told, ensure_ascii=False, default=str)


class LogFile(logging.FileHandler):
    """A log file that is allowed to fail: said once on standard error, not for each line."""

    failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or lose it."""
        self._lost = False
        super().emit(record)
        self.failing = self._lost

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 # as logging has it
        """Say that lines are lost, unless it has been said."""
        self._lost = True
        if not self.failing:
            reason = sys.exc_info()[1]
            sys.stderr.write(
                f"brsolver: warning: [log] file {self.baseFilename!r} cannot be written: "
                f"{reason}; lines are lost until it can\n"
            )


def set_up(log: Log, folder: Path) -> logging.Logger:
    """Make the logger of this process write as the settings say.

    Parameters
    ----------
    log : Log
    folder : Path
        What a relative path of its file is seen from.

    Raises
    ------
    ParameterError
        The file cannot be written.
    """
    logger = logging.getLogger(LOGGER)
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    handler = _handler(log, folder)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if log.format == "json" else text)
    logger.addHandler(handler)
    logger.setLevel(log.level.upper())
    logger.propagate = False
    return logger


def _handler(log: Log, folder: Path) -> logging.Handler:
    if log.file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        return LogFile(folder / log.file, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(
            f"[log] file is {log.file!r}, must be a file that can be written: {reason}"
        ) from error


class EventLog:
    """Writes the picker's events to the log; requests appear by our own names for them only.

    Parameters
    ----------
    logger : Logger
    name_of : callable
        Returns a worker's name, by index.
    """

    def __init__(self, logger: logging.Logger, name_of: Callable[[int], str]) -> None:
        self._logger, self._name_of = logger, name_of

    def event(self, event: Event) -> None:
        """Take in an event."""
        kind = type(event).__name__
        level = _SAID.get(kind, logging.DEBUG)
        if kind == "Stepped" or not self._logger.isEnabledFor(level):
            return
        fields = {
            name: self._plain(name, getattr(event, name))
            for name in event.__slots__
            if name != "ask"
        }
        said = ", ".join(f"{name} {value}" for name, value in fields.items())
        self._logger.log(level, "%s: %s", kind, said, extra={"fields": {"event": kind, **fields}})

    def _plain(self, name: str, value: object) -> object:
        if name == "worker" and isinstance(value, int) and value >= 0:
            return self._name_of(value)
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        return value if isinstance(value, str | int | float | None) else str(value)
