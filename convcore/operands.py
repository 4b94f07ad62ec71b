"""What happens to host arrays around ``Plan.run``: the checks, the canonical form, and the care of ``out``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convcore.problem import Problem

if TYPE_CHECKING:
    from convcore.spi import Plan

#: The public function behind an op, and the names of its operands, for messages.
FUNCTION = {
    "forward": "conv2d",
    "grad_input": "conv2d_grad_input",
    "grad_weight": "conv2d_grad_weight",
    "grad_bias": "conv2d_grad_bias",
    "max_pool": "max_pool2d",
    "max_pool_grad": "max_pool2d_grad",
}
OPERANDS = {
    "forward": ("x", "weight"),
    "grad_input": ("grad_out", "weight"),
    "grad_weight": ("x", "grad_out"),
    "grad_bias": ("grad_out",),
    "max_pool": ("x",),
    "max_pool_grad": ("x", "grad_out"),
}

_INT64_MAX = 2**63 - 1
# A float64 sum of magnitudes is this close to the true one, for any array that fits in memory.
_SUM_MARGIN = 1 + 1e-6


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight made ready for many calls of a plan, by :meth:`Plan.pack`; later changes of the weight are not in it.

    Attributes
    ----------
    plan : Plan
        The plan that may be called with it.
    weight : array
        A copy of the weight.
    prepared : object
        What the backend made of it; None if it reads the weight as it is.
    """

    plan: Plan
    weight: Any
    prepared: Any = None


def packed_on_host(plan: Plan, weight: Any) -> Packed:
    """Check a weight against ``plan.problem`` and pack a copy of it."""
    fn, names = FUNCTION[plan.problem.op], OPERANDS[plan.problem.op]
    if "weight" not in names:
        raise TypeError(f"{fn}: a plan of {plan.problem.op} takes no weight to pack")
    copy = canonical(fn, "weight", weight, plan.problem.operand_shapes[1], plan.problem.dtypes[1]).copy()
    copy.flags.writeable = False
    return Packed(plan, copy, plan.prepare(copy))


def unpacked(plan: Plan, weight: Any) -> Any:
    """Return the weight of a packed one, which must be this plan's."""
    if weight.plan is not plan:
        raise ValueError(f"{FUNCTION[plan.problem.op]}: `weight` was packed by another plan")
    return weight.weight


def run_on_host(plan: Plan, first: Any, second: Any, bias: Any, out: Any) -> Any:
    """Check host arrays against ``plan.problem``, run it, and return the result."""
    problem = plan.problem
    fn, names = FUNCTION[problem.op], OPERANDS[problem.op]
    if isinstance(second, Packed):
        second = unpacked(plan, second)
    arrays = [
        canonical(fn, *expected)
        for expected in zip(names, (first, second), problem.operand_shapes, problem.dtypes, strict=False)
    ]
    first, second = arrays[0], arrays[1] if len(arrays) > 1 else None
    bias = _canonical_bias(fn, problem, bias)
    if problem.result_dtype.kind == "i":
        check_overflow(fn, problem, first, second, bias)
    if out is None:
        out = np.empty(problem.result_shape, problem.result_dtype)
        _run(plan, plan.run_fresh, first, second, bias, out)
        return out
    check_out(fn, problem, out, (*zip(names, arrays, strict=True), ("bias", bias)))
    flags = out.flags
    direct = flags.c_contiguous and flags.aligned and out.dtype.isnative
    if direct:
        _run(plan, plan.run, first, second, bias, out)
        return out
    target = np.empty(problem.result_shape, problem.result_dtype)
    _run(plan, plan.run_fresh, first, second, bias, target)
    np.copyto(out, target)
    return out


def _run(plan: Plan, run: Callable[..., None], *arrays: Any) -> None:
    """Run a plan, and write on whatever it raises which backend that comes from."""
    try:
        run(*arrays)
    except Exception as error:
        error.convcore_backend = plan.backend  # type: ignore[attr-defined]
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"raised by backend {plan.backend!r}, algorithm {plan.algorithm!r}, op {plan.problem.op!r}")
        raise


def canonical(fn: str, name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return the array C-contiguous, aligned and in native byte order; a copy only where it is not so already."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{fn}: `{name}` must be a numpy.ndarray for this plan, got {type(array).__name__}")
    if array.shape != shape:
        raise ValueError(f"{fn}: `{name}` must have shape {shape} for this plan, got {array.shape}")
    if array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{fn}: `{name}` must have dtype {dtype} for this plan, got {array.dtype}")
    return np.require(array, dtype, ("C", "A"))


def _canonical_bias(fn: str, problem: Problem, bias: Any) -> Any:
    if (bias is not None) != problem.bias:
        raise TypeError(f"{fn}: this plan was made {'with' if problem.bias else 'without'} a bias")
    if bias is None:
        return None
    if problem.result_dtype.kind == "i" and isinstance(bias, np.ndarray) and bias.dtype.kind in "iu":
        bias = bias.astype(problem.result_dtype, copy=False)
    return canonical(fn, "bias", bias, (problem.result_channels,), problem.result_dtype)


def check_out(fn: str, problem: Problem, out: Any, operands: tuple[tuple[str, Any], ...]) -> None:
    """Raise unless ``out`` can take the whole result and shares no memory with an operand."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{fn}: `out` must be a numpy.ndarray, got {type(out).__name__}")
    if out.shape != problem.result_shape:
        raise ValueError(f"{fn}: `out` must have shape {problem.result_shape}, got {out.shape}")
    if out.dtype.newbyteorder("=") != problem.result_dtype:
        raise TypeError(f"{fn}: `out` must have dtype {problem.result_dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{fn}: `out` must be writeable, got a read-only array")
    for name, array in operands:
        if array is not None and _overlap(out, array):
            raise ValueError(f"{fn}: `out` must not share memory with `{name}`")


def _overlap(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=1000))  # type: ignore[arg-type]  # the stubs know -1 and 0 only
    except (np.exceptions.TooHardError, OverflowError):
        return True


def check_overflow(fn: str, problem: Problem, first: Any, second: Any, bias: Any) -> None:
    """Raise OverflowError if int64 could overflow: first by the dtypes alone, then by the data."""
    bias_limit = 0 if bias is None else _magnitude(bias)
    by_dtype = problem.reduction_length
    for dtype in problem.dtypes[: 1 if second is None else 2]:
        by_dtype *= max(np.iinfo(dtype).max, -np.iinfo(dtype).min)
    if by_dtype + bias_limit <= _INT64_MAX:
        return
    largest = 1 if second is None else max(_magnitude(first), abs(int(problem.fill_value.real)))
    bound = largest * _absolute_sum(problem, first if second is None else second) + bias_limit
    if bound * _SUM_MARGIN > _INT64_MAX:
        raise OverflowError(
            f"{fn}: int64 could overflow, sums may reach {float(bound):.3g} with these values; use floating point"
        )


def _magnitude(array: np.ndarray[Any, Any]) -> int:
    return max(int(array.max()), -int(array.min())) if array.size else 0


def _absolute_sum(problem: Problem, factor: np.ndarray[Any, Any]) -> int:
    """Return the largest sum of magnitudes of ``factor`` that one element of the result takes in."""
    magnitudes = np.abs(factor.astype(np.float64))
    if problem.op == "grad_input":
        k, per_group, r, s = problem.weight_shape
        sums = magnitudes.reshape(problem.groups, k // problem.groups, per_group, r * s).sum(axis=(1, 3))
        sums *= problem.positions_per_pixel
    elif problem.op == "forward":
        sums = magnitudes.sum(axis=(1, 2, 3))
    else:
        channel = 1 if problem.layout == "NCHW" else 3
        sums = magnitudes.sum(axis=tuple(axis for axis in range(4) if axis != channel))
    return int(sums.max()) if sums.size else 0
