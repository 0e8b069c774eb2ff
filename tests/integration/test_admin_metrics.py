from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files

import prometheus_client
import pytest
from admin_events import Clock, Source
from admin_traffic import play, served, traffic
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from integration.admin.metrics import KEPT_S, Metrics
from integration.admin.shadow import ShadowFigures
from integration.admin.window import Window
from integration.doors.prefill_figures import PrefillTier, PrefillWorker
from integration.picker import Gauges
from integration.picker.events import NOWHERE, End, Measured

DASHBOARD = json.loads((files("integration.admin") / "dashboard.json").read_text())
NAMED = re.compile(r"\bbrsolver_\w+")
FIGURES = ShadowFigures(
    policy="vllm", mode="immediate", routes=False, requests=3, tpot_s=0.05, ttft_s=None,
    tokens_per_s=100.0, lost_share=0.25, behind_s=1.5,
)  # fmt: skip

MEASURED = Measured(ttft_s=0.3, worker_ttft_s=0.25, decode_s=0.9, decoded=9)
TOLD = Gauges(firsts=5, firsts_s=1.25, gaps=100, gaps_s=2.5)
PREFILL = PrefillTier(
    waiting=3,
    under_way=2,
    prompts={"computed": 5, "decode": 1},
    calls={"p0": {"computed": 5, "failed": 2}},
    workers=(
        PrefillWorker(
            name="p0", address="10.0.0.9:8000", state="down", prompts=2, tokens=700, kept=1,
            kv_usage=0.5, capacity=None,
        ),
    ),
)  # fmt: skip
OTHER = replace(FIGURES, policy="jsq-load", ttft_s=0.5)


def counted() -> tuple[Metrics, Source]:
    clock, names = Clock(), ["w0", "w1"]
    window = Window(names, clock=clock, name_of=names.__getitem__)
    # The engine of w1 publishes its times, that of w0 does not.
    metrics = Metrics(
        window, lambda: [FIGURES, OTHER], {1: TOLD, 0: Gauges(running=1)}.get, lambda: PREFILL
    )
    return metrics, Source(clock, window, metrics)


def everything() -> Metrics:
    """Return metrics that have seen all kinds of events."""
    metrics, source = counted()
    source.served("a", measured=MEASURED)
    source.served("b", 1, tokens=20, measured=MEASURED)
    source.requested("c")
    source.decided("c", 1, held_s=0.2, fallback=True)
    source.stepped([100, 300], lost_s=(0.01, -0.002, 0.0, 0.0), backlog=[0, 50])
    source.requested("d")
    source.refused("d")
    source.fault("policy")
    source.changed(0, "down")
    source.requested("e")
    source.ended("e", NOWHERE, End.DISCONNECTED, tokens=None, ttft_s=None, tpot_s=None)
    return metrics


def test_tokens_that_no_engine_told_are_counted_apart():
    metrics, source = counted()
    source.served("told", tokens=20)
    source.served("not asked", tokens=None, counted=7)
    assert metrics.value("brsolver_output_tokens_total") == 20
    assert metrics.value("brsolver_untold_output_tokens_total") == 7


def test_what_comes_back_is_counted_by_who_did_not_take_it():
    metrics, source = counted()
    source.requested("a")
    for worker in (1, 0):
        source.decided("a", worker)
        source.returned("a", worker)
    assert metrics.value("brsolver_returned_requests_total", {"worker": "w1"}) == 1
    assert metrics.value("brsolver_held_requests") == 1
    assert metrics.value("brsolver_held_seconds_count") == 2


def test_every_event_is_counted():
    value = everything().value
    assert value("brsolver_requests_total") == 5
    assert value("brsolver_routed_requests_total", {"policy": "br-t"}) == 3
    assert value("brsolver_routing_seconds_count") == 3
    assert value("brsolver_decision_seconds_total") == pytest.approx(6e-4)
    assert value("brsolver_held_seconds_sum") == pytest.approx(0.2)
    assert value("brsolver_fallbacks_total", {"reason": "fail-safe"}) == 1
    assert value("brsolver_refused_requests_total", {"status": "429"}) == 1
    assert value("brsolver_faults_total", {"kind": "policy"}) == 1
    assert value("brsolver_worker_changes_total", {"what": "down"}) == 1
    ended = {"worker": "w0", "end": "finished"}
    assert value("brsolver_ended_requests_total", ended) == 1
    assert value("brsolver_ended_requests_total", {"worker": "", "end": "disconnected"}) == 1
    assert value("brsolver_output_tokens_total") == 30
    assert value("brsolver_model_ttft_seconds_count", {"worker": "w1"}) == 1
    assert value("brsolver_model_tpot_seconds_sum", {"worker": "w0"}) == pytest.approx(0.02)
    assert value("brsolver_stream_ttft_seconds_sum", {"worker": "w1"}) == pytest.approx(0.3)
    assert value("brsolver_stream_tpot_seconds_sum", {"worker": "w0"}) == pytest.approx(0.1)


def test_times_are_the_engines_own_where_it_publishes_them_and_envoys_elsewhere():
    value = everything().value
    engines, envoys = {"worker": "w1", "source": "engine"}, {"worker": "w0", "source": "envoy"}
    assert value("brsolver_ttft_seconds_sum", engines) == 1.25
    assert value("brsolver_ttft_seconds_count", engines) == 5
    assert value("brsolver_tpot_seconds_sum", engines) == 2.5
    assert value("brsolver_tpot_seconds_count", engines) == 100
    assert value("brsolver_ttft_seconds_sum", envoys) == pytest.approx(0.25)
    assert value("brsolver_ttft_seconds_count", envoys) == 1
    # By token, as engines have it.
    assert value("brsolver_tpot_seconds_sum", envoys) == pytest.approx(0.9)
    assert value("brsolver_tpot_seconds_count", envoys) == 9
    for worker, other in (("w1", "envoy"), ("w0", "engine")):
        assert value("brsolver_ttft_seconds_count", {"worker": worker, "source": other}) is None


def test_time_lost_is_counted_by_part_and_never_shrinks():
    value = everything().value
    assert value("brsolver_step_seconds_total") == pytest.approx(0.04)
    # What sequences gave back is taken off what was lost to prefill.
    assert value("brsolver_lost_seconds_total", {"part": "prefill"}) == pytest.approx(0.008)
    assert value("brsolver_lost_seconds_total", {"part": "sequences"}) == 0
    assert value("brsolver_kv_max_tokens_total") == 300
    assert value("brsolver_kv_mean_tokens_total") == 200


def test_levels_are_those_of_the_moment():
    value = everything().value
    assert value("brsolver_kv_tokens", {"worker": "w1"}) == 300
    assert value("brsolver_active_requests", {"worker": "w1"}) == 1
    assert value("brsolver_backlog_tokens", {"worker": "w1"}) == 50
    assert value("brsolver_worker_up", {"worker": "w0"}) == 0
    assert value("brsolver_held_requests") == 0
    assert value("brsolver_imbalance") == pytest.approx(1.5)
    assert value("brsolver_shadow_tpot_seconds", {"policy": "vllm"}) == pytest.approx(0.05)
    assert value("brsolver_shadow_ttft_seconds", {"policy": "vllm"}) is None


def test_a_prefill_tier_is_told_of_where_there_is_one():
    value = everything().value
    assert value("brsolver_prefill_waiting_requests") == 3
    assert value("brsolver_prefill_calls_total", {"worker": "p0", "result": "failed"}) == 2
    assert value("brsolver_prefill_prompts_total", {"result": "computed"}) == 5
    assert value("brsolver_prefill_worker_up", {"worker": "p0"}) == 0
    assert value("brsolver_prefill_tokens", {"worker": "p0"}) == 700
    clock = Clock()
    alone = Metrics(Window(["w0"], clock=clock))
    assert b"brsolver_prefill" not in alone.render()


def test_what_is_rendered_can_be_read_back():
    families = list(text_string_to_metric_families(everything().render().decode()))
    assert all(family.name.startswith("brsolver_") for family in families)
    assert all(family.documentation for family in families)


def test_several_may_stand_in_one_process_and_none_in_the_global_registry():
    before = {family.name for family in prometheus_client.REGISTRY.collect()}
    counted()
    counted()
    assert {family.name for family in prometheus_client.REGISTRY.collect()} == before


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_name_can_be_a_label(worker, kind):
    clock = Clock()
    window = Window([worker], clock=clock)
    metrics = Metrics(window)
    Source(clock, window, metrics).fault(kind)
    list(text_string_to_metric_families(metrics.render().decode()))


def of_worker(metrics: Metrics, name: str) -> set[str]:
    """Names of the samples that there are of a worker."""
    told = text_string_to_metric_families(metrics.render().decode())
    return {s.name for family in told for s in family.samples if s.labels.get("worker") == name}


ENDED = "brsolver_ended_requests_total"
COUNTED = {ENDED, "brsolver_returned_requests_total"} | {
    f"brsolver_{who}_{what}_seconds_count"
    for who in ("stream", "model")
    for what in ("ttft", "tpot")
}


def one_that_left() -> tuple[Metrics, Source]:
    """Return metrics of two workers of which the first has counted all there is, and is gone."""
    metrics, source = counted()
    for worker in (0, 1):
        source.requested(f"back {worker}")
        source.decided(f"back {worker}", worker)
        source.returned(f"back {worker}", worker)
        source.served(f"whole {worker}", worker, measured=MEASURED)
    source.changed(0, "draining")
    source.changed(0, "gone")
    return metrics, source


def test_what_was_counted_of_a_worker_that_is_gone_is_told_for_a_while():
    metrics, source = one_that_left()
    source.clock.now += KEPT_S - 1
    assert of_worker(metrics, "w0") >= COUNTED
    assert not of_worker(metrics, "w0") & {"brsolver_worker_up", "brsolver_ttft_seconds_count"}
    source.clock.now += 1
    assert of_worker(metrics, "w0") == set()
    assert of_worker(metrics, "w1") >= COUNTED | {"brsolver_worker_up"}
    assert metrics.value("brsolver_output_tokens_total") == 20
    assert metrics.value(ENDED, {"worker": "w0", "end": "finished"}) is None


def test_nobody_has_to_ask_for_workers_that_are_gone_to_be_forgotten():
    metrics, source = one_that_left()
    source.clock.now += KEPT_S
    source.changed(1, "down")
    assert metrics.value(ENDED, {"worker": "w0", "end": "finished"}) is None


def test_who_takes_the_index_of_one_that_is_gone_keeps_its_own():
    names = ["w0", "w1"]
    clock = Clock()
    window = Window(names, clock=clock, name_of=names.__getitem__)
    metrics = Metrics(window)
    source = Source(clock, window, metrics)
    for name in ("w0", "pod"):
        source.served(name, measured=MEASURED)
        if name == "w0":
            source.changed(0, "gone")
            names[0] = "pod"
            source.changed(0, "added")
    clock.now += KEPT_S
    assert of_worker(metrics, "w0") == set()
    assert of_worker(metrics, "pod") >= {"brsolver_worker_up", "brsolver_ttft_seconds_count"}
    assert metrics.value(ENDED, {"worker": "pod", "end": "finished"}) == 1


@pytest.mark.parametrize(("after_s", "ends"), [(KEPT_S - 1, 2), (KEPT_S, 1)])
def test_one_that_comes_back_soon_counts_on_and_later_begins_anew(after_s, ends):
    metrics, source = one_that_left()
    source.clock.now += after_s
    source.changed(0, "added")
    source.clock.now += KEPT_S
    source.served("again", 0, measured=MEASURED)
    labels = {"worker": "w0", "end": "finished"}
    assert metrics.value(ENDED, labels) == ends
    times = {"worker": "w0", "source": "envoy"}
    assert metrics.value("brsolver_ttft_seconds_count", times) == ends
    assert metrics.value("brsolver_stream_ttft_seconds_count", {"worker": "w0"}) == ends


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_query_of_the_dashboard_names_metrics_that_exist():
    text = everything().render().decode()
    samples = {s.name for family in text_string_to_metric_families(text) for s in family.samples}
    asked = {name for query in queries() for name in NAMED.findall(query)}
    assert asked <= samples
    # And none is left out, but for sums and counts of histograms.
    told = {name for name in samples if not re.search("_(sum|count|created)$", name)}
    assert told - asked == {"brsolver_prompt_tokens_total"}


def test_labels_in_the_dashboard_exist():
    legends = " ".join(t["legendFormat"] for p in DASHBOARD["panels"] for t in p["targets"])
    known = {
        "source",
        "worker",
        "policy",
        "part",
        "reason",
        "end",
        "status",
        "kind",
        "what",
        "result",
    }
    assert set(re.findall(r"{{(\w+)}}", legends)) <= known


def test_panels_of_the_dashboard_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_figures_of_a_real_core_add_up():
    real = served(policy="jsq-load", mode="immediate")
    window = Window([w.spec.name for w in real.core.workers], clock=lambda: real.now_s)
    metrics = Metrics(window)
    real.core.listeners.extend([window, metrics])
    requests = traffic(40, per_second=20.0)
    play(real, requests)
    assert metrics.value("brsolver_requests_total") == 40
    tokens = sum(each.output_tokens or 0 for each in requests)
    assert metrics.value("brsolver_output_tokens_total") == tokens
    ends = [
        metrics.value("brsolver_ended_requests_total", {"worker": each.name, "end": "finished"})
        for each in window.workers
    ]
    assert sum(end or 0 for end in ends) == 40
    metrics.render()
    assert (window.live, window.held, window.kv_tokens.any()) == ({}, 0, False)
    stepped = metrics.value("brsolver_step_seconds_total")
    spent = window.buckets.spent(window.buckets.numbers(-1))
    assert spent[:-1].sum() <= stepped + 1e-9
