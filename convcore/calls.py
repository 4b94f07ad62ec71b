"""From a call to a plan: the table of public functions, and the short way for a call that was made before."""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from convcore import config, normalise, select
from convcore.normalise import Geometry, Operand
from convcore.problem import Problem
from convcore.spi import Plan

Operands = tuple[Any, Any, Any]


class Function(NamedTuple):
    """A public function: what describes its problem, its arrays, and what else it takes by position."""

    name: str
    describe: Callable[..., Problem]
    arrays: tuple[str, ...]
    extra: tuple[str, ...] = ()


_WINDOW = ("kernel_size", "stride", "ceil_mode")
_CONV2D = Function("conv2d", normalise.forward, ("x", "weight", "bias"))
FUNCTIONS = {
    function.name: function
    for function in (
        _CONV2D,
        Function("conv2d_grad_input", normalise.grad_input, ("grad_out", "weight"), ("input_shape",)),
        Function("conv2d_grad_weight", normalise.grad_weight, ("x", "grad_out"), ("weight_shape",)),
        Function("conv2d_grad_bias", normalise.grad_bias, ("grad_out",)),
        Function("conv_transpose2d", normalise.transpose, ("x", "weight", "bias"), ("output_padding",)),
        _CONV2D._replace(name="corr2d", arrays=("x", "k", "bias")),
        _CONV2D._replace(name="convolve2d", arrays=("x", "k", "bias")),
        Function("max_pool2d", normalise.max_pool, ("x",), _WINDOW),
        Function("max_pool2d_grad", normalise.max_pool_grad, ("x", "grad_out"), _WINDOW),
    )
}
#: What ``plan`` and ``explain`` accept: the functions of four axes, and the primitives by their own names.
OPS = {name: function for name, function in FUNCTIONS.items() if "k" not in function.arrays} | {
    "forward": FUNCTIONS["conv2d"],
    "grad_input": FUNCTIONS["conv2d_grad_input"],
    "grad_weight": FUNCTIONS["conv2d_grad_weight"],
    "grad_bias": FUNCTIONS["conv2d_grad_bias"],
    "max_pool": FUNCTIONS["max_pool2d"],
    "max_pool_grad": FUNCTIONS["max_pool2d_grad"],
}
_DEFAULTS = {"bias": None, "output_padding": 0, "stride": None, "ceil_mode": False}


def run(fn: str, operands: Operands, geometry: tuple[Any, ...], extra: tuple[Any, ...], backend: Any, out: Any) -> Any:
    """Run a public function."""
    plan, operands = planned(fn, operands, geometry, extra, backend)
    return plan(*operands, out)


def planned(
    fn: str, operands: Operands, geometry: tuple[Any, ...], extra: tuple[Any, ...], backend: Any
) -> tuple[Plan, Operands]:
    """Return the plan of an identical earlier call, else a new one, and the operands as it takes them."""
    key = call_key(fn, operands, geometry, extra, backend)
    plan = select.cache.by_call.get(key)
    if plan is None:
        return first_plan(fn, key, operands, geometry, extra, backend)
    return plan, operands


def call_key(fn: str, operands: Operands, geometry: tuple[Any, ...], extra: tuple[Any, ...], backend: Any) -> Any:
    """Return a key equal for calls that need the same plan, or None for arguments that are not plain.

    Everything the user may choose a plan by is in it, the settings that may choose the backend too; variables of
    tuning and of an engine are read when a plan is made.
    marshal tells 1 from 1.0 and True, which are equal to a dict; its version 2 does not depend
    on reference counts.
    """
    first, second, bias = operands
    try:
        return (
            fn,
            first.__class__,
            first.shape,
            first.dtype,
            None if second is None else (second.__class__, second.shape, second.dtype),
            None if bias is None else (bias.__class__, bias.shape, bias.dtype),
            marshal.dumps((geometry, extra, backend), 2),
            config.scope.get() or config.process,
            os.environ.get(config.VARIABLE),
        )
    except (AttributeError, ValueError):
        return None


def first_plan(
    fn: str, key: Any, operands: Operands, geometry: tuple[Any, ...], extra: tuple[Any, ...], backend: Any
) -> tuple[Plan, Operands]:
    """Check every argument, make the plan, and remember it for the next identical call."""
    function = FUNCTIONS[fn]
    # By what the key says: meanwhile another thread may have called set_backend().
    setting = config.current(backend) if key is None else config.resolve(backend, *key[-2:])
    arrays = [
        None if value is None and name in _DEFAULTS else normalise.as_array(fn, name, value)
        for name, value in zip(function.arrays, operands, strict=False)
    ]
    sizes = [_describe(fn, name, array) for name, array in zip(function.arrays, arrays, strict=True)]
    plan = select.make_plan(function.describe(fn, *sizes, *extra, _tuned(Geometry(*geometry))), setting)
    arrays += [None] * (len(operands) - len(arrays))
    # Arguments that had to be converted must be converted, and checked, every time.
    if key is not None and all(array is value for array, value in zip(arrays, operands, strict=True)):
        select.cache.by_call[key] = plan
    return plan, (arrays[0], arrays[1], arrays[2])


def problem_of(fn: str, op: str, operands: tuple[Any, ...], dtype: Any, keywords: dict[str, Any]) -> Problem:
    """Describe the problem of a call that is not made: wherever it takes an array, a shape will do."""
    name, describe, arrays, extra = OPS[normalise.word(fn, "op", op, OPS)]
    positional = (*arrays, *extra)
    if len(operands) > len(positional):
        raise TypeError(f"{fn}: {op} takes {', '.join(positional)} by position, got {len(operands)} values")
    for key in keywords:
        normalise.word(fn, "keyword", key, (*positional, *Geometry.__dataclass_fields__))
    given = _DEFAULTS | {key: keywords.pop(key) for key in positional if key in keywords}
    given |= dict(zip(positional, operands, strict=False))
    for key in positional:
        if key not in given:
            raise TypeError(f"{fn}: {op} needs `{key}`")
    sizes = [_describe(name, key, given[key], np.float32 if dtype is None else dtype) for key in arrays]
    return describe(name, *sizes, *(given[key] for key in extra), _tuned(Geometry(**keywords)))


def arrays_of(
    fn: str, op: str, operands: tuple[Any, ...], keywords: dict[str, Any], problem: Problem
) -> tuple[Any, Any, Any]:
    """Return the arrays of a call that :func:`problem_of` described, with random ones where a shape stood for one."""
    names = OPS[op].arrays
    given = {name: keywords[name] for name in names if name in keywords} | dict(zip(names, operands, strict=False))
    described = [*zip(problem.operand_shapes, problem.dtypes, strict=False)]
    if problem.bias:
        described.append(((problem.result_channels,), problem.result_dtype))
    rng, arrays = np.random.default_rng(0), []
    for name, (shape, dtype) in zip(names, described, strict=False):
        value = given[name]
        if _is_shape(value):
            value = rng.integers(0, 9, shape) if dtype.kind in "iu" else rng.standard_normal(shape)
        array = normalise.as_array(fn, name, value)
        arrays.append(np.require(array, dtype, ("C", "A")) if isinstance(array, np.ndarray) else array)
    bias = arrays.pop() if problem.bias else None
    return arrays[0], arrays[1] if len(arrays) > 1 else None, bias


def _tuned(geometry: Geometry) -> Geometry:
    """Fill in the tuning that applies where the call does not choose it; its variable costs too much for every call."""
    return replace(geometry, tune=config.tuning(geometry.tune).word)


def _describe(fn: str, name: str, value: Any, shape_dtype: Any = None) -> Operand | None:
    """Describe an array; with ``shape_dtype``, a shape may stand for one."""
    if value is None and name in _DEFAULTS:
        return None
    ndim = 1 if name == "bias" else 4
    if shape_dtype is not None and _is_shape(value):
        shape = value if ndim == 1 else normalise.shape4(fn, name, value)
        return Operand(name, shape, normalise.check_dtype(fn, name, shape_dtype))
    return normalise.operand(fn, name, normalise.as_array(fn, name, value), ndim)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)
