"""Back ends of the solver seam: one file each, one way to call them."""

from brsolver.oracles.backends._isolate import Isolation
from brsolver.oracles.backends._solve import BACKENDS, solve

__all__ = ["BACKENDS", "Isolation", "solve"]
