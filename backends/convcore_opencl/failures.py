"""What a driver says when it fails, in the library's words; the process stays usable.

A device is lost when it, its queue or its context is gone, as after a reset: the driver says so, or cannot even finish
what was enqueued.  All that was made for it is forgotten then, and the next call makes a new context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyopencl as cl

from convcore.spi import DeviceLost, OutOfDeviceMemory
from convcore_opencl import device as devices
from convcore_opencl import program

if TYPE_CHECKING:
    from convcore.spi import Plan

_STATUS = cl.status_code
_GONE = {_STATUS.DEVICE_NOT_AVAILABLE, _STATUS.INVALID_COMMAND_QUEUE, _STATUS.INVALID_CONTEXT, _STATUS.INVALID_DEVICE}


@contextmanager
def reporting(plan: Plan, *queues: cl.CommandQueue) -> Iterator[None]:
    """Wait for the device before an error leaves, and say in words that it is full or lost.

    What was enqueued before the error may still read and write the caller's arrays.

    Raises
    ------
    OutOfDeviceMemory, DeviceLost
        With the device, and what it was asked for.
    """
    try:
        yield
    except BaseException as error:
        device, op = queues[0].device, plan.problem.op
        _raise_if_lost(error, op, queues)
        name = device.name.strip()
        if isinstance(error, cl.MemoryError) or _code(error) == _STATUS.INVALID_BUFFER_SIZE:
            runtime = devices.runtime_of(queues[0])
            if runtime is not None:
                runtime.pool.free_held()
            needed = plan.problem.bytes + plan.workspace_bytes
            raise OutOfDeviceMemory(
                f"{name} has no room for {op} on {plan.problem.bytes} bytes of arrays and {plan.workspace_bytes} of "
                f"workspace (its memory is {device.global_mem_size}, its largest buffer {device.max_mem_alloc_size}): "
                f"{error}",
                device=name,
                needed=needed,
                memory=device.global_mem_size,
                largest_buffer=device.max_mem_alloc_size,
            ) from error
        raise


@contextmanager
def noticing_loss(during: str, queue: cl.CommandQueue) -> Iterator[None]:
    """Say in words if the device is lost, where no plan is at work.

    Raises
    ------
    DeviceLost
        With the device.
    """
    try:
        yield
    except cl.Error as error:
        _raise_if_lost(error, during, (queue,))
        raise


def _raise_if_lost(error: BaseException, during: str, queues: tuple[cl.CommandQueue, ...]) -> None:
    """Wait until nothing runs any more; raise DeviceLost, all that was made for the device forgotten, if it is gone."""
    failed = _settle(queues)
    if failed is None and _code(error) not in _GONE:
        return
    name = queues[0].device.name.strip()
    _forget(queues[0].context)
    raise DeviceLost(
        f"{name} was lost during {during}, and the arrays on it with it ({failed or error}); "
        f"the next call makes a new context",
        device=name,
    ) from error


def _settle(queues: tuple[cl.CommandQueue, ...]) -> cl.Error | None:
    """Wait until nothing runs any more; return why that cannot be known."""
    failed = None
    for queue in queues:
        try:
            queue.finish()
        except cl.Error as error:
            failed = error
    return failed


def _code(error: BaseException) -> int:
    return getattr(error, "code", 0) if isinstance(error, cl.Error) else 0


def _forget(context: cl.Context) -> None:
    devices.forget(context)
    program.programs.forget(context)
