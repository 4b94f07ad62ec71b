"""Following a recipe: on NumPy arrays, which travel to the device and back, and on device arrays, which stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from convcore.spi import Plan, Problem
from convcore_opencl import device as devices
from convcore_opencl import program
from convcore_opencl.plans import Launch, Recipe


class Operand(NamedTuple):
    """A buffer, and the position of the first element in it."""

    buffer: cl.MemoryObjectHolder | None
    start: int = 0


class OpenCLPlan(Plan):
    """A recipe for one problem on one device."""

    def __init__(self, problem: Problem, recipe: Recipe, device: cl.Device) -> None:
        super().__init__(problem)
        self.algorithm = recipe.algorithm
        self.workspace_bytes = sum(recipe.workspace.values())
        self.notes = "; ".join(note for note in (recipe.notes, f"on {device.name.strip()}") if note)
        self._recipe, self._device = recipe, device

    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Copy NumPy arrays to the device, compute, and copy the result back when it is whole."""
        if out.size == 0:
            return
        runtime = devices.runtime(self._device)
        with reporting_memory(self._device, self.problem):
            arrays = {"first": first, "second": second, "bias": bias}
            operands = {name: Operand(_upload(runtime, array)) for name, array in arrays.items()}
            operands["out"] = Operand(cl.Buffer(runtime.context, cl.mem_flags.READ_WRITE, out.nbytes))
            follow(self._recipe, runtime.queue, operands)
            cl.enqueue_copy(runtime.queue, out, operands["out"].buffer)


def _upload(runtime: devices.Runtime, array: np.ndarray[Any, Any] | None) -> cl.Buffer | None:
    if array is None:
        return None
    flags = cl.mem_flags.READ_ONLY
    if array.size == 0:
        return cl.Buffer(runtime.context, flags, 1)
    share = cl.mem_flags.USE_HOST_PTR if runtime.device.host_unified_memory else cl.mem_flags.COPY_HOST_PTR
    return cl.Buffer(runtime.context, flags | share, hostbuf=array)


def follow(
    recipe: Recipe, queue: cl.CommandQueue, operands: dict[str, Operand], wait_for: Sequence[cl.Event] = ()
) -> cl.Event:
    """Enqueue the launches of a recipe, each after the one before; return the last one's event."""
    scratch = {name: Operand(cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, size)) for name, size in recipe.workspace.items()}
    for launch in recipe.launches:
        arguments = _arguments(launch, operands | scratch)
        event = program.programs.launch(
            queue, launch.file, launch.options, launch.function, launch.sizes, arguments, wait_for
        )
        wait_for = [event]
    return event


def _arguments(launch: Launch, operands: dict[str, Operand]) -> Iterator[Any]:
    for name in launch.buffers:
        yield operands[name].buffer
        yield np.int64(operands[name].start)
    for value in launch.arguments:
        yield np.array(value, np.int32) if isinstance(value, tuple) else value


@contextmanager
def reporting_memory(device: cl.Device, problem: Problem) -> Iterator[None]:
    """Turn the driver's out-of-memory errors into a MemoryError that says where and for what."""
    try:
        yield
    except cl.MemoryError as error:
        raise MemoryError(
            f"{device.name.strip()} has no room for {problem.op} of {problem.bytes} bytes "
            f"(device memory {device.global_mem_size}, largest buffer {device.max_mem_alloc_size}): {error}"
        ) from error
