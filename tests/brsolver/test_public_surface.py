"""The names users import, and the errors they catch."""

import subprocess
import sys

import pytest

import brsolver
from brsolver import errors


def test_every_public_name_is_there():
    for name in brsolver.__all__:
        assert getattr(brsolver, name) is not None
    assert set(brsolver.__all__) <= set(dir(brsolver))


def test_the_lazy_map_and_the_list_agree():
    assert set(brsolver.__all__) == set(brsolver._HOME_OF) | {"BrsolverError", "__version__"}


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = brsolver.simulat


def test_importing_brsolver_imports_nothing_heavy():
    code = (
        "import brsolver, sys; print(*sorted({'numpy', 'numba', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    "error",
    [e for e in vars(errors).values() if isinstance(e, type) and e.__module__ == "brsolver.errors"],
)
def test_all_errors_share_one_base_and_are_documented(error):
    assert issubclass(error, errors.BrsolverError)
    assert error.__name__ in (errors.__doc__ or "")


def test_suggestions_name_the_nearest():
    near = errors.UnknownNameError.suggest("policy", "jsqload", ["jsq-load", "random"])
    far = errors.UnknownNameError.suggest("policy", "zzz", ["jsq-load", "random"])
    assert str(near) == (
        "unknown policy 'jsqload': did you mean 'jsq-load'? known: jsq-load, random"
    )
    assert str(far) == "unknown policy 'zzz': known: jsq-load, random"


def test_missing_extras_are_named():
    error = errors.MissingExtraError.for_extra("highspy", "oracles")
    assert "pip install 'brsolver[oracles]'" in str(error)
