"""PyOpenCL arrays in, PyOpenCL arrays out: the checks, and the run, with nothing copied to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl
import pyopencl.array as cla
from pyopencl.characterize import has_coarse_grain_buffer_svm

from convcore.spi import Problem
from convcore_opencl import device as devices
from convcore_opencl import program
from convcore_opencl.execute import NAMES, Operand, enqueue, stand_in
from convcore_opencl.failures import reporting
from convcore_opencl.plans.direct import EXTREMES, extremes

if TYPE_CHECKING:
    from convcore_opencl.execute import OpenCLPlan
    from convcore_opencl.host import Account

_INT64_MAX = 2**63 - 1


def run_in_place(plan: OpenCLPlan, first: Any, second: Any, bias: Any, out: Any) -> cla.Array:
    """Check device arrays against a plan's problem, enqueue it in their queue, and return the result."""
    problem = plan.problem
    if (bias is not None) != problem.bias:
        raise TypeError(f"opencl: this plan was made {'with' if problem.bias else 'without'} a bias")
    arrays = dict(zip(NAMES[problem.op], (first, second), strict=False))
    for (name, array), shape, dtype in zip(arrays.items(), problem.operand_shapes, problem.dtypes, strict=False):
        _check(name, array, shape, dtype)
    if bias is not None:
        arrays["bias"] = bias
        _check("bias", bias, (problem.result_channels,), problem.result_dtype)
    if out is not None:
        _check("out", out, problem.result_shape, problem.result_dtype)
        _check_apart(out, arrays)
    queue = _common_queue(plan.device, arrays if out is None else arrays | {"out": out})
    with reporting(plan, queue):
        if problem.result_dtype.kind == "i":
            _check_overflow(queue, problem, first, second, bias)
        if out is None:
            out = cla.empty_like(_pattern(plan, queue), queue, first.allocator)
        if out.size:
            named = {"first": first, "second": second, "bias": bias, "out": out}
            operands = {name: _operand(queue, array) for name, array in named.items()}
            out.add_event(plan.follow(queue, operands, _events(*named.values())))
    return out


def measure_in_place(plan: OpenCLPlan, first: Any, second: Any, bias: Any, account: Account) -> None:
    """Compute device arrays once more, in a queue that notes when each kernel begins and ends."""
    out = run_in_place(plan, first, second, bias, None)
    out.queue.finish()
    measuring = cl.command_queue_properties.PROFILING_ENABLE
    queue = cl.CommandQueue(out.context, plan.device, properties=measuring)
    named = {"first": first, "second": second, "bias": bias, "out": out}
    if out.size:
        with reporting(plan, queue):
            plan.follow(queue, {name: _operand(queue, array) for name, array in named.items()}, account=account)
            queue.finish()


def _check(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(array, cla.Array):
        raise TypeError(f"opencl: `{name}` must be a pyopencl.array.Array for this plan, got {type(array).__name__}")
    if array.shape != shape:
        raise ValueError(f"opencl: `{name}` must have shape {shape} for this plan, got {array.shape}")
    if array.dtype != dtype:
        raise TypeError(f"opencl: `{name}` must have dtype {dtype} for this plan, got {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"opencl: `{name}` must be C-contiguous, got strides {array.strides}")
    if array.size and isinstance(array.base_data, cl.SVMPointer):
        _check_shared(name, array.context.devices)
    elif array.size and not isinstance(array.base_data, cl.MemoryObjectHolder):
        raise TypeError(f"opencl: `{name}` must lie in a buffer, got {type(array.base_data).__name__}")
    if array.offset % array.dtype.itemsize:
        raise ValueError(f"opencl: `{name}` must start at a whole element of its buffer, got byte {array.offset}")


def _check_shared(name: str, context: list[cl.Device]) -> None:
    """Raise unless every device of a context knows shared virtual memory."""
    for device in context:
        if not has_coarse_grain_buffer_svm(device):
            raise TypeError(
                f"opencl: `{name}` lies in shared virtual memory, which {device.name.strip()} does not support; "
                f"put it in a buffer"
            )


def _check_apart(out: cla.Array, operands: dict[str, cla.Array]) -> None:
    buffer, begin, end = _extent(out)
    for name, array in operands.items():
        other, other_begin, other_end = _extent(array)
        if buffer == other and begin < other_end and other_begin < end:
            raise ValueError(f"opencl: `out` must not share memory with `{name}`")


def _extent(array: cla.Array) -> tuple[int, int, int]:
    """Return (buffer, first byte, byte after the last).

    A sub-buffer counts as part of its parent, and all of shared virtual memory as one.
    """
    if not array.size:
        return 0, 0, 0
    buffer, begin = array.base_data, array.offset
    if isinstance(buffer, cl.SVMPointer):
        return -1, buffer.svm_ptr + begin, buffer.svm_ptr + begin + array.nbytes
    parent = buffer.get_info(cl.mem_info.ASSOCIATED_MEMOBJECT)
    if parent is not None:
        buffer, begin = parent, begin + buffer.get_info(cl.mem_info.OFFSET)
    return buffer.int_ptr, begin, begin + array.nbytes


def _common_queue(device: cl.Device, arrays: dict[str, cla.Array]) -> cl.CommandQueue:
    """Return the queue of the first array that has one, having checked that all share its context."""
    (first_name, first), *others = arrays.items()
    for name, array in others:
        if array.context != first.context:
            raise ValueError(f"opencl: `{name}` is in another context than `{first_name}`; put both in one")
    queue = next((array.queue for array in arrays.values() if array.queue is not None), None)
    if queue is None:
        queue = devices.runtime(device).queue
    if queue.context != first.context:
        raise ValueError(f"opencl: `{first_name}` has no queue; give it one with .with_queue(queue)")
    return queue


def _pattern(plan: OpenCLPlan, queue: cl.CommandQueue) -> cla.Array:
    """Return an array like a plan's results but for memory, from which PyOpenCL makes others in 2 µs and not 14."""
    pattern = plan.pattern
    if pattern is None or pattern.context != queue.context:
        shape, dtype = plan.problem.result_shape, plan.problem.result_dtype
        pattern = plan.pattern = cla.Array(queue.context, shape, dtype, data=stand_in(queue.context))
    return pattern


def _operand(queue: cl.CommandQueue, array: cla.Array | None) -> Operand:
    if array is None:
        return Operand(None)
    if not array.size:
        return Operand(stand_in(queue.context))
    return Operand(array.base_data, array.offset // array.dtype.itemsize)


def _events(*arrays: cla.Array | None) -> list[cl.Event]:
    """Return what must be over first; to wait for what is over already takes PoCL as long as a small kernel."""
    events = (event for array in arrays if array is not None for event in array.events)
    return [event for event in events if event.command_execution_status != cl.command_execution_status.COMPLETE]


def _check_overflow(
    queue: cl.CommandQueue, problem: Problem, first: cla.Array, second: cla.Array | None, bias: cla.Array | None
) -> None:
    """Raise OverflowError if int64 could overflow: first by the dtypes alone, then by the largest magnitudes."""
    limit = problem.reduction_length
    for dtype in problem.dtypes[: 1 if second is None else 2]:
        limit *= max(np.iinfo(dtype).max, -np.iinfo(dtype).min)
    if bias is None and limit <= _INT64_MAX:
        return
    bound = max(_magnitude(queue, first), abs(int(complex(problem.fill_value).real)))
    if second is not None:
        bound *= _magnitude(queue, second)
    bound = bound * problem.reduction_length + (0 if bias is None else _magnitude(queue, bias))
    if bound > _INT64_MAX:
        raise OverflowError(
            f"opencl: int64 could overflow, sums may reach {float(bound):.3g} with these values; use floating point"
        )


def _magnitude(queue: cl.CommandQueue, array: cla.Array) -> int:
    if not array.size:
        return 0
    found = np.empty((EXTREMES, 2), np.int64)
    result = cl.Buffer(queue.context, cl.mem_flags.WRITE_ONLY, found.nbytes)
    operands = {"first": _operand(queue, array), "out": Operand(result)}
    launch = extremes(array.dtype, array.size)
    event = enqueue([program.programs.kernel(queue, launch)], [launch], queue, operands, _events(array))
    cl.enqueue_copy(queue, found, result, wait_for=[event])
    return max(int(found.max()), -int(found.min()))
