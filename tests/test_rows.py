"""The rows of the table of micro-kernels, each held against its formula by the program that NEON's are held by."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from convcore_cpu import engine
from convcore_cpu.engine import ISAS, MICRO_KERNELS

ROOT = Path(__file__).parent.parent


def test_every_row_that_runs_here_is_right(tmp_path):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        pytest.skip("there is no C compiler: CC names one")
    library, kernels = tmp_path / "check_rows.so", ROOT / "backends/convcore_cpu/kernels"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-I", kernels, "-o", library, ROOT / "tests/rows/check_rows.c"],
        check=True,
    )
    code = f"""
import ctypes
ctypes.CDLL({engine.__file__!r}, mode=ctypes.RTLD_GLOBAL)  # whose table the program finds by name
raise SystemExit(ctypes.CDLL({str(library)!r}).main())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wrong = [line for line in said.stdout.splitlines() if line.endswith(("WRONG", "UNCHECKED"))]
    assert (said.returncode, wrong) == (0, []), said.stderr
    rows = sum(len(MICRO_KERNELS[isa]) for isa in ISAS)
    assert said.stdout.count(": right\n") == rows
