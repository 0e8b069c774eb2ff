"""The sources of vLLM releases: only the modules asked for, out of the wheel where it lies.

A wheel of vLLM has some hundred megabytes; its table of contents and the few modules needed have
some hundred kilobytes, which are read by range and kept in the user's cache.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TIMEOUT_S = 60
_BLOCK = 1 << 18


class OfflineError(Exception):
    """The package index, or what it points to, cannot be reached."""


def cache_dir() -> Path:
    """Return where fetched sources are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "brsolver" / "vllm-sources"


def sources(version: str, modules: Iterable[str]) -> Path:
    """Return a folder that holds `modules` of one release, as paths inside the wheel.

    Raises
    ------
    OfflineError
        They are not in the cache and cannot be fetched.
    """
    folder = cache_dir() / version
    missing = [module for module in modules if not (folder / module).exists()]
    if missing:
        try:
            _fetch(_wheel_url(version), missing, folder)
        except (OSError, urllib.error.URLError, zipfile.BadZipFile) as error:
            raise OfflineError(f"vLLM {version} cannot be fetched: {error}") from error
    return folder


def _wheel_url(version: str) -> str:
    """Ask pip where the wheel lies; it downloads no more than its metadata."""
    command = [sys.executable, "-m", "pip", "install", f"vllm=={version}"]
    options = "--dry-run --no-deps --ignore-installed --quiet --only-binary=:all: --report -"
    done = subprocess.run(
        [*command, *options.split()],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S * 2,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        raise OfflineError(f"vLLM {version} cannot be found: {lines[-1]}")
    return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])


def _fetch(url: str, modules: Iterable[str], folder: Path) -> None:
    with zipfile.ZipFile(io.BufferedReader(_Remote(url), _BLOCK)) as wheel:
        for module in modules:
            target = folder / module
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(wheel.read(module))
            part.replace(target)


class _Remote(io.RawIOBase):
    """A file behind a URL, read by range in blocks."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        with self._open("bytes=0-0") as reply:
            self._size = int(reply.headers["Content-Range"].rpartition("/")[2])

    def _open(self, span: str):
        request = urllib.request.Request(self._url, headers={"Range": span})  # noqa: S310 # pip named it
        reply = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 # pip named it
        if reply.status != 206:
            reply.close()
            raise OSError("the server does not send parts of files")
        return reply

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer) -> int:
        number, skip = divmod(self._at, _BLOCK)
        if self._at >= self._size:
            return 0
        if number not in self._blocks:
            first = number * _BLOCK
            with self._open(f"bytes={first}-{min(first + _BLOCK, self._size) - 1}") as reply:
                self._blocks[number] = reply.read()
        part = self._blocks[number][skip : skip + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
