"""Which of what was chosen made the difference, and which settings no other beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.tuning.study import optuna_module, quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.study import Study

    from brsolver.tuning.study import Tried

FEWEST = 8
"""Trials in full below which shares of importance would be noise."""


def importance_of(study: Study) -> dict[str, float]:
    """Return each parameter's share of what mattered, largest first, by Optuna's PED-ANOVA.

    It tells what the best tenth of the trials in full have in common that the others have not.
    Empty where fewer than `FEWEST` ran in full.
    """
    optuna = optuna_module()
    with quiet():
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        chosen = [trial for trial in complete if trial.params]
        if len(chosen) < FEWEST:
            return {}
        alone = optuna.create_study(direction=study.direction)
        alone.add_trials(chosen)
        found = optuna.importance.get_param_importances(
            alone, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return {name: float(share) for name, share in found.items()}


def pareto(tried: Sequence[Tried], more: str, less: str) -> tuple[Tried, ...]:
    """Return the trials in full that no other beats in both of two figures.

    Parameters
    ----------
    tried : sequence of Tried
    more, less : str
        Figures of which more, and less, is better.

    Returns
    -------
    tuple of Tried
        By falling `more`.
    """
    known = [
        (each.figures[more], each.figures[less], each)
        for each in tried
        if each.state == "complete"
        and each.figures.get(more) is not None
        and each.figures.get(less) is not None
    ]
    front: list[Tried] = []
    least = float("inf")
    for _, low, each in sorted(known, key=lambda row: (-(row[0] or 0.0), row[1] or 0.0)):
        if low is not None and low < least:
            front.append(each)
            least = low
    return tuple(front)
