from __future__ import annotations

import subprocess
import sys

import pytest

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from integration.vllm.config import from_environment, misspelt


def test_nothing_is_asked_for_without_the_variable():
    assert from_environment({}) is None
    assert from_environment({"BRSOLVER_ROUTER": "  "}) is None


def test_a_specification_names_policy_and_parameters():
    config = from_environment({"BRSOLVER_ROUTER": "br-h:horizon=40,gamma=0.9"})
    assert config is not None
    assert (config.policy.name, config.params.mode) == ("br-h", "pooled")
    assert (config.policy.params.horizon, config.policy.params.gamma) == (40, 0.9)
    assert config.predictor.name == "survival"
    assert config.policy is config.policy


def test_variables_choose_mode_predictor_and_record():
    config = from_environment(
        {
            "BRSOLVER_ROUTER": "br-0",
            "BRSOLVER_MODE": "immediate",
            "BRSOLVER_PREDICTOR": "none",
            "BRSOLVER_RECORD": "served.jsonl",
        }
    )
    assert config is not None
    assert config.params.mode == "immediate"
    assert config.predictor.name == "none"
    assert config.params.record == "served.jsonl"


def test_a_file_says_all_of_it_and_variables_win(tmp_path):
    path = tmp_path / "router.toml"
    path.write_text(
        'policy = "br-h:horizon=10,r_max=4"\nmode = "immediate"\nbudget_ms = 20\n'
        "[parameters]\nhorizon = 30\n[predictor_parameters]\n"
    )
    config = from_environment({"BRSOLVER_ROUTER": str(path), "BRSOLVER_MODE": "observe"})
    assert config is not None
    assert config.policy.given == {"horizon": 30, "r_max": "4"}
    assert (config.policy.params.horizon, config.policy.params.r_max) == (30, 4)
    assert config.params.mode == "observe"
    assert config.params.budget_ms == 20
    assert config.source == str(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("policy = ", "cannot be read as TOML"),
        ('mode = "pooled"', "'policy' is missing"),
        ('policy = "br-0"\nmood = "pooled"', "mood"),
        ('policy = "br-0"\nmode = "later"', "mode is 'later'"),
        ('policy = "br-0"\nbudget_ms = 0', "budget_ms is 0"),
        ('policy = "br-0"\nbudget_ms = "fast"', "budget_ms is 'fast', must be a number"),
        ('policy = "br-0"\nparameters = 3', "parameters is 3, must be a table"),
        ('policy = "br-0"\nrecord = "trace.csv"', "must end in .jsonl"),
        ('policy = "br-0"\nrecord_mib = 0', "record_mib is 0, must be from 1 to 1,000,000 MiB"),
        ('policy = "br-0"\nrecord_mib = 0.5', "record_mib is 0.5, must be"),
        ('policy = "br-0:"\nmax_failures = 0', "max_failures is 0"),
        ('policy = "br-0"\nrequest_tokens = -1', "request_tokens is -1, must be from 0"),
        ('policy = "br-0"\nrequest_tokens = "all"', "request_tokens is 'all', must be"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(tmp_path, text, told):
    path = tmp_path / "router.toml"
    path.write_text(text)
    with pytest.raises(BrsolverError) as error:
        from_environment({"BRSOLVER_ROUTER": str(path)})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ParameterError, match=r"nowhere\.toml"):
        from_environment({"BRSOLVER_ROUTER": "nowhere.toml"})


def test_unknown_names_are_the_registrys_to_refuse():
    config = from_environment({"BRSOLVER_ROUTER": "br-zero", "BRSOLVER_PREDICTOR": "crystal"})
    assert config is not None
    with pytest.raises(UnknownNameError, match="br-zero"):
        _ = config.policy
    with pytest.raises(UnknownNameError, match="crystal"):
        _ = config.predictor


@pytest.mark.parametrize("predictor", ["model", "model:withdraw=false"])
def test_what_a_table_alone_can_say_need_not_be_in_the_specification(tmp_path, predictor):
    path = tmp_path / "router.toml"
    path.write_text(
        f'policy = "br-0"\npredictor = "{predictor}"\n[predictor_parameters]\npath = "a"\n'
    )
    config = from_environment({"BRSOLVER_ROUTER": str(path)})
    assert config is not None
    assert config.predictor.params.path == "a"
    assert config.predictor.params.withdraw == (predictor == "model")


def test_engines_which_read_the_configuration_as_well_import_no_policies():
    code = (
        "import sys; from integration.vllm import plugin, wrapping, capability, shapes; "
        "from integration.vllm.config import from_environment; "
        "assert from_environment({'BRSOLVER_ROUTER': 'br-h:horizon=4'}) is not None; "
        "assert not {'numba', 'scipy', 'brsolver.routers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_files_content_may_have_been_read_already():
    environ = {"BRSOLVER_ROUTER": "nowhere.toml"}
    config = from_environment(environ, content=b'policy = "br-h"\nmode = "observe"')
    assert config is not None
    assert (config.policy.name, config.params.mode) == ("br-h", "observe")
    with pytest.raises(ParameterError, match=r"nowhere\.toml: cannot be read as TOML"):
        from_environment(environ, content=b"\xff")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("BRSOLVER_ROUTR", "did you mean BRSOLVER_ROUTER?"),
        ("BRSOLVER_MODES", "did you mean BRSOLVER_MODE?"),
        ("BRSOLVER_PREDICTORS", "did you mean BRSOLVER_PREDICTOR?"),
        ("BRSOLVER_RECORDS", "did you mean BRSOLVER_RECORD?"),
        ("BRSOLVER_POLICY", "did you mean BRSOLVER_ROUTER?"),
        ("BRSOLVER_router", "did you mean BRSOLVER_ROUTER?"),
        ("BRSOLVER_RECORD_MIB", "record_mib can be set in a TOML file only"),
        ("BRSOLVER_BUDGET_MS", "budget_ms can be set in a TOML file only"),
    ],
)
def test_variables_that_look_like_ours_are_told_of(name, told):
    assert misspelt({name: "x", "BRSOLVER_MODE": "pooled"}) == [f"{name} is not read: {told}"]


@pytest.mark.parametrize(
    "name",
    [
        *("BRSOLVER_ROUTER", "BRSOLVER_MODE", "BRSOLVER_PREDICTOR", "BRSOLVER_RECORD"),
        *("BRSOLVER_VLLM_RIG", "BRSOLVER_RIG_STEPS", "BRSOLVER_RIG_FORK"),
        *("BRSOLVER_HOME", "VLLM_ROUTR"),
    ],
)
def test_variables_that_are_read_or_of_another_purpose_are_not_told_of(name):
    assert misspelt({name: "x"}) == []
