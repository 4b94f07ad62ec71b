"""What the tests of the kit share."""

import pytest

import convcore
from convcore.testing import report, suite, verdicts  # noqa: F401 - see below


def pytest_terminal_summary(terminalreporter):
    """Say how many of the planted faults the kit has found."""
    told = {
        outcome: [test for test in terminalreporter.getreports(outcome) if "test_fault_is_found" in test.nodeid]
        for outcome in ("passed", "failed")
    }
    found, missed = len(told["passed"]), len(told["failed"])
    if found or missed:
        terminalreporter.write_line(f"convcore: {found} of {found + missed} planted faults found and named")


@pytest.fixture(scope="session", autouse=True)
def everything_is_loaded():
    """Load what pytester would unload again after a run within this process: pyopencl cannot be loaded twice."""
    convcore.backends()
