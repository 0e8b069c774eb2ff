"""Envoy's and gRPC's published messages, in an environment of their own."""

from __future__ import annotations

from pathlib import Path


def reader_path() -> Path:
    """Return the script that the other environment's interpreter runs."""
    return Path(__file__).with_name("reader.py")
