"""How long a step lasts: the models, and their parameters.

What each field says of itself, and which fields a choice uses, stands with it: the command line,
TOML and reports follow from that (`brsolver.options`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, Literal

from brsolver._limits import (
    MAX_COUNT,
    MAX_SECONDS,
    finite,
    require,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.errors import ParameterError
from brsolver.hardware.step_table import read_step_table
from brsolver.options import (
    Choices,
    Contents,
    option,
)

BOUND = ("per_sequence", "per_token", "per_prefill_token", "per_prefill_context")
"""Coefficients of what a rank pays for its own loads."""
SHARED = tuple(name.replace("per_", "per_mean_") for name in BOUND)
"""Coefficients of what all ranks pay for the mean load."""
EXPERTS = ("all_experts", "expert_share")
"""What reading the weights of experts costs."""
AXES = ("sequences", "loads", "prefill_tokens")
"""Axes of a measured table, in the order in which its durations lie."""


def _seconds(text: str, label: str, unit: str) -> Any:
    return field(default=0.0, metadata=option(text, label=label, metavar="S", unit=f"s per {unit}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """How long one step lasts.

    Rank g's step has three loads: sequences ``n_g`` that decode, the KV tokens ``L_g`` they
    read, and prefill tokens ``P_g`` that it computes, with ``X_g`` the sum over them of the
    tokens before each in its prompt. With coefficients c of what is bound to the rank and c̄ of
    what all ranks share (experts work on everybody's tokens), a step lasts
    ``C + max_g Σ_r c_r·x_{r,g} + Σ_r c̄_r·mean_g x_{r,g}`` over live workers. A mixture of experts
    reads the weights of those experts that any token asks for: ``E·(1 - (1 - q)^N)`` more, with N
    the tokens of all ranks, ``Σ_g n_g + P_g``.

    Attributes
    ----------
    model : {"affine", "max-mean", "loads", "table"}
        ``affine``: ``base + per_token·max_g L_g`` [BFIO]. ``max-mean``:
        ``base + per_token·max_g L_g + per_mean_token·mean_g L_g`` [DPR]. ``loads``: all of the
        formula above. ``table``: interpolation of measured durations, see `loads`.
    base : float
        C, seconds per step at zero load.
    per_sequence, per_token, per_prefill_token, per_prefill_context : float
        c: seconds per decoding sequence, per KV token that these read, per prefill token
        computed, and per prefill token and token before it, of the rank itself.
    per_mean_sequence, per_mean_token, per_mean_prefill_token, per_mean_prefill_context : float
        c̄: the same of the mean over live workers.
    all_experts : float
        E, seconds to read the weights of all experts.
    expert_share : float
        q, share of the experts that one token asks for, at random: top-k over their number.
    graph_sizes : tuple of int
        Sizes of CUDA graphs. In a step without prefill every rank pays for the largest rank's
        number of sequences, rounded up to the next of them; beyond the last one, and without
        sizes, for what it is.
    loads, sequences, prefill_tokens : tuple of float
        Axes of a measured table, increasing: KV tokens, sequences and prefill tokens of a rank;
        one that was not varied is empty. Between them durations are interpolated linearly; below
        the first the first counts, beyond the last they are continued, never below what was
        measured there. With `loads` alone the heaviest rank's counts, else the slowest rank's.
    seconds : tuple of float
        Measured durations, shape (sequences, loads, prefill_tokens) in C order.
    hardware : str
        What it was measured on, for reports; empty if it has no name.
    """

    CHOICES: ClassVar[Choices] = Choices(
        selector="model",
        uses={
            "affine": ("base", "per_token", "hardware"),
            "max-mean": ("base", "per_token", "per_mean_token", "hardware"),
            "loads": ("base", *BOUND, *SHARED, *EXPERTS, "graph_sizes", "hardware"),
            "table": ("loads", "sequences", "prefill_tokens", "seconds", "hardware"),
        },
        files={
            "path": Contents(
                choice="table",
                metavar="FILE.csv with named columns, e.g. kv_tokens,seconds",
                read=read_step_table,
                beside=("hardware",),
            )
        },
    )

    model: Literal["affine", "max-mean", "loads", "table"] = field(
        default="affine", metadata=option("How a step's duration follows from loads.")
    )
    base: float = field(
        default=0.005,
        metadata=option(
            "Seconds per step at zero load.", label="at zero load", metavar="S", unit="s"
        ),
    )
    per_token: float = field(
        default=1e-7,
        metadata=option(
            "Seconds per KV token of the heaviest worker.",
            label="of the heaviest worker",
            metavar="S",
            unit="s per token",
        ),
    )
    per_mean_token: float = field(
        default=0.0,
        metadata=option(
            "Seconds per KV token of the mean over workers.",
            label="of the mean worker",
            metavar="S",
            unit="s per token",
        ),
    )
    per_sequence: float = _seconds(
        "Seconds per decoding sequence of a worker.", "per sequence", "sequence"
    )
    per_mean_sequence: float = _seconds(
        "Seconds per sequence of the mean over workers.", "per mean sequence", "sequence"
    )
    per_prefill_token: float = _seconds(
        "Seconds per prefill token of a worker.", "per prefill token", "token"
    )
    per_mean_prefill_token: float = _seconds(
        "Seconds per prefill token of the mean over workers.", "per mean prefill token", "token"
    )
    per_prefill_context: float = _seconds(
        "Seconds per prefill token and token before it, of a worker.",
        "per prefill token and context",
        "token²",
    )
    per_mean_prefill_context: float = _seconds(
        "Seconds per prefill token and token before it, of the mean over workers.",
        "per mean prefill token and context",
        "token²",
    )
    all_experts: float = field(
        default=0.0,
        metadata=option(
            "Seconds to read the weights of all experts.", label="all experts", unit="s"
        ),
    )
    expert_share: float = field(
        default=0.0,
        metadata=option(
            "Share of the experts that one token asks for.", label="experts of a token"
        ),
    )
    graph_sizes: tuple[int, ...] = field(
        default=(),
        metadata=option(
            "Sizes that numbers of sequences are padded to.",
            label="CUDA graphs",
            unit="sequences",
            unset="none",
        ),
    )
    loads: tuple[float, ...] = field(
        default=(), metadata=option("Measured KV tokens, increasing.", unit="tokens")
    )
    sequences: tuple[float, ...] = field(
        default=(),
        metadata=option("Measured numbers of sequences, increasing.", unset="not varied"),
    )
    prefill_tokens: tuple[float, ...] = field(
        default=(),
        metadata=option("Measured prefill tokens, increasing.", unit="tokens", unset="not varied"),
    )
    seconds: tuple[float, ...] = field(
        default=(), metadata=option("Duration of a step at each of them.", unit="s")
    )
    hardware: str = field(
        default="", metadata=option("What it was measured on.", unset="not named")
    )

    def __post_init__(self) -> None:
        require_one_of("model", self.model, *self.CHOICES.uses)
        for name in ("base", *BOUND, *SHARED):
            require_number(name, getattr(self, name), 0, MAX_SECONDS, " seconds")
        require_number("all_experts", self.all_experts, 0, MAX_SECONDS, " seconds")
        require_number("expert_share", self.expert_share, 0, 1)
        require(
            (self.all_experts > 0) == (self.expert_share > 0),
            f"all_experts is {self.all_experts:g} and expert_share {self.expert_share:g}, must be "
            "both positive or both 0",
        )
        for name in {*BOUND, *SHARED, *EXPERTS, "graph_sizes"} - {*self.CHOICES.uses[self.model]}:
            # What stands at its default says nothing.
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise self.CHOICES.refuse(name, self.model)
        if self.model == "table":
            self._check_table()
        else:
            require(
                self.base + sum(getattr(self, name) for name in (*BOUND, *SHARED)) > 0,
                "base and per_token are 0, one must be positive: steps would take no time",
            )
        self._check_graphs()

    @property
    def request_tokens(self) -> int:
        """KV tokens that a sequence weighs as much as, ``κ = c_n/c_L``; 0 if either is 0."""
        if self.model != "loads" or self.per_token == 0:
            return 0
        return round(min(self.per_sequence / self.per_token, MAX_COUNT))

    def _check_graphs(self) -> None:
        sizes = as_tuple("graph_sizes", self.graph_sizes)
        for size in sizes:
            require_whole("graph size", size, 1, MAX_COUNT)
        for a, b in pairwise(sizes):
            require(a < b, f"graph_sizes is {a} and then {b}, must strictly increase")
        object.__setattr__(self, "graph_sizes", sizes)

    def _check_table(self) -> None:
        for name in (*AXES, "seconds"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        axes = {name: getattr(self, name) for name in AXES if getattr(self, name)}
        expected = prod(len(axis) for axis in axes.values())
        require(
            len(self.seconds) == expected and all(len(axis) >= 2 for axis in axes.values()),
            f"{' and '.join(f'{n} has {len(a)}' for n, a in axes.items()) or 'loads has 0'} "
            f"entries and seconds {len(self.seconds)}, must have as many as the other, at least 2"
            if len(axes) < 2
            else f"seconds has {len(self.seconds)} entries, must have {expected}, one for each "
            f"combination of {', '.join(axes)}, each of at least 2",
        )
        for name, axis in axes.items():
            _check_axis(name, axis)
        for each in self.seconds:
            seconds = finite("seconds", each)
            require(seconds > 0, f"seconds is {seconds:g}, must be positive")
            require_number("seconds", seconds, 0, MAX_SECONDS, " seconds")


def _check_axis(name: str, axis: tuple[float, ...]) -> None:
    values = [finite(name.removesuffix("s"), value) for value in axis]
    for a, b in pairwise(values):
        require(a < b, f"{name} is {a:g} and then {b:g}, must strictly increase")


def as_tuple(name: str, value: object) -> tuple[Any, ...]:
    """Return a list as a tuple; raise `ParameterError` if it is neither."""
    if not isinstance(value, list | tuple):
        raise ParameterError(f"{name} is {value!r}, must be a tuple")
    return tuple(value)
