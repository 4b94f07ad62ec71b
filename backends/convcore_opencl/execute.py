"""Following a recipe: on NumPy arrays, which travel to the device and back, and on device arrays, which stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from convcore.spi import HOST_ARRAY, Plan, Problem
from convcore_opencl import device as devices
from convcore_opencl import program
from convcore_opencl.plans import Launch, Recipe


class Operand(NamedTuple):
    """A buffer, and the position of the first element in it."""

    buffer: cl.MemoryObjectHolder | None
    start: int = 0


class OpenCLPlan(Plan):
    """A recipe for one problem, made for one device."""

    def __init__(self, problem: Problem, recipe: Recipe, device: cl.Device) -> None:
        super().__init__(problem)
        self.algorithm = recipe.algorithm
        self.workspace_bytes = recipe.workspace_bytes
        self.notes = "; ".join(note for note in (recipe.notes, f"on {device.name.strip()}") if note)
        self.recipe, self.device = recipe, device
        self._kernels: dict[Any, list[program.PreparedKernel]] = {}

    def __call__(self, first: Any, second: Any = None, bias: Any = None, out: Any = None) -> Any:
        """Check the arrays, compute, and return the result as an array of their type.

        Device arrays are computed on where they are, in their own queue; the call returns before
        the device has finished.

        Raises
        ------
        TypeError, ValueError
            If an array is not of the problem's type, dtype, shape or context, or ``out`` is unusable.
        OverflowError
            If integers are large enough that int64 might overflow.
        """
        if self.problem.arrays == HOST_ARRAY:
            return super().__call__(first, second, bias, out)
        from convcore_opencl.arrays import run_in_place

        return run_in_place(self, first, second, bias, out)

    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Copy NumPy arrays to the device, compute, and copy the result back when it is whole."""
        if out.size == 0:
            return
        runtime = devices.runtime(self.device)
        with reporting_memory(runtime.queue, self.problem):
            arrays = {"first": first, "second": second, "bias": bias}
            operands = {name: Operand(_upload(runtime, array)) for name, array in arrays.items()}
            operands["out"] = Operand(allocate(runtime.queue, out.nbytes))
            self.follow(runtime.queue, operands)
            cl.enqueue_copy(runtime.queue, out, operands["out"].buffer)

    def follow(
        self, queue: cl.CommandQueue, operands: Mapping[str, Operand], wait_for: Sequence[cl.Event] = ()
    ) -> cl.Event:
        """Enqueue the launches of the recipe; return the last one's event."""
        key = queue.context, queue.device
        if key not in self._kernels:
            self._kernels[key] = prepare(self.recipe.launches, queue)
        scratch = {name: Operand(allocate(queue, size)) for name, size in self.recipe.workspace.items()}
        return enqueue(
            self._kernels[key], self.recipe.launches, queue, {**operands, **scratch, "nothing": Operand(None)}, wait_for
        )


def _upload(runtime: devices.Runtime, array: np.ndarray[Any, Any] | None) -> cl.Buffer | None:
    if array is None:
        return None
    if array.size == 0:
        return stand_in(runtime.context)
    share = cl.mem_flags.USE_HOST_PTR if runtime.device.host_unified_memory else cl.mem_flags.COPY_HOST_PTR
    return cl.Buffer(runtime.context, cl.mem_flags.READ_ONLY | share, hostbuf=array)


def allocate(queue: cl.CommandQueue, size: int) -> cl.MemoryObjectHolder:
    """Return memory that commands of one queue use: from the pool of the device's own, else a new buffer."""
    runtime = devices.runtime_of(queue)
    return cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, size) if runtime is None else runtime.pool.allocate(size)


def stand_in(context: cl.Context) -> cl.Buffer:
    """Return a buffer to pass for an empty array; OpenCL has no empty ones, and kernels do not read it."""
    return cl.Buffer(context, cl.mem_flags.READ_WRITE, 1)


def prepare(launches: Sequence[Launch], queue: cl.CommandQueue) -> list[program.PreparedKernel]:
    """Return a kernel for each launch, with all but its buffers set."""
    return [_prepared(launch, queue) for launch in launches]


def _prepared(launch: Launch, queue: cl.CommandQueue) -> program.PreparedKernel:
    built = program.programs.program(queue, launch.file, launch.options)
    arguments = [np.array(value, np.int32) if isinstance(value, tuple) else value for value in launch.arguments]
    return program.PreparedKernel(cl.Kernel(built, launch.function), len(launch.buffers), arguments)


def enqueue(
    kernels: Sequence[program.PreparedKernel],
    launches: Sequence[Launch],
    queue: cl.CommandQueue,
    operands: Mapping[str, Operand],
    wait_for: Sequence[cl.Event] = (),
) -> cl.Event:
    """Enqueue launches, each after the one before; ``operands`` has the buffers they name.  Return the last's event."""
    for kernel, launch in zip(kernels, launches, strict=True):
        event = kernel.launch(queue, launch.sizes, [operands[name] for name in launch.buffers], wait_for)
        wait_for = [event]
    return event


@contextmanager
def reporting_memory(queue: cl.CommandQueue, problem: Problem) -> Iterator[None]:
    """Wait for the device before an error leaves; if it is out of memory, say where and for what.

    What was enqueued before the error may still read the caller's arrays.
    """
    try:
        yield
    except cl.MemoryError as error:
        queue.finish()
        runtime = devices.runtime_of(queue)
        if runtime is not None:
            runtime.pool.free_held()
        device = queue.device
        raise MemoryError(
            f"{device.name.strip()} has no room for {problem.op} on {problem.bytes} bytes of arrays "
            f"(its memory is {device.global_mem_size}, its largest buffer {device.max_mem_alloc_size}): {error}"
        ) from error
    except BaseException:
        queue.finish()
        raise
