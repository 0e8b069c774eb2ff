"""The admin listener, as the settings want it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from brsolver import __version__
from brsolver.errors import ParameterError
from integration.admin.admin import Admin
from integration.admin.params import AdminParams, ShadowParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.admin.fleet import Fleet
    from integration.doors.prefill_figures import PrefillTier
    from integration.picker import Core
    from integration.serve.places import Places
    from integration.settings import ServeConfig


def administration(
    config: ServeConfig,
    places: Places,
    core: Core,
    *,
    clock: Callable[[], float],
    fleet: Fleet,
    unwell: Callable[[], str | None],
    audit: Callable[[], object],
    prefill: Callable[[], PrefillTier] | None = None,
    prefill_fleet: Fleet | None = None,
) -> Admin:
    """Return the admin side of a core.

    Raises
    ------
    BrsolverError
        Its token is missing, or a shadow's policy is none.
    """
    table = config.admin
    params = AdminParams(
        host=table.host,
        port=places.admin,
        token=_token(table.token_env),
        hosts=table.hosts,
        shadows=ShadowParams(policies=table.shadows),
    )
    return Admin(
        core,
        params,
        clock=clock,
        fleet=fleet,
        about={"version": __version__, "back_end": _back_end(config)},
        unwell=unwell,
        prefill=prefill,
        prefill_fleet=prefill_fleet,
        folder=config.folder,
        audit=audit,
    )


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise ParameterError(f"token_env is {variable!r}, must be a variable that holds a token")
    return token


def _back_end(config: ServeConfig) -> str:
    if config.tiers is not None:
        return f"tiers, {config.tiers.connector}"
    return "workers" if config.workers.ranks is None else "ranks of one server"
