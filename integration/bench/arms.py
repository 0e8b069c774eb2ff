"""What is compared: a policy and the way it is put to work in vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from brsolver.registry import policy_class
from brsolver.specs import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT = "default"
OFF = "off"
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
        not active at all) or a policy specification, ``SPEC@immediate`` or ``SPEC@pooled``.
    policy : str
        The policy, as the simulator knows it.
    mode : {"observe", "immediate", "pooled", ""}
        The adapter's mode; empty when it is not active.
    """

    name: str
    policy: str
    mode: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that put this arm to work."""
        return {ROUTER: self.policy, MODE: self.mode} if self.mode else {}

    @property
    def routing(self) -> str:
        """The simulator's name of the mode."""
        return "pooled" if self.mode == "pooled" else "immediate"


def parse_arm(text: str) -> Arm:
    """Read ``default``, ``off`` or ``SPEC[@immediate|@pooled]``; pooled is the adapter's default.

    Raises
    ------
    ParameterError
        If there is no such mode or policy.
    """
    text = text.strip()
    if text in {DEFAULT, OFF}:
        return Arm(name=text, policy=VLLM_RULE, mode="observe" if text == DEFAULT else "")
    spec, _, mode = text.partition("@")
    mode = mode or "pooled"
    if mode not in MODES:
        raise ParameterError(f"{text!r}: mode is {mode!r}, must be one of {', '.join(MODES)}")
    policy_class(parse_spec(spec)[0])
    return Arm(name=f"{spec}@{mode}", policy=spec, mode=mode)


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
        raise ParameterError("no policies to compare; give at least one")
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"policy {name!r} is given twice")
    return arms
