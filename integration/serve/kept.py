"""The settings as they hold while serving, whatever becomes of the file that they stood in.

Envoy keeps what it was started with. A picker that is started anew beside it must be told the same,
and of the file that may have been edited since only what a SIGHUP has taken in.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from brsolver.errors import ParameterError
from brsolver.traces.atomic import replacing
from integration.settings import WHO, built, read_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from integration.settings import ServeConfig

FILE = "settings.json"
_TIERS = ("prefill", "decode")
_FOUND = [f"{tier}_{name}" for tier in _TIERS for name in ("file", "dns", "service")]
_RELOADED = {"workers": WHO, "tiers": (*_TIERS, *_FOUND)}
"""Keys that a SIGHUP takes in, by table."""


class Kept(NamedTuple):
    """Settings that hold.

    Attributes
    ----------
    tables : mapping of str to dict
        What was tuned, and workers of the command line, are in their places.
    file : Path
        Where they stood; API keys are in neither.
    """

    tables: Mapping[str, Any]
    file: Path

    @classmethod
    def load(cls, folder: Path, file: Path) -> Self:
        """Read what `save` wrote."""
        return cls(json.loads((folder / FILE).read_text(encoding="utf-8")), file)

    def save(self, folder: Path) -> None:
        """Write them.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        with replacing(folder / FILE) as part:
            part.write_text(json.dumps(self.tables), encoding="utf-8")

    def config(self) -> ServeConfig:
        """Return them, as a picker needs them: without API keys."""
        return built(self.tables, self.file, keys=False)

    def reread(self, workers: str | None) -> Self:
        """Return what holds once the file was read again.

        Parameters
        ----------
        workers : str or None
            See `integration.settings.load`.

        Raises
        ------
        ParameterError
            Something in the file cannot be, or tiers have come or gone.
        """
        fresh = read_tables(self.file, workers=workers)
        # All of it must be sound: the next start will want it.
        built(fresh, self.file)
        if ("tiers" in fresh) is not ("tiers" in self.tables):
            change = "added" if "tiers" in fresh else "left out"
            raise ParameterError(f"[tiers] was {change}, must stay as it is until the next start")
        exchanged = {
            name: _exchanged(self.tables.get(name, {}), fresh.get(name, {}), keys)
            for name, keys in _RELOADED.items()
            if name in self.tables or name in fresh
        }
        return self._replace(tables={**self.tables, **exchanged})


def _exchanged(
    old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]
) -> dict[str, Any]:
    """Return a table in which only these keys are those of another."""
    kept = {key: value for key, value in old.items() if key not in keys}
    return kept | {key: value for key, value in new.items() if key in keys}
