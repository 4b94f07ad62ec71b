"""Following a recipe: on NumPy arrays, which travel to the device and back, and on device arrays, which stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyopencl as cl

from convcore.spi import HOST_ARRAY, Plan, Problem, Step
from convcore_opencl import device as devices
from convcore_opencl import program
from convcore_opencl.failures import reporting
from convcore_opencl.plans import Launch, Recipe

if TYPE_CHECKING:
    from convcore_opencl.host import Account

#: What the operands of an operation are called.
NAMES = {
    "forward": ("x", "weight"),
    "grad_input": ("grad_out", "weight"),
    "grad_weight": ("x", "grad_out"),
    "grad_bias": ("grad_out",),
}


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
        self.pattern: Any = None  # what results on the device are made like

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
        """Compute, and copy the result to ``out`` when it is whole."""
        self._compute(devices.runtime(self.device), (first, second, bias), out, fresh=False)

    def run_fresh(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Compute where ``out`` is, if the device reads and writes the host's memory."""
        self._compute(devices.runtime(self.device), (first, second, bias), out, fresh=True)

    def measure(self, first: Any, second: Any = None, bias: Any = None) -> tuple[Step, ...]:
        """Compute once, in a queue of its own, and say what each copy and each kernel took."""
        from convcore_opencl.host import Account

        account = Account(measures=True)
        if self.problem.arrays != HOST_ARRAY:
            from convcore_opencl.arrays import measure_in_place

            measure_in_place(self, first, second, bias, account)
            return account.steps()
        out = np.empty(self.problem.result_shape, self.problem.result_dtype)
        self._compute(devices.measuring(self.device), (first, second, bias), out, True, account)
        return account.steps()

    def _compute(
        self,
        runtime: devices.Runtime,
        arrays: tuple[Any, Any, Any],
        out: Any,
        fresh: bool,
        account: Account | None = None,
    ) -> None:
        from convcore_opencl.host import compute

        if out.size:
            with reporting(self, runtime.queue):
                compute(self, runtime, arrays, out, fresh, account)

    def follow(
        self,
        queue: cl.CommandQueue,
        operands: Mapping[str, Operand],
        wait_for: Sequence[cl.Event] = (),
        account: Account | None = None,
    ) -> cl.Event:
        """Enqueue the launches of the recipe; return the last one's event.

        Whatever may be refused, memory and kernels, is asked for before the first launch.
        """
        kernels = [program.programs.kernel(queue, launch) for launch in self.recipe.launches]
        scratch = {name: Operand(allocate(queue, size)) for name, size in self.recipe.workspace.items()}
        operands = {**operands, **scratch, "nothing": Operand(None)}
        return enqueue(kernels, self.recipe.launches, queue, operands, wait_for, account)


def allocate(queue: cl.CommandQueue, size: int) -> cl.MemoryObjectHolder:
    """Return memory that commands of one queue use: from the pool of the device's own, else a new buffer."""
    runtime = devices.runtime_of(queue)
    return cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, size) if runtime is None else runtime.pool.allocate(size)


def stand_in(context: cl.Context) -> cl.Buffer:
    """Return a buffer to pass for an empty array; OpenCL has no empty ones, and kernels do not read it."""
    return cl.Buffer(context, cl.mem_flags.READ_WRITE, 1)


def enqueue(
    kernels: Sequence[program.Kernel],
    launches: Sequence[Launch],
    queue: cl.CommandQueue,
    operands: Mapping[str, Operand],
    wait_for: Sequence[cl.Event] = (),
    account: Account | None = None,
) -> cl.Event:
    """Enqueue launches, each after the one before; ``operands`` has the buffers they name.  Return the last's event."""
    for kernel, launch in zip(kernels, launches, strict=True):
        buffers = [part for name in launch.buffers for part in operands[name]]
        event = kernel.launch(queue, launch.sizes, (*buffers, *launch.values), wait_for)
        wait_for = [event]
        if account is not None:
            account.add(f"kernel {launch.file.removesuffix('.cl')}.{launch.function}", 0, event)
    return event
