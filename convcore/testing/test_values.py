"""Every number a backend gives is right: fixed problems, drawn ones, sizes around tiles, special values, integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convcore.problem import OPS, POOL_OPS, Op
from convcore.testing.engine import Engine
from convcore.testing.problems import ALL_OPS, CASES, GEOMETRIES, SWEEPS, make_problem, random_operands, seed_of
from convcore.testing.strategies import operands, problems

_EXAMPLES = {"quick": 25, "full": 200}
_SPECIAL = ("plain", "groups-odd", "stride-2", "stride-beyond-kernel", "dilation-stride", "padding-beyond-kernel")


@pytest.mark.parametrize("case", CASES)
def test_value(convcore_engine: Engine, case: str) -> None:
    """The fixed problems are right."""
    convcore_engine.verify(CASES[case], random_operands(CASES[case], seed_of(case)))


@pytest.mark.parametrize("op", ALL_OPS)
def test_any_geometry(convcore_engine: Engine, convcore_profile: str, op: Op) -> None:
    """Any geometry, dtype, boundary and memory layout that is declared is right."""
    spec = convcore_engine.spec
    dtypes, boundaries = spec.dtypes, spec.boundaries
    if op in POOL_OPS:
        dtypes, boundaries = tuple(name for name in dtypes if np.dtype(name).kind == "f"), ("constant",)

    @settings(
        max_examples=_EXAMPLES[convcore_profile],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        problem = data.draw(problems([op], dtypes, spec.layouts, boundaries))
        convcore_engine.verify(problem, data.draw(operands(problem)))

    holds()


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("op", ALL_OPS)
def test_every_size(convcore_engine: Engine, convcore_profile: str, op: Op, sweep: str) -> None:
    """All widths, heights, numbers of channels and of images in a row: of any tile there is, one more and one less."""
    for arguments in SWEEPS[sweep](convcore_profile):
        problem = make_problem(op, **arguments)
        convcore_engine.verify(problem, random_operands(problem))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", [*OPS[:3], *POOL_OPS])
@pytest.mark.parametrize("geometry", _SPECIAL)
def test_not_a_number(convcore_engine: Engine, geometry: str, op: Op, special: float) -> None:
    """NaN and infinities in either operand reach the elements the formula sends them to, and no others."""
    problem = make_problem(op, **GEOMETRIES[geometry])
    for victim in range(len(problem.operand_shapes)):
        drawn = random_operands(problem)
        array = drawn[victim]
        assert array is not None
        array.flat[array.size // 2] = special
        convcore_engine.verify(problem, drawn)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ALL_OPS)
def test_subnormal(convcore_engine: Engine, op: Op, dtype: str) -> None:
    """Subnormal operands count as what they are or as 0; the thread's own arithmetic still has them afterwards."""
    limits = np.finfo(dtype)
    problem = make_problem(op, dtypes=(dtype, dtype), bias=False)
    for factor in (limits.smallest_subnormal, limits.smallest_normal):
        first, second, bias = random_operands(problem)
        victim = second if op == "max_pool_grad" else first  # in x, what is larger than what would change
        assert victim is not None
        victim *= factor * 1000
        convcore_engine.verify(problem, (first, second, bias))
    half = np.array([limits.smallest_normal], dtype) / 2
    assert half[0] != 0, "the processor flushes subnormal numbers to 0 after a call"


@pytest.mark.parametrize("op", OPS)
def test_integers_do_not_overflow(convcore_engine: Engine, op: Op) -> None:
    """Integers that could exceed int64 raise; the largest that cannot are exact."""
    if "int64" not in convcore_engine.spec.dtypes:
        return
    # Sums of two products, or of two numbers.
    problem = make_problem(
        op, images=1, dtypes=("int64", "int64"), bias=False, channels=(1, 1), size=(1, 3), kernel=(1, 2)
    )
    ones = [np.ones(shape, np.int64) for shape in problem.operand_shapes]
    second = ones[1] if len(ones) > 1 else None
    if convcore_engine.verify(problem, (ones[0] * 2**61, second, None)):
        result = None
        with pytest.raises(OverflowError):
            result = convcore_engine.plan(problem)(ones[0] * 2**62, second)
        assert result is None, f"returned {result} where int64 overflows"


@pytest.mark.parametrize("op", OPS)
def test_extreme_integers(convcore_engine: Engine, op: Op) -> None:
    """The smallest and largest number of each integer dtype are multiplied exactly."""
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32"):
        limits = np.iinfo(dtype)
        problem = make_problem(op, images=1, dtypes=(dtype, dtype), bias=False, channels=(1, 1), kernel=(1, 1))
        arrays = [np.resize(np.array([limits.min, limits.max], dtype), shape) for shape in problem.operand_shapes]
        if dtype in ("int32", "uint32") and op == "grad_weight":
            arrays[1][...] = 1  # otherwise sums of that many may overflow
        convcore_engine.verify(problem, (arrays[0], arrays[1] if len(arrays) > 1 else None, None))
