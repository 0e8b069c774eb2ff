"""The routers brsolver exists for: BR-0 and BR-H."""

from brsolver.routers.balance import BR0, BRH, BR0Params, BRHParams

__all__ = ["BR0", "BRH", "BR0Params", "BRHParams"]
