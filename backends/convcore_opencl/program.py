"""Building kernels, once for each context and set of options, and launching them.

A ``cl.Kernel`` holds its arguments, so setting them and enqueueing is one step under a lock.  All plans share the
kernels: PyOpenCL takes a third of a millisecond to make one, and 2 µs to set all arguments of known types.
What this process has built is kept in memory, and on disk by the driver or by ``binaries.py``.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import pyopencl as cl

from convcore.spi import KernelBuildError, Pair
from convcore_opencl import binaries
from convcore_opencl.plans.recipe import Launch

#: Allows a * b + c to become one instruction, which the builtins mad() and fma() do not always.
BASE_OPTIONS = ("-cl-std=CL1.2", "-cl-mad-enable")


class Kernel:
    """A function of a program with arguments of known types; several threads launch it."""

    def __init__(self, program: cl.Program, function: str, types: Sequence[np.dtype[Any] | None]) -> None:
        self._kernel, self._lock = cl.Kernel(program, function), threading.Lock()
        self._kernel.set_scalar_arg_dtypes(types)

    def launch(
        self, queue: cl.CommandQueue, sizes: Pair, arguments: Sequence[Any], wait_for: Sequence[cl.Event]
    ) -> cl.Event:
        """Enqueue it over ``sizes``, work-items in all and in a group."""
        with self._lock:
            self._kernel.set_args(*arguments)
            return cl.enqueue_nd_range_kernel(queue, self._kernel, sizes[:1], sizes[1:], wait_for=list(wait_for))


class _Built:
    """What was built for one context and device: programs by file and options, and kernels by launches' ``kernel``."""

    def __init__(self) -> None:
        self.programs: dict[tuple[str, tuple[str, ...]], cl.Program] = {}
        self.kernels: dict[tuple[Any, ...], Kernel] = {}


class Programs:
    """All that was built in this process, by context and device, so that it is forgotten with these."""

    def __init__(self) -> None:
        self._built: dict[tuple[cl.Context, cl.Device], _Built] = {}
        self._building = threading.Lock()

    def _of(self, queue: cl.CommandQueue) -> _Built:
        key = queue.context, queue.device
        return self._built.get(key) or self._built.setdefault(key, _Built())

    def program(self, queue: cl.CommandQueue, file: str, options: tuple[str, ...]) -> cl.Program:
        """Return a program for a queue's device, building it the first time.

        Raises
        ------
        KernelBuildError
            If the device's compiler rejects it.
        """
        programs, key = self._of(queue).programs, (file, options)
        if key not in programs:
            with self._building:
                if key not in programs:
                    programs[key] = build(queue.context, queue.device, file, options)
        return programs[key]

    def kernel(self, queue: cl.CommandQueue, launch: Launch) -> Kernel:
        """Return what a launch calls, for a queue's device; raise KernelBuildError as ``program`` does."""
        kernels = self._of(queue).kernels
        found = kernels.get(launch.kernel)
        if found is None:
            built = self.program(queue, launch.file, launch.options)
            found = kernels.setdefault(launch.kernel, Kernel(built, launch.function, launch.types))
        return found

    @property
    def count(self) -> int:
        """How many programs there are."""
        return sum(len(built.programs) for built in list(self._built.values()))

    def forget(self, context: cl.Context) -> None:
        """Drop the programs and kernels of a context that is of no use any more."""
        for key in [key for key in list(self._built) if key[0] == context]:
            self._built.pop(key, None)


programs = Programs()


def _start_anew() -> None:
    global programs
    programs = Programs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


#: What some kernel files share.
_IN_FRONT = {
    "panel.cl": ("panel_tile.cl",),
    "strip.cl": ("panel_tile.cl",),
    "winograd.cl": ("winograd_lines.cl",),
    "winograd_fused.cl": ("winograd_lines.cl",),
}


@lru_cache
def source(file: str) -> str:
    """Return the text of a kernel file, what is common to all of them and what it shares with some in front."""
    folder = resources.files(__package__) / "kernels"
    return "\n".join((folder / name).read_text("utf-8") for name in ("common.cl", *_IN_FRONT.get(file, ()), file))


@lru_cache
def sources() -> str:
    """Return a hash of all kernel files."""
    files = sorted((resources.files(__package__) / "kernels").iterdir(), key=lambda path: path.name)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def build(context: cl.Context, device: cl.Device, file: str, options: Sequence[str]) -> cl.Program:
    """Compile one kernel file for a device, unless that was done before and the binary kept.

    Raises
    ------
    KernelBuildError
        With the device, the options and what the compiler said.
    """
    flags = [*BASE_OPTIONS, *options]
    path = binaries.place(device, source(file), flags)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            kept = None if path is None else binaries.load(path, context, device, flags)
            if kept is not None:
                return kept
            program = cl.Program(context, source(file)).build(flags, [device], cache_dir=binaries.NO_CACHE)
    except cl.RuntimeError as error:
        raise KernelBuildError(
            f"{device.name.strip()} rejected {file} built with {' '.join(flags)}: {error}",
            device=device.name.strip(),
            options=" ".join(flags),
            log=str(error),
        ) from error
    if path is not None:
        binaries.save(path, program)
    return program
