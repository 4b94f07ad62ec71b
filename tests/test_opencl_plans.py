"""The OpenCL backend's choices: plain text and numbers, tested without a device."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from convcore_opencl.plans import ALGORITHMS, Traits, division, recipe, refusal
from convcore_opencl.plans.dense import phases
from convcore_opencl.plans.register_tile import tap_tile

from convcore.spi import Problem

CPU = Traits("a processor")
DENSE = Problem("forward", (1, 64, 56, 56), (64, 64, 3, 3), (1, 64, 56, 56), padding=((1, 1), (1, 1)))
GRADIENT = replace(DENSE, op="grad_weight")
INTEGERS = replace(DENSE, dtypes=(np.dtype("u1"), np.dtype("i1")), result_dtype=np.dtype("i8"))


def brute_force(size, taps, stride, dilation, before):
    """Return every (input position, output position, tap) of a forward correlation on an endless axis."""
    return {
        (p * stride + r * dilation - before, p, r)
        for p in range(-size - 50, size + 50)
        for r in range(taps)
        if 0 <= p * stride + r * dilation - before < size
    }


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("taps", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [0, 2])
def test_the_phases_of_an_axis_are_the_transposed_correlation(size, taps, stride, dilation, before):
    found = []
    for axis in phases(size, taps, stride, dilation, before):
        assert axis.stride == 1
        for i in range(axis.grid):
            for t in range(axis.taps):
                position = i + t * axis.dilation - axis.before
                found.append((axis.first + i * axis.step, position, axis.first_tap + t * axis.tap_step))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(size, taps, stride, dilation, before)


def test_the_phases_of_an_axis_cover_each_position_once():
    covered = [axis.first + i * axis.step for axis in phases(11, 2, 4, 1, 1) for i in range(axis.grid)]
    assert sorted(covered) == list(range(11))


@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(("algorithm", "tiles"), [("register_tile", 3), ("row_tile", 3), ("panel", 2), ("strip", 2)])
def test_nothing_is_compiled_per_shape(op, algorithm, tiles):
    """Many shapes need no more programs than there are tiles, with one that packs for each and one that sums."""
    if (op, algorithm) == ("grad_weight", "strip"):
        return
    built = set()
    for n, c, k, size in itertools.product((1, 3), (32, 48, 65, 128), (31, 48, 256), (17, 40, 104)):
        shapes = {"input_shape": (n, c, size, size), "weight_shape": (k, c, 3, 3), "output_shape": (n, k, size, size)}
        chosen = recipe(replace(DENSE, op=op, algorithm=algorithm, **shapes), CPU)
        assert chosen.algorithm == algorithm
        built |= {(launch.file, launch.options) for launch in chosen.launches}
    assert len(built) <= 2 * tiles + 1


@pytest.mark.parametrize(
    ("taps", "depth", "expected"),
    [
        ((3, 3), 64, (3, 3, 1)),
        ((1, 1), 64, (1, 1, 8)),
        ((1, 1), 3, (1, 1, 2)),
        ((5, 5), 64, (2, 5, 1)),
        ((7, 7), 3, (1, 7, 1)),
        ((31, 31), 1, (1, 11, 1)),
        ((1, 3), 64, (1, 3, 4)),
    ],
)
def test_a_tile_of_taps_fills_the_accumulators(taps, depth, expected):
    assert tap_tile(taps, depth) == expected


def test_small_and_integer_problems_are_left_to_the_direct_kernels_and_few_channels_to_rows():
    assert recipe(replace(DENSE, stride=(2, 1), output_shape=(1, 64, 28, 56)), CPU).algorithm == "panel"
    assert recipe(replace(DENSE, input_shape=(1, 64, 28, 28), output_shape=(1, 64, 28, 28)), CPU).algorithm == "strip"
    assert recipe(replace(GRADIENT, accuracy="strict"), CPU).algorithm == "panel"
    assert recipe(INTEGERS, CPU).algorithm == "direct"
    depthwise = replace(DENSE, weight_shape=(64, 1, 3, 3), groups=64)
    for op in ("forward", "grad_input", "grad_weight"):
        assert recipe(replace(depthwise, op=op), CPU).algorithm == "row_tile"
    first_layer = replace(DENSE, op="grad_input", input_shape=(1, 3, 56, 56), weight_shape=(64, 3, 3, 3))
    assert recipe(first_layer, CPU).algorithm == "strip"
    tiny = replace(DENSE, input_shape=(1, 1, 6, 8), weight_shape=(1, 1, 1, 2), output_shape=(1, 1, 6, 7))
    assert recipe(tiny, CPU).algorithm == "direct"


def test_winograd_is_chosen_where_it_pays_and_accuracy_allows_it():
    large = replace(DENSE, input_shape=(1, 64, 224, 224), output_shape=(1, 64, 224, 224))
    for op in ("forward", "grad_input", "grad_weight"):
        assert recipe(replace(large, op=op), CPU).algorithm == "winograd4"
    assert recipe(DENSE, CPU).algorithm == "winograd4"
    assert recipe(DENSE, replace(CPU, vector_bytes=64)).algorithm == "strip"  # which multiplies twice as fast
    assert recipe(replace(large, accuracy="strict"), CPU).algorithm != "winograd4"
    named = replace(large, accuracy="strict", algorithm="winograd4")
    assert refusal(named, CPU) == "algorithm 'winograd4' errs more than accuracy 'strict' allows"
    strided = replace(large, stride=(2, 2), output_shape=(1, 64, 112, 112), algorithm="winograd2")
    reason = "algorithm 'winograd2' computes 3x3 kernels with stride 1 and dilation 1 only"
    assert refusal(strided, CPU) == reason


#: Rows too far apart for strips; what else there is packs the weight.
PACKED = replace(DENSE, op="grad_input", input_shape=(1, 64, 600, 600), output_shape=(1, 64, 586, 586), dilation=(8, 8))


def test_a_workspace_limit_chooses_another_algorithm_or_fewer_chunks():
    assert recipe(replace(DENSE, op="grad_input", algorithm="strip"), CPU).workspace_bytes == 0
    assert recipe(PACKED, CPU).workspace_bytes > 1000
    assert recipe(replace(PACKED, workspace_limit=1000), CPU).algorithm == "direct"
    split = replace(GRADIENT, weight_shape=(8, 1, 3, 3), input_shape=(1, 1, 56, 56), output_shape=(1, 8, 56, 56))
    assert recipe(split, CPU).workspace_bytes > 1000
    limited = recipe(replace(split, workspace_limit=1000), CPU)
    assert 0 < limited.workspace_bytes <= 1000
    assert recipe(replace(split, workspace_limit=0), CPU).workspace_bytes == 0


def test_a_device_without_room_for_the_packed_copy_gets_the_direct_kernels():
    assert recipe(PACKED, CPU).algorithm == "panel"
    assert recipe(PACKED, replace(CPU, largest_buffer=100_000)).algorithm == "direct"


@pytest.mark.parametrize(
    ("problem", "device", "reason"),
    [
        (
            replace(DENSE, dtypes=(np.dtype("f8"),) * 2, result_dtype=np.dtype("f8")),
            replace(CPU, float64=False),
            "a processor does not compute in float64",
        ),
        (
            replace(DENSE, algorithm="fft"),
            CPU,
            f"algorithm 'fft' is unknown, known are {', '.join(ALGORITHMS)}",
        ),
        (
            replace(INTEGERS, algorithm="register_tile"),
            CPU,
            "algorithm 'register_tile' computes float32 and float64, not uint8",
        ),
        (
            replace(DENSE, op="grad_bias", algorithm="register_tile"),
            CPU,
            "algorithm 'register_tile' does not compute grad_bias, which is a sum",
        ),
        (
            replace(DENSE, dilation=(1, 70), algorithm="register_tile"),
            CPU,
            "algorithm 'register_tile' takes tiles that span 128 pixels of a row, these span 148",
        ),
        (
            replace(DENSE, dilation=(90, 70), algorithm="row_tile"),
            CPU,
            "algorithm 'row_tile' stages 8192 pixels at most, these tiles need 27676",
        ),
        (
            replace(DENSE, op="grad_input", stride=(20, 30), algorithm="register_tile"),
            CPU,
            "algorithm 'register_tile' launches 256 phases of a stride at most, this one has 600",
        ),
        (
            replace(DENSE, algorithm="register_tile", workspace_limit=1000),
            CPU,
            "algorithm 'register_tile' needs 147456 bytes of workspace, the limit is 1000",
        ),
        (
            replace(DENSE, arrays="pyopencl.array.Array"),
            replace(CPU, largest_buffer=800_000),
            "a buffer of 802816 bytes is larger than a processor allows, 800000",
        ),
        (
            replace(DENSE, arrays="pyopencl.array.Array", algorithm="strip"),
            replace(CPU, memory=1_000_000),
            "1753088 bytes are more than the memory of a processor, 1000000",
        ),
        (
            DENSE,
            replace(CPU, largest_buffer=30),
            "a buffer of 802816 bytes is larger than a processor allows, 30; no part of the problem is small enough",
        ),
        (
            replace(DENSE, padding=((0, 2**31), (0, 0))),
            CPU,
            "an extent of 2147483707 pixels or channels is too large, at most 2147483647",
        ),
    ],
)
def test_what_is_refused_is_refused_in_words(problem, device, reason):
    assert refusal(problem, device) == reason


def test_host_arrays_are_divided_where_a_device_is_small_and_device_arrays_never():
    small = replace(CPU, largest_buffer=300_000, memory=2_000_000)
    for op in ("forward", "grad_input", "grad_weight"):
        problem = replace(DENSE, op=op)
        assert refusal(problem, small) == ""
        divided = division(problem, small)
        assert 3 <= len(divided) == sum(1 for _ in divided) <= 12
        for piece in divided:
            assert refusal(replace(piece.problem, arrays="pyopencl.array.Array"), small) == ""
            assert 2 * piece.problem.bytes <= small.memory
        assert division(replace(problem, arrays="pyopencl.array.Array"), small) is None
        assert division(problem, CPU) is None


def test_sums_are_not_divided_where_rows_can_be():
    deep = replace(DENSE, input_shape=(1, 512, 56, 56), weight_shape=(8, 512, 3, 3), output_shape=(1, 8, 56, 56))
    divided = division(deep, replace(CPU, largest_buffer=1_000_000))
    assert not divided.adds
    assert {piece.problem.input_shape[1] for piece in divided} == {512}


def test_batches_travel_to_a_device_with_memory_of_its_own():
    batch = replace(DENSE, input_shape=(32, 64, 56, 56), output_shape=(32, 64, 56, 56))
    gpu = replace(CPU, kind="gpu", unified=False)
    for op in ("forward", "grad_input", "grad_weight"):
        assert division(replace(batch, op=op), CPU) is None
        divided = division(replace(batch, op=op), gpu)
        assert divided.adds == (op == "grad_weight")
        images = [part.problem.input_shape[0] for part in divided]
        assert sum(images) == 32
        assert len(images) > 4
    assert division(DENSE, gpu) is None
    wide = replace(batch, op="grad_weight", weight_shape=(64, 64, 31, 31), padding=((15, 15), (15, 15)))
    assert division(wide, gpu) is None
