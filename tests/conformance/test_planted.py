"""The conformance kit finds every planted fault, says what it is, and passes the backend without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convcore.registry import registry
from convcore.testing import planted

pytest_plugins = "pytester"

VALUES, CONDUCT, MEMORY, DECLARATION = (
    f"convcore.testing.test_{topic}" for topic in ("values", "conduct", "memory", "declaration")
)

# Where each fault is found, by which tests, and what the failure says.
FAULTS = {
    "empty": (VALUES, "test_value", "declares all that this problem needs, but refuses it: not yet"),
    "wordless": (VALUES, "test_value", "supports() must return True or a reason in words, got False"),
    "promising": (VALUES, "test_value", "no dilation after all"),
    "vague": (VALUES, "test_value", "accepts a problem and then raises NotImplementedError()"),
    "liar": (VALUES, "test_value", "every element is 0: "),
    "wrongdtype": (VALUES, "test_value", "dtype is float64, must be float32"),
    "flipped": (VALUES, "test_value", "the kernel is flipped: that is a convolution, not a correlation: "),
    "nostride": (VALUES, "test_value", "the stride is ignored: "),
    "nodilation": (VALUES, "test_value", "the dilation is ignored: "),
    "swappedpadding": (VALUES, "test_value", "top and bottom padding are swapped"),
    "offbyone": (VALUES, "test_value", "the padding is off by one: "),
    "wrongboundary": (VALUES, "test_value", "boundary 'reflect' is taken for 'symmetric'"),
    "wrongfill": (VALUES, "test_value", "the fill value is ignored: "),
    "interleaved": (VALUES, "test_value", "the groups are in the wrong order: "),
    "halfprecision": (VALUES, "test_value", "the errors are those of float16: operands or sums are kept in it: "),
    "nancleaner": (VALUES, "test_not_a_number", "NaN is taken for 0: "),
    "droppedtile": (VALUES, "test_value", "only the last columns are wrong, from 64 of 66 on: the last tile: "),
    "onetile": (
        VALUES,
        "test_every_size and width",
        "only the last columns are wrong, from 32 of 33 on: the last tile",
    ),
    "unwritten": (VALUES, "test_value", "elements were not written, they hold what stood in `out` before"),
    "accumulating": (VALUES, "test_value", "the result is added to what stood in `out`"),
    "overrunning": (VALUES, "test_value", "wrote out of bounds, beyond the end of `out`"),
    "mutating": (VALUES, "test_value", "its operand `x` was changed"),
    "nobias": (VALUES, "test_value", "the bias is forgotten: "),
    "gradientwithoutbias": (VALUES, "test_value", "the bias is forgotten: "),
    "transposedgradient": (VALUES, "test_value", "the weight gradient is transposed: rows and columns of the kernel"),
    "overflowing": (VALUES, "test_extreme_integers", "integers overflow at 32 bits: "),
    "lastofequal": (VALUES, "test_value and max_pool_grad", "elements are wrong"),
    "zeropadding": (VALUES, "test_value and max_pool", "the padding counts as 0: "),
    "random": (CONDUCT, "test_deterministic", "not deterministic: forward gives other bits when called again"),
    "reusing": (CONDUCT, "test_deterministic", "two results of forward share memory"),
    "racing": (CONDUCT, "test_many_threads", "not safe in threads: other results when 8 threads compute at once"),
    "gilholder": (CONDUCT, "test_gil", "holds the GIL: in calls of forward that took"),
    "forkless": (CONDUCT, "test_fork", "does not survive fork(): RuntimeError: the worker threads are gone"),
    "leaky": (MEMORY, "test_growth", "leaks memory: forward on numpy.ndarray takes more in every 250 calls"),
    "hostcopier": (MEMORY, "test_no_host_copies", "copies through the host: forward on "),
    "fallback": (DECLARATION, "test_runs_itself", "the work was done by another backend: 'numpy' (convcore_numpy)"),
    "substitute": (DECLARATION, "test_named_algorithm", "accepts an algorithm that does not exist"),
    "greedy": (DECLARATION, "test_workspace_limit", "uses 1 bytes of workspace where 0 are allowed"),
}


@pytest.fixture(autouse=True)
def none_stays_planted():
    yield
    for name, plugin in registry().manager.list_name_plugin():
        if plugin is not None and name.startswith(planted.__name__):
            registry().remove_plugin(name)


def run_kit(pytester, name, *arguments):
    asked = f"{planted.__name__}:{planted.PLANTED[f'planted-{name}'].__name__}"
    options = ("-p", "no:cacheprovider", "--convcore-profile", "quick", "--convcore-backend", asked)
    return pytester.runpytest_inprocess(*options, "--pyargs", *arguments)


def test_every_planted_backend_is_expected():
    assert {f"planted-{name}" for name in FAULTS} | {"planted-faultless"} == set(planted.PLANTED)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(pytester, name):
    module, tests, words = FAULTS[name]
    result = run_kit(pytester, name, module, "-x", "-k", tests)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (failure,) = [line for line in result.outlines if line.startswith("FAILED ")]
    assert tests.partition(" ")[0] in failure
    assert any(line.startswith("E ") and words in line for line in result.outlines), result.stdout.str()


def test_faultless_backend_passes(pytester):
    result = run_kit(pytester, "faultless", "convcore.testing")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes().keys() == {"passed"}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_count_is_printed(tmp_path, workers):
    """It leaves out the fault that the kit does not find, also where the tests run in other processes."""
    (tmp_path / "mended.py").write_text("from convcore.testing import planted\n\ndel planted.Substitute.supports\n")
    options = ("-p", "no:cacheprovider", "-p", "mended", "--numprocesses", workers, "--ignore-glob", "tests/test_*.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "tests", *options, "-k", "test_fault_is_found and (substitute or greedy)"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    assert "convcore: 1 of 2 planted faults found and named" in result.stdout.splitlines()
