"""Winograd's algorithms of the OpenCL backend: every edge of a tile, both layouts, and what must not smear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convcore.testing.problems import make_problem, random_operands
from convcore.testing.tolerance import assert_within

pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from convcore_opencl.backend import OpenCLBackend

OPS = ("forward", "grad_input", "grad_weight")
#: A block of tiles inside one row, many rows in a block, fewer tiles than lanes; rows and columns left over.
SIZES = ((7, 7), (13, 14), (9, 140), (70, 35))
ALGORITHMS = ("winograd2", "winograd4")


@pytest.fixture(scope="module")
def backend():
    engine = OpenCLBackend()
    found = engine.probe()
    if isinstance(found, str):
        pytest.skip(f"no OpenCL device: {found}")
    return engine


def assert_right(backend, problem, given):
    assert backend.supports(problem) is True
    plan = backend.plan(problem)
    assert plan.algorithm == problem.algorithm
    assert_within(plan(*given), problem, *given, algorithm=problem.algorithm)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_size_is_the_formula(backend, algorithm, op, layout):
    for size in SIZES:
        for padding in (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 0), (1, 3))):
            more = {"fill_value": 0.5, "algorithm": algorithm, "layout": layout}
            problem = make_problem(op, images=2, channels=(5, 19), size=size, padding=padding, **more)
            assert_right(backend, problem, random_operands(problem))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("op", OPS[:2])
def test_the_fused_kernel_is_the_formula(backend, op, layout):
    for special in (None, np.nan, np.inf):
        more = {"fill_value": 0.5, "algorithm": "winograd2_fused", "layout": layout}
        problem = make_problem(op, images=2, channels=(13, 37), size=(13, 14), padding=((2, 0), (1, 3)), **more)
        given = random_operands(problem)
        if special is not None:
            given[0].flat[given[0].size // 2] = given[1].flat[5] = special
        assert_right(backend, problem, given)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
def test_boundaries_are_the_formula(backend, op, boundary):
    more = {"padding": ((1, 2), (2, 1)), "boundary": boundary, "algorithm": "winograd4"}
    problem = make_problem(op, size=(11, 20), **more)
    assert_right(backend, problem, random_operands(problem))


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_not_finite_stays_where_the_formula_has_it(backend, algorithm, op, special):
    problem = make_problem(op, size=(11, 70), padding=((1, 1), (1, 1)), algorithm=algorithm)
    for victim in (0, 1):
        given = random_operands(problem)
        given[victim].flat[given[victim].size // 2] = special
        assert_right(backend, problem, given)


def test_a_large_layer_gets_winograd_unless_accuracy_is_strict(backend):
    problem = make_problem(images=1, channels=(64, 64), size=(120, 120), padding=((1, 1), (1, 1)), bias=False)
    plan = backend.plan(problem)
    assert plan.algorithm == "winograd4"
    assert plan.notes.startswith("F(4x4, 3x3), whose error is up to 2.9 times that of direct; ")
    given = random_operands(problem)
    assert_within(plan(*given), problem, *given, algorithm=plan.algorithm)
    assert backend.plan(replace(problem, accuracy="strict")).algorithm != "winograd4"
