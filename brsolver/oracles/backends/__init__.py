"""Back ends of the solver seam: one file each, one way to call them."""

from brsolver.oracles.backends._isolate import Isolation
from brsolver.oracles.backends._load import installed
from brsolver.oracles.backends._solve import BACKENDS, MODULES, solve

__all__ = ["BACKENDS", "MODULES", "Isolation", "installed", "solve"]
