"""A comparison in two or three sentences: which policy, what it buys and costs, how sure, and why.

Terminal, report and JSON all show what `summaries` returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.results.deciding import (
    END_TO_END,
    GOODPUT,
    LONGEST_WAIT,
    LOST,
    THROUGHPUT,
    TPOT,
    TTFT,
    Figure,
    change,
    differs,
    level_with_best,
    short,
    times,
)
from brsolver.results.regime import Regime, overloaded, prefill_is_free, regime_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from brsolver.results.comparison import Comparison

HEAVY = 1.5
"""How many times a latency of the baseline a policy's is, from which on it is no mere cost."""
HEAVY_S = 0.1
"""And how many seconds more, at least."""
_OWN = frozenset({"policy", "wall_s", "dispatch_us_p50", "dispatch_us_p99", "dispatch_us_max"})
"""Figures that differ between equal runs."""
_LATENCIES = (TPOT, TTFT, END_TO_END, LONGEST_WAIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the runs on one number of workers say.

    Attributes
    ----------
    workers : int
    regime : Regime
    policy : str or None
        The one for this traffic; None where nothing tells the policies apart.
    sentences : tuple of str
        The choice with what it buys and costs, how sure that is, and the regime.
    """

    workers: int
    regime: Regime
    policy: str | None
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "workers": self.workers,
            "regime": self.regime.value,
            "policy": self.policy,
            "sentences": list(self.sentences),
        }


def summaries(comparison: Comparison) -> tuple[Summary, ...]:
    """Say what a comparison shows, for each number of workers.

    Same runs, same words: nothing measured on this machine's clock goes in.
    """
    return tuple(_summary(comparison, workers) for workers in comparison.workers)


def paragraphs(found: Sequence[Summary]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return headings and sentences to show: what holds for every number of workers comes once.

    The first sentence of each, the choice, stays where it leads.
    """
    if len(found) < 2:
        return tuple(("", each.sentences) for each in found)
    common = tuple(
        s for s in found[0].sentences[1:] if all(s in each.sentences[1:] for each in found)
    )
    own = [
        (f"G = {each.workers}", tuple(s for s in each.sentences if s not in common))
        for each in found
    ]
    last = [("Everywhere", common)] if common else []
    return tuple((heading, sentences) for heading, sentences in (*own, *last) if sentences)


def identical(comparison: Comparison) -> dict[str, str]:
    """Return the policies whose runs equal an earlier policy's, and that policy.

    Runs are equal whose figures are, those of this machine's clock aside.
    """
    seen: dict[tuple[object, ...], str] = {}
    same = {}
    for policy in comparison.policies:
        key = tuple(
            # As text, in which NaN equals itself.
            repr([value for name, value in run.metrics.to_dict().items() if name not in _OWN])
            for workers in comparison.workers
            for run in comparison.cell(policy, workers)
        )
        if key in seen:
            same[policy] = seen[key]
        else:
            seen[key] = policy
    return same


def _summary(comparison: Comparison, workers: int) -> Summary:
    told = _Told(comparison, workers)
    chosen, choice = told.choice()
    sure = told.sure(chosen)
    return Summary(
        workers=workers,
        regime=told.regime,
        policy=chosen,
        sentences=tuple(filter(None, (*choice, sure, told.bound(chosen), told.same()))),
    )


class _Told:
    """The sentences about runs on one number of workers."""

    def __init__(self, comparison: Comparison, workers: int) -> None:
        self.all, self.workers = comparison, workers
        self.base, self.policies = comparison.baseline, comparison.policies
        self.regime = regime_of(comparison, workers)
        self.late = overloaded(comparison, workers)
        self.promised = math.isfinite(self.mean(self.base, GOODPUT))

    def mean(self, policy: str, figure: Figure) -> float:
        return self.all.estimate(policy, self.workers, figure.name).mean

    @property
    def primary(self) -> Figure:
        """What decides first."""
        if self.promised:
            return GOODPUT
        by_latency = self.regime in {Regime.ARRIVAL_BOUND, Regime.MIXED}
        return END_TO_END if by_latency else THROUGHPUT

    @property
    def gains(self) -> tuple[Figure, ...]:
        """What a policy is said to buy, beginning with what decides first."""
        rate = () if self.regime is Regime.ARRIVAL_BOUND else (THROUGHPUT,)
        return tuple(dict.fromkeys((self.primary, *rate, TPOT, TTFT, END_TO_END)))

    def alone(self) -> str:
        policy = self.base
        known = [(f, self.mean(policy, f)) for f in (THROUGHPUT, GOODPUT, *_LATENCIES, LOST)]
        parts = [f"{f.words} {f.write(value)}" for f, value in known if math.isfinite(value)]
        return f"{policy} by itself: {', '.join(parts)}."

    def choice(self) -> tuple[str | None, tuple[str, ...]]:
        """Return the policy to take, None if there is no choice, and the sentences about it."""
        if len(self.policies) == 1:
            return None, (self.alone(),)
        best = self.pick(self.policies)
        if best is None:
            return None, (self.no_difference(),)
        if not self.heavy(best):
            return best, (self.recommended(best),)
        light = self.pick([p for p in self.policies if not self.heavy(p)]) or self.base
        return light, (self.recommended(light, best), self.trade(best))

    def pick(self, policies: Sequence[str]) -> str | None:
        """Return the best policy: by what decides first, among equals by latencies.

        The baseline where it is among the equals, None where all are.
        """
        level = tuple(p for p in policies if p not in self.late) or tuple(policies)
        for figure in (self.primary, END_TO_END, TTFT, TPOT, LONGEST_WAIT):
            level = level_with_best(self.all, self.workers, figure, level) or level
        if len(level) == len(self.policies):
            return None
        return self.base if self.base in level else level[0]

    def heavy(self, policy: str) -> list[Figure]:
        """Return the latencies that a policy makes several times as long."""
        return [f for f in _LATENCIES if self._is_heavy(policy, f)]

    def _is_heavy(self, policy: str, figure: Figure) -> bool:
        estimate = self.all.estimate(policy, self.workers, figure.name)
        more_s = estimate.mean - self.mean(self.base, figure)
        least_s = 0.0 if figure is TPOT else HEAVY_S
        return estimate.ratio >= HEAVY and differs(estimate) and more_s >= least_s

    def changed(self, policy: str, figures: Iterable[Figure], kind: str) -> list[Figure]:
        """Return the figures in which a policy differs from the baseline in that direction."""
        return [f for f in figures if self._kind(policy, f) == kind]

    def costs(self, policy: str) -> list[Figure]:
        return self.changed(policy, (*self.gains, LONGEST_WAIT), "worse")

    def _kind(self, policy: str, figure: Figure) -> str:
        estimate = self.all.estimate(policy, self.workers, figure.name)
        if estimate.ratio_half_width > 0:
            return change(estimate, figure.better)
        if not differs(estimate):
            return ""
        return "better" if (estimate.ratio > 1) == (figure.better == "higher") else "worse"

    def recommended(self, policy: str, dearer: str | None = None) -> str:
        """Say what a policy buys and costs; `dearer` is one that is told of afterwards."""
        if policy == self.base:
            return (
                f"For this traffic {policy}, the baseline: no other policy is better in "
                f"{self.primary.words} beyond noise{self._noise()} without costing more elsewhere"
                f"{'' if dearer else self.beside()}."
            )
        bought = (*self.gains, LONGEST_WAIT, LOST)
        buys = self.bought(policy, self.changed(policy, bought, "better"))
        costs = self.costs(policy)
        paid = (
            f"it costs {self.compared(policy, costs)}"
            if costs
            else "none of the figures that decide is worse"
        )
        return f"For this traffic {policy}: against {self.base} {buys}; {paid}."

    def beside(self) -> str:
        """Say which policies do as well as the baseline, and what the costliest costs."""
        shown = (*self.gains, LONGEST_WAIT)
        others = [p for p in self.policies if p != self.base]
        worse = {p: self.changed(p, shown, "worse") for p in others}
        level = [p for p in others if not worse[p] and not self.changed(p, shown, "better")]
        parts = [f"{_listed(level)} {_does(level)} as well"] if level else []
        if heavy := {p: self.heavy(p) for p in others if self.heavy(p)}:
            most = max(heavy, key=lambda p: len(heavy[p]))
            parts.append(f"{most} costs {self.compared(most, heavy[most])}")
        return f"; {', and '.join(parts)}" if parts else ""

    def trade(self, policy: str) -> str:
        worse = self.compared(policy, self.costs(policy))
        buys = self.changed(policy, self.gains, "better")
        gain = f" buys {self.bought(policy, buys)}, but" if buys else ""
        return f"Against {self.base} {policy}{gain} costs {worse}."

    def bought(self, policy: str, figures: Sequence[Figure]) -> str:
        """Say gains: the first with its values, the others by their ratios."""
        brief = [self._against(policy, figure, brief=True) for figure in figures[1:]]
        return _listed([*(self._against(policy, figure) for figure in figures[:1]), *brief])

    def compared(self, policy: str, figures: Iterable[Figure]) -> str:
        return _listed([self._against(policy, figure) for figure in figures])

    def _against(self, policy: str, figure: Figure, *, brief: bool = False) -> str:
        estimate = self.all.estimate(policy, self.workers, figure.name)
        if brief and figure is not LOST and not math.isnan(estimate.ratio):
            return f"{figure.words} {times(estimate.ratio)}"
        base = self.mean(self.base, figure)
        values = f"{short(estimate.mean * figure.scale)} instead of {figure.write(base)}"
        if figure is GOODPUT:
            values += f", {self._share(policy)} instead of {self._share(self.base)} % of requests"
        if figure is LOST or math.isnan(estimate.ratio):
            return f"{figure.words} {values}"
        return f"{figure.words} {times(estimate.ratio)} ({values})"

    def _share(self, policy: str) -> str:
        return short(100 * self.all.estimate(policy, self.workers, "slo_met_share").mean)

    def no_difference(self) -> str:
        decided_by = dict.fromkeys((self.primary, END_TO_END, TTFT, TPOT))
        figures = _listed([figure.words for figure in decided_by])
        return (
            f"Nothing tells these {len(self.policies)} policies apart beyond noise{self._noise()} "
            f"in {figures}: any of them will do."
        )

    def sure(self, chosen: str | None) -> str:
        seeds = len(self.all.seeds)
        if seeds < 2:
            return "One seed says nothing of noise: small differences may be chance; --seeds 5."
        if len(self.policies) == 1:
            return f"Means of {seeds} runs{self._varied()}."
        if chosen is None or chosen == self.base:
            return ""  # The choice has said it.
        figure = self._told_of(chosen)
        estimate = self.all.estimate(chosen, self.workers, figure.name)
        if not estimate.ratio_half_width > 0:
            return f"All {seeds} seeds gave the same: nothing is known of noise."
        low, high = (estimate.ratio + sign * estimate.ratio_half_width for sign in (-1, 1))
        return (
            f"The ratio of {figure.words} is between {times(low)} and {times(high)} with 95 % "
            f"confidence, by {seeds} runs each{self._varied()}."
        )

    def _noise(self) -> str:
        """Say what noise is, where there is more than one seed to tell it."""
        seeds = len(self.all.seeds)
        return f" (95 % intervals of {seeds} runs each{self._varied()})" if seeds > 1 else ""

    def _told_of(self, chosen: str) -> Figure:
        better = self.changed(chosen, (self.primary, *self.gains), "better")
        return better[0] if better else self.primary

    def _varied(self) -> str:
        if any(run.start for run in self.all.runs):
            return ", each starting a request later than the one before"
        drawn = len({run.trace_fingerprint for run in self.all.runs}) > 1
        return ", with traffic drawn anew for each" if drawn else ""

    def bound(self, chosen: str | None) -> str:
        """Say what bounds the runs, and what the figures leave out."""
        return " ".join((self._regime(chosen or self.base), *self._left_out()))

    def _regime(self, policy: str) -> str:
        slots = self.all.estimate(policy, self.workers, "slot_utilization").mean
        busy = f"{100 * slots:.0f} % of slots in use" if math.isfinite(slots) else "no slots in use"
        match self.regime:
            case Regime.POOLED:
                return (
                    f"Pooled: {busy}, with requests always waiting, so throughput is the "
                    "cluster's capacity, and waits follow from the size of the pool."
                )
            case Regime.CLOSED:
                clients = self.all.params.arrivals.concurrency
                return f"Closed loop of {clients:,} clients: {busy}."
            case Regime.ARRIVAL_BOUND:
                if not self._unfinished(policy):
                    busy += ", and all that arrives is served"
                return f"Arrival-bound: {busy}, so routing cannot buy throughput, only latency."
            case Regime.OVERLOADED:
                return (
                    f"Overloaded: more arrives than any policy serves, and waits grow without end "
                    f"({self._growth(policy)}), so that waits tell how long the run is, and "
                    "throughput what the cluster serves."
                )
        keeps = [p for p in self.policies if p not in self.late]
        return (
            f"Overloaded under {_listed(self.late)}, where waits grow without end "
            f"({self._growth(self.late[0])}); {_listed(keeps)} "
            f"{'keeps' if len(keeps) == 1 else 'keep'} up with the arrivals."
        )

    def _growth(self, policy: str) -> str:
        early, late = (
            self.all.estimate(policy, self.workers, name).mean
            for name in ("ttft_early_s", "ttft_late_s")
        )
        return (
            f"mean TTFT under {policy}: {short(early)} s in the second quarter of the run, "
            f"{short(late)} s in the last"
        )

    def same(self) -> str:
        """Name the policies that gave the same runs as another."""
        groups: dict[str, list[str]] = {}
        for policy, other in identical(self.all).items():
            groups.setdefault(other, []).append(policy)
        told = [f"{_listed(same)} gave the same runs as {other}" for other, same in groups.items()]
        return f"{'; '.join(told)}." if told else ""

    def _unfinished(self, policy: str) -> float:
        return self.all.estimate(policy, self.workers, "unfinished").mean

    def _left_out(self) -> Iterator[str]:
        ended_early = [
            f"{_count(count)} under {policy}"
            for policy in self.policies
            if (count := self._unfinished(policy)) > 0
        ]
        if ended_early:
            yield f"Requests that did not finish are in no latency: {_listed(ended_early)}."
        if prefill_is_free(self.all.params):
            yield "Prefill is not modelled: TTFT leaves it out."
        if self.workers == 1:
            yield "One worker: policies can choose the order of requests and nothing else."


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _does(policies: Sequence[str]) -> str:
    return "does" if len(policies) == 1 else "do"


def _count(mean: float) -> str:
    return f"{mean:,.0f}" if mean >= 10 else f"{mean:.2g}"
