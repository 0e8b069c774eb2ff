"""The tables of a page: figures that decide, the others by group, and what each worker did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.report.groups import best, deciding, directed, groups, measured
from brsolver.report.labels import MetricInfo, format_half_width, format_number
from brsolver.report.tables import policy_remarks, ratio_text, spread_text
from brsolver.results.deciding import change

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.results.comparison import Comparison

COLUMNS = 6
"""Policies beside each other in a table, so that no column is cut off on a desktop."""
RANKS = 64
"""Workers that are listed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Tables of the same figures, for all policies, a few in each.

    Attributes
    ----------
    heading : str
        Empty for the figures that decide.
    tables : tuple of dict
        Each with ``policies``, a list of (policy, remarks), and ``rows``.
    """

    heading: str
    tables: tuple[dict[str, Any], ...]


def metric_tables(comparison: Comparison, workers: int, same: Mapping[str, str]) -> list[Block]:
    """Return the blocks of tables for one number of workers; the first is of what decides."""
    blocks = []
    for heading, infos in (("", deciding()), *groups()):
        shown = [each for each in infos if measured(comparison, workers, each)]
        if shown:
            parts = _parts(comparison.policies)
            tables = tuple(_table(comparison, workers, part, shown, same) for part in parts)
            blocks.append(Block(heading=heading, tables=tables))
    return blocks


def _parts(policies: Sequence[str]) -> list[Sequence[str]]:
    count = -(-len(policies) // COLUMNS)
    # As many in each: a last table of one column would look like a mistake.
    size = -(-len(policies) // count)
    return [policies[at : at + size] for at in range(0, len(policies), size)]


def _table(
    comparison: Comparison,
    workers: int,
    policies: Sequence[str],
    infos: Sequence[MetricInfo],
    same: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "policies": [(policy, policy_remarks(comparison, policy, same)) for policy in policies],
        "rows": [_row(comparison, workers, policies, info) for info in infos],
    }


def _row(
    comparison: Comparison, workers: int, policies: Sequence[str], info: MetricInfo
) -> dict[str, Any]:
    shown = directed(comparison, workers, info)
    marked = best(comparison, workers, shown)
    return {
        "info": info,
        "cells": [_cell(comparison, workers, policy, shown, marked) for policy in policies],
    }


def _cell(
    comparison: Comparison, workers: int, policy: str, info: MetricInfo, marked: Sequence[str]
) -> dict[str, Any]:
    estimate = comparison.estimate(policy, workers, info.name)
    alone = policy == comparison.baseline
    return {
        "policy": policy,
        "mean": format_number(estimate.mean * info.scale),
        "spread": spread_text(estimate, info),
        "ratio": "" if alone else ratio_text(estimate),
        "doubt": format_half_width(estimate.ratio_half_width, estimate.ratio),
        "verdict": "" if alone else change(estimate, info.better),
        "best": policy in marked,
    }


def rank_tables(comparison: Comparison, workers: int) -> list[dict[str, Any]]:
    """Return what each worker did under each policy with the first seed."""
    tables = []
    for policy in comparison.policies:
        ranks = comparison.cell(policy, workers)[0].ranks
        if ranks is None:
            continue
        columns = (
            ranks.requests, ranks.queue, ranks.wait_mean_s, ranks.wait_max_s, ranks.load_mean,
        )  # fmt: skip
        listed = list(zip(*(column[:RANKS].tolist() for column in columns), strict=True))
        tables.append(
            {
                "policy": policy,
                "left_out": max(0, ranks.requests.size - RANKS),
                "rows": [[format_number(value) for value in row] for row in listed],
            }
        )
    return tables
