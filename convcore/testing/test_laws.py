"""The laws of correlation: what results have to do with each other, whatever they are."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest

import convcore
from convcore.problem import OPS, Op, Problem, output_size
from convcore.testing.engine import Engine
from convcore.testing.gradients import assert_adjoint, assert_finite_differences, assert_second_derivatives
from convcore.testing.oracle import Array
from convcore.testing.problems import GEOMETRIES, make_problem, random_operands, seed_of, sibling
from convcore.testing.tolerance import Expectation

_LAWFUL = ("plain", "groups-odd", "stride-2", "stride-beyond-kernel", "dilation-stride", "padding-beyond-kernel")
_LARGE: dict[str, Any] = {"images": 1, "channels": (32, 32), "size": (14, 15), "padding": ((1, 1), (1, 1))}
_FLOATS = pytest.mark.parametrize("dtype", ["float32", "float64"])


class Value(NamedTuple):
    """A result, and the error allowed to each of its elements."""

    result: Array
    allowed: Array


def value(engine: Engine, problem: Problem, first: Array, second: Array | None, bias: Array | None = None) -> Value:
    """Compute a problem."""
    first, second = np.ascontiguousarray(first), None if second is None else np.ascontiguousarray(second)
    result, algorithm = engine.compute(problem, first, second, bias), engine.plan(problem).algorithm
    return Value(result, Expectation(problem, first, second, bias).allowed(algorithm))


def assert_same(law: str, problem: Problem, left: Value, right: Value) -> None:
    """Raise if two results differ by more than both may err."""
    assert left.result.shape == right.result.shape, f"{law}: shapes {left.result.shape} and {right.result.shape}"
    error, allowed = np.abs(left.result - right.result), left.allowed + right.allowed
    assert (error <= allowed).all(), (
        f"{law} does not hold: off by {error.max()}, allowed {allowed.flat[error.argmax()]}: {problem}"
    )


def whole_numbers(problem: Problem, seed: int) -> tuple[Array, Array]:
    """Draw operands that can be added without rounding."""
    rng = np.random.default_rng(seed)
    first, second = (
        rng.integers(-9, 10, shape).astype(dtype)
        for shape, dtype in zip(problem.operand_shapes, problem.dtypes, strict=True)
    )
    return first, second


@_FLOATS
@pytest.mark.parametrize("geometry", [*_LAWFUL, "large"])
@pytest.mark.parametrize("op", OPS[:3])
def test_linear(convcore_engine: Engine, op: Op, geometry: str, dtype: str) -> None:
    """A(2 x - y) = 2 A x - A y, in either operand."""
    problem = make_problem(op, **GEOMETRIES.get(geometry, _LARGE), dtypes=(dtype, dtype), bias=False)
    if convcore_engine.refusal(problem):
        return
    (a, c), (b, d) = whole_numbers(problem, 1), whole_numbers(problem, 2)
    for name, sums in (("first", ((a, c), (b, c), (2 * a - b, c))), ("second", ((a, c), (a, d), (a, 2 * c - d)))):
        one, other, both = (value(convcore_engine, problem, *pair) for pair in sums)
        right = Value(2 * one.result - other.result, 2 * one.allowed + other.allowed)
        assert_same(f"linearity of {op} in its {name} operand", problem, both, right)


@_FLOATS
@pytest.mark.parametrize("geometry", ["plain", "groups-odd", "stride-2", "dilation-stride"])
def test_shift(convcore_engine: Engine, geometry: str, dtype: str) -> None:
    """A shifted image has a shifted correlation, where no boundary is in sight."""
    arguments = GEOMETRIES[geometry] | {"padding": ((0, 0), (0, 0)), "size": (12, 13)}
    problem = make_problem(**arguments, dtypes=(dtype, dtype), bias=False)
    if convcore_engine.refusal(problem):
        return
    x, weight = whole_numbers(problem, 0)
    (rows, columns), (n, c, h, w), (_, k, p, q) = problem.stride, problem.input_shape, problem.output_shape
    shifted = dataclasses.replace(problem, input_shape=(n, c, h - rows, w - columns), output_shape=(n, k, p - 1, q - 1))
    left = value(convcore_engine, shifted, x[:, :, rows:, columns:], weight)
    whole = value(convcore_engine, problem, x, weight)
    right = Value(whole.result[:, :, 1:, 1:], whole.allowed[:, :, 1:, 1:])
    assert_same("shift equivariance", problem, left, right)


@pytest.mark.parametrize("geometry", ["plain", "even-kernel", "row-kernel", "one-channel"])
def test_convolution(convcore_engine: Engine, geometry: str) -> None:
    """convolve2d is corr2d with the kernel turned by half a circle."""
    problem = make_problem(**GEOMETRIES[geometry])
    x, weight, _ = random_operands(problem)
    kernel = weight[0, 0] if weight is not None else x
    for boundary in convcore_engine.spec.boundaries:
        keywords: dict[str, Any] = {"padding": "same", "boundary": boundary, "backend": convcore_engine.name}
        left = convcore.convolve2d(x[0], kernel, **keywords)
        right = convcore.corr2d(x[0], kernel[::-1, ::-1], **keywords)
        assert (left == right).all(), f"convolve2d is not corr2d with the kernel flipped: boundary {boundary}"


@_FLOATS
@pytest.mark.parametrize("channels", [(3, 4), (33, 65)])
def test_one_by_one(convcore_engine: Engine, channels: tuple[int, int], dtype: str) -> None:
    """A kernel of one pixel multiplies a matrix with the channels of every pixel."""
    problem = make_problem(channels=channels, kernel=(1, 1), dtypes=(dtype, dtype), bias=False)
    if convcore_engine.refusal(problem):
        return
    x, weight = whole_numbers(problem, 0)
    left = value(convcore_engine, problem, x, weight)
    right = np.einsum("kc,nchw->nkhw", weight[:, :, 0, 0].astype("f8"), x.astype("f8"))
    assert_same("1x1 = matrix product", problem, left, Value(right, left.allowed * 0))


@pytest.mark.parametrize("geometry", ["stride-2", "stride-3-1", "stride-beyond-kernel", "dilation-stride"])
def test_stride(convcore_engine: Engine, geometry: str) -> None:
    """A stride leaves out what lies between."""
    problem = make_problem(**GEOMETRIES[geometry], bias=False)
    dense = make_problem(**GEOMETRIES[geometry] | {"stride": (1, 1)}, bias=False)
    if convcore_engine.refusal(problem) or convcore_engine.refusal(dense):
        return
    x, weight = whole_numbers(problem, 0)
    every = value(convcore_engine, dense, x, weight)
    rows, columns = problem.stride
    right = Value(every.result[:, :, ::rows, ::columns], every.allowed[:, :, ::rows, ::columns])
    assert_same("stride = subsampling", problem, value(convcore_engine, problem, x, weight), right)


@pytest.mark.parametrize("geometry", ["groups", "groups-odd", "depthwise", "depthwise-multiplier"])
@pytest.mark.parametrize("op", OPS[:3])
def test_groups(convcore_engine: Engine, op: Op, geometry: str) -> None:
    """Groups are correlations of their own, side by side."""
    arguments = GEOMETRIES[geometry]
    problem = make_problem(op, **arguments, bias=False)
    c, k = (size // problem.groups for size in arguments["channels"])
    single = make_problem(op, **arguments | {"channels": (c, k), "groups": 1}, bias=False)
    if convcore_engine.refusal(problem) or convcore_engine.refusal(single):
        return
    first, second = whole_numbers(problem, 0)
    step = {"forward": (c, k), "grad_input": (k, k), "grad_weight": (c, k)}[op]
    parts = []
    for g in range(problem.groups):
        block = first[:, g * step[0] : (g + 1) * step[0]]
        rows = slice(g * step[1], (g + 1) * step[1])
        parts.append(value(convcore_engine, single, block, second[:, rows] if op == "grad_weight" else second[rows]))
    axis = 0 if op == "grad_weight" else 1
    right = Value(*(np.concatenate(arrays, axis) for arrays in zip(*parts, strict=True)))
    assert_same(f"groups = independent blocks, in {op}", problem, value(convcore_engine, problem, first, second), right)


def test_dilation(convcore_engine: Engine) -> None:
    """A dilated kernel is one with zeros between its pixels."""
    problem = make_problem(**GEOMETRIES["dilation"], bias=False)
    reach = [d * (r - 1) + 1 for d, r in zip(problem.dilation, problem.weight_shape[2:], strict=True)]
    dense = make_problem(**GEOMETRIES["dilation"] | {"dilation": (1, 1), "kernel": (reach[0], reach[1])}, bias=False)
    if convcore_engine.refusal(problem) or convcore_engine.refusal(dense):
        return
    x, weight = whole_numbers(problem, 0)
    spread = np.zeros(dense.weight_shape, weight.dtype)
    spread[:, :, :: problem.dilation[0], :: problem.dilation[1]] = weight
    left, right = value(convcore_engine, problem, x, weight), value(convcore_engine, dense, x, spread)
    assert_same("dilation = zeros in the kernel", problem, left, right)


def test_padding(convcore_engine: Engine) -> None:
    """A boundary is what stands in an image that was extended before."""
    for boundary in convcore_engine.spec.boundaries:
        problem = make_problem(**GEOMETRIES["same"], boundary=boundary, bias=False)
        (_, _, h, w), (_, padding) = problem.input_shape, ("", problem.padding)
        size = h + sum(padding[0]), w + sum(padding[1])
        extended = make_problem(**GEOMETRIES["same"] | {"size": size, "padding": ((0, 0), (0, 0))}, bias=False)
        if convcore_engine.refusal(problem) or convcore_engine.refusal(extended):
            continue
        x, weight = whole_numbers(problem, 0)
        wide = np.pad(x, ((0, 0), (0, 0), *padding), mode=boundary)  # type: ignore[call-overload]
        left, right = value(convcore_engine, problem, x, weight), value(convcore_engine, extended, wide, weight)
        assert_same(f"padding = an extended image, boundary {boundary}", problem, left, right)


@pytest.mark.parametrize("geometry", ["stride-2", "groups-odd", "many-images"])
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_images(convcore_engine: Engine, op: Op, geometry: str) -> None:
    """Images of a batch have nothing to do with each other."""
    problem = make_problem(op, **GEOMETRIES[geometry], bias=False)
    single = make_problem(op, **GEOMETRIES[geometry] | {"images": 1}, bias=False)
    if convcore_engine.refusal(problem) or convcore_engine.refusal(single):
        return
    first, second = whole_numbers(problem, 0)
    alone = [value(convcore_engine, single, first[i : i + 1], second) for i in range(len(first))]
    right = Value(*(np.concatenate(arrays) for arrays in zip(*alone, strict=True)))
    assert_same(f"independence of images in {op}", problem, value(convcore_engine, problem, first, second), right)


@pytest.mark.parametrize("geometry", ["stride-2", "groups-odd", "same"])
@pytest.mark.parametrize("op", OPS[:3])
def test_layouts(convcore_engine: Engine, op: Op, geometry: str) -> None:
    """Both layouts give the same numbers in another order."""
    problem, other = (make_problem(op, **GEOMETRIES[geometry], layout=name, bias=False) for name in ("NCHW", "NHWC"))
    if convcore_engine.refusal(problem) or convcore_engine.refusal(other):
        return
    first, second = whole_numbers(problem, 0)
    there, back = (0, 2, 3, 1), (0, 3, 1, 2)
    left = value(convcore_engine, problem, first, second)
    right = value(
        convcore_engine, other, first.transpose(there), second.transpose(there) if op == "grad_weight" else second
    )
    if op != "grad_weight":
        right = Value(right.result.transpose(back), right.allowed.transpose(back))
    assert_same(f"agreement of layouts in {op}", problem, left, right)


@pytest.mark.parametrize("geometry", ["plain", "even-kernel", "dilation"])
def test_grad_input_is_a_correlation(convcore_engine: Engine, geometry: str) -> None:
    """With stride 1 grad_input is the correlation with the weight turned, channels exchanged, padded in full."""
    arguments = GEOMETRIES[geometry] | {"padding": ((0, 0), (0, 0))}
    problem = make_problem("grad_input", **arguments, bias=False)
    c, k = problem.input_shape[1], problem.output_shape[1]
    reach = [d * (r - 1) for d, r in zip(problem.dilation, problem.weight_shape[2:], strict=True)]
    full = ((reach[0],) * 2, (reach[1],) * 2)
    size = problem.output_shape[2:]
    turned = make_problem(**arguments | {"channels": (k, c), "size": size, "padding": full}, bias=False)
    if convcore_engine.refusal(problem) or convcore_engine.refusal(turned):
        return
    grad, weight = whole_numbers(problem, 0)
    left = value(convcore_engine, problem, grad, weight)
    right = value(convcore_engine, turned, grad, weight[:, :, ::-1, ::-1].swapaxes(0, 1))
    assert_same("symmetry of forward and grad_input", problem, left, right)


@pytest.mark.parametrize("geometry", ["plain", "same", "stride-2", "dilation-stride"])
def test_grad_weight_is_a_correlation(convcore_engine: Engine, geometry: str) -> None:
    """Grad_weight is the correlation of x with grad_out, images for channels, stride and dilation exchanged."""
    problem = make_problem("grad_weight", **GEOMETRIES[geometry], bias=False)
    (n, c, h, w), (_, k, p, q), (_, _, r, s) = problem.input_shape, problem.output_shape, problem.weight_shape
    most = [
        output_size((h, w)[a], (p, q)[a], problem.dilation[a], problem.padding[a], problem.stride[a]) for a in (0, 1)
    ]
    turned = make_problem(
        images=c,
        channels=(n, k),
        size=(h, w),
        kernel=(p, q),
        stride=problem.dilation,
        dilation=problem.stride,
        padding=problem.padding,
        cropped=(most[0] - r, most[1] - s),
        bias=False,
    )
    if convcore_engine.refusal(problem) or convcore_engine.refusal(turned):
        return
    x, grad = whole_numbers(problem, 0)
    left = value(convcore_engine, problem, x, grad)
    right = value(convcore_engine, turned, x.swapaxes(0, 1), grad.swapaxes(0, 1))
    right = Value(right.result.swapaxes(0, 1), right.allowed.swapaxes(0, 1))
    assert_same("symmetry of forward and grad_weight", problem, left, right)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32"])
@pytest.mark.parametrize("geometry", _LAWFUL)
def test_adjoint(convcore_engine: Engine, geometry: str, dtype: str) -> None:
    """<g, A x> = <A^T g, x>, and the same for the weight and the bias, under every boundary."""
    for boundary in convcore_engine.spec.boundaries:
        problem = make_problem(**GEOMETRIES[geometry], dtypes=(dtype, dtype), boundary=boundary)
        if _computes_all(convcore_engine, problem):
            assert_adjoint(convcore_engine.compute, problem, seed_of(geometry))


@pytest.mark.parametrize("geometry", ["groups-odd", "fill-value"])
def test_finite_differences(convcore_engine: Engine, geometry: str) -> None:
    """Gradients are the slopes of a loss."""
    small: dict[str, Any] = GEOMETRIES[geometry] | {"images": 1, "size": (6, 5)}
    problem = make_problem(**small, dtypes=("float64", "float64"))
    if _computes_all(convcore_engine, problem):
        assert_finite_differences(convcore_engine.compute, problem)


@pytest.mark.parametrize("geometry", ["plain", "groups-odd", "dilation-stride"])
def test_second_derivatives(convcore_engine: Engine, geometry: str) -> None:
    """Second derivatives of a loss, made of the first ones, are the slopes of these and do not depend on the order."""
    for boundary, dtype in itertools.product(convcore_engine.spec.boundaries, ("float32", "float64")):
        problem = make_problem(**GEOMETRIES[geometry], dtypes=(dtype, dtype), boundary=boundary, bias=False)
        if _computes_all(convcore_engine, problem):
            assert_second_derivatives(convcore_engine.compute, problem, seed_of(geometry))


def _computes_all(engine: Engine, problem: Problem) -> bool:
    return not any(engine.refusal(sibling(problem, op)) for op in OPS)
