"""The OpenCL tests again on Intel's CPU runtime from pip: a second, independent driver."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("pyopencl", reason="pyopencl is not installed")


def library() -> Path:
    """Return where pip put the driver; its own .icd file names the place where it was built."""
    try:
        files = metadata.files("intel-opencl-rt") or []
    except metadata.PackageNotFoundError:
        pytest.skip("Intel's CPU runtime is not installed: pip install intel-opencl-rt intel-cmplr-lib-rt")
    return next(Path(file.locate()).resolve() for file in files if file.name == "libintelocl.so")


def test_the_opencl_tests_pass_on_intels_runtime(tmp_path):
    driver = library()
    (tmp_path / "intel.icd").write_text(f"{driver}\n")
    environment = os.environ | {
        "OCL_ICD_VENDORS": str(tmp_path),
        "LD_LIBRARY_PATH": f"{driver.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYOPENCL_CTX": "Intel",
    }
    environment.pop("CONVCORE_OPENCL_DEVICE", None)
    code = "from convcore_opencl.backend import OpenCLBackend; print(OpenCLBackend().probe()[0].detail['platform'])"
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(Path(__file__).with_name(name)) for name in ("test_opencl_backend.py", "test_opencl_host.py")),
    ]
    used = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "Intel" in used.stdout, used.stdout + used.stderr
    done = subprocess.run(tests, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
