"""The names users import, and the errors they catch."""

import subprocess
import sys

import pytest

import brsolver.routers
import brsolver.simulator
import brsolver.tuning
from brsolver import errors


def test_the_lazy_map_and_the_list_agree():
    lazy = {name for names in brsolver._HOMES.values() for name in names}
    assert set(brsolver.__all__) == lazy | {"BrsolverError", "__version__"}


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = brsolver.simulat


@pytest.mark.parametrize(
    "module", ["brsolver", "brsolver.simulator.params", "brsolver.routers.params"]
)
def test_what_the_command_line_needs_imports_nothing_heavy(module):
    heavy = "{'numpy', 'numba', 'matplotlib'}"
    code = f"import {module}, sys; print(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    "package", [brsolver, brsolver.routers, brsolver.simulator, brsolver.tuning]
)
def test_lazy_packages_have_what_they_list(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute"):
        _ = package.nothing


def test_comparing_is_a_function_however_it_is_imported():
    code = (
        "from brsolver import compare; import brsolver.compare\n"
        "from brsolver import compare as two\n"
        "for call in (compare, two, brsolver.compare, brsolver.compare.compare):\n"
        "    try: call(None, 'none-such', workers=4)\n"
        "    except brsolver.BrsolverError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.count("unknown policy 'none-such'") == 4


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
