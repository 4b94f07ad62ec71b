"""What the tests of the kit share."""

import pytest

import convcore
from convcore.testing import report, suite, verdicts  # noqa: F401 - see below


@pytest.fixture(scope="session", autouse=True)
def everything_is_loaded():
    """Load what pytester would unload again after a run within this process: pyopencl cannot be loaded twice."""
    convcore.backends()
