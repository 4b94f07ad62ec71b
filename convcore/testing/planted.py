"""Backends with one fault each, planted to prove that the conformance kit finds it.

``PLANTED`` maps their names to the classes; "planted-faultless" must pass.  All of them compute
by the reference, slowly.  They are behind no entry point: whoever wants to see the kit at work
registers this module as a plugin.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import convcore
from convcore.problem import BOUNDARIES, LAYOUTS, OPS, POOL_OPS, Problem
from convcore.spi import Backend, BackendSpec, Plan, UnsupportedProblem, hookimpl
from convcore.testing.oracle import Array, reference


class Faultless(Backend):
    """Right in everything; the others override one of its steps."""

    def supports(self, problem: Problem) -> bool | str:
        """Refuse named algorithms that do not exist."""
        known = problem.algorithm in (None, "direct")
        return known or f"the only algorithm is 'direct', got {problem.algorithm!r}"

    def plan(self, problem: Problem) -> Plan:
        """Return a plan that comes back here to be run."""
        return _Plan(problem, self)

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
    """Computes in float16."""

    def _read(self, operand: Array) -> Array:
        return operand.astype(np.float16) if operand.dtype.kind == "f" else operand


class NaNCleaner(Faultless):
    """Replaces NaN by zero."""

    def _read(self, operand: Array) -> Array:
        return np.where(np.isnan(operand), 0, operand).astype(operand.dtype)


class DroppedTile(Faultless):
    """Does not write the columns after the last multiple of 16."""

    def _write(self, out: Array, result: Array) -> None:
        columns = out.shape[-1] // 16 * 16 or out.shape[-1]
        out[..., :columns] = result[..., :columns]


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


_CLASSES = (
    Faultless, Empty, Wordless, Promising, Liar, WrongDtype, Flipped, NoStride, NoDilation, SwappedPadding,
    WrongBoundary, WrongFill, Interleaved, HalfPrecision, NaNCleaner, DroppedTile, Accumulating, Overrunning, Mutating,
    NoBias, Random, Fallback, Substitute, Greedy, LastOfEqual, ZeroPadding,
)  # fmt: skip

#: The backends by name.
PLANTED = {f"planted-{cls.__name__.lower()}": cls for cls in _CLASSES}


@hookimpl
def convcore_backends() -> list[BackendSpec]:
    """List the planted backends."""
    return [
        BackendSpec(
            name=name,
            factory=f"{__name__}:{cls.__name__}",
            summary=f"for testing the conformance kit: {cls.__doc__}",
            ops=(*OPS, *POOL_OPS),
            dtypes=("float32", "float64", "int64"),
            layouts=LAYOUTS,
            boundaries=BOUNDARIES,
        )
        for name, cls in PLANTED.items()
    ]
