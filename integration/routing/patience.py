"""How long a policy may leave those lying who are held."""

from __future__ import annotations


class Patience:
    """Tells when a policy leaves slots unused, or others overtake the oldest request.

    To wait until there is room for the oldest is a policy's good right. Not for ever: where
    others take the room that it needs, its own worker must be made to let nobody past it.

    Attributes
    ----------
    unused_since_s : float or None
        Since when room that the oldest would fit into is unused.
    """

    def __init__(self) -> None:
        self._oldest: object = None
        self._overtaken = 0
        self.unused_since_s: float | None = None

    def used(self) -> None:
        """Take in that a decision placed somebody, or that there was no room to place any in."""
        self.unused_since_s = None

    def unused(self, *, idle: bool, fits: bool, now_s: float, allowed_s: float) -> str:
        """Tell what is wrong with a decision that placed nothing; empty if nothing is.

        Parameters
        ----------
        idle : bool
            Whether nothing runs anywhere.
        fits : bool
            Whether a worker has room for the oldest.
        now_s : float
        allowed_s : float
            For how long room may stay unused.
        """
        if idle:
            return "placed nothing on idle ranks"
        if not fits:
            self.unused_since_s = None
            return ""
        if self.unused_since_s is None:
            self.unused_since_s = now_s
        if now_s - self.unused_since_s < allowed_s:
            return ""
        self.unused_since_s = None
        return f"left free slots unused for {allowed_s:g} s while the oldest request would fit"

    def overtaken(self, oldest: object, placed: int, *, passed: bool, limit: float) -> bool:
        """Tell whether too many that came later took the room that the oldest needs.

        Whom a policy merely passes over is the policy's own affair.

        Parameters
        ----------
        oldest : object
            Who came first of those that the decision was about.
        placed : int
            Requests that it placed.
        passed : bool
            Whether the oldest is held still, with room for it nowhere.
        limit : float
            Requests that may be placed before it.
        """
        if oldest is not self._oldest:
            self._oldest, self._overtaken = oldest, 0
        if not passed:
            return False
        self._overtaken += placed
        return self._overtaken > limit
