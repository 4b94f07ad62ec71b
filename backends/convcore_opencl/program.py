"""Building kernels, once for each context and set of options, and launching them.

A ``cl.Kernel`` holds its arguments, so setting them and enqueueing is one step under a lock.
What this process has built is kept in memory, and on disk by those drivers that keep it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import pyopencl as cl

from convcore.spi import KernelBuildError, Pair

#: Allows a * b + c to become one instruction, which the builtins mad() and fma() do not always.
BASE_OPTIONS = ("-cl-std=CL1.2", "-cl-mad-enable")

#: PyOpenCL's own cache stays off: where its folder cannot be written it fails the build (2026.1, KeyError).
_NO_CACHE: Any = False


class SharedKernel:
    """A kernel that several threads launch."""

    def __init__(self, kernel: cl.Kernel) -> None:
        self._kernel, self._lock = kernel, threading.Lock()

    def launch(
        self, queue: cl.CommandQueue, sizes: Pair, arguments: Sequence[Any], wait_for: Sequence[cl.Event]
    ) -> cl.Event:
        """Enqueue it over ``sizes``: work-items in all, and in a group."""
        with self._lock:
            self._kernel.set_args(*arguments)
            return cl.enqueue_nd_range_kernel(queue, self._kernel, sizes[:1], sizes[1:], wait_for=list(wait_for))


class Programs:
    """The kernels built in this process, by context, file, options and function."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[Any, ...], SharedKernel] = {}
        self._building = threading.Lock()

    def kernel(self, queue: cl.CommandQueue, file: str, options: tuple[str, ...], function: str) -> SharedKernel:
        """Return a kernel for a queue's device, building it the first time.

        Raises
        ------
        KernelBuildError
            If the device's compiler rejects it.
        """
        key = queue.context, queue.device, file, options
        if (*key, function) not in self._kernels:
            with self._building:
                if (*key, function) not in self._kernels:
                    for kernel in build(queue.context, queue.device, file, options).all_kernels():
                        self._kernels[(*key, kernel.function_name)] = SharedKernel(kernel)
        return self._kernels[(*key, function)]


programs = Programs()


def _start_anew() -> None:
    global programs
    programs = Programs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


@lru_cache
def source(file: str) -> str:
    """Return the text of a kernel file, what is common to all of them in front."""
    folder = resources.files(__package__) / "kernels"
    return "\n".join((folder / name).read_text("utf-8") for name in ("common.cl", file))


def build(context: cl.Context, device: cl.Device, file: str, options: Sequence[str]) -> cl.Program:
    """Compile one kernel file for a device.

    Raises
    ------
    KernelBuildError
        With the device, the options and what the compiler said.
    """
    flags = [*BASE_OPTIONS, *options]
    program = cl.Program(context, source(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            return program.build(flags, [device], cache_dir=_NO_CACHE)
    except cl.RuntimeError as error:
        raise KernelBuildError(
            f"{device.name.strip()} rejected {file} built with {' '.join(flags)}: {error}",
            device=device.name.strip(),
            options=" ".join(flags),
            log=str(error),
        ) from error
