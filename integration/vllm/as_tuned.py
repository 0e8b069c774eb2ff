"""Whether the engines are those that a file of ``brsolver tune`` was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from integration.vllm.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment

_WHERE = {True: "on the ranks", False: "elsewhere"}


def warn_of_other_engines(config: AdapterConfig, known: Deployment) -> None:
    """Say in one line where vLLM runs otherwise than the file's router was validated with.

    Whoever tunes while serving may be handed a router for engines that are not there before the
    next restart. All API servers know the same, so that the first of them says it.
    """
    found = list(differences(config.engine, known)) if known.index == 0 else []
    if found:
        logger.warning(
            "brsolver: %s was tuned for %s, and this vLLM has %s: what it promises was not tried "
            "with these; start vLLM by the file's command line, or tune with what runs given",
            config.source,
            ", ".join(f"{flag} {tuned}" for flag, tuned, _ in found),
            ", ".join(str(has) for _, _, has in found),
        )


def differences(
    engine: Mapping[str, Any], known: Deployment
) -> Iterator[tuple[str, object, object]]:
    """Yield what differs: vLLM's name of it, what the file has, and what vLLM has.

    Parameters
    ----------
    engine : mapping of str to object
        Table ``[engine]`` of a file; empty for any other file.
    known : Deployment
        What vLLM does not say of itself is not compared.
    """
    slots = engine.get("slots")
    if isinstance(slots, list):
        # As the file's command line has it.
        slots = max((each for each in slots if isinstance(each, int)), default=None)
    asked: list[tuple[str, object, object]] = [("--max-num-seqs", slots, known.slots)]
    prefill = engine.get("prefill")
    mode = prefill.get("mode") if isinstance(prefill, dict) else None
    if mode is not None:
        asked.append(("prompts computed", _WHERE[mode == "colocated"], _WHERE[known.computes]))
    if isinstance(prefill, dict) and mode == "colocated" and known.computes:
        asked += [
            ("--max-num-batched-tokens", prefill.get("budget"), known.budget or None),
            ("--prefill-schedule-interval", prefill.get("interval"), known.interval),
            ("--long-prefill-token-threshold", prefill.get("threshold"), known.chunk),
        ]
    for flag, tuned, has in asked:
        if tuned is not None and has is not None and tuned != has:
            yield flag, tuned, has
