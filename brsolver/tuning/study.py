"""The Optuna study: where it is kept, whose it is, and what was tried."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from brsolver.errors import BrsolverError, MissingExtraError, ParameterError
from brsolver.tuning.lease import KEPT, leased

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from brsolver.tuning.goals import Goal
    from brsolver.tuning.lease import Lease
    from brsolver.tuning.split import Split

PUBLISHED, PROJECT, TUNED = "published", "project", "tuned"
"""Roles: vLLM's rule and engines as given; this project's default; the best that was found."""
CALLED: Mapping[str, str] = MappingProxyType(
    {
        PUBLISHED: "the published default",
        PROJECT: "this project's default",
        TUNED: "the best that was found",
    }
)
"""What sentences call each role."""
FACTS, SPENT_S = "brsolver", "spent_s"
"""Names of what is kept with the study: whose it is, and seconds of search so far."""
STARTUP = 10
"""Trials at random before the sampler believes what it has seen."""
State = Literal["complete", "pruned", "failed"]
_FIRST_TOLD = ("version", "code_of_brsolver", "trace", "goal")
"""Facts in the order in which a difference is told; of others by name, then `_LAST_TOLD`."""
_LAST_TOLD: Mapping[str, str] = MappingProxyType(
    {
        "hardware": "hardware",
        "searched": "what is searched",
        "rungs": "the requests of the prefixes",
    }
)
"""What follows from others as a rule, and what it is called."""
_USER = re.compile(r"(?<=//).*@")
_PASSWORD = re.compile(r"(?<=password=)[^&]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One trial.

    Attributes
    ----------
    number : int
    role : str
        `PUBLISHED`, `PROJECT`, or empty.
    state : {"complete", "pruned", "failed"}
        ``pruned`` was given up on a prefix of the trace.
    policy : str
        Its specification.
    settings : mapping of str to plain value
        All that was chosen.
    params : mapping of str to plain value
        What the study calls that.
    value : float or None
        What the goal counts, on the whole of the earlier part or, of a pruned trial, on the
        longest prefix.
    requests : int
        Requests that `value` is of.
    figures : mapping of str to float or None
        All figures of that run.
    reason : str
        Why it failed.
    """

    number: int
    role: str
    state: State
    policy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    requests: int = 0
    figures: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "number": self.number,
            "role": self.role,
            "state": self.state,
            "settings": dict(self.settings),
            "value": self.value,
            "requests": self.requests,
            "figures": dict(self.figures),
            "reason": self.reason,
        }


@contextmanager
def open_study(
    storage: str, name: str, goal: Goal, facts: Mapping[str, Any], *, seed: int
) -> Iterator[tuple[Study, Lease]]:
    """Open a study, or make it; no other process can while the block runs.

    Parameters
    ----------
    storage : str
        URL as Optuna takes it: ``sqlite:///study.db``, ``postgresql://...``. Empty keeps it in
        memory.
    name : str
        Of the study, several of which may be in one storage.
    goal : Goal
    facts : mapping of str to plain value
        What the values of its trials hang on.
    seed : int
        Of the sampler, together with how many trials there are.

    Yields
    ------
    Study
    Lease

    Raises
    ------
    MissingExtraError
        Optuna is not installed.
    BrsolverError
        The storage cannot be used, or another process goes on with the study.
    ParameterError
        The study is of something else.
    """
    optuna = optuna_module()
    with ExitStack() as stack:
        with storage_errors(storage, opening=True), quiet():
            study: Study = optuna.create_study(
                storage=storage or None,
                study_name=name,
                direction=goal.direction,
                load_if_exists=True,
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
            )
            # What is somebody else's is not written to, not even that it is looked at.
            _require_same(study, name, facts)
            lease = stack.enter_context(leased(study, shared=bool(storage)))
            _require_same(study, name, facts)
            study.set_user_attr(FACTS, dict(facts))
            _give_up_what_was_under_way(study)
            study.sampler = optuna.samplers.TPESampler(
                # A study that is gone on with must not draw again what it has tried.
                seed=seed + len(study.get_trials(deepcopy=False)),
                n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True,
            )  # fmt: skip
        yield study, lease


def holds_nothing(storage: str, name: str) -> bool:
    """Tell whether a storage has no study but this, of which no trial ran and which nobody holds.

    False if that cannot be told.
    """
    optuna = optuna_module()
    try:
        with quiet():
            if optuna.get_all_study_names(storage=storage) != [name]:
                return False
            study = optuna.load_study(storage=storage, study_name=name)
            held = study.user_attrs.get(KEPT) is not None
            return not held and all(each.state == "failed" for each in tried_in(study))
    except Exception:  # noqa: BLE001 # a driver may raise anything
        return False


def optuna_module() -> Any:
    """Return Optuna.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError.for_extra("optuna", "tune") from error
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna say nothing by itself: neither what it does, nor what of it is experimental."""
    optuna = optuna_module()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class _NotAloneError(Exception):
    """Another process goes on with the study."""


@contextmanager
def storage_errors(storage: str, *, opening: bool = False) -> Iterator[None]:
    """Turn what a storage raises into one line, without its password.

    Where it is opened, a driver may raise anything; later what is neither Optuna's nor SQLAlchemy's
    is somebody else's.
    """
    from optuna.exceptions import OptunaError, UpdateFinishedTrialError
    from sqlalchemy.exc import SQLAlchemyError

    others = (ImportError, OSError, ValueError, RuntimeError) if opening else ()

    try:
        yield
    except BrsolverError:
        raise
    except (UpdateFinishedTrialError, _NotAloneError) as error:
        raise BrsolverError(
            f"the study in {shown_url(storage)!r} is gone on with by another process, must be by "
            "one at a time: wait for that one, or give another --study"
        ) from error
    except (OptunaError, SQLAlchemyError, *others) as error:
        cause: BaseException = error
        while isinstance(cause, OptunaError | ImportError) and cause.__cause__ is not None:
            cause = cause.__cause__
        cause = getattr(cause, "orig", None) or cause
        reason = " ".join(str(cause).split())
        raise BrsolverError(
            f"storage {shown_url(storage)!r} cannot be used: {reason[:200]}; must be a URL of "
            "Optuna's, such as sqlite:///study.db, that can be reached and written"
        ) from error


def shown_url(storage: str) -> str:
    """Return a URL without user and password."""
    return _PASSWORD.sub("...", _USER.sub("", storage))


def facts_of(
    settings: Mapping[str, Any], split: Split, trace_fingerprint: str, goal: Goal
) -> dict[str, Any]:
    """Return what the values of trials hang on, as it is kept with the study."""
    from brsolver._code import own_code
    from brsolver._version import __version__

    plain = {
        "version": __version__,
        "code_of_brsolver": own_code(),
        "trace": trace_fingerprint,
        "goal": goal.name,
        "rungs": list(split.rungs),
        **settings,
    }
    found: dict[str, Any] = json.loads(json.dumps(plain, sort_keys=True, default=str))
    return found


def _require_same(study: Study, name: str, facts: Mapping[str, Any]) -> None:
    theirs = study.user_attrs.get(FACTS)
    if theirs is None:
        if study.trials:
            raise ParameterError(
                f"study {name!r} holds {len(study.trials)} trials of something else, must be one "
                "of brsolver tune, or new: give another --study or --storage"
            )
        return
    for key in sorted(facts.keys() | theirs.keys(), key=_told_at):
        if facts.get(key) != theirs.get(key):
            called = _LAST_TOLD.get(key, key.replace("_", " "))
            what, there, here = _difference(called, theirs.get(key), facts.get(key))
            raise ParameterError(
                f"study {name!r}: {what} is {_short(there)} there and {_short(here)} here, must be "
                "the same to go on: give another --out, --study or --storage, or remove that one"
            )


def _told_at(key: str) -> tuple[int, str]:
    if key in _FIRST_TOLD:
        return _FIRST_TOLD.index(key), key
    return len(_FIRST_TOLD) + (key in _LAST_TOLD), key


def _difference(name: str, there: Any, here: Any) -> tuple[str, Any, Any]:
    """Return what of two values differs, as far down as both are tables."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return name, there, here
    key = next(key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key))
    return _difference(f"{name}.{key}", there.get(key), here.get(key))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _give_up_what_was_under_way(study: Study) -> None:
    """Tell of trials whose search was ended that they came to nothing."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except ValueError as error:
            # It has ended in between, so that somebody is at it.
            raise _NotAloneError from error
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.tell(study.ask(), state=TrialState.FAIL)


def tried_in(study: Study) -> tuple[Tried, ...]:
    """Return all trials that came to something, or failed by themselves."""
    found = (_tried(trial) for trial in study.get_trials(deepcopy=False))
    return tuple(each for each in found if each is not None)


def _tried(trial: FrozenTrial) -> Tried | None:
    attributes = trial.user_attrs
    if "settings" not in attributes or not trial.state.is_finished():
        return None
    reason = attributes.get("failed", "")
    state: State = "complete" if trial.state.name == "COMPLETE" else "pruned"
    if trial.state.name == "FAIL":
        if not reason:
            return None
        state = "failed"
    values = trial.intermediate_values
    return Tried(
        number=trial.number,
        role=attributes.get("role", ""),
        state=state,
        policy=attributes["settings"]["policy"],
        settings=attributes["settings"],
        params=dict(trial.params),
        value=trial.value if state == "complete" else (values[max(values)] if values else None),
        requests=attributes.get("requests", 0),
        figures=attributes.get("figures", {}),
        reason=reason,
    )
