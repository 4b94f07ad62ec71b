"""Memory: how operands may lie, what is written and what is not, whether it grows, and where results live."""

from __future__ import annotations

from typing import cast

import pytest

from convcore.problem import HOST_ARRAY, Op
from convcore.testing.engine import Engine, poisoned, type_name
from convcore.testing.problems import ALL_OPS, GEOMETRIES, make_problem, random_operands
from convcore.testing.strategies import MEMORIES, in_memory
from convcore.testing.tolerance import assert_within


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("op", ALL_OPS)
def test_memory_layout(convcore_engine: Engine, op: Op, memory: str) -> None:
    """Operands may lie in memory in any way, and stay as they are."""
    for geometry in ("stride-2", "depthwise", "1x1"):
        problem = make_problem(op, **GEOMETRIES[geometry])
        first, second, bias = (None if a is None else in_memory(a, memory) for a in random_operands(problem))
        assert first is not None
        convcore_engine.verify(problem, (first, second, bias))


@pytest.mark.parametrize("memory", ["fortran", "negative", "strided", "byteswapped", "misaligned"])
@pytest.mark.parametrize("op", ALL_OPS)
def test_out(convcore_engine: Engine, op: Op, memory: str) -> None:
    """``out`` is written completely, whatever its memory layout."""
    problem = make_problem(op, **GEOMETRIES["padding-one-side"])
    convcore_engine.verify(problem, random_operands(problem), in_memory(poisoned(problem), memory))


def test_device_arrays(convcore_engine: Engine) -> None:
    """Arrays that live on the device give results that live there."""
    backend = convcore_engine.backend
    for arrays in set(convcore_engine.spec.array_types) - {HOST_ARRAY}:
        for op in convcore_engine.spec.ops:
            problem = make_problem(cast(Op, op), **GEOMETRIES["stride-2"], arrays=arrays)
            drawn = random_operands(problem)
            on_device = [None if operand is None else backend.to_device(operand) for operand in drawn]
            assert type_name(on_device[0]) == arrays, f"to_device() must return {arrays}"
            result = convcore_engine.plan(problem)(*on_device)
            assert type_name(result) == arrays, f"the result of {arrays} must be one, got {type(result)}"
            backend.synchronize()
            assert_within(backend.from_device(result), problem, *drawn)
