"""Rates of this machine, for the model that chooses: measured once, kept in a file, the same in every process.

What is measured is compared with the machine that the model's constants were fitted on, and rounded to a quarter of an
octave: noise of 9 % either way, and another calibration of the same machine, change nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from convcore.spi import Problem
from convcore_cpu.engine import CPUPlan, MicroKernel
from convcore_cpu.machine import fingerprint
from convcore_cpu.plans import make_program
from convcore_cpu.program import BUILT_IN, Rates

#: Of the file's contents; a file of another one is foreign.
SCHEMA = 1
#: What one core of the machine of the model's constants does: multiplications and additions by instruction set, bytes
#: copied, and n*log2(n) of a transform, a second.
ARITHMETIC = {"baseline": 33e9, "avx2": 86e9, "avx512": 142e9}
COPY, TRANSFORM = 29.7e9, 2.75e9
#: Its ``MicroKernel.multiply``.
MULTIPLY = 0.5
#: The least of so many samples counts; another process can only make one longer.
SAMPLES = 20
#: Bytes that are copied, and lines and columns that are transformed.
COPIED, TRANSFORMED = 16 << 20, 256
#: Ratios beyond this are not believed.
MOST = 16.0

_REFERENCE = Problem(
    "forward", (1, 64, 28, 28), (64, 64, 3, 3), (1, 64, 26, 26), algorithm="panels", tune="off"
)  # one that stays in the caches and is not packed


def calibrated(isa: str) -> Rates | None:
    """Return the rates kept for this machine, if there are any; nothing is measured."""
    path = _path()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    return _read(path, changed).get(fingerprint(isa))


def calibrate(isa: str, micro_kernels: list[MicroKernel]) -> None:
    """Measure the rates, for 0.15 s, and keep them, unless they are known; where no file can be, nothing is kept.

    Only what is kept counts: it is the same in the next call and the next process.
    """
    if calibrated(isa) is not None or isa not in ARITHMETIC:
        return
    rates = measured(isa, micro_kernels)
    with contextlib.suppress(OSError):
        path = _path()
        _write(path, {fingerprint(isa): rates} | (_read(path, path.stat().st_mtime_ns) if path.exists() else {}))


def measured(isa: str, micro_kernels: list[MicroKernel]) -> Rates:
    """Return what this machine does now, relative to that of the model's constants."""
    plan = CPUPlan(_REFERENCE, make_program(_REFERENCE, micro_kernels, 1))
    x, weight = (np.ones(shape, np.float32) for shape in _REFERENCE.operand_shapes)
    source, target = np.ones((2, COPIED // 4), np.float32)
    image = np.ones((TRANSFORMED, TRANSFORMED))
    transform = image.size * math.log2(image.size)
    multiply = next(row.multiply for row in micro_kernels if row.isa == isa)  # the model counts with that
    ratios = (
        _REFERENCE.flops / _least(lambda: plan(x, weight)) / ARITHMETIC[isa] * (multiply / MULTIPLY),
        2 * source.nbytes / _least(lambda: np.copyto(target, source)) / COPY,
        transform / _least(lambda: np.fft.rfft2(image)) / TRANSFORM,
    )
    arithmetic, memory, transforms = map(_rounded, ratios)
    return replace(
        BUILT_IN,
        cycles=BUILT_IN.cycles * arithmetic,
        bytes=BUILT_IN.bytes * memory,
        transforms=transforms,
        source="measured here",
    )


def _least(work: Callable[[], Any]) -> float:
    """Return the least seconds that some work took."""
    least = math.inf
    for _ in range(SAMPLES):
        start = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - start)
    return least


def _rounded(ratio: float) -> float:
    """Return the nearest quarter of an octave; 1 for what cannot be."""
    return float(2.0 ** (round(4 * math.log2(ratio)) / 4)) if 1 / MOST < ratio < MOST else 1.0


def _path() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("convcore")) / "cpu.json"


@lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> dict[str, Rates]:
    """Return what a file says since it has changed; nothing, and one warning, if it is not such a file."""
    try:
        return _all(path)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        sentence = f"{path} holds no rates of convcore's CPU engine and is ignored ({type(error).__name__}: {error})"
        warnings.warn(f"{sentence}; the next calibration writes it anew", RuntimeWarning, stacklevel=2)
        return {}


def _all(path: Path) -> dict[str, Rates]:
    content = json.loads(path.read_text("utf-8"))
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA}")
    found = {key: Rates(**record) for key, record in content["rates"].items()}
    for rates in found.values():
        numbers = rates.cycles / BUILT_IN.cycles, rates.bytes / BUILT_IN.bytes, rates.transforms
        if not all(1 / MOST <= number <= MOST for number in numbers) or not isinstance(rates.source, str):
            raise ValueError(f"its rates are {rates}")
    return found


def _write(path: Path, rates: dict[str, Rates]) -> None:
    content = {"schema": SCHEMA, "rates": {key: asdict(value) for key, value in sorted(rates.items())}}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        beside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
