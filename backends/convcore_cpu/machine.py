"""The machine the engine runs on: what tells it from others."""

from __future__ import annotations

import platform
import zlib
from functools import cache
from pathlib import Path

from convcore_cpu import engine


def fingerprint(version: str, isa: str, threads: int) -> str:
    """Return what a measured choice depends on besides the problem."""
    return f"{processor()}, {isa}, {threads} thread(s), engine {version} {_build()}"


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
