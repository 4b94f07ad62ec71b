"""A plan that computes host arrays piece by piece, because a device's buffers are too small, or to save time.

Two pieces are under way at once: while one is computed, the one before it returns and the one behind it is brought.  To
a device with memory of its own they travel in two queues beside the one that computes, from and to memory that the
driver keeps in place (CL_MEM_ALLOC_HOST_PTR), and events say what waits for what.  The results are put together in the
order of the pieces, so they are the same each time.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from convcore.spi import Plan, Problem, Step
from convcore_opencl import device as devices
from convcore_opencl.device import Runtime
from convcore_opencl.execute import NAMES, OpenCLPlan, Operand, allocate
from convcore_opencl.failures import reporting
from convcore_opencl.host import Account, Array, aligned, map_result, send, shared
from convcore_opencl.plans import Division, Recipe
from convcore_opencl.plans.pieces import Piece, Where

#: Pieces that are under way at once.
UNDER_WAY = 2


class DividedPlan(Plan):
    """The pieces of a problem on host arrays, one after the other."""

    def __init__(
        self, problem: Problem, division: Division, choose: Callable[[Problem], Recipe], device: cl.Device
    ) -> None:
        super().__init__(problem)
        self.division, self.device = division, device
        different = dict.fromkeys(piece.problem for piece in division)
        self.plans = {piece: OpenCLPlan(piece, choose(piece), device) for piece in different}
        main = self.plans[division.largest()[0]]
        self.algorithm = main.algorithm
        self.workspace_bytes = max(plan.workspace_bytes for plan in self.plans.values())
        self.notes = f"in {len(division)} pieces; {main.notes}"

    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Compute into an array of its own, and copy that when all of it is there."""
        result = np.empty_like(out)
        self.run_fresh(first, second, bias, result)
        np.copyto(out, result)

    def run_fresh(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Compute into ``out`` piece by piece."""
        arrays = {"first": first, "second": second, "bias": bias}
        self._compute(devices.runtime(self.device), arrays, out, Account())

    def measure(self, first: Any, second: Any = None, bias: Any = None) -> tuple[Step, ...]:
        """Compute once, and say what each kind of copy and kernel took in all pieces."""
        account, arrays = Account(measures=True), {"first": first, "second": second, "bias": bias}
        out = np.empty(self.problem.result_shape, self.problem.result_dtype)
        self._compute(devices.measuring(self.device), arrays, out, account)
        return account.steps()

    def _compute(self, runtime: Runtime, arrays: dict[str, Array | None], out: Array, account: Account) -> None:
        problem, exact = self.problem, out
        if self.division.adds and problem.result_dtype == np.float16:
            exact = np.empty(out.shape, np.float32)  # rounded once, at the end
        with ExitStack() as lent, reporting(self, *runtime.queues):
            way = (_Sharing if runtime.unified else _Copying)(self, runtime, arrays, exact, account, lent)
            started: deque[_Started] = deque()
            for number, piece in enumerate(self.division):
                if len(started) == UNDER_WAY:
                    way.end(started.popleft())
                started.append(way.start(piece, number % UNDER_WAY))
            while started:
                way.end(started.popleft())
        if self.division.adds and arrays["bias"] is not None:
            exact += arrays["bias"].reshape((-1, 1, 1) if problem.layout == "NCHW" else -1)
        if exact is not out:
            np.copyto(out, exact, casting="same_kind")


class _Started(NamedTuple):
    """A piece under way: the array in which its result stands after the event, and what must be kept until then."""

    piece: Piece
    block: Array
    placed: bool  # it is where it belongs
    event: cl.Event
    kept: list[Any]


class _Way(ABC):
    """How parts of arrays get to a device and back."""

    def __init__(
        self,
        plan: DividedPlan,
        runtime: Runtime,
        arrays: dict[str, Array | None],
        out: Array,
        account: Account,
        lent: ExitStack,
    ) -> None:
        self.plan, self.runtime, self.arrays, self.out = plan, runtime, arrays, out
        self.account, self.lent = account, lent
        self.names = dict(zip(("first", "second", "bias"), (*NAMES[plan.problem.op], "bias"), strict=False))
        self._whole: dict[str, Operand] = {}

    def start(self, piece: Piece, slot: int) -> _Started:
        """Have a piece brought, computed and returned."""
        problem, kept = piece.problem, []
        operands, waiting = {"second": Operand(None), "bias": Operand(None)}, []
        if problem.bias:
            operands["bias"] = self._sent("bias", problem.result_dtype)._replace(start=piece.bias.start)
        for name, where, dtype in zip(("first", "second"), (piece.first, piece.second), problem.dtypes, strict=True):
            array = self.arrays[name]
            if array is None:
                continue
            where = self._in_memory(name, where)
            if all(places == range(size) for places, size in zip(where, array.shape, strict=True)):
                operands[name] = self._sent(name, dtype)
                continue
            fill = 0 if problem.op == "grad_input" else complex(problem.fill_value).real
            block, buffer, events = self.bring(name, part(array, where, fill), dtype, slot)
            operands[name] = Operand(buffer)
            kept.append((block, buffer))
            waiting += events
        target = None if piece.adds else self.out[_slices(self._in_memory("out", piece.out))]
        block, buffer = self.result(problem, target, slot)
        operands["out"] = Operand(buffer)
        computed = self.plan.plans[problem].follow(self.runtime.queue, operands, waiting, self.account)
        event, mapped = self.fetch(block, buffer, computed)
        return _Started(piece, block, block is target, event, [*kept, buffer, mapped])

    def end(self, started: _Started) -> None:
        """Wait until a piece has returned, and put its result where it belongs."""
        started.event.wait()
        where = self._in_memory("out", started.piece.out)
        if started.piece.adds:
            if all(isinstance(places, range) for places in where):
                self.out[_slices(where)] += started.block
            else:
                np.add.at(self.out, np.ix_(*where), started.block)
        elif not started.placed:
            self.out[_slices(where)] = started.block

    def _sent(self, name: str, dtype: np.dtype[Any]) -> Operand:
        """Return all of an operand, which is sent once."""
        if name not in self._whole:
            self.arrays[name] = np.ascontiguousarray(self.arrays[name], dtype)
            self._whole[name] = Operand(send(self.runtime, self.names[name], self.arrays[name], self.account))
        return self._whole[name]

    def _in_memory(self, name: str, where: tuple[Where, ...]) -> tuple[Where, ...]:
        """Put the logical axes of an image into the order of the layout."""
        op = self.plan.problem.op
        image = {"first": True, "second": op == "grad_weight", "out": op in ("forward", "grad_input")}[name]
        return (where[0], *where[2:], where[1]) if image and self.plan.problem.layout == "NHWC" else where

    @abstractmethod
    def bring(self, name: str, array: Array, dtype: np.dtype[Any], slot: int) -> tuple[Array, Any, list[cl.Event]]:
        """Return a part of an operand in one run, a buffer that has it, and the events after which that is so."""

    @abstractmethod
    def result(self, problem: Problem, target: Array | None, slot: int) -> tuple[Array, Any]:
        """Return the array in which a result will stand, ``target`` if it can be, and a buffer to compute into."""

    @abstractmethod
    def fetch(self, block: Array, buffer: Any, computed: cl.Event) -> tuple[cl.Event, Any]:
        """Return the event after which a result stands in its array, and what must be kept until then."""

    def gathered(self, name: str, size: int, began: float) -> None:
        """Take down that a part was put into one run on the host."""
        self.account.add(f"{self.names[name]} gathered", size, time.perf_counter() - began)


class _Sharing(_Way):
    """To a device that reads the host's memory: what lies in one run is computed on, or into, where it is."""

    def bring(self, name: str, array: Array, dtype: np.dtype[Any], slot: int) -> tuple[Array, Any, list[cl.Event]]:
        """Share the part, or a copy of it."""
        if array.flags.c_contiguous and array.dtype == dtype and self.runtime.shares(array):
            return array, shared(self.runtime, array), []
        began = time.perf_counter()
        block = aligned(self.runtime, array.shape, dtype)
        np.copyto(block, array, casting="same_kind")
        self.gathered(name, block.nbytes, began)
        return block, shared(self.runtime, block), []

    def result(self, problem: Problem, target: Array | None, slot: int) -> tuple[Array, Any]:
        """Share the target if it lies in one run."""
        as_it_is = target is not None and target.flags.c_contiguous and target.dtype == problem.result_dtype
        if target is None or not as_it_is or not self.runtime.shares(target):
            target = aligned(self.runtime, problem.result_shape, problem.result_dtype)
        return target, shared(self.runtime, target, written=True)

    def fetch(self, block: Array, buffer: Any, computed: cl.Event) -> tuple[cl.Event, Any]:
        """Map the buffer, which costs no copy."""
        mapped, event = map_result(self.runtime.queue, buffer, block)
        self.runtime.queue.flush()
        self.account.add("result, shared with the host", 0, event)
        return event, mapped


class _Copying(_Way):
    """To a device with memory of its own: by pinned memory, and by a buffer for each piece under way."""

    def __init__(self, plan: DividedPlan, runtime: Runtime, *given: Any) -> None:
        super().__init__(plan, runtime, *given)
        self._slots: dict[str, list[tuple[Any, Array]]] = {}
        self._ready: list[cl.Event] = []

    def bring(self, name: str, array: Array, dtype: np.dtype[Any], slot: int) -> tuple[Array, Any, list[cl.Event]]:
        """Copy the part to pinned memory, and from there while another piece is computed."""
        began = time.perf_counter()
        buffer, block = self._slot(name, array.shape, dtype, slot)
        np.copyto(block, array, casting="same_kind")
        self.gathered(name, block.nbytes, began)
        if not block.size:
            return block, buffer, []
        event = cl.enqueue_copy(self.runtime.up, buffer, block, wait_for=self._ready, is_blocking=False)
        self.runtime.up.flush()
        self.account.add(f"{self.names[name]} to the device", block.nbytes, event)
        return block, buffer, [event]

    def result(self, problem: Problem, target: Array | None, slot: int) -> tuple[Array, Any]:
        """Return pinned memory."""
        buffer, block = self._slot("out", problem.result_shape, problem.result_dtype, slot)
        return block, buffer

    def fetch(self, block: Array, buffer: Any, computed: cl.Event) -> tuple[cl.Event, Any]:
        """Copy the result to pinned memory while another piece is computed."""
        self.runtime.queue.flush()
        event = cl.enqueue_copy(self.runtime.down, block, buffer, wait_for=[computed], is_blocking=False)
        self.runtime.down.flush()
        self.account.add("result to the host", block.nbytes, event)
        return event, None

    def _slot(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], slot: int) -> tuple[Any, Array]:
        """Return one of the buffers of an operand and its pinned memory, as an array."""
        if name not in self._slots:
            most = max(_bytes_of(problem, name) for problem in self.plan.division.largest())
            queue, lend = self.runtime.queue, self.runtime.pinned.lend
            self._slots[name] = [
                (allocate(queue, most), self.lent.enter_context(lend(most)))
                for _ in range(min(UNDER_WAY, len(self.plan.division)))
            ]
            # Commands of earlier calls may still use what the pool has given.
            self._ready.append(cl.enqueue_marker(queue))
            queue.flush()
        buffer, memory = self._slots[name][slot]
        return buffer, memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def _bytes_of(problem: Problem, name: str) -> int:
    shapes = dict(zip(("first", "second"), zip(problem.operand_shapes, problem.dtypes, strict=False), strict=False))
    shape, dtype = (shapes | {"out": (problem.result_shape, problem.result_dtype)})[name]
    return max(math.prod(shape) * dtype.itemsize, 1)


def part(array: Array, where: tuple[Where, ...], fill: float) -> Array:
    """Return what stands at ``where`` along each axis: a view where it lies in the array, else a copy."""
    array = array[_slices(where)]
    for axis, places in enumerate(where):
        if not isinstance(places, range):
            index = np.array(places)
            array = np.take(array, np.maximum(index, 0), axis)
            array[(slice(None),) * axis + (index < 0,)] = fill
    return array


def _slices(where: tuple[Where, ...]) -> tuple[slice, ...]:
    return tuple(slice(places.start, places.stop) if isinstance(places, range) else slice(None) for places in where)
