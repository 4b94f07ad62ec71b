"""NumPy arrays in and out: shared with a device that reads the host's memory, else copied."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from convcore.spi import Step
from convcore_opencl.device import Runtime
from convcore_opencl.execute import NAMES, Operand, allocate, stand_in

if TYPE_CHECKING:
    from convcore_opencl.execute import OpenCLPlan

Array = np.ndarray[Any, Any]
#: Bytes of a result from which on to map a shared buffer takes less time than to copy.
SHARING_PAYS = 128 << 10


class Account:
    """What copies and kernels took, for ``explain(..., run=True)``, where queues were made to measure.

    Otherwise it only holds on to the latest events, because PyOpenCL waits for a copy whose event is dropped.
    """

    def __init__(self, measures: bool = False) -> None:
        self._entries: deque[tuple[str, int, cl.Event | float]] = deque(maxlen=None if measures else 64)

    def add(self, name: str, size: int, took: cl.Event | float) -> None:
        """Take down a copy of ``size`` bytes, or a kernel, which has none: its event, or its seconds on the host."""
        self._entries.append((name, size, took))

    def steps(self) -> tuple[Step, ...]:
        """Return one step for each name, in the order in which they began; all events are over."""
        found: dict[str, Step] = {}
        for name, size, took in self._entries:
            seconds = took if isinstance(took, float) else (took.profile.end - took.profile.start) * 1e-9
            before = found.get(name, Step(name, 0.0, count=0))
            found[name] = Step(name, before.seconds + seconds, before.bytes + size, before.count + 1)
        return tuple(found.values())


def compute(
    plan: OpenCLPlan,
    runtime: Runtime,
    arrays: tuple[Array | None, ...],
    out: Array,
    fresh: bool,
    account: Account | None = None,
) -> None:
    """Take arrays to the device, compute, and bring the result back when it is whole; a fresh ``out`` may be shared."""
    queue, account = runtime.queue, account or Account()
    names = (*NAMES[plan.problem.op], "")[:2]
    operands = {
        key: Operand(send(runtime, name, array, account))
        for key, name, array in zip(("first", "second", "bias"), (*names, "bias"), arrays, strict=True)
    }
    if fresh and out.nbytes >= SHARING_PAYS and runtime.shares(out):
        operands["out"] = Operand(shared(runtime, out, written=True))
        plan.follow(queue, operands, account=account)
        mapped, event = map_result(queue, operands["out"].buffer, out)
        event.wait()
        mapped.base.release(queue)
        account.add("result, shared with the host", 0, event)
    else:
        operands["out"] = Operand(allocate(queue, out.nbytes))
        plan.follow(queue, operands, account=account)
        # Blocking, in which PyOpenCL lets other threads run: Intel's runtime may compute in the call that copies.
        event = cl.enqueue_copy(queue, out, operands["out"].buffer)
        account.add("result to the host", out.nbytes, event)


def send(runtime: Runtime, name: str, array: Array | None, account: Account) -> cl.MemoryObjectHolder | None:
    """Return a buffer with an array's elements; the array must stay as it is until what reads it is over."""
    if array is None:
        return None
    if not array.size or runtime.shares(array):
        account.add(f"{name}, shared with the device", 0, 0.0)
        return shared(runtime, array)
    buffer = allocate(runtime.queue, array.nbytes)
    account.add(f"{name} to the device", array.nbytes, cl.enqueue_copy(runtime.queue, buffer, array, is_blocking=False))
    return buffer


def shared(runtime: Runtime, array: Array, written: bool = False) -> cl.MemoryObjectHolder:
    """Return a buffer that lies where an array does."""
    if not array.size:
        return stand_in(runtime.context)
    access = cl.mem_flags.READ_WRITE if written else cl.mem_flags.READ_ONLY
    return cl.Buffer(runtime.context, access | cl.mem_flags.USE_HOST_PTR, hostbuf=array)


def aligned(runtime: Runtime, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array that lies where it can be shared."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + runtime.alignment, np.uint8)
    start = -memory.__array_interface__["data"][0] % runtime.alignment
    return memory[start : start + size].view(dtype).reshape(shape)


def map_result(queue: cl.CommandQueue, buffer: cl.MemoryObjectHolder | None, out: Array) -> tuple[Array, cl.Event]:
    """Have a shared buffer's elements stand in its array once the event is over, until the mapping is released."""
    return cl.enqueue_map_buffer(queue, buffer, cl.map_flags.READ, 0, out.shape, out.dtype, is_blocking=False)
