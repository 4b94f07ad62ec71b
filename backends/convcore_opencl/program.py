"""Building kernels, once for each context and set of options, and launching them.

A ``cl.Kernel`` holds its arguments, so setting them and enqueueing is one step under a lock.
PyOpenCL or the driver keeps binaries on disk; here only what this process has built is kept.
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

from convcore.spi import KernelBuildError

#: Allows a * b + c to become one instruction, which the builtins mad() and fma() do not always.
BASE_OPTIONS = ("-cl-std=CL1.2", "-cl-mad-enable")


class Programs:
    """The kernels built in this process, by context, file, options and function."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[Any, ...], cl.Kernel] = {}
        self._lock = threading.RLock()

    def launch(
        self,
        queue: cl.CommandQueue,
        file: str,
        options: tuple[str, ...],
        function: str,
        sizes: tuple[int, int],
        arguments: Sequence[Any],
        wait_for: Sequence[cl.Event],
    ) -> cl.Event:
        """Enqueue one kernel over ``sizes`` (work-items in all, work-items in a group).

        Raises
        ------
        KernelBuildError
            If the device's compiler rejects the kernel.
        """
        key = queue.context, file, options, function
        with self._lock:
            if key not in self._kernels:
                program = build(queue.context, queue.device, file, options)
                for kernel in program.all_kernels():
                    self._kernels[(*key[:3], kernel.function_name)] = kernel
            kernel = self._kernels[key]
            kernel.set_args(*arguments)
            return cl.enqueue_nd_range_kernel(queue, kernel, sizes[:1], sizes[1:], wait_for=list(wait_for))


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
            return program.build(flags, [device])
    except cl.RuntimeError as error:
        raise KernelBuildError(
            f"{device.name.strip()} rejected {file} built with {' '.join(flags)}: {error}",
            device=device.name.strip(),
            options=" ".join(flags),
            log=str(error),
        ) from error
