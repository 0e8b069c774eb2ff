"""Whom the picker trusts that speaks TLS: whoever Envoy trusts too."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from pathlib import Path


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return what checks who signed an engine's certificate; its name may be any, as for Envoy.

    Parameters
    ----------
    ca : Path or None
        PEM file of who signs; None takes the system's.

    Raises
    ------
    ParameterError
        The file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ParameterError(f"ca is {str(ca)!r}, must be a PEM file: {reason}") from error
    # Engines go by address.
    context.check_hostname = False
    return context
