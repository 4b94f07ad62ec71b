"""Built programs kept on disk, for drivers that keep none themselves.

A file is the hash of a binary and the binary, under a name that stands for device, driver, options and source.  What is
damaged is built again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
import pyopencl as cl

#: Platforms whose drivers keep what they have built; and a checker, which should build what it checks.
KEEPERS = ("Portable Computing Language", "NVIDIA CUDA", "Oclgrind")
#: Files that are kept; the oldest make room.
MOST = 512

#: PyOpenCL's own cache stays off: where its folder cannot be written it fails the build (2026.1, KeyError).
NO_CACHE: Any = False
_HASH_BYTES = hashlib.sha256().digest_size


def place(device: cl.Device, source: str, flags: Sequence[str]) -> Path | None:
    """Return where a program's binary is kept; None if its driver sees to that."""
    if device.platform.name.strip() in KEEPERS:
        return None
    about = (device.platform.version, device.driver_version, device.name, *flags, source)
    name = hashlib.sha256("\0".join(about).encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("convcore")) / "opencl-binaries" / name


def load(path: Path, context: cl.Context, device: cl.Device, flags: Sequence[str]) -> cl.Program | None:
    """Return the program of a file; None if there is none, or none that the driver takes."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_HASH_BYTES:]).digest() != content[:_HASH_BYTES]:
            return None
        program = cl.Program(context, [device], [content[_HASH_BYTES:]])
        return program.build(list(flags), [device], cache_dir=NO_CACHE)
    except (OSError, cl.Error):
        return None


def save(path: Path, program: cl.Program) -> None:
    """Keep a program that was built for one device; a folder that cannot be written keeps nothing."""
    try:
        (binary,) = program.get_info(cl.program_info.BINARIES)
        if not binary:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        beside.write_bytes(hashlib.sha256(binary).digest() + bytes(binary))
        beside.replace(path)
        for old in sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)[:-MOST]:
            old.unlink(missing_ok=True)
    except (OSError, cl.Error):
        pass
