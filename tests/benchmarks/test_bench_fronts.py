"""Rollout batches in virtual time: every rule ends them, within what servers can do."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._rollouts import Batch, Farm, Rollout, TwoChoices
from benchmarks.bench_fronts import RULES, main
from brsolver.hardware.costs import step_costs
from brsolver.hardware.model import step_time_of

GROUPS, EACH, SERVERS = 6, 4, 3


def batch() -> Batch:
    return Batch.drawn(np.random.default_rng(3), groups=GROUPS, each=EACH, most=200)


def run(rule: str, *, barrier: bool):
    rollout = Rollout(Farm(servers=SERVERS, slots=4, barrier=barrier), batch())
    return rollout.run(RULES[rule](rollout, np.random.default_rng(4)))


@pytest.mark.parametrize("barrier", [True, False])
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_ends_a_batch_and_does_so_again(rule, barrier):
    found = run(rule, barrier=barrier)
    shortest = step_costs(step_time_of(Farm().hardware), budget=0).base_s
    # Tokens of one response come one a step.
    assert found.makespan_s > shortest * int(batch().output_tokens.max())
    assert found.most_s <= found.makespan_s
    assert 0.0 <= found.lost_share < 1.0
    assert 0.0 <= found.cached_share <= 1.0 - 1.0 / EACH
    assert run(rule, barrier=barrier) == found


def test_responses_to_a_prompt_have_its_length():
    drawn = batch()
    assert len(drawn) == GROUPS * EACH
    for group in range(GROUPS):
        assert len(set(drawn.prompt_tokens[drawn.group == group].tolist())) == 1


def test_two_choices_keep_to_the_limit():
    rollout = Rollout(Farm(servers=SERVERS, slots=4), batch())
    rule = TwoChoices(rollout, np.random.default_rng(4), limit=2)
    most = []
    send = rollout.send
    rollout.send = lambda *given: (most.append(int(rule._inflight.max())), send(*given))
    rollout.run(rule)
    assert max(most) == 2
    assert len(most) == GROUPS * EACH


def test_a_table_has_a_row_for_each_rule(capsys):
    main(["--requests", "16", "--seeds", "1", "--servers", "2", "--slots", "4", "--rules", "verl"])
    printed = capsys.readouterr().out
    assert printed.count("| verl |") == 2
    assert "2 ranks behind one barrier, 4 slots each" in printed
