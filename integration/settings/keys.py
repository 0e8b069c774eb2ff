"""API keys, from a file or an environment variable."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from brsolver._limits import require
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from integration.settings.limits import Auth

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]{1,512}")


class ApiKey(NamedTuple):
    """A key and whose it is.

    Attributes
    ----------
    name : str
        What limits, logs and metrics call its owner.
    key : str
        The secret.
    """

    name: str
    key: str

    def __repr__(self) -> str:
        return f"ApiKey(name={self.name!r}, key=...)"


def read_keys(auth: Auth, folder: Path, environ: Mapping[str, str]) -> tuple[ApiKey, ...]:
    """Read the keys that `auth` tells of.

    Parameters
    ----------
    auth : Auth
    folder : Path
        What a relative path is seen from.
    environ : mapping of str to str

    Raises
    ------
    ParameterError
        There are none where there should be, or one cannot be; messages never show a key.
    """
    if auth.keys_file is not None:
        return _named(_lines(folder, auth.keys_file), f"[auth]: keys_file {auth.keys_file!r}")
    if auth.keys_env is not None:
        value = environ.get(auth.keys_env, "")
        return _named(value.split(","), f"[auth]: keys_env {auth.keys_env!r}")
    return ()


def _lines(folder: Path, name: str) -> list[str]:
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ParameterError(
            f"[auth]: keys_file is {name!r}, must be a file of keys: {reason}"
        ) from error
    return [line for line in lines if not line.lstrip().startswith("#")]


def _named(texts: Iterable[str], source: str) -> tuple[ApiKey, ...]:
    given = [text.strip() for text in texts if text.strip()]
    require(bool(given), f"{source} holds no key, must hold at least one")
    keys = tuple(_parse(text, at, source) for at, text in enumerate(given, 1))
    for what, values in (("name", [k.name for k in keys]), ("key", [k.key for k in keys])):
        twice = next((at for at, v in enumerate(values, 1) if v in values[: at - 1]), None)
        require(twice is None, f"{source}: entry {twice} has the {what} of another, must differ")
    return keys


def _parse(text: str, at: int, source: str) -> ApiKey:
    name, equals, key = text.partition("=")
    # Keys of base64 end with signs that look as if they followed a name.
    if not equals or not key.strip("="):
        name, key = f"key-{at}", text
    whole = _NAME.fullmatch(name.strip()) and _KEY.fullmatch(key.strip())
    require(
        bool(whole),
        f"{source}: entry {at} cannot be read, must be NAME=KEY or KEY, without blanks",
    )
    return ApiKey(name.strip(), key.strip())
