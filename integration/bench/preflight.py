"""What can be known to fail before any server is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import MissingExtraError, OutputError, ParameterError
from integration.load.http import require_aiohttp
from integration.vllm.config import from_environment
from integration.vllm.inspection import PLUGIN_GROUP, PLUGIN_NAME, try_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from integration.bench.arms import Arm
    from integration.bench.server import ServerParams

PATIENCE_S = 120.0
_LOOK = f"""
import json, sys
from importlib.metadata import entry_points
from importlib.util import find_spec
names = [entry.name for entry in entry_points(group={PLUGIN_GROUP!r})]
print(json.dumps([find_spec("vllm") is not None, {PLUGIN_NAME!r} in names]))
"""


def require(arms: Sequence[Arm], given: ServerParams, logs: str | None) -> None:
    """Refuse what cannot work.

    Parameters
    ----------
    arms : sequence of Arm
    given : ServerParams
        Of the servers that are to be started.
    logs : str or None
        Folder that is to take their logs; made if it is not there.

    Raises
    ------
    ParameterError
        A policy cannot be made, or model or interpreter are not there.
    MissingExtraError
        The interpreter has no vLLM or no brsolver, or this one no aiohttp.
    OutputError
        The folder cannot be made.
    """
    require_aiohttp("bench")
    for arm in arms:
        config = from_environment({**given.environment, **arm.environment}) if arm.mode else None
        if config is not None:
            try_names(config)
    require_model(given.model)
    require_vllm(given.python, given.environment, plugin=any(arm.mode for arm in arms))
    if logs is not None:
        _require_folder(Path(logs))


def require_model(model: str) -> None:
    """Raise `ParameterError` if it looks like a path, and nothing is there."""
    named = "://" in model or (model.count("/") <= 1 and not model.startswith((".", "/", "~")))
    if not named and not Path(model).exists():
        raise ParameterError(
            f"MODEL is {model!r}, must be a folder that is there, or a name as on a model hub"
        )


def require_vllm(python: str, environment: Mapping[str, str], *, plugin: bool) -> None:
    """Raise an error if `python` is no interpreter that has vLLM and, if asked, the plug-in."""
    if shutil.which(python) is None:
        raise ParameterError(f"--python is {python!r}, must be a program that can be run")
    install = f"install it with: {python} -m pip install 'brsolver[vllm]'"
    has_vllm, has_plugin = _look(python, environment)
    if not has_vllm:
        raise MissingExtraError(f"vllm is not installed for {python}; {install}")
    if plugin and not has_plugin:
        raise MissingExtraError(
            f"brsolver is not installed for {python} as a plug-in of vLLM; {install}"
        )


def _look(python: str, environment: Mapping[str, str]) -> tuple[bool, bool]:
    try:
        done = subprocess.run(  # noqa: S603 # the interpreter is the caller's own choice
            [python, "-c", _LOOK],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
            env={**os.environ, **environment},
        )
        has_vllm, has_plugin = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        printed = (getattr(error, "stderr", None) or "").strip().splitlines()
        raise ParameterError(
            f"--python is {python!r}, must be a Python that can be asked what it has: "
            f"{printed[-1] if printed else error}"
        ) from error
    return has_vllm, has_plugin


def _require_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--logs {folder} cannot be made: {error.strerror}") from error
