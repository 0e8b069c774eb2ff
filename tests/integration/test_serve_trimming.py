"""What is let go of, or not loaded at first, is there again when it is wanted."""

from __future__ import annotations

import subprocess
import sys

import numba
import pytest

from integration.serve import trimming
from integration.serve.trimming import SPARED, _unchanged, forget_files, spare_linear_algebra


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is done")
def test_what_is_forgotten_can_be_used():
    assert forget_files() > 0

    @numba.njit
    def more(number):
        return number + 1

    assert more(2) == 3
    assert forget_files() > 0
    assert more(3) == 4


@pytest.mark.parametrize(
    ("access", "anonymous", "swap", "found"),
    [
        ("r-xp", 0, 0, [(0x1000, 0x3000)]),
        ("rw-p", 0, 0, []),
        # Relocated, and swapped out since.
        ("r--p", 4, 0, []),
        ("r--p", 0, 4, []),
    ],
)
def test_only_what_files_hold_as_it_is_can_be_read_again(access, anonymous, swap, found):
    maps = f"""00001000-00003000 {access} 00000000 fe:00 12 /usr/lib/libany.so
Rss:                   8 kB
Anonymous:             {anonymous} kB
Swap:                  {swap} kB
VmFlags: rd ex mr mw me
00003000-00005000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
"""
    assert _unchanged(maps) == found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is done")
def test_the_compiler_is_among_what_is_forgotten():
    code = """
import numba
from pathlib import Path
from integration.serve.trimming import forget_files

def resident():
    kib, of_compiler = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(":")[0].split(" ")[0]:
            of_compiler = "libllvmlite" in line
        elif of_compiler and line.startswith("Rss:"):
            kib += int(line.split()[1])
    return kib

numba.njit(lambda x: x + 1)(1)
before = resident()
forget_files()
print(before, resident())
"""
    before, after = map(int, _said(code).split())
    assert after < before / 4


def test_linear_algebra_is_loaded_when_a_kernel_wants_it():
    code = """
import sys
from integration.serve.trimming import spare_linear_algebra
spare_linear_algebra()
import numba, numpy as np

@numba.njit
def doubled(x):
    return 2 * x.sum()

print(doubled(np.ones(3)), "scipy.linalg" in sys.modules, end=" ")

@numba.njit
def product(x, y):
    return np.dot(x, y)

print(product(np.eye(2), np.eye(2)).sum(), "scipy.linalg" in sys.modules)
"""
    assert _said(code).split() == ["6.0", "False", "2.0", "True"]


def test_linear_algebra_that_is_there_stays():
    code = """
import scipy.linalg
from integration.serve.trimming import spare_linear_algebra
spare_linear_algebra()
import sys
print(sys.modules["scipy.linalg"] is scipy.linalg)
"""
    assert _said(code).strip() == "True"


def test_a_numba_that_looks_for_it_elsewhere_begins_all_the_same(monkeypatch):
    def moved(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.delitem(sys.modules, SPARED, raising=False)
    monkeypatch.setattr(trimming, "import_module", moved)
    spare_linear_algebra()
    assert SPARED not in sys.modules


def _said(code: str) -> str:
    """Return what a Python of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout
