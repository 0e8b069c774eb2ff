"""One routing decision as integers: what the step oracle solves, saves and loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import NO_LIMIT, ClusterView, Waiting
from brsolver.errors import CapacityError, ParameterError
from brsolver.routers.balance import discounts
from brsolver.routers.params import check_weights

IntArray = NDArray[np.int64]

FORMAT = "brsolver-step/1"
"""Identifies a saved instance."""

RESOLUTION = 1000
"""Integer weight of h = 0 where weights come from a discount γ; later steps round to it."""


LARGEST = 1 << 50
"""Objectives up to this fit 64 bits whatever kernels make of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInstance:
    """A state, its waiting requests and the weights of the objectives.

    Attributes
    ----------
    projected : ndarray of int64, shape (G, H + 1)
        ``L_{g,h}`` in KV tokens, and `request_tokens` for every request.
    room : ndarray of int64, shape (G,)
        Free slots.
    token_room : ndarray of int64, shape (G,)
        KV tokens each worker may be given; `NO_LIMIT` of `brsolver.cluster.view` where there is
        no limit.
    prompts : ndarray of int64, shape (n,)
        What the waiting requests bring to loads, first come first: their KV tokens and
        `request_tokens`, together ``s_i``.
    weights : ndarray of int64, shape (H + 1,)
        ``d_h``, scaled to integers so that objectives and certificates are exact.
    alpha, beta : int
        Weights of filling and of overflow in F; β = α·G makes F the exact fall of imbalance
        while the envelope is another worker's.
    growth : int
        1: a new request's load at h is ``s_i + h`` ([DPR]); 0: ``s_i`` ([BR]).
    admit : int or None
        How many requests to admit, exactly; None is free to hold.
    request_tokens : int
        KV tokens that a request weighs besides those it holds, which `token_room` does not
        count; see `ClusterView.request_tokens`.
    """

    projected: IntArray
    room: IntArray
    token_room: IntArray
    prompts: IntArray
    weights: IntArray
    alpha: int = 1
    beta: int
    growth: int = 0
    admit: int | None
    request_tokens: int = 0

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)
        _check_admit(self)

    @classmethod
    def from_view(
        cls,
        view: ClusterView,
        waiting: Waiting,
        *,
        horizon: int = 0,
        gamma: float = 1.0,
        alpha: int = 1,
        beta: int | None = None,
        growth: bool = False,
        survival: bool = False,
        hold: bool = False,
        resolution: int = RESOLUTION,
    ) -> Self:
        """Take the decision that a policy faces.

        Parameters
        ----------
        view : ClusterView
            From `ClusterState.view()`, or as a policy is given it. Departed workers stay in,
            without room.
        waiting : Waiting
        horizon : int
            Steps H of the projection; 0 looks at current loads only.
        gamma : float
            Discount per step; ``d_h = round(resolution·γ^h)``. At H = 0 ``d_0 = 1``.
        alpha, beta : int
            Weights of F; `beta` None is ``alpha·G``, G counting live workers.
        growth : bool
            Let projected and new requests grow by a token per step.
        survival : bool
            As in `ClusterView.projection`.
        hold : bool
            Free to hold requests back; otherwise ``min(n, free slots)`` are admitted.
        resolution : int

        Raises
        ------
        CapacityError
            A request exceeds the KV capacity of every live worker.
        """
        check_weights(float(alpha), None if beta is None else float(beta), gamma, horizon)
        live = view.slots > 0
        if len(waiting) and live.any():
            _check_capacity(waiting.prompt_tokens, view.capacity[live])
        factors = np.rint(discounts(gamma, horizon) * resolution).astype(np.int64)
        steps = int(np.count_nonzero(factors))
        weights = factors[:steps] if horizon else np.ones(1, np.int64)
        free = int(view.room.sum())
        projected = view.projection(horizon, growth=growth, survival=survival)
        return cls(
            projected=projected[:, : weights.size],
            room=view.room.copy(),
            token_room=view.token_room.copy(),
            prompts=np.asarray(view.load_of(waiting.prompt_tokens), np.int64),
            weights=weights,
            alpha=alpha,
            beta=alpha * int(live.sum()) if beta is None else beta,
            growth=int(growth),
            admit=None if hold else min(len(waiting), free),
            request_tokens=view.request_tokens,
        )

    @property
    def workers(self) -> int:
        """Number of workers G, as the imbalance counts them."""
        return int(self.projected.shape[0])

    @cached_property
    def open_workers(self) -> IntArray:
        """Workers with a free slot, shape (J,)."""
        return np.flatnonzero(self.room > 0)

    @cached_property
    def envelope(self) -> IntArray:
        """``M_h = max_g L_{g,h}``, shape (H + 1,)."""
        envelope: IntArray = self.projected.max(axis=0)
        return envelope

    @cached_property
    def margins(self) -> IntArray:
        """``m_{g,h} = M_h - L_{g,h}`` of open workers, shape (J, H + 1)."""
        return self.envelope - self.projected[self.open_workers]

    @cached_property
    def sizes(self) -> IntArray:
        """Distinct entries of `prompts`, ascending, shape (K,)."""
        return self._kinds[0]

    @cached_property
    def kind(self) -> IntArray:
        """Index into `sizes` of each waiting request, shape (n,)."""
        return self._kinds[1]

    @cached_property
    def counts(self) -> IntArray:
        """Waiting requests of each length, shape (K,)."""
        return np.bincount(self.kind, minlength=self.sizes.size)

    @cached_property
    def weight_sum(self) -> int:
        """``D = Σ_h d_h``."""
        return int(self.weights.sum())

    @cached_property
    def ramp_sum(self) -> int:
        """``R = Σ_h h·d_h`` under growth, else 0."""
        return self.growth * int(self.weights @ np.arange(self.weights.size))

    @cached_property
    def most(self) -> IntArray:
        """Most requests each open worker can be given, shape (J,)."""
        return np.minimum(self.room[self.open_workers], self.prompts.size)

    @cached_property
    def least(self) -> IntArray:
        """Fewest requests each open worker is given when `admit` are, shape (J,)."""
        if self.admit is None:
            return np.zeros_like(self.most)
        least: IntArray = np.maximum(self.admit - (self.most.sum() - self.most), 0)
        return least

    @property
    def token_limit(self) -> IntArray:
        """KV tokens that each open worker may be given, shape (J,)."""
        return self.token_room[self.open_workers]

    @property
    def kv_sizes(self) -> IntArray:
        """KV tokens of a request of each of `sizes`, shape (K,)."""
        return self.sizes - self.request_tokens

    @cached_property
    def reach(self) -> tuple[IntArray, IntArray]:
        """Smallest and largest ``S_g`` of open workers, two arrays of shape (J,)."""
        ordered = np.sort(self.prompts)
        rising = np.concatenate((np.zeros(1, np.int64), np.cumsum(ordered)))
        falling = np.concatenate((np.zeros(1, np.int64), np.cumsum(ordered[::-1])))
        limit = self.token_limit + self.request_tokens * self.most
        return rising[self.least], np.minimum(falling[self.most], limit)

    @cached_property
    def _kinds(self) -> tuple[IntArray, IntArray]:
        sizes, kind = np.unique(self.prompts, return_inverse=True)
        return sizes, kind.astype(np.int64)

    def save(self, path: str | Path) -> None:
        """Write the instance as JSON."""
        Path(path).write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an instance that `save` wrote.

        Raises
        ------
        ParameterError
            The file cannot be read or is not a saved instance.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ParameterError(f"cannot read step instance {path}: {error}") from error
        return cls.from_json(data)

    def to_json(self) -> dict[str, Any]:
        """Return the instance as JSON types."""
        limits = [None if room >= NO_LIMIT else room for room in self.token_room.tolist()]
        return {
            "format": FORMAT,
            "projected": self.projected.tolist(),
            "room": self.room.tolist(),
            "token_room": limits,
            "prompts": self.prompts.tolist(),
            "weights": self.weights.tolist(),
            "alpha": self.alpha,
            "beta": self.beta,
            "growth": self.growth,
            "admit": self.admit,
            "request_tokens": self.request_tokens,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Make an instance from what `to_json` returned."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            raise ParameterError(f"format is {found!r}, must be {FORMAT!r}: not a step instance")
        try:
            limits = [NO_LIMIT if room is None else room for room in data["token_room"]]
            return cls(
                projected=_integers("projected", data["projected"], 2),
                room=_integers("room", data["room"], 1),
                token_room=_integers("token_room", limits, 1),
                prompts=_integers("prompts", data["prompts"], 1),
                weights=_integers("weights", data["weights"], 1),
                alpha=data["alpha"],
                beta=data["beta"],
                growth=data["growth"],
                admit=data["admit"],
                # States that were saved before requests had a weight have none.
                request_tokens=data.get("request_tokens", 0),
            )
        except KeyError as error:
            raise ParameterError(f"step instance lacks the field {error.args[0]!r}") from error
        except TypeError as error:
            raise ParameterError(f"step instance has a field of the wrong type: {error}") from error


def _check_shapes(instance: StepInstance) -> None:
    shape = instance.projected.shape
    if len(shape) != 2 or not all(shape):
        raise ParameterError(f"projected has shape {shape}, must be (workers, H + 1)")
    expected = {"room": shape[:1], "token_room": shape[:1], "weights": shape[1:]}
    for name, wanted in expected.items():
        if (found := getattr(instance, name).shape) != wanted:
            raise ParameterError(f"{name} has shape {found}, must be {wanted}")
    if instance.prompts.ndim != 1:
        raise ParameterError(f"prompts has shape {instance.prompts.shape}, must be (n,)")


def _check_values(instance: StepInstance) -> None:
    each = instance.request_tokens
    if not isinstance(each, int) or isinstance(each, bool) or each < 0:
        raise ParameterError(f"request_tokens is {each!r}, must be an integer of at least 0")
    least = {"room": 0, "prompts": 1 + each, "weights": 0, "projected": 0}
    for name, low in least.items():
        values = getattr(instance, name)
        if values.size and values.min() < low:
            raise ParameterError(f"{name} holds {values.min()}, must be at least {low}")
    for name, low in {"alpha": 1, "beta": 0}.items():
        value = getattr(instance, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ParameterError(f"{name} is {value!r}, must be an integer of at least {low}")
    if isinstance(instance.growth, bool) or instance.growth not in {0, 1}:
        raise ParameterError(f"growth is {instance.growth!r}, must be 0 or 1")
    if not instance.weights.any():
        raise ParameterError("weights are all 0, must count at least one step")
    _check_magnitude(instance)


def _check_magnitude(instance: StepInstance) -> None:
    """Raise unless every objective fits 64 bits: kernels calculate with them unchecked."""
    steps = instance.weights.size
    tokens = _sum(instance.prompts) + int(instance.projected.max())
    tokens += instance.growth * steps * instance.prompts.size
    scale = max(instance.alpha + instance.beta, 2) * instance.workers
    largest = tokens * _sum(instance.weights) * scale
    if largest >= LARGEST:
        raise ParameterError(
            f"objectives are up to {largest:.3g}, must be below {LARGEST:.3g} lest sums exceed 64 "
            "bits; use a lower resolution of the weights"
        )


def _sum(values: IntArray) -> int:
    # In floating point, which does not wrap around and is exact below the limit.
    return int(values.sum(dtype=np.float64))


def _check_admit(instance: StepInstance) -> None:
    most = min(instance.prompts.size, int(instance.room.sum()))
    admit = instance.admit
    # A saved state's `true` is no number, though Python counts it as one.
    whole = isinstance(admit, int) and not isinstance(admit, bool)
    if admit is not None and not (whole and 0 <= admit <= most):
        raise ParameterError(
            f"admit is {admit!r}, must be between 0 and {most}: "
            f"{instance.prompts.size} requests wait and {int(instance.room.sum())} slots are free"
        )


def _check_capacity(prompts: IntArray, capacity: IntArray) -> None:
    longest = int(prompts.max())
    if longest > int(capacity.max()):
        raise CapacityError(
            f"waiting request {int(prompts.argmax())} of {longest} tokens fits no worker: the "
            f"largest KV capacity is {int(capacity.max())} tokens"
        )


def _integers(name: str, values: Any, dimensions: int) -> IntArray:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise ParameterError(
            f"{name} is ragged, must be {dimensions}-dimensional integers: not a step instance"
        ) from error
    if array.size == 0:
        return np.zeros((0,) * dimensions, np.int64)
    whole = array.dtype.kind == "i" and not _holds_bool(values)
    if not whole or array.ndim != dimensions:
        raise ParameterError(f"{name} of a step instance must be {dimensions}-dimensional integers")
    return array.astype(np.int64)


def _holds_bool(values: Any) -> bool:
    # numpy makes a number of a truth value that stands among numbers.
    if isinstance(values, list):
        return any(_holds_bool(value) for value in values)
    return isinstance(values, bool)
