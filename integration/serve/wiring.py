"""The picker's parts put together: core, doors, engines' figures, admin listener; one event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from integration.doors.access_log import AccessLog
from integration.doors.authz import AuthzDoor
from integration.doors.ext_proc import ExtProc, ExtProcParams
from integration.doors.fleet import Fleet
from integration.doors.grpc_server import GrpcServer
from integration.doors.health import Health
from integration.doors.ledger import Ledger
from integration.doors.poller import Poller, PollerParams
from integration.doors.reception import Reception
from integration.picker import Core, End, Pump
from integration.picker.bodies import Reader
from integration.serve.administration import administration
from integration.serve.logs import EventLog, set_up
from integration.serve.membership import Membership, workers_of
from integration.serve.prefilling import Prefilling

if TYPE_CHECKING:
    from integration.serve.places import Places
    from integration.settings import ServeConfig


class Picker:
    """A picker that serves from `start` to `stop`.

    Parameters
    ----------
    config : ServeConfig
    places : Places
        Ports and files as they are once chosen.

    Raises
    ------
    BrsolverError
        Something of the settings cannot be; one line.
    """
