"""The laws of correlation, which hold without any reference."""

from __future__ import annotations

from typing import Any

import pytest

from convcore.problem import OPS
from convcore.testing.engine import Engine
from convcore.testing.gradients import assert_adjoint, assert_finite_differences
from convcore.testing.problems import GEOMETRIES, make_problem, seed_of, sibling

_LAWFUL = ("plain", "groups-odd", "stride-2", "stride-beyond-kernel", "dilation-stride", "padding-beyond-kernel")


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


def _computes_all(engine: Engine, problem: Any) -> bool:
    return not any(engine.refusal(sibling(problem, op)) for op in OPS)
