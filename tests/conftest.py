"""What several test modules need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Build an sdist, and from it a wheel, once for all workers; return the wheel's path.

    Without optimisation, which would take ten times as long: the engine that is tested and timed is the installed one.
    """
    worker = tmp_path_factory.getbasetemp()
    folder = (worker.parent if worker.name.startswith("popen-") else worker) / "wheel"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
            result = subprocess.run(build, capture_output=True, text=True, env=os.environ | {"CFLAGS": "-O0"})
            assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


def pytest_terminal_summary(terminalreporter):
    """Say how many of the planted faults the kit has found.

    Here, and not beside those tests: with pytest-xdist the process that reports collects nothing, and so loads this
    file alone.
    """
    told = {
        outcome: {test.nodeid for test in terminalreporter.getreports(outcome) if "test_fault_is_found" in test.nodeid}
        for outcome in ("passed", "failed", "error")
    }
    missed = told["failed"] | told["error"]
    found = told["passed"] - missed
    if found or missed:
        terminalreporter.write_line(f"convcore: {len(found)} of {len(found | missed)} planted faults found and named")
