"""Memory: how operands may lie, what is written and what is not, whether it grows, and where results live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convcore.normalise import array_type
from convcore.problem import HOST_ARRAY, Op, Problem
from convcore.testing import devices, processes
from convcore.testing.engine import GUARD, Engine, poisoned
from convcore.testing.problems import ALL_OPS, GEOMETRIES, make_problem, random_operands
from convcore.testing.strategies import MEMORIES, in_memory
from convcore.testing.tolerance import assert_within

#: Bytes, and blocks of Python's memory, for each call: less is no leak, but what a process does beside.
_LEAK = 64, 0.5


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


@pytest.mark.parametrize("op", ALL_OPS)
def test_growth(convcore_engine: Engine, op: Op) -> None:
    """Memory does not grow over 1,000 calls."""
    calls, rounds = 250, 4
    for arrays in convcore_engine.spec.array_types if op in convcore_engine.spec.ops else ():
        found = processes.run(processes.growth, convcore_engine.asked_as, op, arrays, calls, rounds)
        for what, least in zip(("memory", "blocks"), _LEAK, strict=True):
            grown = np.diff(found[what])
            assert not grown.size or grown.min() < least * calls, (
                f"leaks memory: {op} on {arrays} takes more in every {calls} calls: {what} {grown.tolist()}"
            )


@pytest.mark.parametrize("op", ALL_OPS)
def test_device_arrays(convcore_engine: Engine, op: Op) -> None:
    """Arrays that live on the device give right results that live there, in ``out`` and nowhere beside it."""
    for arrays in set(convcore_engine.spec.array_types) - {HOST_ARRAY}:
        for geometry in ("stride-2", "groups-odd", "no-image"):
            problem = make_problem(op, **GEOMETRIES[geometry], arrays=arrays)
            if convcore_engine.refusal(problem):
                continue
            drawn, plan = random_operands(problem), convcore_engine.plan(problem)
            on_device = _to_device(convcore_engine, drawn, arrays)
            results: list[Any] = [plan(*on_device)]
            if problem.result_shape[0]:
                around, out = _guarded(convcore_engine, problem)
                results.append(plan(*on_device, out))
                assert results[-1] is out, "a call with out= must return out itself"
                _check_guards(convcore_engine, problem, around)
            for result in results:
                assert array_type(result) == arrays, f"the result of {arrays} must be one, got {array_type(result)}"
                assert_within(convcore_engine.backend.from_device(result), problem, *drawn, algorithm=plan.algorithm)
            for operand, host in zip(on_device, drawn, strict=True):
                same = host is None or np.array_equal(convcore_engine.backend.from_device(operand), host)
                assert same, f"an operand on the device was changed: {problem}"


@pytest.mark.parametrize("op", ALL_OPS)
def test_no_host_copies(convcore_engine: Engine, op: Op) -> None:
    """Between arrays on the device nothing travels to the host and back."""
    for arrays in set(convcore_engine.spec.array_types) - {HOST_ARRAY}:
        problem = make_problem(op, images=1, channels=(4, 4), size=(256, 256), arrays=arrays)
        if convcore_engine.refusal(problem):
            continue
        plan = convcore_engine.plan(problem)
        on_device = _to_device(convcore_engine, random_operands(problem), arrays)
        plan(*on_device)
        convcore_engine.backend.synchronize()
        simulated = "simulated" in convcore_engine.spec.device_kinds
        with devices.watching(convcore_engine.backend, on_device[0], simulated=simulated) as seen:
            plan(*on_device)
            convcore_engine.backend.synchronize()
        # The largest operand is megabytes.
        assert not seen.transfers, (
            f"copies through the host: {op} on {arrays} calls {', '.join(sorted(seen.transfers))}"
        )
        assert seen.allocated < 2**18, f"copies through the host: {op} on {arrays} takes {seen.allocated} bytes there"


def _to_device(engine: Engine, operands: Any, arrays: str) -> tuple[Any, Any, Any]:
    first, second, bias = (None if operand is None else engine.backend.to_device(operand) for operand in operands)
    assert array_type(first) == arrays, f"to_device() must return {arrays}, got {array_type(first)}"
    return first, second, bias


def _guarded(engine: Engine, problem: Problem) -> tuple[Any, Any]:
    """Return memory on the device and the part of it that takes the result; all of it where it cannot be cut."""
    size = int(np.prod(problem.result_shape))
    around = engine.backend.to_device(np.full(size + 2 * GUARD, 42, problem.result_dtype))
    try:
        return around, around[GUARD:-GUARD].reshape(problem.result_shape)
    except (AttributeError, NotImplementedError, TypeError):
        out = engine.backend.to_device(poisoned(problem))
        return around, out


def _check_guards(engine: Engine, problem: Problem, around: Any) -> None:
    engine.backend.synchronize()
    memory = engine.backend.from_device(around)
    guards = np.concatenate([memory[:GUARD], memory[-GUARD:]])
    assert (guards == 42).all(), f"wrote out of bounds, beside `out` on the device: {problem}"
