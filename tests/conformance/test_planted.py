"""The conformance kit finds every planted fault, and passes the backend without one."""

import pytest

from convcore.registry import registry
from convcore.testing import conformance, planted

pytest_plugins = "pytester"

WRONG = "elements are wrong"

# The test that finds each fault, and what it says.
FAULTS = {
    "planted-empty": ("test_does_something", "refuses a plain 3x3 kernel: not yet"),
    "planted-wordless": ("test_does_something", "supports() must return True or a reason in words, got False"),
    "planted-promising": ("test_value", "no dilation after all"),
    "planted-liar": ("test_does_something", WRONG),
    "planted-wrongdtype": ("test_does_something", "dtype is float64, must be float32"),
    "planted-flipped": ("test_does_something", WRONG),
    "planted-nostride": ("test_value", WRONG),
    "planted-nodilation": ("test_value", WRONG),
    "planted-swappedpadding": ("test_value", WRONG),
    "planted-wrongboundary": ("test_value", WRONG),
    "planted-wrongfill": ("test_value", WRONG),
    "planted-interleaved": ("test_value", WRONG),
    "planted-halfprecision": ("test_does_something", WRONG),
    "planted-nancleaner": ("test_not_a_number", WRONG),
    "planted-droppedtile": ("test_value", WRONG),
    "planted-accumulating": ("test_does_something", WRONG),
    "planted-overrunning": ("test_out", "wrote beyond the end of out"),
    "planted-mutating": ("test_does_something", "an operand was changed"),
    "planted-nobias": ("test_value", WRONG),
    "planted-random": ("test_deterministic", "gives other bits when called again"),
    "planted-fallback": ("test_runs_itself", "computed by another backend: convcore_numpy"),
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
    kit = ("-p", "no:cacheprovider", "--pyargs", conformance.__name__, "--convcore-backend", name)
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
