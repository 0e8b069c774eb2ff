"""What a deployment's ``request_router_kwargs`` may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver._limits import require_number
from integration.fronts import FrontSettings
from integration.picker.params import MAX_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from ray.serve.config import RequestRouterConfig

_OWNER = "request_router_kwargs"
_READY = "ready_s"
CLASS = "integration.ray_serve:SessionRouter"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How the router routes.

    Attributes
    ----------
    front : FrontSettings
    ready_s : float
        How long requests wait, once there are replicas, until all kernels are compiled; then Ray
        Serve's own rule takes them.
    """

    front: FrontSettings
    ready_s: float = 60.0

    def __post_init__(self) -> None:
        require_number(_READY, self.ready_s, 0.0, MAX_WAIT_S)

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """Read ``request_router_kwargs``.

        Raises
        ------
        ParameterError
            A name is unknown, or has a value that it cannot have.
        """
        own = {name: value for name, value in values.items() if name == _READY}
        others = {name: value for name, value in values.items() if name != _READY}
        return cls(front=FrontSettings.read(others, _OWNER), **own)  # type: ignore[arg-type]


def router_config(**settings: object) -> RequestRouterConfig:
    """Return what a deployment's ``request_router_config`` is to be.

    Parameters
    ----------
    **settings
        Parameters of `integration.picker.PickerParams`; ``config``, the path of a TOML file of
        such, as every node finds it; ``ready_s`` of `RouterSettings`.

    Raises
    ------
    BrsolverError
        A name is unknown, or has a value that it cannot have; or there is no such policy,
        predictor or hardware.
    """
    from ray.serve.config import RequestRouterConfig

    RouterSettings.read(settings).front.check()
    given: dict[str, Any] = {"request_router_class": CLASS, "request_router_kwargs": settings}
    return RequestRouterConfig(**given)
