"""A sweep's steps fitted, and the fit held against points that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.hardware import Limits, Measurements, Origin, fit_steps, hardware_of
from brsolver.hardware.readers.step_log import usable
from integration.bench.calibrate import Measured
from integration.bench.kinds import kinds_of
from integration.bench.steps import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.hardware import Fit, Hardware
    from integration.bench.sweep import Point

COLUMNS = ("sequences", "kv_tokens", "prefill_tokens", "prefill_context", "seconds")
ALL_PREFILL = (1, float("inf"))
SOURCE = "measured by brsolver vllm calibrate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Steps of one kind at a point: measured, and as the fit has them.

    Attributes
    ----------
    point : Point
    kind : str
        ``decode``, ``chunk on one rank`` or ``chunk on all``.
    steps : int
    measured_s, predicted_s : float
        Medians.
    """

    point: Point
    kind: str
    steps: int
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_s / self.measured_s - 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Calibration:
    """What came of it.

    Attributes
    ----------
    hardware : Hardware
    fit : Fit
    checks : tuple of Check
        Points that were fitted, and those that were not.
    """

    hardware: Hardware
    fit: Fit
    checks: tuple[Check, ...]

    def held_out(self) -> tuple[Check, ...]:
        """Return the checks of points that the fit has not seen."""
        return tuple(check for check in self.checks if check.point.held_out)


def calibrate(measured: Sequence[Measured], origin: Origin, *, name: str = "") -> Calibration:
    """Fit what was measured, and check it against all points.

    Raises
    ------
    ParameterError
        The steps do not tell the coefficients.
    """
    fit = fit_steps(_fitted_to(measured, origin), Limits(prefill_tokens=ALL_PREFILL))
    checks = tuple(check for each in by_point(measured) for check in _checks(each, fit))
    found = Calibration(hardware=hardware_of(fit, name=name, source=SOURCE), fit=fit, checks=checks)
    if not found.held_out():
        return found
    errors = np.abs([check.error for check in found.held_out()])
    told = f"held-out points: median error {np.median(errors):.1%}, worst {errors.max():.1%}"
    conditions = f"{found.hardware.conditions}; {told}"
    return replace(found, hardware=replace(found.hardware, conditions=conditions))


def _fitted_to(measured: Sequence[Measured], origin: Origin) -> Measurements:
    """Return what is fitted: of each kind of step at a point the medians, and the rest as it is.

    Something else on the machine holds steps up by the dozen; a median over rounds does not heed.
    """
    parts: list[Measurements] = []
    for each in by_point(measured):
        if not each.point.held_out:
            steps = usable(each.steps, origin)
            kinds = kinds_of(each.point, steps)
            parts += [_medians(steps.where(mask)) for mask in kinds.values()]
            # While prompts are computed, every step is one of a kind.
            rest = ~np.any([*kinds.values()], axis=0) & (steps.prefill_tokens.sum(axis=1) > 0)
            parts.append(steps.where(rest))
    arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS}
    return Measurements(**arrays, origin=origin)


def _medians(steps: Measurements) -> Measurements:
    arrays = {name: np.median(getattr(steps, name), axis=0)[np.newaxis] for name in COLUMNS}
    return Measurements(**arrays, origin=steps.origin)


def by_point(measured: Sequence[Measured]) -> list[Measured]:
    """Return the rounds of each point as one."""
    points = dict.fromkeys(each.point for each in measured)
    return [
        Measured(point=point, steps=joined([m.steps for m in measured if m.point == point]))
        for point in points
    ]


def _checks(measured: Measured, fit: Fit) -> list[Check]:
    steps = usable(measured.steps, fit.decode.origin)
    kinds = kinds_of(measured.point, steps)
    return [_check(measured.point, kind, steps.where(mask), fit) for kind, mask in kinds.items()]


def _check(point: Point, kind: str, steps: Measurements, fit: Fit) -> Check:
    measured, predicted = (float(np.median(s)) for s in (steps.seconds, fit.seconds(steps)))
    return Check(
        point=point, kind=kind, steps=len(steps), measured_s=measured, predicted_s=predicted
    )
