"""Run the command line as ``python -m brsolver``."""

from __future__ import annotations

from brsolver.cli.main import run

if __name__ == "__main__":
    run()
