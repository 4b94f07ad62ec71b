"""The conformance kit finds every planted fault, and passes the backend without one."""

import pytest

from convcore.registry import registry
from convcore.testing import planted

pytest_plugins = "pytester"

WRONG = "elements are wrong"

# The test that finds each fault, and what it says.
FAULTS = {
    "planted-empty": ("test_value", "declares all that this problem needs, but refuses it: not yet"),
    "planted-wordless": ("test_value", "supports() must return True or a reason in words, got False"),
    "planted-promising": ("test_value", "no dilation after all"),
    "planted-liar": ("test_value", WRONG),
    "planted-wrongdtype": ("test_value", "dtype is float64, must be float32"),
    "planted-flipped": ("test_value", WRONG),
    "planted-nostride": ("test_value", WRONG),
    "planted-nodilation": ("test_value", WRONG),
    "planted-swappedpadding": ("test_value", WRONG),
    "planted-wrongboundary": ("test_value", WRONG),
    "planted-wrongfill": ("test_value", WRONG),
    "planted-interleaved": ("test_value", WRONG),
    "planted-halfprecision": ("test_value", WRONG),
    "planted-nancleaner": ("test_not_a_number", WRONG),
    "planted-droppedtile": ("test_value", WRONG),
    "planted-accumulating": ("test_value", "the result is added to what stood in `out`"),
    "planted-overrunning": ("test_value", "wrote out of bounds, beyond the end of `out`"),
    "planted-mutating": ("test_value", "its operand `x` was changed"),
    "planted-nobias": ("test_value", WRONG),
    "planted-random": ("test_deterministic", "gives other bits when called again"),
    "planted-fallback": ("test_runs_itself", "the work was done by another backend: 'numpy' (convcore_numpy)"),
    "planted-substitute": ("test_named_algorithm", "accepts an algorithm that does not exist"),
    "planted-lastofequal": ("test_value", WRONG),
    "planted-zeropadding": ("test_value", WRONG),
    "planted-greedy": ("test_workspace_limit", "uses 1 bytes of workspace where 0 are allowed"),
}


@pytest.fixture(scope="module", autouse=True)
def planted_backends():
    registry().add_plugin("planted", planted)
    yield
    registry().remove_plugin("planted")


def run_kit(pytester, name, *arguments):
    kit = (
        "-p",
        "no:cacheprovider",
        "--pyargs",
        "convcore.testing",
        "--convcore-profile",
        "quick",
        "--convcore-backend",
        name,
    )
    return pytester.runpytest_inprocess(*kit, *arguments)


def test_every_planted_backend_is_expected():
    assert set(FAULTS) | {"planted-faultless"} == set(planted.PLANTED)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(pytester, name):
    test, words = FAULTS[name]
    result = run_kit(pytester, name, "-x", "-k", test)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"FAILED *::{test}[[]{name}*"])
    assert words in result.stdout.str()


def test_faultless_backend_passes(pytester):
    result = run_kit(pytester, "planted-faultless")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes().keys() == {"passed"}
