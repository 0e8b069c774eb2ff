"""What is compared: a policy and the way it is put to work in vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from brsolver.registry import PolicySpec

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT = "default"
OFF = "off"
INTERVAL = "interval"
SCHEDULE = "--prefill-schedule-interval"
"""vLLM's own way to have ranks compute prompts at the same time."""
MOST_STEPS = 10_000
MODES = ("immediate", "pooled")
ROUTER, MODE = "BRSOLVER_ROUTER", "BRSOLVER_MODE"
VLLM_RULE = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the compared configurations.

    Attributes
    ----------
    name : str
        ``default`` (vLLM's own rule, the adapter only keeps books), ``off`` (the adapter is
        not active at all), ``interval N`` (vLLM's own rule, on ranks that begin prompts every N
        steps) or a policy specification, ``SPEC@immediate`` or ``SPEC@pooled``.
    policy : PolicySpec
        The policy, as the simulator takes it.
    mode : {"observe", "immediate", "pooled", ""}
        The adapter's mode; empty when it is not active.
    interval : int
        Steps from one in which ranks begin prompts to the next.
    """

    name: str
    policy: PolicySpec
    mode: str
    interval: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """Variables that put this arm to work."""
        return {ROUTER: self.policy.text, MODE: self.mode} if self.mode else {}

    @property
    def arguments(self) -> tuple[str, ...]:
        """What its server is started with besides: another one than that of most arms."""
        return (SCHEDULE, str(self.interval)) if self.interval > 1 else ()

    @property
    def routing(self) -> str:
        """The simulator's name of the mode."""
        return "pooled" if self.mode == "pooled" else "immediate"


def parse_arm(text: str) -> Arm:
    """Read ``default``, ``off``, ``interval N`` or ``SPEC[@immediate|@pooled]``.

    Pooled is the adapter's default.

    Raises
    ------
    ParameterError
        If there is no such mode, interval or policy.
    """
    text = text.strip()
    if text.split()[:1] == [INTERVAL]:
        return _every(text)
    if text in {DEFAULT, OFF}:
        rule = PolicySpec.parse(VLLM_RULE)
        return Arm(name=text, policy=rule, mode="observe" if text == DEFAULT else "")
    spec, _, mode = text.partition("@")
    mode = mode or "pooled"
    if mode not in MODES:
        raise ParameterError(f"{text!r}: mode is {mode!r}, must be one of {', '.join(MODES)}")
    return Arm(name=f"{spec}@{mode}", policy=PolicySpec.parse(spec), mode=mode)


def _every(text: str) -> Arm:
    steps = text.removeprefix(INTERVAL).strip()
    if not (steps.isdecimal() and 2 <= int(steps) <= MOST_STEPS):
        raise ParameterError(f"interval is {steps!r}, must be from 2 to {MOST_STEPS:,} steps")
    rule = PolicySpec.parse(VLLM_RULE)
    return Arm(name=f"{INTERVAL} {int(steps)}", policy=rule, mode="observe", interval=int(steps))


def parse_arms(texts: Iterable[str]) -> tuple[Arm, ...]:
    """Read the arms of a session.

    Raises
    ------
    ParameterError
        If there are none, or one is given twice.
    """
    arms = tuple(parse_arm(text) for text in texts if text.strip())
    names = [arm.name for arm in arms]
    if not arms:
        raise ParameterError("policies is empty, must name at least one")
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"policies has {name!r} twice, must name each once")
    return arms
