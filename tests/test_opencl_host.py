"""Host arrays of the OpenCL backend: piece by piece where a buffer is too small, and beside computing in batches.

How small a buffer is, and whether the device reads the host's memory, is planted in its traits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import convcore
from convcore.problem import OPS
from convcore.spi import OutOfDeviceMemory
from convcore.testing.problems import CASES, make_problem, random_operands
from convcore.testing.tolerance import assert_within

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from convcore_opencl import device as devices  # noqa: E402
from convcore_opencl import divided, host, plans  # noqa: E402
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
    """Plant traits in the device; its runtime is made anew, and forgotten with them."""

    def plant(**known):
        planted = replace(devices.described(device), **known)
        monkeypatch.setattr(devices, "_process", devices._Process())
        monkeypatch.setattr(devices, "described", lambda _: planted)
        devices._traits.cache_clear()
        convcore.select.cache.clear()

    yield plant
    devices._traits.cache_clear()
    convcore.select.cache.clear()


def computable(problem, device):
    return not plans.refusal(problem, devices.traits(device, problem))


@pytest.mark.parametrize("unified", [True, False], ids=["shared", "copied"])
@pytest.mark.parametrize("op", OPS)
def test_pieces_give_what_one_piece_gives(device, plant, op, unified):
    """Every boundary, layout and dtype, bit by bit, but for gradients of weights, whose sums are split otherwise."""
    plant(unified=unified)
    divided = 0
    for name, case in [*LARGE.items()][:: 1 if unified else 3]:
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
    assert divided > (20 if unified else 6)


@pytest.mark.parametrize("algorithm", ["panel", "strip", "winograd4", "row_tile"])
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_tiles_compute_pieces_too(device, plant, op, algorithm):
    plant(largest_buffer=20_000)
    shape = {"images": 2, "channels": (9, 8), "size": (40, 37), "padding": ((1, 1), (1, 1))}
    problem = make_problem(op, **shape, algorithm=algorithm, boundary="reflect")
    plan = OpenCLBackend().plan(problem)
    given = random_operands(problem)
    assert plan.algorithm == algorithm
    assert plan.notes.startswith(f"in {len(plan.division)} pieces; ")
    assert_within(plan(*given), problem, *given, algorithm=algorithm)


def test_an_image_larger_than_any_buffer_needs_no_other_call(device, plant):
    rng = np.random.default_rng(0)
    image, weight = (rng.standard_normal(shape, np.float32) for shape in ((1, 1, 301, 407), (1, 1, 5, 5)))
    how = {"padding": "same", "boundary": "wrap", "backend": "opencl", "tune": "off"}
    expected = convcore.conv2d(image, weight, **how)
    plant(largest_buffer=100_000)
    out = np.empty_like(image)
    convcore.conv2d(image, weight, **how, out=out)
    assert convcore.explain("conv2d", image, weight, **how).notes.startswith("in 8 pieces; ")
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4)


def test_arrays_that_are_on_the_device_are_not_divided(device, plant):
    plant(largest_buffer=1000)
    problem = make_problem(images=1, size=(40, 40), arrays="pyopencl.array.Array")
    assert OpenCLBackend().supports(problem).startswith("a buffer of 23104 bytes is larger than ")
    assert OpenCLBackend().supports(replace(problem, arrays="numpy.ndarray")) is True


BATCH = {"images": 6, "channels": (8, 8), "size": (40, 40), "padding": ((1, 1), (1, 1)), "algorithm": "direct"}


@pytest.fixture
def batches(plant, monkeypatch):
    """Plant a device with memory of its own, for which a few images are worth a journey."""
    monkeypatch.setattr(plans, "TRAVELLING_PIECE", 100_000)
    plant(unified=False)


@pytest.mark.parametrize("op", OPS)
def test_a_batch_travels_in_pieces_to_the_same_bits_each_time(device, batches, op):
    problem = make_problem(op, **BATCH)
    plan, given = OpenCLBackend().plan(problem), random_operands(problem)
    assert len(plan.division) > 2
    result = plan(*given)
    assert_within(result, problem, *given)
    for _ in range(5):
        assert plan(*given).tobytes() == result.tobytes()


def test_a_piece_is_brought_before_the_one_before_it_has_returned(device, batches, monkeypatch):
    problem = make_problem(**BATCH)
    plan, given, order = OpenCLBackend().plan(problem), random_operands(problem), []
    start, end = divided._Copying.start, divided._Copying.end

    def note_start(way, piece, slot):
        order.append(("start", piece.out[0].start))
        return start(way, piece, slot)

    def note_end(way, started):
        order.append(("end", started.piece.out[0].start))
        end(way, started)

    monkeypatch.setattr(divided._Copying, "start", note_start)
    monkeypatch.setattr(divided._Copying, "end", note_end)
    plan(*given)
    number = len(plan.division)
    first = [piece.out[0].start for piece in plan.division]
    expected = [("start", first[0]), ("start", first[1])]
    for i in range(number):
        expected.append(("end", first[i]))
        expected += [("start", first[i + 2])] if i + 2 < number else []
    assert order == expected


def test_what_each_copy_took_is_told(device, batches):
    problem = make_problem(**BATCH)
    given = random_operands(problem)
    steps = {step.name: step for step in OpenCLBackend().plan(problem).measure(*given)}
    x, weight, bias = given
    moved = {"x": x, "weight": weight, "bias": bias}
    for name, array in moved.items():
        assert steps[f"{name} to the device"].bytes == array.nbytes
    assert steps["x gathered"].bytes == x.nbytes
    assert steps["result to the host"].bytes == 4 * np.prod(problem.result_shape)
    assert steps["kernel direct.forward"].bytes == 0
    pieces = steps["x to the device"].count
    assert pieces > 2
    assert {steps[name].count for name in ("x gathered", "kernel direct.forward", "result to the host")} == {pieces}
    assert all(step.seconds > 0 for step in steps.values())


@pytest.mark.parametrize("unified", [True, False], ids=["shared", "copied"])
def test_explain_runs_a_call_that_is_not_divided(device, plant, unified):
    plant(unified=unified)
    x, weight = np.ones((1, 8, 70, 70), np.float32), np.ones((8, 8, 3, 3), np.float32)
    found = convcore.explain("conv2d", x, weight.shape, backend="opencl", algorithm="direct", run=True)
    steps = {step.name: step for step in found.steps}
    if unified and devices.runtime(device).alignment > 1:
        assert "kernel direct.forward" in steps  # the rest depends on where NumPy has put the arrays
    elif unified:
        assert [*steps] == [
            "x, shared with the device", "weight, shared with the device", "kernel direct.forward",
            "result, shared with the host",
        ]  # fmt: skip
        assert not any(step.bytes for step in found.steps)
    else:
        assert [*steps] == ["x to the device", "weight to the device", "kernel direct.forward", "result to the host"]
        assert [step.bytes for step in found.steps] == [x.nbytes, weight.nbytes, 0, 4 * 8 * 68 * 68]
    assert steps["kernel direct.forward"].seconds > 0
    for step in found.steps:
        assert f"took {step.seconds * 1e3:.3f} ms: {step.name}, 1 times" in str(found)


def test_explain_runs_device_arrays(device):
    backend = OpenCLBackend()
    x, weight = (backend.to_device(np.ones(shape, np.float32)) for shape in ((1, 8, 20, 20), (8, 8, 3, 3)))
    found = convcore.explain("conv2d", x, weight, backend="opencl", algorithm="direct", run=True)
    assert [(step.name, step.bytes) for step in found.steps] == [("kernel direct.forward", 0)]


@pytest.mark.parametrize("unified", [True, False], ids=["shared", "copied"])
def test_a_failure_half_way_leaves_out_alone(device, plant, monkeypatch, unified):
    plant(unified=unified, largest_buffer=20_000)
    problem = make_problem(images=4, size=(40, 40), algorithm="direct")
    plan, given = OpenCLBackend().plan(problem), random_operands(problem)
    assert len(plan.division) > 4
    out = np.full(problem.result_shape, 7, np.float32)
    follow, calls = OpenCLPlan.follow, []

    def fail_later(self, *arguments):
        calls.append(self)
        if len(calls) > 3:
            raise cl.MemoryError(cl._cl._ErrorRecord("clEnqueueNDRangeKernel", cl.status_code.OUT_OF_RESOURCES, ""))
        return follow(self, *arguments)

    monkeypatch.setattr(OpenCLPlan, "follow", fail_later)
    with pytest.raises(OutOfDeviceMemory, match="has no room for forward"):
        plan(*given, out)
    assert (out == 7).all()
    monkeypatch.setattr(OpenCLPlan, "follow", follow)
    plan(*given, out)
    assert_within(out, problem, *given)


def test_memory_set_aside_for_copies_is_used_again(device, batches):
    problem = make_problem(**BATCH)
    plan, given = OpenCLBackend().plan(problem), random_operands(problem)
    plan(*given)
    pinned = devices.runtime(device).pinned
    before = {id(block) for block in pinned._free}
    assert 4 <= len(before) <= pinned.MOST
    plan(*given)
    assert {id(block) for block in pinned._free} == before


def test_arrays_are_shared_where_the_driver_does_not_copy_them_first(device, plant, monkeypatch):
    """As on Intel's runtime, which copies what does not begin at a multiple of 128 bytes."""
    plant()
    monkeypatch.setattr(devices.Runtime, "alignment", 128)
    problem = make_problem(images=1, channels=(8, 8), size=(72, 72), algorithm="direct", bias=False)
    plan, given = OpenCLBackend().plan(problem), random_operands(problem)
    runtime = devices.runtime(device)
    for offset in (0, 16):
        x = host.aligned(runtime, (given[0].size + 4,), np.dtype("f4"))[offset // 4 :][: given[0].size]
        x = x.reshape(given[0].shape)
        x[...] = given[0]
        names = [step.name for step in plan.measure(x, given[1])]
        assert ("x to the device", "x, shared with the device")[offset == 0] in names
        assert_within(plan(x, given[1]), problem, *given)
