"""A real browser for tests of pages, or the reason why there is none."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome")
VARIABLE = "BRSOLVER_CHROMIUM"


def executable() -> str:
    """Return the path of a Chromium; skip the test where none can be had."""
    named = os.environ.get(VARIABLE)
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)}) and {VARIABLE} is not set")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium; skip the test where it cannot be."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # Its sandbox does not start for root, as containers have it.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    path = executable()
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=path, args=arguments)
        except playwright.Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
