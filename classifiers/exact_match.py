"""Output lengths of earlier requests with the same prompt, prefix or session."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, Forecast
from classifiers import _match_kernels as mk
from classifiers._key_store import MOST_KEYS, make_store
from classifiers.history import Training, check_share, earliest, finished_rows
from classifiers.key_columns import KeyKind, candidates, kinds_in
from classifiers.survival import SurvivalParams, SurvivalPredictor, check_ages, check_lengths

if TYPE_CHECKING:
    from brsolver.predictors import FinishedRequests, FloatArray, ForecastQuery, IntArray
    from brsolver.traces.trace import Trace

_MOST_SAMPLES = 1024
_WEAKEST, _STRONGEST = 1e6, 1e-2
_SHRINKAGES: FloatArray = np.array(
    [_STRONGEST, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, _WEAKEST]
)

# Forecasts that the evidence of all classes of keys together counts for in each.
_CREDIT = 50.0
_FIRST_HORIZON = 80
_CHUNK = 256
_WHOLE_CHAIN = 2**31
# A prefix that a larger share of all requests has is no evidence, once so many have it.
_COMMON, _NOT_YET_COMMON = 0.05, 64
# Finished requests after which the evidence for a shrinkage counts half.
_TRIAL_MEMORY = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMatchParams:
    """Parameters of `ExactMatchPredictor`.

    Attributes
    ----------
    key : {"auto", "prompt", "prefix", "session", "tenant", "model"}
        What makes two requests the same. ``auto`` takes the first known of a request's prompt
        hash, longest known prefix and session, as far as it has them.
    shrinkage : float or "auto"
        Observations κ that the fallback counts for. ``auto`` finds out which κ
        would have served best.
    capacity : int
        Keys held, 1 to 2³⁰; the least recently used make room.
    samples : int
        Latest output lengths held of each key, 1 to 1024.
    blocks : int
        Longest prefixes of a finished request's hash chain that become keys, at least 1. All
        prefixes of a new one are looked up.
    least : int
        Observations that make a key known, at least 1.
    pending : int
        Running requests whose key is remembered, at least 1.
    growth, memory, train
        As in `classifiers.survival.SurvivalParams`, for the fallback; `train` for both.
    """

    key: KeyKind = "auto"
    shrinkage: float | Literal["auto"] = "auto"
    capacity: int = 1_000_000
    samples: int = 16
    blocks: int = 32
    least: int = 1
    pending: int = 65_536
    growth: float = 0.05
    memory: float = math.inf
    train: float = 0.0

    def __post_init__(self) -> None:
        limits = {"capacity": MOST_KEYS, "pending": MOST_KEYS, "samples": _MOST_SAMPLES}
        for name in ("capacity", "samples", "blocks", "least", "pending"):
            value, most = getattr(self, name), limits.get(name, 2**31)
            if not 1 <= value <= most:
                raise ParameterError(f"{name} is {value}, must be from 1 to {most:,}")
        if self.shrinkage != "auto" and not _STRONGEST <= self.shrinkage <= _WEAKEST:
            raise ParameterError(
                f"shrinkage is {self.shrinkage}, must be auto, or from {_STRONGEST:g} to "
                f"{_WEAKEST:g} observations"
            )
        check_share(self.train)
        self.fallback()

    def fallback(self) -> SurvivalParams:
        """Return the parameters of the fallback."""
        return SurvivalParams(growth=self.growth, memory=self.memory)


class ExactMatchPredictor(BasePredictor):
    """An empirical distribution of output lengths per key, shrunk towards Survival.

    With the output lengths ``l_1..l_n`` last seen of the request's key,
    ``S_i(t) = P(O_i > t) = (κ·S(t) + Σ_j 1[l_j > t]) / (κ + n)``, S being that of
    `classifiers.survival.SurvivalPredictor`, and the forecast is conditioned on age as there.
    An observation that was censored at length c counts as 1 up to c and as ``S(t)/S(c)``
    beyond. A request whose key is not known is forecast by Survival alone, and so, in effect,
    is one that has outlived all output lengths of its key.

    Keys are hashes, numbers or names in the columns of the trace. With prefix-hash chains every
    block stands for the prefix that ends there: a finished request is an observation of all its
    `blocks` longest prefixes, and a new one goes by its longest prefix that is known and that no
    more than 5 % of all requests share (a system prompt tells nothing). Which key a request goes by
    is decided when it is first asked about.

    ``shrinkage="auto"`` chooses κ from 0.01 to 10⁶ as the value under which the forecasts of
    requests that have since ended, each made before its own end was known, would have had the
    least squared error in "ends within H". It does so apart for keys with 1, 2-3, 4-7, …
    observations, since a prefix that many requests share tells less than one that is a
    conversation's own; where keys tell nothing, Survival is left.

    Memory is bounded: `capacity` keys of ``33 + 4·samples`` bytes or so, claimed from the system
    as keys come, and `pending` running requests.

    Parameters
    ----------
    params : ExactMatchParams, optional
        Which keys, and how far to trust them.
    trace : Trace, optional
        Whose earliest requests to learn from, if ``params.train`` is above 0.

    Raises
    ------
    ParameterError
        `train` is asked for without a trace, or a key that the trace has not.

    References
    ----------
    Bu et al., arXiv:2605.06113, §3; Susarla and Van Ryzin, Nonparametric Bayesian estimation of
    survival curves from incomplete observations, JASA 71 (1976).
    """

    Params = ExactMatchParams

    def __init__(
        self, params: ExactMatchParams | None = None, *, trace: Trace | None = None
    ) -> None:
        self.params = params or ExactMatchParams()
        capacity, pending = self.params.capacity, self.params.pending
        self.fallback = SurvivalPredictor(self.params.fallback())
        self._known = mk.Known(
            store=make_store(capacity),
            seen=np.zeros(capacity, np.int64),
            samples=np.zeros((capacity, self.params.samples), np.int32),
        )
        self._pending = make_store(pending)
        self._chosen: IntArray = np.zeros(pending, np.int64)
        self._horizon = _FIRST_HORIZON
        self._losses = np.zeros((mk.CLASSES, len(_SHRINKAGES) + 1))
        self._weight = self._weights()
        self._observed, self._resolved, self._hits = 0, 0, 0
        self._training = Training()
        if self.params.train > 0:
            self.fit(*earliest(trace, self.params.train))

    @property
    def keys_held(self) -> int:
        """Number of keys that are known."""
        return int(self._known.store.used.sum())

    @property
    def hit_rate(self) -> float:
        """Share of the requests asked about that had a known key; NaN before any."""
        return self._hits / self._resolved if self._resolved else math.nan

    @property
    def shrinkage(self) -> FloatArray:
        """κ by the binary logarithm of a key's number of observations."""
        return self._weight

    def notes(self) -> tuple[str, ...]:
        """Return what results should say: how often a key was known."""
        if not self._resolved:
            return ()
        return (
            f"exact match (key={self.params.key}): {self.hit_rate:.1%} of {self._resolved:,} "
            "requests had a known key when first asked about",
        )

    def fit(self, trace: Trace, rows: int | None = None) -> ExactMatchPredictor:
        """Learn from the first `rows` requests of a trace (all of them if None).

        Returns
        -------
        ExactMatchPredictor
            Itself.
        """
        past = trace.head(rows)
        for first in range(0, len(past), _CHUNK):
            self._learn(finished_rows(past.take(np.arange(first, min(first + _CHUNK, len(past))))))
        self._training.note(trace, rows)
        return self

    def training_rows(self, trace: Trace) -> int:
        """Return how many leading requests of `trace` it was fitted to."""
        return self._training.rows(trace)

    def look_ahead(self, horizon: int) -> None:
        """Choose κ by forecasts over `horizon` steps, the router's own."""
        self._horizon = horizon

    def observe(self, finished: FinishedRequests) -> None:
        """Take in requests that have ended.

        Raises
        ------
        ParameterError
            A length below 1 token or beyond what traces may hold, or a column that is missing
            or holds neither whole numbers nor texts.
        """
        self._learn(finished)
        mk.forget(self._pending, finished.request)

    def set_running(self, query: ForecastQuery) -> None:
        """State the ages of all requests that still run; see `SurvivalPredictor`."""
        self.fallback.set_running(query)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        check_ages(query.age)
        self._horizon = horizon or self._horizon
        p_finish, mu_remaining = np.empty(len(query)), np.empty(len(query))
        mk.forecast_by_key(
            self._known,
            self._keys_of(query),
            self._weight,
            self.fallback.table,
            self.fallback.tail,
            query.age,
            query.steps_left(horizon + 1),
            horizon,
            p_finish,
            mu_remaining,
        )
        return Forecast(p_finish=p_finish, mu_remaining=mu_remaining, horizon=horizon)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now."""
        check_ages(query.age)
        out = np.empty((len(query), horizon + 1))
        mk.curves_by_key(
            self._known,
            self._keys_of(query),
            self._weight,
            self.fallback.table,
            query.age,
            query.steps_left(horizon + 1),
            horizon,
            out,
        )
        return out

    def _learn(self, finished: FinishedRequests) -> None:
        if not len(finished):
            return
        check_lengths(finished.output_tokens)
        if self.params.shrinkage == "auto":
            self._try_shrinkages(finished)
        rows = np.arange(len(finished))
        kept = candidates(finished.keys, self.params.key, self.params.blocks, rows)
        mk.learn(self._known, *kept, finished.output_tokens, finished.censored)
        self._observed += len(finished)
        self.fallback.observe(finished)

    def _try_shrinkages(self, finished: FinishedRequests) -> None:
        self._losses *= 2.0 ** (-len(finished) / _TRIAL_MEMORY)
        mk.try_shrinkages(
            self._known,
            *self._candidates(finished, np.arange(len(finished))),
            finished.output_tokens,
            finished.censored,
            self._rule(finished),
            self.fallback.table,
            self._horizon,
            _SHRINKAGES,
            self._losses,
        )
        self._weight = self._weights()

    def _rule(self, source: ForecastQuery | FinishedRequests) -> IntArray:
        kinds = kinds_in(source.keys, self.params.key)
        free = kinds.index("prefix") if "prefix" in kinds else len(kinds)
        most = max(_NOT_YET_COMMON, int(_COMMON * self._observed))
        return np.array([self.params.least, most, free], np.int64)

    def _keys_of(self, query: ForecastQuery) -> IntArray:
        keys: IntArray = np.empty(len(query), np.int64)
        missing = mk.recall(self._pending, self._chosen, query.request, keys)
        if len(missing):
            self._resolve(query, missing, keys)
        return keys

    def _resolve(self, query: ForecastQuery, rows: IntArray, keys: IntArray) -> None:
        found = self._candidates(query, rows)
        memory = self._known, self._pending, self._chosen
        self._hits += mk.resolve(*memory, query.request, rows, *found, self._rule(query), keys)
        self._resolved += len(rows)

    def _candidates(
        self, source: ForecastQuery | FinishedRequests, rows: IntArray
    ) -> tuple[IntArray, IntArray]:
        return candidates(source.keys, self.params.key, _WHOLE_CHAIN, rows)

    def _weights(self) -> FloatArray:
        if self.params.shrinkage != "auto":
            return np.full(mk.CLASSES, self.params.shrinkage)
        pooled = self._losses.sum(axis=0)
        if not pooled[-1]:
            return np.ones(mk.CLASSES)
        losses = self._losses[:, :-1] + _CREDIT * pooled[:-1] / pooled[-1]
        best: FloatArray = _SHRINKAGES[np.argmin(losses, axis=1)]
        return best
