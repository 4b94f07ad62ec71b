"""The machine the engine runs on: what tells it from others."""

from __future__ import annotations

import platform
import zlib
from functools import cache
from pathlib import Path

from convcore.spi import Problem
from convcore_cpu import engine


def fingerprint(isa: str) -> str:
    """Return what a measured choice depends on besides the problem.

    Threads are not in it: the same bits come out on any number of them.
    """
    return f"{processor()}, {isa}, engine {_build()}"


def exactly(problem: Problem) -> str:
    """Return everything of a problem that its programs depend on, in words."""
    named = {"x": problem.input_shape, "w": problem.weight_shape, "y": problem.output_shape}
    pairs = {
        "stride": problem.stride,
        "padding": (*problem.padding[0], *problem.padding[1]),
        "dilation": problem.dilation,
    }
    words = [problem.op, *(dtype.name for dtype in problem.dtypes), problem.layout, problem.boundary, problem.accuracy]
    words += [f"{name}{'x'.join(map(str, sizes))}" for name, sizes in (named | pairs).items()]
    words += ["bias"] * problem.bias
    limits = {"groups": problem.groups, "algorithm=": problem.algorithm, "workspace<=": problem.workspace_limit}
    return " ".join(words + [f"{name}{limit}" for name, limit in limits.items() if limit is not None])


@cache
def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(named, "") or platform.processor() or platform.machine()


@cache
def _build() -> str:
    """Return a checksum of the compiled engine."""
    return f"{zlib.crc32(Path(engine.__file__).read_bytes()):08x}"
