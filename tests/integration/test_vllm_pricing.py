"""What routers are told of costs and promises, and where nothing may be held for them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_vllm import Deployment, vllm_config

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware import read_hardware
from brsolver.hardware.online import OnlineEstimate
from brsolver.policy import as_policy
from integration.vllm.config import from_environment
from integration.vllm.deployment import describe
from integration.vllm.inspection import try_names
from integration.vllm.pricing import PATIENCE, Pricing, remarks
from integration.vllm.reload import switch

HARDWARE = "minimax-m2.7-h200-dp4"
KNOWN = OnlineEstimate(
    base=0.02,
    per_sequence=1e-4,
    per_token=1e-7,
    per_prefill_token=5e-5,
    identified=(True, True, True),
    moving=(True, True, True),
    steps=500,
    error=0.01,
    changes=0,
)


def config(tmp_path, text: str):
    path = tmp_path / "router.toml"
    path.write_text(f'policy = "br-t"\n{text}\n')
    found = from_environment({"BRSOLVER_ROUTER": str(path)})
    assert found is not None
    return found


def deployment(tmp_path, text: str, **given) -> Deployment:
    config(tmp_path, text)
    return Deployment(str(tmp_path / "router.toml"), "pooled", budget=4096, **given)


class Holds:
    holds_s = 1.0

    def route(self, cluster, waiting):
        return []


HOLDS = as_policy(Holds())
NEVER = as_policy(SimpleNamespace(route=lambda cluster, waiting: []))


class TestConfigured:
    def test_by_name_with_the_budget_of_the_deployment(self, tmp_path):
        d = deployment(tmp_path, f'hardware = "{HARDWARE}"')
        costs, step_time = d.session.costs, read_hardware(HARDWARE).step_time
        assert costs.budget == 4096
        assert costs.per_prefill_token_s == step_time.per_prefill_token > 0
        assert costs.per_kv_token_s == step_time.per_token > 0

    def test_by_a_file_that_is_seen_from_the_one_that_names_it(self, tmp_path, monkeypatch):
        (tmp_path / "mine.toml").write_text(
            'name = "mine"\nsource = "a test"\nlicence = "none"\nconditions = "none"\n'
            "[step_time]\nmodel = 'loads'\nbase = 0.02\nper_sequence = 0.0\n"
            "per_token = 1e-7\nper_prefill_token = 5e-5\n"
        )
        monkeypatch.chdir("/")
        d = deployment(tmp_path, 'hardware = "mine.toml"')
        assert d.session.costs.per_prefill_token_s == 5e-5

    def test_hardware_that_is_none_is_refused_before_anything_starts(self, tmp_path):
        with pytest.raises(UnknownNameError, match="hardware"):
            try_names(config(tmp_path, 'hardware = "h2000"'))
        with pytest.raises(ParameterError, match=r"nowhere\.toml"):
            try_names(config(tmp_path, 'hardware = "nowhere.toml"'))

    @pytest.mark.parametrize("text", ["slo_ttft_ms = 0", "slo_tpot_ms = -1", "prefill = 3"])
    def test_what_cannot_be_is_refused(self, tmp_path, text):
        with pytest.raises(ParameterError, match=text.split()[0]):
            config(tmp_path, text)

    def test_promises_are_handed_on(self, tmp_path):
        d = deployment(tmp_path, "slo_ttft_ms = 1500\nslo_tpot_ms = 40")
        assert (d.session.objectives.ttft_s, d.session.objectives.tpot_s) == (1.5, 0.04)

    def test_a_model_without_a_barrier_has_no_costs(self, tmp_path):
        d = deployment(tmp_path, f'hardware = "{HARDWARE}"', moe=False)
        assert d.session.costs is None

    def test_a_change_of_configuration_changes_them(self, tmp_path):
        d = deployment(tmp_path, f'hardware = "{HARDWARE}"')
        switch(d.adapter, config(tmp_path, "slo_tpot_ms = 50"))
        assert d.session.costs is None
        assert d.session.objectives.tpot_s == 0.05
        switch(d.adapter, config(tmp_path, f'hardware = "{HARDWARE}"'))
        assert d.session.costs.per_prefill_token_s > 0


class TestFoundOut:
    def learned(self, estimate: OnlineEstimate, *, computes: bool = True, policy=HOLDS):
        return Pricing(4096).learned(estimate, policy, computes=computes)

    def test_costs_are_those_that_were_found(self):
        costs = self.learned(KNOWN)
        assert (costs.base_s, costs.per_sequence_s) == (0.02, 1e-4)
        assert (costs.per_kv_token_s, costs.per_prefill_token_s) == (1e-7, 5e-5)
        assert costs.budget == 4096

    @pytest.mark.parametrize("identified", [(True, False, True), (True, True, False)])
    def test_there_are_none_while_they_are_known_in_part(self, identified):
        assert self.learned(replace(KNOWN, identified=identified)) is None

    def test_what_a_sequence_costs_need_not_be_known(self):
        assert self.learned(replace(KNOWN, identified=(False, True, True))) is not None

    def test_where_prompts_come_computed_theirs_need_not_be_known(self):
        estimate = replace(KNOWN, per_prefill_token=0.0, identified=(True, True, False))
        assert self.learned(estimate, computes=False).budget == 0

    def test_they_change_when_they_have_noticeably_and_stay_when_they_are_known_no_more(self):
        pricing = Pricing(4096)
        first = pricing.learned(KNOWN, HOLDS, computes=True)
        near = replace(KNOWN, per_token=1.02e-7)
        assert pricing.learned(near, HOLDS, computes=True) is first
        far = replace(KNOWN, per_token=2e-7)
        assert pricing.learned(far, HOLDS, computes=True).per_kv_token_s == 2e-7
        lost = replace(far, identified=(False, False, False))
        assert pricing.learned(lost, HOLDS, computes=True).per_kv_token_s == 2e-7

    def test_it_is_said_once_to_who_waits_for_it(self, caplog):
        caplog.set_level("INFO", "vllm.brsolver")
        pricing = Pricing(4096)
        unknown = replace(KNOWN, identified=(True, True, False), steps=PATIENCE)
        for estimate in (unknown, unknown, KNOWN, KNOWN):
            pricing.learned(estimate, NEVER, computes=True)
        assert not caplog.messages
        pricing = Pricing(4096)
        for estimate in (unknown, unknown, KNOWN, replace(KNOWN, per_token=1.0)):
            pricing.learned(estimate, HOLDS, computes=True)
        assert ["a prefill token costs" in each for each in caplog.messages] == [True, False]
        assert "found out what a step costs" in caplog.messages[1]


class TestDeployments:
    def known(self, *, clients: int = 1, transfer=None, **scheduler):
        config = vllm_config(budget=4096)
        vars(config.scheduler_config).update(scheduler)
        config.kv_transfer_config = transfer
        client = SimpleNamespace(
            vllm_config=config, core_engines=[b"\0\0"], client_count=clients, client_index=0
        )
        return describe(client)

    @pytest.mark.parametrize(
        ("connector", "role", "computes"),
        [
            ("NixlConnector", "kv_consumer", False),
            ("NixlConnector", "kv_both", True),
            ("NixlConnector", "kv_producer", True),
            ("DecodeBenchConnector", "kv_both", False),
        ],
    )
    def test_connectors_tell_whether_ranks_compute_prompts(self, connector, role, computes):
        transfer = SimpleNamespace(kv_connector=connector, kv_role=role)
        known = self.known(transfer=transfer)
        assert known.scheduling("auto").computes is computes
        assert known.scheduling(not computes).computes is not computes

    def test_without_one_they_do_and_steps_go_as_far_as_their_budget(self):
        found = self.known(async_scheduling=True).scheduling("auto")
        assert (found.computes, found.budget, found.lag) == (True, 4096, 2)

    def test_nobody_guesses_what_a_step_computes_who_cannot_know(self):
        assert self.known(clients=2).scheduling("auto").budget == 0
        assert self.known(prefill_schedule_interval=8).scheduling("auto").budget == 0

    def test_where_prompts_come_computed_the_costs_have_no_budget(self, tmp_path):
        text = f'hardware = "{HARDWARE}"\nprefill = false'
        d = deployment(tmp_path, text)
        assert d.session.costs.budget == 0

    def test_two_that_hold_are_one_too_many(self):
        known = self.known(prefill_schedule_interval=8)
        (line,) = remarks(HOLDS, known, priced=True)
        assert "--prefill-schedule-interval is 8" in line
        assert not list(remarks(NEVER, known, priced=False))
        (line,) = remarks(HOLDS, self.known(), priced=False)
        assert "is not found out here, and nothing is held" in line
        unsaid = replace(self.known(), budget=0)
        (line,) = remarks(HOLDS, unsaid, priced=False, named=True)
        assert "vLLM does not say" in line

    @pytest.mark.parametrize(
        ("prefill_s", "more", "given", "told"),
        [
            (0.0, "", {}, True),
            (5e-5, "", {}, False),
            (0.0, "prefill = false", {}, False),
            (0.0, "", {"moe": False}, False),
        ],
    )
    def test_hardware_without_a_prefill_cost_is_told_at_start(
        self, tmp_path, caplog, prefill_s, more, given, *, told
    ):
        (tmp_path / "mine.toml").write_text(
            'name = "mine"\nsource = "a test"\nlicence = "none"\nconditions = "none"\n'
            "[step_time]\nmodel = 'loads'\nbase = 0.02\nper_sequence = 0.0\n"
            f"per_token = 1e-7\nper_prefill_token = {prefill_s}\n"
        )
        d = deployment(tmp_path, f'hardware = "mine.toml"\n{more}', **given)
        with caplog.at_level("WARNING", "vllm.brsolver"):
            d.adapter.desk._announce()
        lines = [each for each in caplog.messages if "a prefill token costs its rank" in each]
        assert len(lines) == told
