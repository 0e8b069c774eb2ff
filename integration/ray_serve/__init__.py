"""Ray Serve's request router, by the policies of this project.

A deployment names it by ``RequestRouterConfig(request_router_class=
"integration.ray_serve:SessionRouter", request_router_kwargs={...})``, which `router_config` makes
and checks. Whatever goes wrong here, Ray Serve's own power of two choices routes.
"""

from __future__ import annotations

from brsolver.errors import MissingExtraError

try:
    import ray.serve.request_router  # noqa: F401
except ImportError as _error:
    raise MissingExtraError.for_extra("ray[serve]", "ray-serve") from _error

from integration.ray_serve.router import SessionRouter
from integration.ray_serve.settings import RouterSettings, router_config

__all__ = ["RouterSettings", "SessionRouter", "router_config"]
