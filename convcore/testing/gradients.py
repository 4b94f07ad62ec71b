"""Checks that the gradients are those of the forward correlation, by laws and not by a reference.

The forward correlation A is linear in x once its bias and fill value are taken away, so its
gradient is its transpose: ``<g, A x> = <grad_input(g), x>``.  It is linear in the weight as
well.  These identities are exact for integers.  Finite differences of a loss say the same
again without assuming either.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convcore.problem import Op, Problem
from convcore.testing.oracle import Array, widen
from convcore.testing.problems import random_array, sibling
from convcore.testing.tolerance import ERROR_CONSTANTS, accumulation_dtype

#: Computes a problem from its operands: first, second (None for grad_bias), bias (None without one).
Compute = Callable[[Problem, Array, "Array | None", "Array | None"], Array]


def assert_adjoint(compute: Compute, problem: Problem, seed: int = 0) -> None:
    """Check grad_input, grad_weight and grad_bias against forward by the adjoint identities.

    Parameters
    ----------
    compute : callable
        The backend under test.
    problem : Problem
        A forward problem; its fill value must be 0, or grad_input's identity does not hold.
    seed : int
        Of the random operands.

    Raises
    ------
    AssertionError
        Naming the gradient whose identity fails, with both sides and the difference allowed.
    """
    problem = dataclasses.replace(problem, bias=False)
    rng = np.random.default_rng(seed)
    x, weight = (random_array(rng, s, d) for s, d in zip(problem.operand_shapes, problem.dtypes, strict=True))
    g = random_array(rng, problem.result_shape, problem.dtypes[0])
    y = compute(problem, x, weight, None)
    linear_in: dict[Op, tuple[tuple[Array, Array], Array]]
    linear_in = {"grad_input": ((g, weight), x), "grad_weight": ((x, g), weight)}
    for op, (pair, variable) in linear_in.items():
        dtypes = (pair[0].dtype, pair[1].dtype)
        gradient = compute(dataclasses.replace(sibling(problem, op), dtypes=dtypes), *pair, None)
        _assert_equal_sums(op, problem, (g, y), (gradient, variable))
    _assert_equal_sums(
        "grad_bias", problem, (g, np.ones_like(g)), (compute(sibling(problem, "grad_bias"), g, None, None), np.ones(1))
    )


def _assert_equal_sums(op: str, problem: Problem, left: tuple[Array, Array], right: tuple[Array, Array]) -> None:
    """Compare <left[0], left[1]> with <right[0], right[1]>."""
    products = [widen(a) * widen(b) for a, b in (left, right)]
    difference = abs(products[0].sum() - products[1].sum())
    allowed: Any = 0
    if problem.result_dtype.kind != "i":
        length = math.prod(problem.output_shape) * math.prod(problem.weight_shape[1:])
        scale = max(float(np.abs(p).sum()) for p in products)
        rounding = float(np.finfo(accumulation_dtype(problem)).eps + np.finfo(problem.result_dtype).eps)
        allowed = ERROR_CONSTANTS["direct"] * rounding * math.sqrt(length) * scale
    assert difference <= allowed, (
        f"{op} is not the adjoint of forward: <g, A x> = {products[0].sum()}, <A^T g, x> = {products[1].sum()}, "
        f"difference {difference}, allowed {allowed}: {problem}"
    )


def assert_finite_differences(compute: Compute, problem: Problem, seed: int = 0) -> None:
    """Check all three gradients of the loss ``sum(y**2) / 2`` by central differences, element by element.

    Parameters
    ----------
    compute : callable
        The backend under test.
    problem : Problem
        A small forward problem in float64, with a bias; any boundary and fill value.
    seed : int
        Of the random operands.

    Raises
    ------
    AssertionError
        Naming the gradient and the element that differ.
    """
    rng = np.random.default_rng(seed)
    float64 = np.dtype(np.float64)
    x, weight = (random_array(rng, shape, float64) for shape in problem.operand_shapes)
    bias = random_array(rng, (problem.result_channels,), float64)

    def loss() -> float:
        return float((compute(problem, x, weight, bias) ** 2).sum() / 2)

    y = compute(problem, x, weight, bias)
    gradients = {
        "grad_input": (x, compute(dataclasses.replace(sibling(problem, "grad_input"), bias=False), y, weight, None)),
        "grad_weight": (weight, compute(sibling(problem, "grad_weight"), x, y, None)),
        "grad_bias": (bias, compute(sibling(problem, "grad_bias"), y, None, None)),
    }
    for op, (variable, gradient) in gradients.items():
        # The loss is a polynomial of degree 2 in each element: a central difference has no error but rounding.
        allowed = 1e-10 * (1 + np.abs(gradient).max())
        for index in np.ndindex(variable.shape):
            value = variable[index]
            variable[index] = value + 0.5
            above = loss()
            variable[index] = value - 0.5
            slope = above - loss()
            variable[index] = value
            assert abs(slope - gradient[index]) <= allowed, (
                f"{op} at {index} is {gradient[index]}, finite differences say {slope}, allowed {allowed}: {problem}"
            )


def assert_second_derivatives(compute: Compute, problem: Problem, seed: int = 0) -> None:
    """Check that second derivatives of the loss ``sum(y**2) / 2``, made of the primitives, agree with each other.

    The Hessian H is that of the loss in x and weight together.  For any directions u and v, <u, H v> = <v, H u>, and
    H v is the slope of the gradient along v.

    Parameters
    ----------
    compute : callable
        The backend under test.
    problem : Problem
        A forward problem in a real floating dtype, with neither bias nor fill value.
    seed : int
        Of the random operands.

    Raises
    ------
    AssertionError
        Saying which of both fails, with the numbers.
    """
    rng = np.random.default_rng(seed)

    def draw() -> tuple[Array, Array]:
        first, second = (random_array(rng, s, d) for s, d in zip(problem.operand_shapes, problem.dtypes, strict=True))
        return first, second

    x, u, v = draw(), draw(), draw()
    to_input, to_weight = sibling(problem, "grad_input"), sibling(problem, "grad_weight")

    def gradient(point: tuple[Array, Array]) -> tuple[Array, Array]:
        y = compute(problem, *point, None)
        return compute(to_input, y, point[1], None), compute(to_weight, point[0], y, None)

    def hessian_times(along: tuple[Array, Array]) -> tuple[Array, Array]:
        y = compute(problem, *x, None)
        change = compute(problem, along[0], x[1], None) + compute(problem, x[0], along[1], None)
        in_input = compute(to_input, change, x[1], None) + compute(to_input, y, along[1], None)
        in_weight = compute(to_weight, x[0], change, None) + compute(to_weight, along[0], y, None)
        return in_input, in_weight

    products = [
        [widen(a) * widen(b) for a, b in zip(*pair, strict=True)]
        for pair in ((u, hessian_times(v)), (v, hessian_times(u)))
    ]
    one, other = (sum(part.sum() for part in parts) for parts in products)
    scale = max(float(sum(np.abs(part).sum() for part in parts)) for parts in products)
    # Sums of sums, each of them within its own bound.
    length = problem.reduction_length * sibling(problem, "grad_weight").reduction_length
    allowed = 2 * ERROR_CONSTANTS["direct"] * float(np.finfo(problem.result_dtype).eps) * math.sqrt(length) * scale
    assert abs(one - other) <= allowed, (
        f"second derivatives depend on their order: <u, H v> = {one}, <v, H u> = {other}, allowed {allowed}: {problem}"
    )
    if problem.result_dtype != np.float64:
        return
    step = 1e-3
    sides = [gradient((x[0] + sign * step * v[0], x[1] + sign * step * v[1])) for sign in (1, -1)]
    for name, above, below, exact in zip(("x", "weight"), *sides, hessian_times(v), strict=True):
        # The gradient is a polynomial of degree 3 along v: a central difference errs by step**2 times its third slope.
        error = float(np.abs((above - below) / (2 * step) - exact).max())
        limit = 1e-4 * (1 + float(np.abs(exact).max()))
        assert error <= limit, f"the second derivative in {name} is off by {error}, allowed {limit}: {problem}"
