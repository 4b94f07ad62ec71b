"""What a driver does not say of itself, or says wrongly: tried out in a child process, because a compiler can abort.

    python -m convcore_opencl.probe INDEX WORD

computes a small problem on device INDEX and ends with 0 if the result is right.  What was found is kept in the user's
cache folder, by driver, device and kernel sources.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from convcore.spi import Problem
from convcore_opencl.plans import recipe
from convcore_opencl.program import sources

#: Seconds after which a child has failed.
PATIENCE = 120
_PRODUCT = Problem("forward", (1, 40, 5, 29), (70, 40, 1, 1), (1, 70, 5, 29))
_HALF = replace(_PRODUCT, dtypes=(np.dtype("f2"),) * 2, result_dtype=np.dtype("f2"))
#: What is tried, by its word: the problem, and what is to be known of the device for it.
WORDS: dict[str, tuple[Problem, dict[str, Any]]] = {
    "wide registers": (replace(_PRODUCT, algorithm="panel"), {"vector_bytes": 64}),
    "float16": (_HALF, {"float16": True}),
    "tensor cores": (
        replace(_PRODUCT, algorithm="tensor_tile_tf32", accuracy="fast"),
        {"tensor_cores": "nvidia"},
    ),
}

#: Source that a compiler rejects if it says that it has none of these registers, as PoCL's LLVM 14 of a Zen 4 does.
_NEEDED = {
    "wide registers": """
#if defined(__AVX__) && !defined(__AVX512F__)
#error "vectors of 64 bytes are two registers each"
#endif
kernel void nothing() {}
"""
}


def works(device: Any, index: int, word: str) -> bool:
    """Return whether a device passes a probe: as found before, or by a child process."""
    path = Path(platformdirs.user_cache_dir("convcore")) / "opencl-probes.json"
    key = "|".join((device.platform.version, device.driver_version, device.name.strip(), sources(), word))
    known = _read(path)
    if key not in known:
        known = _read(path) | {key: _passes(index, word)}
        _write(path, known)
    return known[key]


def _passes(index: int, word: str) -> bool:
    command = [sys.executable, "-m", "convcore_opencl.probe", str(index), word]
    try:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _read(path: Path) -> dict[str, bool]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value is True for key, value in found.items()} if isinstance(found, dict) else {}


def _write(path: Path, known: dict[str, bool]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        beside.replace(path)
    except OSError:  # a folder that cannot be written: tried again by the next process
        pass


def main(index: int, word: str) -> bool:
    """Compute the word's problem on a device, in numbers that every precision holds; return whether it is right."""
    import pyopencl as cl

    from convcore_opencl import device as devices
    from convcore_opencl.binaries import NO_CACHE
    from convcore_opencl.execute import OpenCLPlan

    problem, known = WORDS[word]
    device = devices.all_devices()[index]
    if word in _NEEDED:
        cl.Program(devices.runtime(device).context, _NEEDED[word]).build(devices=[device], cache_dir=NO_CACHE)
    traits = replace(devices.described(device), **known)
    rng = np.random.default_rng(0)
    x, weight = (rng.integers(-2, 3, shape).astype(problem.result_dtype) for shape in problem.operand_shapes)
    expected = np.einsum("nchw,kc->nkhw", x.astype(float), weight[:, :, 0, 0].astype(float))
    return np.array_equal(OpenCLPlan(problem, recipe(problem, traits), device)(x, weight), expected)


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]), sys.argv[2]))
