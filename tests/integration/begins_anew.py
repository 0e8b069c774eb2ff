"""Begins anew if its kernel had to be compiled, then lives as a watched child does; for tests.

Its standard error says, a line each time, its identity and whether anything was compiled.
"""

from __future__ import annotations

import asyncio
import os
import sys

from integration.serve.anew import begin_anew, compiling
from integration.serve.watchdog import Heart


async def main(folder: str) -> None:
    over = asyncio.Event()
    heart = Heart(over.set)
    sys.path.insert(0, folder)
    with compiling() as compiled:
        from kernel_of_test import twice

        twice(2)
    sys.stderr.write(f"{os.getpid()} {compiled()}\n")
    if compiled():
        begin_anew(heart.hand_back)
    heart.start()
    await over.wait()
    await heart.stop()
    sys.stderr.write("left alone\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
