"""Host arrays of the OpenCL backend: piece by piece where a buffer is too small, and beside computing in batches.

How small a buffer is, and whether the device reads the host's memory, is planted in its traits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from convcore.problem import OPS
from convcore.testing.problems import CASES, random_operands
from convcore.testing.tolerance import assert_within

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from convcore_opencl import device as devices  # noqa: E402
from convcore_opencl import plans  # noqa: E402
from convcore_opencl.backend import OpenCLBackend  # noqa: E402
from convcore_opencl.divided import DividedPlan  # noqa: E402
from convcore_opencl.execute import OpenCLPlan  # noqa: E402
from convcore_opencl.plans.pieces import array_bytes  # noqa: E402

#: The kit's problems whose arrays are of a size worth dividing.
LARGE = {
    name: problem
    for name, problem in CASES.items()
    if problem.op in OPS
    and problem.result_dtype.kind in "fi"
    and problem.result_dtype.itemsize < 16
    and problem.bytes > 600
}


@pytest.fixture(scope="module")
def device():
    found = OpenCLBackend().probe()
    if isinstance(found, str):
        pytest.skip(f"no OpenCL device: {found}")
    return devices.choose()


@pytest.fixture
def plant(device, monkeypatch):
    """Plant traits in the device; its runtime is made anew, and forgotten."""

    def plant(**known):
        known_traits = replace(devices.described(device), **known)
        monkeypatch.setattr(devices, "_process", devices._Process())
        monkeypatch.setattr(devices, "described", lambda _: known_traits)

    return plant


def computable(problem, device):
    return not plans.refusal(problem, devices.traits(device, problem))


@pytest.mark.parametrize("unified", [True, False], ids=["shared", "copied"])
@pytest.mark.parametrize("op", OPS)
def test_pieces_give_what_one_piece_gives(device, plant, op, unified):
    """Every boundary, layout and dtype, bit by bit, but for gradients of weights, whose sums are split otherwise."""
    plant(unified=unified)
    divided = 0
    for name, case in LARGE.items():
        problem = replace(case, algorithm="direct")
        if case.op != op or not computable(problem, device):
            continue
        given = random_operands(problem)
        whole = OpenCLPlan(problem, plans.recipe(problem, devices.traits(device, problem)), device)
        traits = replace(devices.traits(device, problem), largest_buffer=max(array_bytes(problem)) // 3)
        division = plans.division(problem, traits)
        if division is None:
            assert "no part of the problem is small enough" in plans.refusal(problem, traits), name
            continue
        plan = DividedPlan(problem, division, partial(plans.recipe, device=traits), device)
        result = plan(*given)
        divided += 1
        sums = division.adds or op in ("grad_weight", "grad_bias")
        if sums and problem.result_dtype.kind == "f":
            assert_within(result, problem, *given)
        else:
            np.testing.assert_array_equal(result, whole(*given), err_msg=name)
        assert all(size <= traits.largest_buffer for piece in division for size in array_bytes(piece.problem)), name
    assert divided > 20
