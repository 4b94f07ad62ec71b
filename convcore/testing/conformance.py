"""The conformance kit: what is demanded of every backend.

Whoever publishes one writes a class::

    from convcore.testing.conformance import BackendConformance

    class TestMine(BackendConformance):
        backend = "mine"

or runs ``convcore test mine``, which is ``pytest --pyargs convcore.testing.conformance
--convcore-backend mine``.  What the backend advertises in its spec is demanded of it; what it
does not, or what ``supports()`` declines, must really be refused, in the same words.  Nothing
is skipped, and a backend that refuses everything fails.  The rules are numbered in docs/spec.md.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convcore import select
from convcore.problem import HOST_ARRAY, OPS, POOL_OPS, Op
from convcore.registry import registry
from convcore.spi import Device
from convcore.testing.engine import Engine, packages_that_run, poisoned
from convcore.testing.gradients import assert_adjoint, assert_finite_differences
from convcore.testing.problems import (
    CASES,
    DTYPES,
    GEOMETRIES,
    make_problem,
    random_operands,
    seed_of,
    sibling,
)
from convcore.testing.strategies import MEMORIES, in_memory, operands, problems
from convcore.testing.tolerance import assert_within

#: Deterministic and modest; classes share the tests, which hypothesis would call unhealthy.
_SETTINGS = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
ALL_OPS = (*OPS, *POOL_OPS)
_LAWFUL = ("plain", "groups-odd", "stride-2", "stride-beyond-kernel", "dilation-stride", "padding-beyond-kernel")


class BackendConformance:
    """Every test of the kit; subclass it and set ``backend``, or leave that to ``--convcore-backend``."""

    #: The name of the backend, "name" or "name:device".
    backend: str | None = None

    # ------------------------------------------------------------ what it says of itself

    def test_spec(self, convcore_engine: Engine) -> None:
        """The spec advertises something, in words convcore knows."""
        spec = convcore_engine.spec
        for feature in ("ops", "dtypes", "layouts", "boundaries", "array_types", "device_kinds"):
            assert getattr(spec, feature), f"the spec advertises no {feature}"
        unknown = set(spec.dtypes) - set(DTYPES)
        assert not unknown, f"the spec advertises unknown dtypes: {', '.join(sorted(unknown))}"
        assert set(spec.ops) <= set(ALL_OPS), f"the spec advertises unknown ops: {spec.ops}"

    def test_probe(self, convcore_engine: Engine) -> None:
        """Probing lists devices."""
        devices = convcore_engine.backend.probe()
        assert not isinstance(devices, str)
        assert devices, "probe() must list a device, or say in words why there is none"
        assert all(isinstance(device, Device) for device in devices), f"probe() must list Device, got {devices!r}"

    @pytest.mark.parametrize("op", ALL_OPS)
    def test_does_something(self, convcore_engine: Engine, op: Op) -> None:
        """An advertised op is computed in every advertised dtype, at least for a plain 3x3 kernel."""
        spec = convcore_engine.spec
        for dtype in spec.dtypes:
            if op in POOL_OPS and np.dtype(dtype).kind != "f":
                continue  # there is no such problem
            problem = make_problem(op, dtypes=(dtype, dtype), bias=False, layout=spec.layouts[0])
            computed = convcore_engine.verify(problem, random_operands(problem))
            assert computed or op not in spec.ops, (
                f"advertises {op} in {dtype}, but refuses a plain 3x3 kernel: {convcore_engine.refusal(problem)}"
            )

    def test_runs_itself(self, convcore_engine: Engine) -> None:
        """A backend that was named runs; no other backend runs in its place."""
        others = {spec.factory.partition(".")[0].partition(":")[0] for spec in registry().specs.values()}
        others.discard(convcore_engine.spec.factory.partition(".")[0].partition(":")[0])
        select.cache.clear()
        for op in convcore_engine.spec.ops:
            problem = make_problem(cast(Op, op), size=(5, 13), bias=False, dtypes=(convcore_engine.spec.dtypes[0],) * 2)
            if convcore_engine.refusal(problem):
                continue
            drawn = random_operands(problem)
            with packages_that_run() as seen:
                convcore_engine.compute(problem, *drawn)
            assert not seen & others, f"{op} was computed by another backend: {', '.join(sorted(seen & others))}"

    # ------------------------------------------------------------ values

    @pytest.mark.parametrize("case", CASES)
    def test_value(self, convcore_engine: Engine, case: str) -> None:
        """The fixed problems are right, or refused in words."""
        convcore_engine.verify(CASES[case], random_operands(CASES[case], seed_of(case)))

    @given(data=st.data())
    @_SETTINGS
    @pytest.mark.parametrize("op", OPS)
    def test_any_geometry(self, convcore_engine: Engine, op: Op, data: st.DataObject) -> None:
        """Any geometry, dtype, boundary and memory layout that is advertised is right, or refused in words."""
        spec = convcore_engine.spec
        problem = data.draw(problems([op], spec.dtypes, spec.layouts, spec.boundaries))
        convcore_engine.verify(problem, data.draw(operands(problem)))

    @given(data=st.data())
    @_SETTINGS
    @pytest.mark.parametrize("op", POOL_OPS)
    def test_any_windows(self, convcore_engine: Engine, op: Op, data: st.DataObject) -> None:
        """Any windows, dtype and memory layout that is advertised is pooled right, or refused in words."""
        spec = convcore_engine.spec
        dtypes = [dtype for dtype in spec.dtypes if np.dtype(dtype).kind == "f"]
        problem = data.draw(problems([op], dtypes or ["float32"], spec.layouts, ["constant"]))
        convcore_engine.verify(problem, data.draw(operands(problem)))

    @pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("op", [*OPS[:3], *POOL_OPS])
    @pytest.mark.parametrize("geometry", _LAWFUL)
    def test_not_a_number(self, convcore_engine: Engine, geometry: str, op: Op, special: float) -> None:
        """NaN and infinities in either operand reach the elements the formula sends them to, and no others."""
        problem = make_problem(op, **GEOMETRIES[geometry])
        for victim in range(len(problem.operand_shapes)):
            drawn = random_operands(problem)
            array = drawn[victim]
            assert array is not None
            array.flat[array.size // 2] = special
            convcore_engine.verify(problem, drawn)

    def test_integers_do_not_overflow(self, convcore_engine: Engine) -> None:
        """Integers that could exceed int64 raise; the largest that cannot are exact."""
        if "int64" not in convcore_engine.spec.dtypes:
            return
        problem = make_problem(dtypes=("int64", "int64"), bias=False, channels=(1, 1), kernel=(1, 2))
        x, weight = (np.ones(shape, np.int64) for shape in problem.operand_shapes)
        if convcore_engine.verify(problem, (x * 2**61, weight, None)):
            with pytest.raises(OverflowError):
                convcore_engine.plan(problem)(x * 2**62, weight)

    # ------------------------------------------------------------ memory

    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize("op", ALL_OPS)
    def test_memory_layout(self, convcore_engine: Engine, op: Op, memory: str) -> None:
        """Operands may lie in memory in any way, and stay as they are."""
        problem = make_problem(op, **GEOMETRIES["stride-2"])
        first, second, bias = (None if a is None else in_memory(a, memory) for a in random_operands(problem))
        assert first is not None
        convcore_engine.verify(problem, (first, second, bias))

    @pytest.mark.parametrize("memory", ["guarded", "fortran", "negative", "strided", "byteswapped", "misaligned"])
    @pytest.mark.parametrize("op", ALL_OPS)
    def test_out(self, convcore_engine: Engine, op: Op, memory: str) -> None:
        """``out`` is written completely, whatever its memory layout, and nothing beside it is."""
        problem = make_problem(op, **GEOMETRIES["padding-one-side"])
        poison = poisoned(problem)
        if memory != "guarded":
            convcore_engine.verify(problem, random_operands(problem), in_memory(poison, memory))
            return
        guard = 64
        memory_around = np.full(poison.size + 2 * guard, 42, poison.dtype)
        out = memory_around[guard:-guard].reshape(poison.shape)
        out[...] = poison
        convcore_engine.verify(problem, random_operands(problem), out)
        assert (memory_around[:guard] == 42).all(), f"{op} wrote before the start of out"
        assert (memory_around[-guard:] == 42).all(), f"{op} wrote beyond the end of out"

    def test_device_arrays(self, convcore_engine: Engine) -> None:
        """Arrays that live on the device give results that live there."""
        backend = convcore_engine.backend
        for arrays in set(convcore_engine.spec.array_types) - {HOST_ARRAY}:
            for op in convcore_engine.spec.ops:
                problem = make_problem(cast(Op, op), **GEOMETRIES["stride-2"], arrays=arrays)
                if convcore_engine.refusal(problem):
                    continue
                drawn = random_operands(problem)
                on_device = [None if operand is None else backend.to_device(operand) for operand in drawn]
                assert _type_name(on_device[0]) == arrays, f"to_device() must return {arrays}"
                result = convcore_engine.plan(problem)(*on_device)
                assert _type_name(result) == arrays, f"the result of {arrays} must be one, got {type(result)}"
                backend.synchronize()
                assert_within(backend.from_device(result), problem, *drawn)

    # ------------------------------------------------------------ the same, every time

    @pytest.mark.parametrize("op", ALL_OPS)
    def test_deterministic(self, convcore_engine: Engine, op: Op) -> None:
        """The same operands give the same bits, also from several threads at once."""
        problem = make_problem(op, images=3, channels=(8, 16), size=(17, 19), padding=((1, 1), (1, 1)))
        if convcore_engine.refusal(problem):
            return
        plan, drawn = convcore_engine.plan(problem), random_operands(problem)
        expected = plan(*drawn).tobytes()
        with ThreadPoolExecutor(4) as pool:
            results = [future.result() for future in [pool.submit(plan, *drawn) for _ in range(12)]]
        assert all(result.tobytes() == expected for result in results), f"{op} gives other bits when called again"

    # ------------------------------------------------------------ gradients

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32"])
    @pytest.mark.parametrize("geometry", _LAWFUL)
    def test_adjoint(self, convcore_engine: Engine, geometry: str, dtype: str) -> None:
        """<g, A x> = <A^T g, x>, and the same for the weight and the bias, under every boundary."""
        for boundary in convcore_engine.spec.boundaries:
            problem = make_problem(**GEOMETRIES[geometry], dtypes=(dtype, dtype), boundary=boundary)
            if _computes_all(convcore_engine, problem):
                assert_adjoint(convcore_engine.compute, problem, seed_of(geometry))

    @pytest.mark.parametrize("geometry", ["groups-odd", "fill-value"])
    def test_finite_differences(self, convcore_engine: Engine, geometry: str) -> None:
        """Gradients are the slopes of a loss."""
        small: dict[str, Any] = GEOMETRIES[geometry] | {"images": 1, "size": (6, 5)}
        problem = make_problem(**small, dtypes=("float64", "float64"))
        if _computes_all(convcore_engine, problem):
            assert_finite_differences(convcore_engine.compute, problem)

    # ------------------------------------------------------------ what the caller demands

    @pytest.mark.parametrize("op", ALL_OPS)
    def test_named_algorithm(self, convcore_engine: Engine, op: Op) -> None:
        """A named algorithm runs or is refused; it is never replaced."""
        problem = make_problem(op)
        if convcore_engine.refusal(problem):
            return
        algorithm = convcore_engine.plan(problem).algorithm
        named = dataclasses.replace(problem, algorithm=algorithm)
        assert convcore_engine.verify(named, random_operands(named)), f"refuses its own algorithm {algorithm!r}"
        assert convcore_engine.plan(named).algorithm == algorithm, f"replaced the named algorithm {algorithm!r}"
        unknown = dataclasses.replace(problem, algorithm="no-such-algorithm")
        assert convcore_engine.refusal(unknown), "accepts an algorithm that does not exist"

    @pytest.mark.parametrize("limit", [0, 2**40])
    @pytest.mark.parametrize("op", ALL_OPS)
    def test_workspace_limit(self, convcore_engine: Engine, op: Op, limit: int) -> None:
        """A plan keeps to ``workspace_limit``, or the problem is refused."""
        problem = make_problem(op, **GEOMETRIES["same"], workspace_limit=limit)
        if convcore_engine.verify(problem, random_operands(problem)):
            used = convcore_engine.plan(problem).workspace_bytes
            assert used <= limit, f"uses {used} bytes of workspace where {limit} are allowed"


class TestBackend(BackendConformance):
    """The kit on the backends of ``--convcore-backend``."""


def _type_name(array: Any) -> str:
    return HOST_ARRAY if isinstance(array, np.ndarray) else f"{type(array).__module__}.{type(array).__qualname__}"


def _computes_all(engine: Engine, problem: Any) -> bool:
    return not any(engine.refusal(sibling(problem, op)) for op in OPS)
