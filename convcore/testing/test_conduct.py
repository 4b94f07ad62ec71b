"""How a backend behaves: the same every time, in threads, after a fork, in a pool, and without stopping others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from convcore.problem import Op
from convcore.testing.engine import Engine
from convcore.testing.problems import ALL_OPS, make_problem, random_operands


@pytest.mark.parametrize("op", ALL_OPS)
def test_deterministic(convcore_engine: Engine, op: Op) -> None:
    """The same operands give the same bits, also from several threads at once."""
    problem = make_problem(op, images=3, channels=(8, 16), size=(17, 19), padding=((1, 1), (1, 1)))
    if convcore_engine.refusal(problem):
        return
    plan, drawn = convcore_engine.plan(problem), random_operands(problem)
    expected = plan(*drawn).tobytes()
    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(plan, *drawn) for _ in range(12)]]
    assert all(result.tobytes() == expected for result in results), f"{op} gives other bits when called again"
