"""The families for discrete GPUs, and tensor cores: on whatever device there is, with tiles a small problem fills.

Tensor cores are NVIDIA's.  Elsewhere their index maps are run as the "emulated" kernel has them: the lanes of a warp
exchange fragments, and each computes its part of the product from the layout that NVIDIA's manual describes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convcore.testing.problems import GEOMETRIES, make_problem, random_operands
from convcore.testing.tolerance import assert_within

pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from convcore_opencl import device as devices
from convcore_opencl import plans
from convcore_opencl.execute import OpenCLPlan
from convcore_opencl.plans.local_tile import TENSOR_TILES, TILES, division
from convcore_opencl.plans.recipe import INT_MAX

from convcore.spi import NoDevice

OPS = ("forward", "grad_input", "grad_weight")
#: Padding, phases, groups and a product as it is; all its paths with few compilations, which take seconds on a CPU.
CHOSEN = ("padding-one-side", "dilation-stride", "groups-odd", "1x1")


@pytest.fixture(scope="module")
def device():
    try:
        return devices.choose()
    except NoDevice as error:
        pytest.skip(f"no OpenCL device: {error}")


def compute(device, problem, given, **known):
    """Compute with the smallest tiles, and what else is to be known of the device."""
    traits = replace(devices.traits(device, problem), **{"largest_group": 64, **known})
    assert plans.refusal(problem, traits) == ""
    plan = OpenCLPlan(problem, plans.recipe(problem, traits), device)
    assert plan.algorithm == problem.algorithm
    return plan(*given)


@pytest.mark.parametrize("geometry", CHOSEN)
@pytest.mark.parametrize("op", OPS)
def test_every_geometry_is_the_formula(device, op, geometry):
    problem = make_problem(op, **GEOMETRIES[geometry], fill_value=1.5, algorithm="local_tile")
    given = random_operands(problem)
    assert_within(compute(device, problem, given), problem, *given)


@pytest.mark.parametrize("op", ["forward", "grad_weight"])
def test_tiles_and_slices_that_are_not_full(device, op):
    geometry = {"images": 2, "channels": (37, 67), "size": (9, 8), "padding": ((1, 1), (1, 1)), "layout": "NHWC"}
    problem = make_problem(op, **geometry, algorithm="local_tile")
    given = random_operands(problem)
    assert_within(compute(device, problem, given), problem, *given)


@pytest.mark.parametrize("geometry", ["depthwise-strided", "one-channel", "dilation-stride"])
@pytest.mark.parametrize("op", OPS[:2])
def test_a_window_is_the_formula(device, op, geometry):
    problem = make_problem(op, **GEOMETRIES[geometry], fill_value=1.5, algorithm="window")
    for infinite in (False, True):
        given = random_operands(problem)
        if infinite:
            given[1].flat[5] = np.inf
        assert_within(compute(device, problem, given, largest_group=256), problem, *given)


def test_an_infinite_weight_stays_out_of_what_does_not_see_it(device):
    problem = make_problem("grad_input", **GEOMETRIES["padding-one-side"], algorithm="local_tile")
    given = random_operands(problem)
    given[1].flat[5] = np.inf
    assert_within(compute(device, problem, given), problem, *given)


@pytest.mark.parametrize("op", ["forward", "grad_weight"])
def test_tensor_cores_multiply_by_the_fragments_of_the_manual(device, op):
    geometry = {"images": 1, "channels": (9, 70), "size": (8, 9), "padding": ((1, 1), (1, 1))}
    problem = make_problem(op, **geometry, algorithm="tensor_tile_tf32", accuracy="fast")
    given = random_operands(problem)
    result = compute(device, problem, given, tensor_cores="emulated")
    assert_within(result, problem, *given, algorithm="tensor_tile_tf32")
    # Numbers of 11 bits lose nothing, so the sums are those of float32.
    exact = tuple(None if array is None else array.astype(np.float16).astype(np.float32) for array in given)
    assert_within(compute(device, problem, exact, tensor_cores="emulated"), problem, *exact)


def test_tensor_cores_multiply_float16(device):
    geometry = {"images": 1, "channels": (9, 70), "size": (8, 9), "padding": ((1, 1), (1, 1)), "bias": False}
    half = {"dtypes": ("float16", "float16"), "algorithm": "tensor_tile_f16", "accuracy": "fast"}
    problem = make_problem("forward", **geometry, **half)
    given = random_operands(problem)
    assert_within(compute(device, problem, given, tensor_cores="emulated", float16=True), problem, *given)


def test_tensor_cores_are_used_only_where_the_caller_allows_it():
    gpu = plans.Traits("a GPU", kind="gpu", units=100, tensor_cores="nvidia", float16=True, local_memory=49152)
    large = make_problem(images=1, channels=(64, 64), size=(56, 56), padding=((1, 1), (1, 1)), bias=False)
    half = replace(large, dtypes=(np.dtype("f2"),) * 2, result_dtype=np.dtype("f2"))
    for problem, algorithm in ((large, "tensor_tile_tf32"), (half, "tensor_tile_f16")):
        assert plans.recipe(replace(problem, accuracy="fast"), gpu).algorithm == algorithm
        assert plans.recipe(problem, gpu).algorithm == "winograd2_fused"
        named = replace(problem, algorithm=algorithm)
        reason = f"algorithm {algorithm!r} rounds its operands to {algorithm[12:]}, which only accuracy 'fast' allows"
        assert plans.refusal(named, gpu) == reason
    without = replace(gpu, tensor_cores="")
    assert plans.recipe(replace(large, accuracy="fast"), without).algorithm == "winograd2_fused"
    reason = plans.refusal(replace(large, accuracy="fast", algorithm="tensor_tile_tf32"), without)
    assert reason == "algorithm 'tensor_tile_tf32' needs tensor cores, and no probe has seen any work on a GPU"
    reason = plans.refusal(replace(large, accuracy="fast", algorithm="tensor_tile_f16"), gpu)
    assert reason == "algorithm 'tensor_tile_f16' multiplies float16 only"


def test_tiles_divide_their_work_evenly():
    for tile in (*TILES, *TENSOR_TILES):
        assert tile.depth * tile.rows % (4 * tile.group) == 0
        assert tile.depth * tile.columns % tile.group == 0
        assert tile.group % tile.columns == 0
        assert tile.group % tile.depth == 0
        assert tile.local_bytes(4) <= 48 << 10
    for tile in TENSOR_TILES:
        assert (tile.rows % 64, tile.columns % 32, tile.group % 32) == (0, 0, 0)


def test_division_by_multiplication_is_division():
    rng = np.random.default_rng(0)
    for size in [1, 2, 3, 7, 56, 224, 641, 65535, 65536, 2**30, INT_MAX, *rng.integers(1, INT_MAX, 200).tolist()]:
        magic, shift = map(int, division(size))
        numbers = {0, 1, size - 1, size, min(size + 1, INT_MAX), INT_MAX, *rng.integers(0, INT_MAX, 200).tolist()}
        for n in numbers:
            assert ((n * magic >> 32) + n) >> shift == n // size, (n, size)
