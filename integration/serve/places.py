"""Ports and files as they are once chosen: for the supervisor and every picker it starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from brsolver.errors import OutputError
from brsolver.traces.atomic import replacing
from integration.free_ports import free_ports

if TYPE_CHECKING:
    from integration.settings import ServeConfig

FILE = "places.json"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything is.

    Attributes
    ----------
    listen, admin, door, grpc, envoy_admin : int
        Ports: of clients, of the admin listener, of the picker's HTTP door and of its gRPC server,
        and of Envoy's own admin interface.
    folder : str
        Where Envoy's configuration, its file of workers and these places are.
    envoy : bool
        Whether Envoy runs beside the picker.
    apart : bool
        Whether it is somebody else's to start and to end.
    """

    listen: int
    admin: int
    door: int
    grpc: int
    envoy_admin: int
    folder: str
    envoy: bool = True
    apart: bool = False

    @classmethod
    def choose(
        cls, config: ServeConfig, folder: Path, *, envoy: bool = True, apart: bool = False
    ) -> Self:
        """Take what is configured, and free ports where that is 0."""
        wanted = {
            "listen": (config.listen.host, config.listen.port),
            "admin": (config.admin.host, config.admin.port),
            "door": (config.picker.host, config.picker.port),
            "grpc": (config.picker.host, config.picker.grpc_port),
            "envoy_admin": (LOOPBACK, config.envoy.admin_port),
        }
        ports = {name: port for name, (_, port) in wanted.items() if port}
        left = {name: host for name, (host, port) in wanted.items() if not port}
        ports |= zip(left, free_ports(list(left.values())), strict=True)
        return cls(**ports, folder=str(folder), envoy=envoy, apart=apart)

    @property
    def file(self) -> Path:
        """Where `save` writes them."""
        return Path(self.folder) / FILE

    def save(self) -> None:
        """Write them to a file in their folder, which may have been lost.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be made: {error.strerror}") from error
        with replacing(self.file) as part:
            part.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
