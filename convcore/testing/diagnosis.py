"""What is wrong with a wrong result, in words: the faults that correlations have, tried one after the other.

A fault is a guess: the result is compared with what a backend that has it would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from convcore.problem import BOUNDARIES, POOL_OPS, Problem
from convcore.testing.oracle import Array
from convcore.testing.problems import Operands
from convcore.testing.tolerance import Expectation, accumulation_dtype

#: What a backend with a fault would compute instead: another problem, with other operands.
Instead = tuple[Problem, Operands]


def diagnose(problem: Problem, operands: Operands, result: Array) -> str:
    """Name the fault that would explain a wrong result.

    Parameters
    ----------
    problem : Problem
    operands : tuple of ndarray or None
        first, second, bias.
    result : ndarray
        Of the problem's shape and dtype, or no fault is found.

    Returns
    -------
    str
        Empty if no fault that is known explains it.
    """
    if result.shape != problem.result_shape or result.dtype != problem.result_dtype or not result.size:
        return ""
    right = Expectation(problem, *operands)
    guesses = (*_of_problems(problem, operands), *_of_operands(problem, operands))
    found = [words for words, instead in guesses if _matches(result, *instead)]
    found += [words for words, changed in _of_results(problem, right.value) if _equal(result, changed, right)]
    if found:
        return " or ".join(dict.fromkeys(found))
    return _of_precision(problem, right, result) or _of_place(right, result)


def _of_problems(problem: Problem, operands: Operands) -> Iterator[tuple[str, Instead]]:
    """Yield what comes out if a part of the geometry is misread."""

    def instead(**fields: Any) -> Instead:
        return dataclasses.replace(problem, **fields), operands

    (top, bottom), (left, right) = problem.padding
    if problem.stride != (1, 1):
        yield "the stride is ignored", instead(stride=(1, 1))
        yield "the two strides are swapped", instead(stride=problem.stride[::-1])
    if problem.dilation != (1, 1):
        yield "the dilation is ignored", instead(dilation=(1, 1))
        yield "the two dilations are swapped", instead(dilation=problem.dilation[::-1])
    if problem.fill_value != 0:
        yield "the fill value is ignored", instead(fill_value=0.0)
    if "padding" in problem.features:
        for boundary in BOUNDARIES if problem.op not in POOL_OPS else ():
            if boundary != problem.boundary:
                yield f"boundary {problem.boundary!r} is taken for {boundary!r}", instead(boundary=boundary)
        yield "the paddings at the start and at the end are swapped", instead(padding=((bottom, top), (right, left)))
        yield "top and bottom padding are swapped", instead(padding=((bottom, top), (left, right)))
        yield "left and right padding are swapped", instead(padding=((top, bottom), (right, left)))
        yield "the padding is ignored", instead(padding=((0, 0), (0, 0)))
    for rows, columns in ((1, 1), (1, 0), (0, 1), (-1, -1), (-1, 0), (0, -1)):
        padding = ((top + rows, bottom), (left + columns, right))
        yield "the padding is off by one", instead(padding=padding)


def _of_operands(problem: Problem, operands: Operands) -> Iterator[tuple[str, Instead]]:
    """Yield what comes out if an operand is misread."""
    first, second, bias = operands
    if problem.op in ("forward", "grad_input") and second is not None:
        flipped = second[:, :, ::-1, ::-1]
        yield "the kernel is flipped: that is a convolution, not a correlation", (problem, (first, flipped, bias))
        if problem.groups > 1:
            for order in _orders(problem):
                yield "the groups are in the wrong order", (problem, (first, second[order], bias))
    if bias is not None:
        yield "the bias is forgotten", (problem, (first, second, np.zeros_like(bias)))
        yield "the bias is added twice", (problem, (first, second, bias * 2))
    if first.dtype.kind in "fc" and not all(_finite(operand) for operand in operands):
        yield "NaN is taken for 0", (problem, (_without_nan(first), _without_nan(second), _without_nan(bias)))
    if problem.result_dtype.kind == "c":
        conjugated = None if second is None else second.conj()
        yield "complex numbers are conjugated", (problem, (first, conjugated, bias))


def _of_results(problem: Problem, right: Array) -> Iterator[tuple[str, Array]]:
    """Yield what comes out if the right result is misplaced or cut."""
    yield "every element is 0", np.zeros_like(right)
    if problem.op == "grad_weight":
        swapped = np.ascontiguousarray(right.swapaxes(2, 3)).reshape(right.shape)
        yield "the weight gradient is transposed: rows and columns of the kernel are exchanged", swapped
        yield "the kernel is flipped: that is the gradient of a convolution", right[:, :, ::-1, ::-1]
        for order in _orders(problem) if problem.groups > 1 else ():
            yield "the groups are in the wrong order", right[order]
    if problem.op == "max_pool":
        yield "the padding counts as 0", np.maximum(right, 0)
    if problem.result_dtype.kind == "i":
        for bits in (8, 16, 32):
            yield f"integers overflow at {bits} bits", (right + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    else:
        yield "everything has the wrong sign", -right


def _of_precision(problem: Problem, right: Expectation, result: Array) -> str:
    """Say in which dtype sums seem to be kept, if the error is as large as that one's."""
    if problem.result_dtype.kind not in "fc" or not _finite(result):
        return ""
    eps = np.finfo(accumulation_dtype(problem)).eps
    with np.errstate(all="ignore"):
        error = float((np.abs(result - right.value) / right.allowed()).max())
    for dtype in (np.float32, np.float16):
        larger = float(np.finfo(dtype).eps) / float(eps)
        if larger > 1 and error <= 2 * larger:
            return f"the errors are those of {np.dtype(dtype).name}: operands or sums are kept in it"
    return ""


def _of_place(right: Expectation, result: Array) -> str:
    """Say where the wrong elements are, if that is an end of one axis: a tile that was left out or cut."""
    wrong = ~_right(result, right)
    names = {1: ("channels",), 4: ("images", "channels", "rows", "columns")}[result.ndim]
    if result.ndim == 4 and right.problem.op == "grad_weight":
        names = ("output channels", "input channels", "kernel rows", "kernel columns")
    elif result.ndim == 4 and right.problem.layout == "NHWC":
        names = ("images", "rows", "columns", "channels")
    for axis in reversed(range(result.ndim)):
        others = tuple(other for other in range(result.ndim) if other != axis)
        lines = np.asarray(wrong.any(axis=others))
        size, first = len(lines), int(lines.argmax())
        if first and lines[first:].all():
            return f"only the last {names[axis]} are wrong, from {first} of {size} on: the last tile"
    shape = dict(zip(names, result.shape, strict=True))
    return "wrong for these sizes: " + ", ".join(f"{size} {name}" for name, size in shape.items())


def _orders(problem: Problem) -> Iterator[Array]:
    """Yield output channels dealt out to groups one by one, instead of in blocks; and back."""
    channels = np.arange(problem.weight_shape[0])
    yield channels.reshape(-1, problem.groups).T.ravel()
    yield channels.reshape(problem.groups, -1).T.ravel()
    yield channels.reshape(problem.groups, -1)[::-1].ravel()


def _matches(result: Array, problem: Problem, operands: Operands) -> bool:
    try:
        Expectation(problem, *operands).check(result)
    except AssertionError:
        return False
    return True


def _equal(result: Array, changed: Array, right: Expectation) -> bool:
    """Whether a result is a changed version of the right one, within the largest error allowed to any element."""
    if result.dtype.kind == "i":
        return bool((result.astype(object) == changed).all())
    with np.errstate(all="ignore"):
        close = np.abs(result - changed) <= right.allowed().max()
        return bool((close | (np.isnan(result) & np.isnan(changed)) | (result == changed)).all())


def _right(result: Array, right: Expectation) -> Array:
    """Whether each element is right."""
    if result.dtype.kind == "i":
        return np.asarray(result.astype(object) == right.value, bool)
    with np.errstate(all="ignore"):
        same = (result == right.value) | (np.isnan(result) & np.isnan(right.value))
        return np.asarray(same | (np.abs(result - right.value) <= right.allowed()))


def _finite(array: Array | None) -> bool:
    return array is None or array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def _without_nan(array: Array | None) -> Any:
    return None if array is None else np.where(np.isnan(array), 0, array).astype(array.dtype)
