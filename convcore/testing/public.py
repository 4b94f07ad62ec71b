"""A problem as the call that a user would write for it."""

from __future__ import annotations

from typing import Any

import convcore
from convcore.problem import POOL_OPS, Problem
from convcore.testing.problems import Operands


def call(problem: Problem, operands: Operands, backend: str) -> Any:
    """Compute a problem by convcore's own functions, by a backend that is named.

    Parameters
    ----------
    problem : Problem
        One that the functions can ask for: its output is not cropped, and no algorithm or limit is named.
    operands : tuple of array or None
        first, second, bias.
    backend : str
    """
    first, second, bias = operands
    settings: dict[str, Any] = {"layout": problem.layout, "backend": backend}
    if problem.op == "grad_bias":
        return convcore.conv2d_grad_bias(first, **settings)
    settings |= {"stride": problem.stride, "padding": problem.padding}
    if problem.op in POOL_OPS:
        kernel = problem.weight_shape[2:]
        if problem.op == "max_pool":
            return convcore.max_pool2d(first, kernel, **settings)
        return convcore.max_pool2d_grad(first, second, kernel, **settings)
    settings |= {name: getattr(problem, name) for name in ("dilation", "groups", "boundary", "fill_value", "accuracy")}
    if problem.op == "forward":
        return convcore.conv2d(first, second, bias, **settings)
    if problem.op == "grad_weight":
        return convcore.conv2d_grad_weight(first, second, problem.weight_shape, **settings)
    return convcore.conv2d_grad_input(first, second, problem.in_memory(problem.input_shape), **settings)
