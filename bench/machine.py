"""What is measured on: a description, and the most that the machine can do."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import convcore
from convcore.registry import registry

LIBRARIES = (
    "numpy", "scipy", "torch", "opencv-python-headless", "jax", "jaxlib", "pyopencl", "pocl-binary-distribution",
    "gputools", "tinygrad",
)  # fmt: skip
#: What makes two machines the same one: times of different ones are never compared.
IDENTITY = ("processor", "cores", "isas", "caches", "system")


def cores() -> int:
    """Return on how many cores this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return the machine's description, with versions and the commit."""
    about = {
        "processor": _processor(),
        "cores": cores(),
        "isas": list(_isas()),
        "caches": _caches(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    identity = json.dumps([about[name] for name in IDENTITY])
    return about | {
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:12],
        "memory_gib": _memory_gib(),
        "kernel": platform.release(),
        "devices": {
            info.name: [f"{device.name} ({device.detail.get('platform', device.kind)})" for device in info.devices]
            for info in convcore.backends()
            if info.state == "ready"
        },
        "python": platform.python_version(),
        "versions": {"convcore": convcore.__version__} | _versions(),
        "commit": _commit(),
    }


class Watch:
    """What part of the cores is taken by others than some processes; known where there is a ``/proc/stat``.

    Parameters
    ----------
    pids : iterable of int
        The processes that are ours.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = list(pids)
        self.last = self._ticks()

    def share(self) -> float:
        """Return the others' part of the cores since the last time this was asked; 0 where it is not known."""
        before, self.last = self.last, self._ticks()
        total, busy, ours = (now - then for now, then in zip(self.last, before, strict=True))
        return max(0.0, (busy - ours) / total) if total > 0 else 0.0

    def _ticks(self) -> tuple[int, int, int]:
        """Return ticks of all cores: all, not idle, and of our processes."""
        try:
            ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
            ours = 0
            for pid in self.pids:
                # The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ours += int(fields[11]) + int(fields[12])
        except OSError:
            return 0, 0, 0
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], ours


def peaks(threads: int, seconds: float = 0.004) -> dict[str, float]:
    """Measure the most this machine does: multiply-adds on registers, and copies of large and of small arrays.

    Parameters
    ----------
    threads : int
        Each runs the same loop.
    seconds : float
        About how long a loop runs; the best of many counts, so that short ones between other processes are enough.

    Returns
    -------
    dict
        ``float32`` and ``float64`` in GFLOP/s; ``memory`` and ``cache`` in GB/s, read and written bytes counted.
    """
    from convcore_bench.peaks import multiply_add

    isa = _isas()[-1]
    found = {
        dtype: _best(lambda rounds, dtype=dtype: multiply_add(isa, dtype, rounds), threads, seconds) * 1e-9
        for dtype in ("float32", "float64")
    }
    for name, size in (("memory", 2**27), ("cache", 2**18)):
        found[name] = _best(_copier(size), threads, seconds) * 1e-9
    return found


def _copier(size: int) -> Callable[[int], int]:
    """Return a loop that copies ``size`` bytes, in each thread's own arrays."""
    own = threading.local()

    def copy(rounds: int) -> int:
        if not hasattr(own, "arrays"):
            own.arrays = np.ones(size, np.uint8), np.ones(size, np.uint8)
        source, target = own.arrays
        for _ in range(rounds):
            np.copyto(target, source)
        return 2 * size * rounds

    return copy


def _best(loop: Callable[[int], int], threads: int, seconds: float, repeats: int = 20) -> float:
    """Return what all threads together do in a second: the best of some repeats."""
    rounds = _rounds(loop, seconds)
    line_up = threading.Barrier(threads)

    def work() -> list[tuple[float, int, float]]:
        loop(1)
        found = []
        for _ in range(repeats):
            line_up.wait()
            start = time.perf_counter()
            found.append((start, loop(rounds), time.perf_counter()))
        return found

    with ThreadPoolExecutor(threads) as pool:
        workers = [pool.submit(work) for _ in range(threads)]
        by_repeat = zip(*(worker.result() for worker in workers), strict=True)
        return max(_rate(*zip(*samples, strict=True)) for samples in by_repeat)


def _rate(starts: Sequence[float], done: Sequence[int], ends: Sequence[float]) -> float:
    return sum(done) / (max(ends) - min(starts))


def _rounds(loop: Callable[[int], int], seconds: float) -> int:
    """Return how many rounds take about so long."""
    rounds = 1
    while True:
        start = time.perf_counter()
        loop(rounds)
        once = (time.perf_counter() - start) / rounds
        if once * rounds > seconds / 10:
            return max(1, round(seconds / once))
        rounds *= 4


def _isas() -> tuple[str, ...]:
    """Return the instruction sets of this processor, by convcore's names."""
    devices = registry().backend("cpu").probe()
    return tuple(devices[0].detail["isas"])


def _processor() -> str:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        about = {key.strip(): value.strip() for key, value in fields.items()}
        numbers = "/".join(about.get(key, "?") for key in ("cpu family", "model", "stepping"))
        return f"{about['model name']} (family/model/stepping {numbers})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


def _caches() -> list[str]:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        found.append(f"L{level} {kind} {size}")
    return found


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Return the commit of the working copy this runs from; empty for an installed package.

    What a run writes itself, results, does not make it another.
    """
    git = ["git", "-C", str(Path(__file__).parent)]

    def said(*arguments: str) -> str:
        return subprocess.run([*git, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        said("ls-files", "--error-unmatch", __file__)
        changed = said("diff", "--name-only", "HEAD", "--", ":/", ":(exclude,top)bench/results")
        return said("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
