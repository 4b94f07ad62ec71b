"""Backends with one fault each, planted to prove that the conformance kit finds it.

``PLANTED`` maps their names to the classes; "planted-faultless" must pass.  All of them compute by the reference,
slowly, on the host and on a device that is one in name only.  They are behind no entry point: whoever wants to see the
kit at work asks for "convcore.testing.planted:Flipped".
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import time
from typing import Any, ClassVar

import numpy as np

import convcore
from convcore.problem import BOUNDARIES, HOST_ARRAY, LAYOUTS, OPS, POOL_OPS, Problem
from convcore.spi import Backend, BackendSpec, Plan, UnsupportedProblem
from convcore.testing.oracle import Array, reference


class DeviceArray:
    """An array whose memory only its device may touch; here, the host plays the device."""

    def __init__(self, memory: Array) -> None:
        self.memory = memory

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return tuple(self.memory.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype."""
        dtype: np.dtype[Any] = self.memory.dtype
        return dtype

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(self.memory[index])

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return a view of another shape."""
        return DeviceArray(self.memory.reshape(shape))

    def get(self) -> Array:
        """Copy to the host."""
        return self.memory.copy()


_DEVICE_ARRAY = f"{__name__}.{DeviceArray.__name__}"


class Faultless(Backend):
    """Right in everything; the others override one of its steps."""

    def supports(self, problem: Problem) -> bool | str:
        """Refuse named algorithms that do not exist."""
        known = problem.algorithm in (None, "direct")
        return known or f"the only algorithm is 'direct', got {problem.algorithm!r}"

    def plan(self, problem: Problem) -> Plan:
        """Return a plan that comes back here to be run."""
        return _Plan(problem, self)

    def to_device(self, array: Array) -> DeviceArray:
        """Copy to the device."""
        return DeviceArray(np.array(array, order="C"))

    def from_device(self, array: DeviceArray) -> Array:
        """Copy from the device."""
        return array.get()

    def _call(self, plan: Plan, first: Any, second: Any, bias: Any, out: Any) -> DeviceArray:
        """Compute on the device."""
        problem = plan.problem
        if out is None:
            out = DeviceArray(np.empty(problem.result_shape, problem.result_dtype))
        first, second, bias = (None if operand is None else operand.memory for operand in (first, second, bias))
        self._run(problem, first, second, bias, out.memory)
        return out  # type: ignore[no-any-return]

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        wide = reference(self._problem(problem), self._read(first), self._weight(problem, second), bias)
        with np.errstate(all="ignore"):
            self._write(out, wide.astype(out.dtype))

    def _problem(self, problem: Problem) -> Problem:
        return problem

    def _read(self, operand: Array) -> Array:
        return operand

    def _weight(self, problem: Problem, second: Array | None) -> Array | None:
        return second

    def _write(self, out: Array, result: Array) -> None:
        out[...] = result

    def _return(self, result: Array) -> Array:
        return result


class _Plan(Plan):
    def __init__(self, problem: Problem, backend: Faultless) -> None:
        super().__init__(problem)
        self.owner = backend

    def run(self, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        self.owner._run(self.problem, first, second, bias, out)

    def __call__(self, first: Any, second: Any = None, bias: Any = None, out: Any = None) -> Any:
        if self.problem.arrays != HOST_ARRAY:
            return self.owner._call(self, first, second, bias, out)
        return self.owner._return(super().__call__(first, second, bias, out))


class Empty(Faultless):
    """Refuses everything."""

    def supports(self, problem: Problem) -> bool | str:
        """Refuse."""
        return "not yet"


class Wordless(Faultless):
    """Refuses groups without a reason."""

    def supports(self, problem: Problem) -> bool | str:
        """Refuse with a bare False."""
        return super().supports(problem) if problem.groups == 1 else False


class Promising(Faultless):
    """Accepts dilation, and refuses it later."""

    def plan(self, problem: Problem) -> Plan:
        """Refuse what was accepted."""
        if problem.dilation != (1, 1):
            raise UnsupportedProblem("no dilation after all")
        return super().plan(problem)


class Vague(Faultless):
    """Raises NotImplementedError where it accepted dilation."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        if problem.dilation != (1, 1):
            raise NotImplementedError
        super()._run(problem, first, second, bias, out)


class Liar(Faultless):
    """Returns zeros of the right shape and dtype."""

    def _write(self, out: Array, result: Array) -> None:
        out[...] = 0


class WrongDtype(Faultless):
    """Returns float64 whatever was asked."""

    def _return(self, result: Array) -> Array:
        return result.astype(np.float64)


class Flipped(Faultless):
    """Convolves instead of correlating."""

    def _weight(self, problem: Problem, second: Array | None) -> Array | None:
        return second if second is None or problem.op == "grad_weight" else second[:, :, ::-1, ::-1]


class NoStride(Faultless):
    """Ignores the stride."""

    def _problem(self, problem: Problem) -> Problem:
        return dataclasses.replace(problem, stride=(1, 1))


class NoDilation(Faultless):
    """Ignores the dilation."""

    def _problem(self, problem: Problem) -> Problem:
        return dataclasses.replace(problem, dilation=(1, 1))


class SwappedPadding(Faultless):
    """Takes the bottom padding for the top one."""

    def _problem(self, problem: Problem) -> Problem:
        (top, bottom), columns = problem.padding
        return dataclasses.replace(problem, padding=((bottom, top), columns))


class OffByOne(Faultless):
    """Starts one pixel early where there is padding."""

    def _problem(self, problem: Problem) -> Problem:
        (top, bottom), columns = problem.padding
        return dataclasses.replace(problem, padding=((top + bool(top), bottom), columns))


class WrongBoundary(Faultless):
    """Takes "reflect" for "symmetric"."""

    def _problem(self, problem: Problem) -> Problem:
        return dataclasses.replace(problem, boundary=problem.boundary.replace("reflect", "symmetric"))


class WrongFill(Faultless):
    """Ignores the fill value."""

    def _problem(self, problem: Problem) -> Problem:
        return dataclasses.replace(problem, fill_value=0.0)


class Interleaved(Faultless):
    """Takes every G-th output channel for a group, instead of a block of them."""

    def _weight(self, problem: Problem, second: Array | None) -> Array | None:
        if second is None or problem.op == "grad_weight":
            return second
        dealt: Array = second[np.arange(len(second)).reshape(-1, problem.groups).T.ravel()]
        return dealt


class HalfPrecision(Faultless):
    """Keeps its sums in float16."""

    def _write(self, out: Array, result: Array) -> None:
        out[...] = result.astype(np.float16) if out.dtype.kind == "f" else result


class NaNCleaner(Faultless):
    """Replaces NaN by zero."""

    def _read(self, operand: Array) -> Array:
        return np.where(np.isnan(operand), 0, operand).astype(operand.dtype)


class DroppedTile(Faultless):
    """Leaves out the columns after the last multiple of 16."""

    def _write(self, out: Array, result: Array) -> None:
        columns = out.shape[-1] // 16 * 16 or out.shape[-1]
        out[..., :columns] = result[..., :columns]
        out[..., columns:] = 0


class OneTile(Faultless):
    """Errs in the last column of outputs that are 33 wide, and in no others."""

    def _write(self, out: Array, result: Array) -> None:
        out[...] = result
        if out.shape[-1] == 33:
            out[..., 32] = out[..., 31]


class Unwritten(Faultless):
    """Does not write what is 0."""

    def _write(self, out: Array, result: Array) -> None:
        out[result != 0] = result[result != 0]


class Accumulating(Faultless):
    """Adds to what stands in the output."""

    def _write(self, out: Array, result: Array) -> None:
        out += result


class Overrunning(Faultless):
    """Writes one element beyond the end of the output."""

    def _write(self, out: Array, result: Array) -> None:
        out[...] = result
        if isinstance(out.base, np.ndarray) and out.base.size > out.size:
            out.base.reshape(-1)[-1] = 0


class Mutating(Faultless):
    """Uses its operand as scratch memory."""

    def _read(self, operand: Array) -> Array:
        copy = operand.copy()
        operand[...] = 0
        return copy


class NoBias(Faultless):
    """Forgets the bias."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        super()._run(problem, first, second, None, out)


class GradientWithoutBias(Faultless):
    """Forgets the bias of a transposed convolution."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        super()._run(problem, first, second, None if problem.op == "grad_input" else bias, out)


class TransposedGradient(Faultless):
    """Exchanges rows and columns of the weight's gradient."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        super()._run(problem, first, second, bias, out)
        if problem.op == "grad_weight":
            out[...] = np.ascontiguousarray(out.swapaxes(2, 3)).reshape(out.shape)


class Overflowing(Faultless):
    """Sums integers in 32 bits."""

    def _write(self, out: Array, result: Array) -> None:
        out[...] = (result + 2**31) % 2**32 - 2**31 if out.dtype.kind == "i" else result


class Random(Faultless):
    """Rounds differently every time."""

    def _write(self, out: Array, result: Array) -> None:
        down = np.random.default_rng().integers(0, 2, result.shape, dtype=bool)
        out[...] = np.where(down, np.nextafter(result, 0), result) if result.dtype.kind == "f" else result


class Fallback(Faultless):
    """Lets another backend do the simple work."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        if problem.op == "forward" and problem.groups == 1 and not np.any(problem.padding):
            stride, dilation, layout = problem.stride, problem.dilation, problem.layout
            convcore.conv2d(
                first, second, bias, stride=stride, dilation=dilation, layout=layout, backend="numpy", out=out
            )
            return
        super()._run(problem, first, second, bias, out)


class Substitute(Faultless):
    """Runs what it likes when an algorithm is named."""

    def supports(self, problem: Problem) -> bool | str:
        """Accept every algorithm."""
        return True


class Greedy(Faultless):
    """Takes more workspace than it may."""

    def plan(self, problem: Problem) -> Plan:
        """Return a plan that needs one byte."""
        plan = super().plan(problem)
        plan.workspace_bytes = 1
        return plan


class LastOfEqual(Faultless):
    """Gives the gradient of a maximum to the last of equal pixels."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        if problem.op == "max_pool_grad":
            first = first + np.linspace(0, 0.4, first.size).reshape(first.shape)
        super()._run(problem, first, second, bias, out)


class ZeroPadding(Faultless):
    """Takes the padding around a maximum for zeros."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        super()._run(problem, first, second, bias, out)
        if problem.op == "max_pool" and np.any(problem.padding):
            np.maximum(out, 0, out=out)


class Reusing(Faultless):
    """Returns the same memory every time."""

    memory: ClassVar[dict[Any, Array]] = {}

    def _return(self, result: Array) -> Array:
        kept = self.memory.setdefault((result.shape, result.dtype), result)
        kept[...] = result
        return kept


class Racing(Faultless):
    """Shares scratch memory between threads."""

    scratch: Any = None

    def _write(self, out: Array, result: Array) -> None:
        self.scratch = result
        time.sleep(0.0001)
        out[...] = self.scratch if self.scratch.shape == out.shape else 0


class GILHolder(Faultless):
    """Keeps Python's lock while it works."""

    def _run(self, problem: Problem, first: Array, second: Array | None, bias: Array | None, out: Array) -> None:
        start = time.perf_counter()
        super()._run(problem, first, second, bias, out)
        if problem.flops > 1e6:
            ctypes.PyDLL(None).usleep(int(4e6 * (time.perf_counter() - start)))


class Leaky(Faultless):
    """Never frees a copy of each result."""

    kept: ClassVar[list[Array]] = []

    def _write(self, out: Array, result: Array) -> None:
        out[...] = result
        self.kept.append(out.copy())


class Forkless(Faultless):
    """Has lost its threads after a fork."""

    def __init__(self, device: str = "") -> None:
        super().__init__(device)
        self.process = os.getpid()

    def _write(self, out: Array, result: Array) -> None:
        if os.getpid() != self.process:
            raise RuntimeError("the worker threads are gone")
        out[...] = result


class HostCopier(Faultless):
    """Takes device arrays to the host and back."""

    def _call(self, plan: Plan, first: Any, second: Any, bias: Any, out: Any) -> DeviceArray:
        first, second, bias = (None if operand is None else operand.get() for operand in (first, second, bias))
        result = np.empty(plan.problem.result_shape, plan.problem.result_dtype)
        self._run(plan.problem, first, second, bias, result)
        if out is None:
            return self.to_device(result)
        out.memory[...] = result
        return out  # type: ignore[no-any-return]


_CLASSES = (
    Faultless, Empty, Wordless, Promising, Vague, Liar, WrongDtype, Flipped, NoStride, NoDilation, SwappedPadding,
    OffByOne, WrongBoundary, WrongFill, Interleaved, HalfPrecision, NaNCleaner, DroppedTile, OneTile, Unwritten,
    Accumulating, Overrunning, Mutating, NoBias, GradientWithoutBias, TransposedGradient, Overflowing, Random,
    Reusing, Racing, Fallback, Substitute, Greedy, LastOfEqual, ZeroPadding, GILHolder, Leaky, Forkless, HostCopier,
)  # fmt: skip

#: The backends by name.
PLANTED = {f"planted-{cls.__name__.lower()}": cls for cls in _CLASSES}
for _name, _cls in PLANTED.items():
    _cls.spec = BackendSpec(
        name=_name,
        factory=f"{__name__}:{_cls.__name__}",
        summary=f"for testing the conformance kit: {_cls.__doc__}",
        ops=(*OPS, *POOL_OPS),
        dtypes=("float32", "float64", "int64", "uint16"),
        layouts=LAYOUTS,
        boundaries=BOUNDARIES,
        device_kinds=("simulated",),
        array_types=(HOST_ARRAY, _DEVICE_ARRAY),
    )
