"""Begins anew if its kernel had to be compiled, and says what it has done; for tests."""

from __future__ import annotations

import os
import sys

from integration.serve.anew import begin_anew, compiling


def main(kept: str) -> None:
    sys.path.insert(0, kept)
    with compiling() as compiled:
        from kernel_of_test import twice

        twice(2)
    sys.stdout.write(f"{os.getpid()} {compiled()}\n")
    if compiled():
        begin_anew()
    sys.stdout.write(sys.stdin.read())


if __name__ == "__main__":
    main(sys.argv[1])
