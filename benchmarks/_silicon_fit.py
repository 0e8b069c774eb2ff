"""Coefficients of step times from what clients measured: mean TTFT and TPOT of closed loops.

In a closed loop requests come as others end, so what runs in which step does not depend on how
long steps last: both figures are linear in the coefficients, where there is one rank, and near
to it where there are several. One simulation per coefficient gives the columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

from benchmarks import _silicon_server as servers
from brsolver.simulator import StepTime

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from benchmarks._silicon import Row
    from benchmarks._silicon_server import Server

NAMES = ("base", "experts", "token", "decoded", "kv", "prefill", "context")
NOISE = 0.05
"""Relative error that counts as one: repeated runs of a recipe differ by half of it."""
TTFT_WEIGHT, OVERLOADED_WEIGHT = 0.3, 0.1
"""Weights of errors of TTFT beside those of TPOT: as far as the targets lie apart."""
SHEET_ERROR = {"experts": 0.2, "kv": 0.2}
"""Relative error of data sheets that counts as one: bytes over bandwidth is near the truth."""
GUESS_ERROR = 10.0
"""The same of what no data sheet tells: where rows tell, they win."""
NUDGE = 0.01
"""Which rank is the slowest follows from the coefficients, and stays the same near to them."""
RESERVES = (3e9, 4e9, 5e9, 6e9, 7e9, 8e9, 10e9, 12e9)
ALIKE = {"h100_sxm": "hopper", "b200_sxm": "blackwell", "b300_sxm": "blackwell"}
"""Systems that share coefficients: B200 and B300 have the same memory bandwidth."""


def family_of(row: Row) -> tuple[str, str]:
    """Return which rows share coefficients with this one."""
    return ALIKE[row.system], row.precision


@dataclass(frozen=True, eq=False, kw_only=True)
class Costs:
    """What a family's steps cost, in seconds.

    Attributes
    ----------
    base : mapping from str to float
        Of each layout, at zero load.
    experts : float
        Of reading the weights of all experts by one GPU; t GPUs take a t-th.
    token : float
        Per token of a step, whatever the number of GPUs (norms, routing, exchange).
    decoded, kv, prefill, context : float
        Per decoding sequence, per KV token that these read, per prefill token, and per prefill
        token and token before it, of one GPU; t GPUs take a t-th.
    front : float
        Beside steps, once per request until its first token (client, HTTP, tokenizer).
    reserve : float
        Bytes of each GPU that are neither weights nor KV.
    """

    base: Mapping[str, float]
    experts: float
    token: float
    decoded: float
    kv: float
    prefill: float
    context: float
    front: float
    reserve: float = 5e9

    def step_time(self, server: Server) -> StepTime:
        """Return how long a server's steps last."""
        if server.layout not in self.base:
            raise ValueError(f"no row of layout {server.layout} was fitted, must be one at least")
        split = 1 if server.data_parallel else server.gpus
        own = servers.DENSE_SHARE if server.data_parallel else 1.0
        return StepTime(
            model="loads",
            base=self.base[server.layout],
            all_experts=self.experts / server.gpus,
            expert_share=servers.TOP_K / servers.EXPERTS,
            per_sequence=self.token + self.decoded / split,
            per_token=self.kv / split,
            per_prefill_token=self.token + own * self.prefill / split,
            per_mean_prefill_token=(1 - own) * self.prefill,
            per_prefill_context=self.context / split,
        )

    def scaled(self, name: str, factor: float) -> Costs:
        """Return the same with one coefficient multiplied."""
        if name == "base":
            return replace(self, base={k: factor * v for k, v in self.base.items()})
        return replace(self, **{name: factor * getattr(self, name)})


def data_sheet(row: Row) -> Costs:
    """Return what data sheets say of a row's system: bytes over bandwidth, FLOP over FLOP/s.

    Efficiencies are guesses (40 % of peak for products, 30 % for attention), and so is what no
    data sheet tells: base, per token, in front.
    """
    gpu = servers.GPUS[row.system]
    active = 2e10 / (0.4 * gpu.flops[row.precision])
    expert_bytes = servers.EXPERT_PARAMETERS * servers.EXPERT_BYTES[row.precision]
    return Costs(
        base={},
        experts=expert_bytes / gpu.bandwidth,
        token=2e-6,
        decoded=2 * active,
        kv=servers.KV_VALUES * gpu.kv_bytes / gpu.bandwidth,
        prefill=active,
        context=4 * 48 * 128 * servers.LAYERS / (0.3 * gpu.flops["bf16"]),
        front=0.03,
    )


@dataclass(frozen=True, eq=False)
class Reading:
    """How rows are read.

    Attributes
    ----------
    data_parallel : collection of str or None
        Configurations whose attention was data parallel; None takes all for that.
    rounds : int
        Requests of a run, over those in flight.
    without : collection of str
        Coefficients that are zero, to see what they are needed for.
    """

    data_parallel: Collection[str] | None
    rounds: int = servers.ROUNDS
    without: Collection[str] = ()
    _linear: dict[tuple[Row, Server, str], np.ndarray] = field(default_factory=dict)

    def server(self, row: Row, costs: Costs) -> Server:
        """Return the server of a row."""
        return servers.server_of(row, reserve=costs.reserve, data_parallel=self.data_parallel)

    def predict(self, row: Row, costs: Costs) -> np.ndarray:
        """Return TPOT and TTFT of a row as simulated, shape (2,)."""
        server = self.server(row, costs)
        seconds = servers.measure(row, server, costs.step_time(server), self.rounds)
        return seconds + np.array([0.0, costs.front])

    def column(self, row: Row, costs: Costs, name: str) -> np.ndarray:
        """Return what one second of a coefficient adds to TPOT and TTFT of a row, shape (2,)."""
        if name == "front":
            return np.array([0.0, 1.0])
        server = self.server(row, costs)
        key = row, server, name
        if key in self._linear:
            return self._linear[key]
        value = costs.base[server.layout] if name == "base" else getattr(costs, name)
        more = self.predict(row, costs.scaled(name, 1 + NUDGE))
        column = (more - self.predict(row, costs)) / (NUDGE * value)
        if server.ranks == 1:  # with one rank it is the same whatever the coefficients
            self._linear[key] = column
        return column


@dataclass(frozen=True, eq=False)
class Fit:
    """Coefficients of one family, from some of its rows."""

    rows: Sequence[Row]
    reading: Reading

    @cached_property
    def sheet(self) -> Costs:
        """What data sheets say, for the layouts among the rows."""
        sheet = data_sheet(self.rows[0])
        return replace(
            sheet,
            **dict.fromkeys(self.reading.without, 0.0),
            base={self.reading.server(row, sheet).layout: 0.006 for row in self.rows},
        )

    def costs(self, turns: int = 2) -> Costs:
        """Fit coefficients, then the reserve, in turns; the last turn's are kept."""
        costs = self.sheet
        for _ in range(turns):
            costs = self._coefficients(costs)
            costs = self._reserve(costs)
        return self._coefficients(costs)

    def _coefficients(self, start: Costs) -> Costs:
        names = [("base", layout) for layout in self.sheet.base] + [
            (name, "") for name in (*NAMES[1:], "front") if name not in self.reading.without
        ]
        prior = np.log([_get(self.sheet, *name) for name in names])
        columns = np.array([self._columns(row, start, names) for row in self.rows])
        trust = np.array([1 / SHEET_ERROR.get(name, GUESS_ERROR) for name, _ in names])
        measured = np.array([(row.tpot_s, row.ttft_s) for row in self.rows])
        weight = np.array([self._weights(row, start) for row in self.rows]) / NOISE

        def errors(logs: np.ndarray) -> np.ndarray:
            each = (weight * np.log(columns @ np.exp(logs) / measured)).ravel()
            # Least squares near zero, absolute values far out, and smooth between.
            robust = np.sign(each) * np.sqrt(2 * (np.sqrt(1 + each**2) - 1))
            return np.concatenate((robust, trust * (logs - prior)))

        found = np.exp(least_squares(errors, prior).x)
        costs = start
        for (name, layout), value in zip(names, found.tolist(), strict=True):
            costs = _set(costs, name, layout, value)
        return costs

    def _weights(self, row: Row, costs: Costs) -> tuple[float, float]:
        over = servers.overloaded(row, self.reading.server(row, costs))
        return 1.0, OVERLOADED_WEIGHT if over else TTFT_WEIGHT

    def _columns(self, row: Row, costs: Costs, names: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return what one second of each coefficient adds to both figures, shape (2, names)."""
        layout = self.reading.server(row, costs).layout
        return np.transpose(
            [
                self.reading.column(row, costs, name) if of in {"", layout} else np.zeros(2)
                for name, of in names
            ]
        )

    def _reserve(self, costs: Costs) -> Costs:
        """Choose the reserve that tells the TTFT best of rows that want more KV than it leaves."""
        most = replace(costs, reserve=RESERVES[-1])
        tight = [
            row for row in self.rows if servers.held_tokens(row) > 0.7 * self._holds(row, most)
        ]
        if not tight:
            return costs
        return min(
            (replace(costs, reserve=reserve) for reserve in RESERVES),
            key=lambda each: sum(
                abs(np.log(self.reading.predict(row, each)[1] / row.ttft_s)) for row in tight
            ),
        )

    def _holds(self, row: Row, costs: Costs) -> float:
        server = self.reading.server(row, costs)
        return server.capacity * server.ranks


def _get(costs: Costs, name: str, layout: str) -> float:
    return costs.base[layout] if layout else getattr(costs, name)


def _set(costs: Costs, name: str, layout: str, value: float) -> Costs:
    if layout:
        return replace(costs, base={**costs.base, layout: value})
    return replace(costs, **{name: value})
