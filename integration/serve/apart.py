"""An Envoy that somebody else starts and ends, from what ``--print-bootstrap`` printed."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import TYPE_CHECKING

from integration.envoy.admin import EnvoyAdminError
from integration.envoy.process import LOOK_S, MISSES
from integration.serve.preflight import PreflightError
from integration.settings import named

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

    from integration.envoy.admin import EnvoyAdmin
    from integration.settings import ServeConfig

SETTLED = ("listen.port", "picker.port", "picker.grpc_port", "envoy.admin_port", "envoy.folder")
"""What its bootstrap names, and would be another at every start if it is not set."""
_PRINTED = "serve --print-bootstrap prints what it must be started with"


def _unsettled(config: ServeConfig) -> list[str]:
    return [name for name in SETTLED if not attrgetter(name)(config)]


def require_settled(config: ServeConfig) -> None:
    """Refuse settings by which such an Envoy could not know where the picker is.

    Raises
    ------
    ParameterError
        Names what is missing.
    """
    if missing := _unsettled(config):
        with named(config.file):
            raise PreflightError(
                f"{missing[0]} is {attrgetter(missing[0])(config)!r}, must be set with --no-envoy, "
                f"and so must {', '.join(SETTLED[:-1])} and {SETTLED[-1]}: an Envoy apart knows "
                "them from its bootstrap"
            )


def hindrances(config: ServeConfig, *, keys: bool) -> list[str]:
    """Return a line for each reason why an Envoy cannot be started with what is printed.

    Parameters
    ----------
    config : ServeConfig
    keys : bool
        Whether API keys are printed.
    """
    lines = []
    if missing := _unsettled(config):
        lines.append(
            f"{', '.join(missing)} must be set for an Envoy of your own (serve --no-envoy): what "
            "is free now stands in their place"
        )
    if config.keys and not keys:
        lines.append("API keys are left out, without which Envoy does not start; --with-keys")
    return lines


class Apart:
    """Looks whether it is there, and has these settings.

    Parameters
    ----------
    admin : EnvoyAdmin
    mark : str
        Of the bootstrap that it should have.
    tell : callable
        Takes one line whenever that changes.
    """

    def __init__(self, admin: EnvoyAdmin, mark: str, tell: Callable[[str], object]) -> None:
        self._admin, self._mark, self._tell = admin, mark, tell
        self._there = False
        self._misses = 0
        self._said = ""

    async def watch(self) -> Never:
        """Look, until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        found: str | None = None
        try:
            found = await self._admin.mark()
            self._misses = 0
        except EnvoyAdminError:
            self._misses += 1
            if self._there and self._misses < MISSES:
                return
        self._there = found is not None
        line = self._line(found)
        if line != self._said:
            self._said = line
            self._tell(line)

    def _line(self, found: str | None) -> str:
        where = f"127.0.0.1:{self._admin.port}"
        if found is None:
            return f"no Envoy answers at {where}, which is its admin interface; {_PRINTED}"
        if found == self._mark:
            return f"Envoy answers at {where}"
        return (
            f"warning: the Envoy at {where} was not started with these settings and may route "
            f"past the picker; {_PRINTED}"
        )
