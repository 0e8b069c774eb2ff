"""What others have published, in environments of its own: messages of Envoy and gRPC, schemas."""

from __future__ import annotations

from pathlib import Path


def reader_path() -> Path:
    """Return the script that tells of messages, for its environment."""
    return Path(__file__).with_name("reader.py")


def schemas_path() -> Path:
    """Return the script that holds manifests to Kubernetes' schemas, for its environment."""
    return Path(__file__).with_name("schemas.py")
