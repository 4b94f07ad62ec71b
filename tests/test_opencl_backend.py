"""The OpenCL backend on this machine's devices, against the formula written as loops in float64."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

import convcore
from convcore.problem import output_size
from convcore.spi import DeviceLost, KernelBuildError, NoDevice, OutOfDeviceMemory, Problem

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed")
cla = pytest.importorskip("pyopencl.array")
from convcore_opencl import arrays, device, execute, failures, plans, program  # noqa: E402
from convcore_opencl.backend import OpenCLBackend  # noqa: E402
from pyopencl.characterize import has_coarse_grain_buffer_svm  # noqa: E402
from pyopencl.tools import SVMAllocator  # noqa: E402

DEVICE_ARRAY = "pyopencl.array.Array"


@pytest.fixture(scope="module")
def backend():
    engine = OpenCLBackend()
    found = engine.probe()
    if isinstance(found, str):
        pytest.skip(f"no OpenCL device: {found}")
    return engine


def problem(
    op="forward",
    image=(2, 3, 7, 9),
    kernel=(4, 3, 3),
    stride=(1, 1),
    padding=((0, 0), (0, 0)),
    dilation=(1, 1),
    groups=1,
    dtype="f4",
    **more,
):
    """Describe a problem; ``kernel`` is (K, R, S)."""
    n, c, *size = image
    k, *taps = kernel
    out = [output_size(*axis) for axis in zip(size, taps, stride, padding, dilation, strict=True)]
    dtypes = (np.dtype(dtype),) * 2
    result = dtypes[0] if dtypes[0].kind == "f" else np.dtype("i8")
    shapes = image, (k, c // groups, *taps), (n, k, *out)
    described = Problem(op, *shapes, stride, padding, dilation, groups, dtypes=dtypes, result_dtype=result)
    return replace(described, **more)


def operands(p, seed=0):
    rng = np.random.default_rng(seed)

    def draw(shape, dtype):
        return (
            (rng.standard_normal(shape) * 8).astype(dtype) if dtype.kind != "u" else rng.integers(0, 99, shape, dtype)
        )

    first, second, *_ = [*map(draw, p.operand_shapes, p.dtypes), None]
    return first, second, draw((p.result_channels,), p.result_dtype) if p.bias else None


def to_logical(p, array):
    return array.transpose(0, 3, 1, 2) if p.layout == "NHWC" and array.ndim == 4 else array


def pixel_at(i, size, boundary):
    """The pixel that stands at position i of an axis, None for the fill value."""
    if boundary == "edge":
        return min(max(i, 0), size - 1)
    if boundary == "wrap":
        return i % size
    while not 0 <= i < size and boundary != "constant":
        repeated = boundary == "symmetric"
        i = -i - repeated if i < 0 else 2 * size - 2 + repeated - i
    return i if 0 <= i < size else None


def formula(p, first, second, bias=None):
    """The formula of the issue, product by product, in float64 or Python integers."""
    wide = np.float64 if p.result_dtype.kind == "f" else object
    first = to_logical(p, first).astype(wide)
    result = np.zeros(
        {"forward": p.output_shape, "grad_input": p.input_shape, "grad_weight": p.weight_shape}[p.op], wide
    )
    second = (to_logical(p, second) if p.op == "grad_weight" else second).astype(wide)
    (n_, c_, h_, w_), (k_, _, r_, s_), (_, _, p_, q_) = p.input_shape, p.weight_shape, p.output_shape
    per_group, out_per_group = c_ // p.groups, k_ // p.groups
    for n, k, i, j in itertools.product(range(n_), range(k_), range(p_), range(q_)):
        for c, r, s in itertools.product(range(per_group), range(r_), range(s_)):
            h = pixel_at(i * p.stride[0] + r * p.dilation[0] - p.padding[0][0], h_, p.boundary)
            w = pixel_at(j * p.stride[1] + s * p.dilation[1] - p.padding[1][0], w_, p.boundary)
            channel = k // out_per_group * per_group + c
            inside = h is not None and w is not None
            if p.op == "grad_input":
                if inside:
                    result[n, channel, h, w] += first[n, k, i, j] * second[k, c, r, s]
                continue
            pixel = first[n, channel, h, w] if inside else p.result_dtype.type(p.fill_value).item()
            if p.op == "forward":
                result[n, k, i, j] += pixel * second[k, c, r, s]
            else:
                result[k, c, r, s] += pixel * second[n, k, i, j]
    if bias is not None:
        result += bias.astype(wide)[:, None, None]
    return result.transpose(0, 2, 3, 1) if p.layout == "NHWC" and p.op != "grad_weight" else result


def assert_right(p, result, first, second, bias=None):
    assert result.shape == p.result_shape
    assert result.dtype == p.result_dtype
    expected = formula(p, first, second, bias)
    if p.result_dtype.kind == "i":
        np.testing.assert_array_equal(result, expected.astype(np.int64))
        return
    magnitudes = [None if array is None else np.abs(array) for array in (first, second, bias)]
    scale = formula(replace(p, fill_value=abs(p.fill_value)), *magnitudes)
    allowed = 4 * np.finfo(p.result_dtype).eps * np.sqrt(p.reduction_length) * scale
    assert (np.abs(result - expected) <= allowed).all()


#: Those that take any geometry; the others have files of their own.
ALGORITHMS = ("direct", "register_tile", "row_tile", "panel")
GEOMETRIES = {
    "plain": {},
    "strided": {"stride": (2, 3), "image": (2, 3, 9, 11)},
    "asymmetric padding": {"padding": ((0, 2), (3, 1))},
    "dilated": {"dilation": (2, 3), "image": (1, 3, 9, 12)},
    "strided and dilated": {"stride": (2, 4), "dilation": (4, 2), "image": (1, 2, 13, 12), "padding": ((2, 1), (0, 3))},
    "groups": {"groups": 2, "image": (1, 4, 6, 7), "kernel": (6, 2, 3)},
    "depthwise with multiplier": {"groups": 3, "kernel": (6, 3, 2), "padding": ((1, 1), (1, 1))},
    "1x1": {"kernel": (9, 1, 1)},
    "1x1 strided": {"kernel": (2, 1, 1), "stride": (3, 2)},
    "kernel larger than the image": {"image": (1, 2, 2, 3), "kernel": (2, 5, 4), "padding": ((2, 2), (1, 1))},
    "wide": {"image": (1, 2, 3, 40), "kernel": (9, 1, 13), "padding": ((0, 0), (6, 6))},
}


IN_BOTH_LAYOUTS = ("strided", "asymmetric padding", "groups", "1x1")
CASES = [(name, "NCHW") for name in GEOMETRIES] + [(name, "NHWC") for name in IN_BOTH_LAYOUTS]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_geometry_is_the_formula(backend, name, op, algorithm, layout):
    geometry = {**GEOMETRIES[name], "algorithm": algorithm, "layout": layout}
    p = problem(op, **geometry, fill_value=1.5, bias=op != "grad_weight")
    assert backend.supports(p) is True
    plan = backend.plan(p)
    assert plan.algorithm == algorithm
    given = operands(p)
    assert_right(p, plan(*given), *given)


@pytest.mark.parametrize("op", ["forward", "grad_input"])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_strips_are_the_formula_where_the_stride_is_one(backend, name, op, layout):
    p = problem(op, **GEOMETRIES[name], algorithm="strip", layout=layout, fill_value=1.5, bias=True)
    if op == "forward" and p.stride != (1, 1):
        assert backend.supports(p) == "algorithm 'strip' computes forward with stride 1 and grad_input only"
        return
    given = operands(p)
    assert_right(p, backend.plan(p)(*given), *given)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("boundary", ["reflect", "edge", "wrap", "symmetric"])
@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": ((1, 1), (1, 1)), "image": (1, 3, 5, 20)},
        {"padding": ((4, 7), (3, 9)), "stride": (2, 1), "dilation": (1, 2), "image": (2, 2, 3, 4)},
    ],
    ids=["as wide as the kernel", "beyond several reflections"],
)
def test_every_boundary_is_the_formula(backend, boundary, op, algorithm, geometry):
    p = problem(op, **geometry, boundary=boundary, algorithm=algorithm, bias=op != "grad_weight")
    given = operands(p)
    assert_right(p, backend.plan(p)(*given), *given)


@pytest.mark.parametrize("dtype", ["f2", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4"])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
def test_every_dtype_is_the_formula(backend, op, dtype):
    p = problem(op, stride=(2, 1), padding=((1, 0), (1, 1)), dtype=dtype, fill_value=3)
    if dtype == "f8" and not device.described(device.choose()).float64:
        pytest.skip("this device does not compute in float64")
    given = operands(p)
    assert_right(p, backend.plan(p)(*given), *given)


def test_mixed_integers_are_widened(backend):
    p = problem(dtypes=(np.dtype("u1"), np.dtype("i4")), result_dtype=np.dtype("i8"))
    x, w, _ = operands(p)
    x[...] = 255
    w[...] = 2**31 - 1
    assert_right(p, backend.plan(p)(x, w), x, w)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_grad_bias_is_a_sum(backend, dtype, layout):
    shape = (3, 5, 70, 4)
    p = problem("grad_bias", shape, (5, 1, 1), groups=5, dtype=dtype, layout=layout)
    g, _, _ = operands(p)
    np.testing.assert_allclose(
        backend.plan(p)(g), to_logical(p, g).sum((0, 2, 3), dtype=np.float64), rtol=1e-5, atol=1e-4
    )


def test_a_tiled_gradient_gives_the_same_bits_each_time(backend):
    p = problem("grad_weight", (2, 5, 60, 60), (9, 3, 3), padding=((1, 1), (1, 1)), algorithm="register_tile")
    plan = backend.plan(p)
    assert plan.workspace_bytes > 2 * 60 * 60 * 32
    assert backend.plan(replace(p, algorithm=None)).algorithm == "panel" or device.kind(device.choose()) != "cpu"
    assert " channels x 1 channels x 3x3 taps; " in plan.notes
    x, g, _ = operands(p)
    assert_right(p, plan(x, g), x, g)
    assert plan(x, g).tobytes() == plan(x, g).tobytes()


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "strip"])
def test_a_new_shape_with_a_known_specialisation_builds_nothing(backend, algorithm, monkeypatch):
    known = problem(image=(1, 3, 20, 20), kernel=(16, 3, 3), algorithm=algorithm)
    backend.plan(known)(*operands(known))

    def build(*_):
        raise AssertionError("a program was built")

    monkeypatch.setattr(program, "build", build)
    other = problem(image=(2, 5, 20, 20), kernel=(16, 3, 3), algorithm=algorithm)
    given = operands(other)
    assert_right(other, backend.plan(other)(*given), *given)


def test_a_transposed_convolution_may_ask_for_a_smaller_output(backend):
    for algorithm in ALGORITHMS:
        p = problem("grad_input", (1, 2, 9, 9), (3, 3, 3), (2, 2), algorithm=algorithm, output_shape=(1, 3, 2, 3))
        given = operands(p)
        assert_right(p, backend.plan(p)(*given), *given)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(backend, algorithm):
    for op in ("forward", "grad_input", "grad_weight"):
        p = problem(op, (0, 3, 7, 9), algorithm=algorithm)
        result = backend.plan(p)(*operands(p))
        assert result.shape == p.result_shape
        assert not result.any()


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "strip"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_nan_and_infinity_go_where_the_formula_sends_them(backend, op, value, algorithm, layout):
    p = problem(op, (1, 2, 5, 10), (3, 3, 3), padding=((2, 1), (2, 1)), algorithm=algorithm, layout=layout)
    if (op, algorithm) == ("grad_weight", "strip"):
        assert backend.supports(p) == "algorithm 'strip' computes forward with stride 1 and grad_input only"
        return
    first, second, _ = operands(p)
    second[(0,) * 4] = value
    first[(0,) * 4] = value
    with np.errstate(invalid="ignore"):
        expected = formula(p, first, second)
    result = backend.plan(p)(first, second)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
def test_a_fill_value_of_nan_counts_where_the_formula_has_it(backend, op, algorithm):
    p = problem(op, (1, 2, 5, 10), (3, 3, 3), padding=((2, 1), (2, 1)), algorithm=algorithm, fill_value=np.nan)
    given = operands(p)
    np.testing.assert_array_equal(np.isnan(backend.plan(p)(*given)), np.isnan(formula(p, *given)))


def test_threads_share_a_plan(backend):
    p = problem(image=(1, 8, 40, 40), kernel=(16, 3, 3), algorithm="register_tile")
    plan = backend.plan(p)
    given = [operands(p, seed) for seed in range(4)]
    expected = [plan(*each) for each in given]
    wrong = []

    def work(index):
        for _ in range(20):
            if not np.array_equal(plan(*given[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------- device arrays


@pytest.fixture
def no_transfers(monkeypatch):
    """Fail when an array is copied between host and device."""

    def refuse(*_, **__):
        raise AssertionError("a copy between host and device")

    monkeypatch.setattr(cl, "enqueue_copy", refuse)
    monkeypatch.setattr(cla.Array, "get", refuse)
    monkeypatch.setattr(cla.Array, "set", refuse)


def on_device(backend, p):
    given = [None if array is None else backend.to_device(array) for array in operands(p)]
    return replace(p, arrays=DEVICE_ARRAY), given


@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_device_arrays_stay_on_the_device(backend, op, algorithm, request):
    host = problem(op, padding=((1, 1), (1, 1)), algorithm=algorithm, bias=op != "grad_weight")
    p, given = on_device(backend, host)
    plan = backend.plan(p)
    backend.synchronize()
    request.getfixturevalue("no_transfers")
    result = plan(*given)
    assert isinstance(result, cla.Array)
    assert result.queue == given[0].queue
    request.getfixturevalue("monkeypatch").undo()
    assert_right(host, backend.from_device(result), *operands(host))


def test_device_arrays_may_be_views_and_take_another_context(backend):
    context = cl.Context([device.choose()])
    queue = cl.CommandQueue(context)
    p = problem(algorithm="register_tile", bias=True)
    x, w, bias = operands(p)
    given = [cla.to_device(queue, np.stack([array, array]))[1] for array in (x, w, bias)]
    assert given[0].offset > 0
    out = cla.zeros(queue, (3, *p.result_shape), np.float32)
    plan = backend.plan(replace(p, arrays=DEVICE_ARRAY))
    assert plan(*given, out=out[1]) is not None
    result = out.get()
    assert_right(p, result[1], x, w, bias)
    assert not result[0].any()
    assert not result[2].any()


def test_an_empty_batch_on_the_device(backend):
    p, given = on_device(backend, problem(image=(0, 3, 7, 9)))
    assert backend.plan(p)(*given).shape == (0, 4, 5, 7)
    p, given = on_device(backend, problem("grad_weight", (0, 3, 7, 9)))
    assert not backend.plan(p)(*given).get().any()


def test_unusable_device_arrays_are_refused_in_words(backend):
    p, (x, w, _) = on_device(backend, problem())
    plan = backend.plan(p)
    context = cl.Context([device.choose()])
    elsewhere = cla.to_device(cl.CommandQueue(context), w.get())
    both = backend.to_device(np.zeros(2 * p.operand_shapes[0][0] * 3 * 7 * 9, np.float32))
    overlapping = both[: np.prod(p.result_shape)].reshape(p.result_shape)
    x_in_both = both[100 : 100 + x.size].reshape(x.shape)
    apart = both[-x.size :].reshape(x.shape)
    wide = backend.to_device(w.get().astype(np.float64))
    unaligned = cla.Array(x.queue, x.shape, x.dtype, data=both.data, offset=2)
    cases = [
        ((x.get(), w), {}, TypeError, "`x` must be a pyopencl.array.Array for this plan, got ndarray"),
        ((x[:1], w), {}, ValueError, "`x` must have shape (2, 3, 7, 9) for this plan, got (1, 3, 7, 9)"),
        ((x, wide), {}, TypeError, "`weight` must have dtype float32 for this plan, got float64"),
        ((x, w, w), {}, TypeError, "this plan was made without a bias"),
        ((x, elsewhere), {}, ValueError, "`weight` is in another context than `x`; put both in one"),
        ((x_in_both, w), {"out": overlapping}, ValueError, "`out` must not share memory with `x`"),
        ((unaligned, w), {}, ValueError, "`x` must start at a whole element of its buffer, got byte 2"),
        ((x, w), {"out": apart}, ValueError, "`out` must have shape (2, 4, 5, 7), got (2, 3, 7, 9)"),
    ]
    for given, keywords, error, message in cases:
        with pytest.raises(error) as caught:
            plan(*given, **keywords)
        assert str(caught.value).replace(" for this plan", "") == f"opencl: {message}".replace(" for this plan", "")
    transposed = cla.Array(x.queue, x.shape, x.dtype, order="F")
    with pytest.raises(ValueError, match=r"^opencl: `x` must be C-contiguous, got strides \(4, 8, 24, 168\)$"):
        plan(transposed, w)


def test_a_subbuffer_overlaps_its_parent(backend):
    p, (_, w, _) = on_device(backend, problem())
    queue = w.queue
    parent = cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, 16384)
    x = cla.Array(queue, p.operand_shapes[0], np.float32, data=parent)
    part = parent.get_sub_region(1024, 8192)
    out = cla.Array(queue, p.result_shape, np.float32, data=part)
    with pytest.raises(ValueError, match=r"^opencl: `out` must not share memory with `x`$"):
        backend.plan(p)(x, w, None, out)


def test_integers_on_the_device_may_not_overflow(backend):
    host = problem(dtype="i8")
    p, _ = on_device(backend, host)
    x, w, _ = operands(host)
    plan = backend.plan(p)
    assert_right(host, plan(backend.to_device(x), backend.to_device(w)).get(), x, w)
    x[0, 0, 0, 0] = -(2**63)
    with pytest.raises(OverflowError, match=r"^opencl: int64 could overflow, sums may reach .* use floating point$"):
        plan(backend.to_device(x), backend.to_device(w))


def test_arrays_without_a_queue_use_the_backends_own(backend):
    p, (x, w, _) = on_device(backend, problem())
    result = backend.plan(p)(x.with_queue(None), w.with_queue(None))
    assert_right(problem(), backend.from_device(result), x.get(), w.get())


@pytest.mark.parametrize(
    ("algorithm", "op"),
    [
        ("strip", "forward"),
        ("strip", "grad_input"),
        ("panel", "forward"),
        ("panel", "grad_input"),
        ("panel", "grad_weight"),
    ],
)
@pytest.mark.parametrize("channels", [12, 13, 17])
def test_a_last_tile_that_begins_earlier_writes_only_its_own_rows(backend, algorithm, op, channels):
    p = problem(op, image=(1, channels, 5, 7), kernel=(channels, 3, 3), padding=((1, 1), (1, 1)), algorithm=algorithm)
    given = operands(p)
    assert_right(p, backend.plan(p)(*given), *given)


@pytest.mark.parametrize("op", ["forward", "grad_input"])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_every_tile_of_rows_has_all_phases_of_a_stride(backend, op, stride, before):
    padding = ((before, 1), (before, 3))
    p = problem(op, (1, 2, 7, 39), (2, 3, 3), stride, padding, groups=2, bias=True, algorithm="row_tile")
    first, weight, bias = operands(p)
    expected = formula(p, first, weight, bias)
    infinite = weight.copy()
    infinite[:, 0, 1, 2] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        other = formula(p, first, infinite, bias)
    for tile in plans.row_tile.possible(p, device.traits(device.choose(), p)):
        plan = backend.plan_with(p, {"algorithm": "row_tile", "tile": list(tile)})
        assert len(plan.recipe.launches) == 1
        np.testing.assert_allclose(plan(first, weight, bias), expected, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(plan(first, infinite, bias), other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("bias", [False, True])
def test_what_no_tap_of_a_stride_reaches_is_filled_once(backend, kind, layout, bias):
    p = problem("grad_input", image=(2, 6, 7, 8), kernel=(4, 1, 2), stride=(2, 3), layout=layout, bias=bias)
    chosen = device.choose()
    recipe = plans.recipe(replace(p, algorithm="panel"), replace(device.traits(chosen, p), kind=kind))
    assert [launch.file for launch in recipe.launches].count("fill.cl") == 1
    assert sum(launch.function == "correlate" for launch in recipe.launches) == 2  # of six phases
    given = operands(p)
    assert_right(p, execute.OpenCLPlan(p, recipe, chosen)(*given), *given)


# ---------------------------------------------------------------- devices and failures


def test_probe_lists_the_chosen_device_first(backend):
    found = backend.probe()
    assert sorted(one.index for one in found) == list(range(len(device.all_devices())))
    assert found[0].name == device.choose().name.strip()
    assert set(found[0].detail) == {"platform", "driver", "compute_units", "memory_bytes"}


def test_a_device_is_chosen_by_index_name_or_variable(backend, monkeypatch):
    last = device.all_devices()[-1]
    index = len(device.all_devices()) - 1
    assert device.choose(str(index)) == last
    monkeypatch.setenv("CONVCORE_OPENCL_DEVICE", str(index))
    assert device.choose() == last
    assert device.choose("0") == device.all_devices()[0]
    monkeypatch.setenv("CONVCORE_OPENCL_DEVICE", "no such device")
    there = ", ".join(
        f"{i} ({one.name.strip()}, {one.platform.name.strip()})" for i, one in enumerate(device.all_devices())
    )
    message = f"CONVCORE_OPENCL_DEVICE: backend 'opencl' has no device 'no such device', there are: {there}"
    assert OpenCLBackend().probe() == message
    with pytest.raises(NoDevice) as caught:
        device.choose("99")
    assert str(caught.value) == f"backend 'opencl' has no device '99', there are: {there}"


@pytest.fixture
def two_cards(backend, monkeypatch):
    """A machine whose devices are this one, thrice, by other names: who is asked for runs."""
    cpu = device.all_devices()[0]

    class Card:
        def __init__(self, name, platform):
            self.name, self.platform = name, type("Platform", (), {"name": platform})

        def __getattr__(self, name):
            return getattr(cpu, name)

    cards = [Card("Radeon 780M ", "AMD Accelerated"), Card("Radeon 780", "rusticl"), Card("GeForce", "NVIDIA CUDA")]
    monkeypatch.setattr(device, "_process", device._Process(devices=cards))
    return cards


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("1", 1), ("nvidia", 2), ("geFORCE", 2), ("RUSTI", 1), ("780m", 0), ("radeon 780", 1), ("Radeon 780M", 0)],
)
def test_a_part_of_a_name_means_one_device(two_cards, wanted, index):
    assert device.choose(wanted) is two_cards[index]
    assert next(one.index for one in OpenCLBackend(wanted).probe()) == index


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            "mali",
            "no device 'mali', there are: "
            "0 (Radeon 780M, AMD Accelerated), 1 (Radeon 780, rusticl), 2 (GeForce, NVIDIA CUDA)",
        ),
        (
            "780",  # digits are an index
            "no device '780', there are: "
            "0 (Radeon 780M, AMD Accelerated), 1 (Radeon 780, rusticl), 2 (GeForce, NVIDIA CUDA)",
        ),
        (
            "radeon",
            "2 devices 'radeon', take one by its index: 0 (Radeon 780M, AMD Accelerated), 1 (Radeon 780, rusticl)",
        ),
    ],
)
def test_a_name_of_no_device_or_of_several_is_refused_in_one_sentence(two_cards, wanted, said):
    with pytest.raises(NoDevice) as caught:
        convcore.plan("forward", (1, 1, 4, 4), (1, 1, 2, 2), backend=f"opencl:{wanted}")
    assert str(caught.value) == f"backend 'opencl' has {said} (from call argument)"
    with pytest.raises(NoDevice) as caught:
        device.choose(wanted)
    assert str(caught.value) == f"backend 'opencl' has {said}"


def test_a_device_is_asked_for_by_a_part_of_its_platforms_name(backend):
    p, platform = problem(), device.choose("0").platform.name.strip()
    given = operands(p)
    if len([one for one in device.all_devices() if one.platform.name.strip() == platform]) > 1:
        pytest.skip(f"{platform} has several devices")
    name = f"opencl:{platform.split()[0].upper()}"
    assert_right(p, convcore.conv2d(*given[:2], backend=name), *given)
    assert convcore.explain("conv2d", *given[:2], backend=name).chosen == name


def test_pyopencl_ctx_is_honoured(backend, monkeypatch):
    last = device.all_devices()[-1]
    monkeypatch.delenv("CONVCORE_OPENCL_DEVICE", raising=False)
    platforms = cl.get_platforms()
    monkeypatch.setenv("PYOPENCL_CTX", f"{platforms.index(last.platform)}:{last.platform.get_devices().index(last)}")
    assert device.choose() == last
    monkeypatch.setenv("PYOPENCL_CTX", "77")
    assert OpenCLBackend().probe().startswith("PYOPENCL_CTX='77' names no device: ")


@pytest.mark.parametrize(
    ("cores", "before", "after"), [({0, 1}, None, "1"), ({0, 1}, "0", "0"), ({1}, None, None), (None, None, None)]
)
def test_pocls_threads_stay_apart_where_all_cores_may_be_used(monkeypatch, cores, before, after):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    if cores is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(os, "environ", {} if before is None else {device.AFFINITY_VARIABLE: before})
    device._keep_threads_apart()
    assert os.environ.get(device.AFFINITY_VARIABLE) == after


def test_no_driver_is_a_reason_and_not_an_exception(monkeypatch):
    def nothing():
        raise cl.LogicError("PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(device, "_process", device._Process())
    monkeypatch.setattr(cl, "get_platforms", nothing)
    assert OpenCLBackend().probe() == "no OpenCL driver is installed (PLATFORM_NOT_FOUND_KHR)"
    monkeypatch.setattr(cl, "get_platforms", list)
    assert OpenCLBackend().probe() == "no OpenCL driver offers a device (drivers: none)"


def test_a_rejected_kernel_says_where_and_why(backend):
    runtime = device.runtime(device.choose())
    with pytest.raises(KernelBuildError) as caught:
        program.build(runtime.context, runtime.device, "direct.cl", ["-DFIRST=nonsense", "-DSECOND=float"])
    error = caught.value
    assert error.device == runtime.device.name.strip()
    assert error.options == "-cl-std=CL1.2 -cl-mad-enable -DFIRST=nonsense -DSECOND=float"
    assert "nonsense" in error.log
    assert str(error).startswith(f"{error.device} rejected direct.cl built with {error.options}: ")
    given = operands(problem())
    assert_right(problem(), backend.plan(problem())(*given), *given)


@pytest.fixture
def usable_afterwards(backend):
    """Compute rightly after whatever went wrong, in the same process, and see that `out` was left alone."""
    p = problem()
    given, out = operands(p), np.full(p.result_shape, 7, np.float32)
    yield p, given, out
    assert (out == 7).all()
    assert_right(p, backend.plan(p)(*given, out), *given)


def test_a_device_that_is_full_says_so(usable_afterwards):
    p, given, out = usable_afterwards
    chosen = device.choose()
    recipe = plans.recipe(p, device.traits(chosen, p))
    plan = execute.OpenCLPlan(p, replace(recipe, workspace={"far too much": 2**60}), chosen)
    with pytest.raises(OutOfDeviceMemory) as caught:
        plan(*given, out)
    error = caught.value
    assert (error.device, error.needed) == (chosen.name.strip(), p.bytes + 2**60)
    assert (error.memory, error.largest_buffer) == (chosen.global_mem_size, chosen.max_mem_alloc_size)
    assert isinstance(error, MemoryError)
    assert str(error).startswith(
        f"{error.device} has no room for forward on {p.bytes} bytes of arrays and {2**60} of workspace (its memory is "
        f"{error.memory}, its largest buffer {error.largest_buffer}): "
    )


def driver_error(kind, code):
    """What PyOpenCL raises when a driver returns an error code."""
    return kind(cl._cl._ErrorRecord("clEnqueueNDRangeKernel", code, ""))


@pytest.mark.parametrize("code", ["MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES"])
def test_a_driver_that_is_out_of_memory_is_quoted(usable_afterwards, backend, monkeypatch, code):
    p, given, out = usable_afterwards

    def refuse(*_, **__):
        raise driver_error(cl.MemoryError, getattr(cl.status_code, code))

    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", refuse)
    with pytest.raises(OutOfDeviceMemory, match=f"failed: {code}"):
        backend.plan(p)(*given, out)
    monkeypatch.undo()


class Gone:
    """The queue of a device that went away, which cannot even say what became of its commands."""

    def __init__(self, queue):
        self._queue = queue

    def __getattr__(self, name):
        return getattr(self._queue, name)

    def finish(self):
        raise driver_error(cl.RuntimeError, cl.status_code.OUT_OF_RESOURCES)


@pytest.mark.parametrize("where", ["launch", "finish"])
def test_a_lost_device_is_looked_for_anew(usable_afterwards, backend, monkeypatch, where):
    p, given, out = usable_afterwards
    plan = backend.plan(p)
    plan(*given)
    before = device.runtime(device.choose())

    def refuse(*_, **__):
        code = "DEVICE_NOT_AVAILABLE" if where == "launch" else "OUT_OF_RESOURCES"
        raise driver_error(cl.RuntimeError, getattr(cl.status_code, code))

    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", refuse)
    if where == "finish":
        monkeypatch.setattr(execute, "reporting", lambda plan, queue: failures.reporting(plan, Gone(queue)))
    with pytest.raises(DeviceLost) as caught:
        plan(*given, out)
    assert caught.value.device == before.device.name.strip()
    assert str(caught.value).startswith(
        f"{caught.value.device} was lost during forward, and the arrays on it with it ("
    )
    assert str(caught.value).endswith("); the next call makes a new context")
    monkeypatch.undo()
    assert_right(p, plan(*given), *given)
    assert device.runtime(device.choose()).context != before.context


def gone(*_, **__):
    raise driver_error(cl.RuntimeError, cl.status_code.DEVICE_NOT_AVAILABLE)


def test_after_a_loss_every_plan_has_new_kernels(backend, monkeypatch):
    """Not only the plan that noticed it: others were called before as well, for the lost context."""
    small, tiled = problem(), problem(image=(1, 16, 20, 20), kernel=(16, 3, 3), padding=((1, 1), (1, 1)))
    on_device = replace(small, arrays=DEVICE_ARRAY)
    cases = [(p, backend.plan(p), operands(p)) for p in (small, tiled)]
    for _, plan, given in cases:
        plan(*given)
    resident = backend.plan(on_device)
    resident(*map(backend.to_device, cases[0][2][:2]))
    before = device.runtime(device.choose())
    kernels = program.programs._of(before.queue).kernels
    launches = [launch for plan in (*(plan for _, plan, _ in cases), resident) for launch in plan.recipe.launches]
    assert all(launch.kernel in kernels for launch in launches)
    with monkeypatch.context() as patched:
        patched.setattr(cl, "enqueue_nd_range_kernel", gone)
        with pytest.raises(DeviceLost):
            cases[0][1](*cases[0][2])

    launched = []
    launch = cl.enqueue_nd_range_kernel

    def noted(queue, kernel, *more, **others):
        launched.append((queue.context, kernel.context))
        return launch(queue, kernel, *more, **others)

    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", noted)
    for p, plan, given in cases:
        assert_right(p, plan(*given), *given)
    fresh = [*map(backend.to_device, cases[0][2][:2])]
    assert_right(small, backend.from_device(resident(*fresh)), *cases[0][2])
    after = device.runtime(device.choose()).context
    assert after != before.context
    assert launched
    assert set(launched) == {(after, after)}
    assert all(context != before.context for context, _ in program.programs._built)


@pytest.mark.parametrize("call", ["to_device", "from_device", "synchronize"])
def test_a_loss_between_calls_is_noticed(usable_afterwards, backend, monkeypatch, call):
    p, given, _ = usable_afterwards
    before, array = device.runtime(device.choose()), backend.to_device(given[0])
    monkeypatch.setattr(cla, "to_device", gone)
    monkeypatch.setattr(type(array), "get", gone)
    monkeypatch.setattr(
        backend, "_runtime", lambda: replace(before, queue=Gone(before.queue)) if call == "synchronize" else before
    )
    arguments = {"to_device": given[:1], "from_device": [array], "synchronize": []}[call]
    with pytest.raises(DeviceLost, match=f" was lost during {call}, and the arrays on it with it "):
        getattr(backend, call)(*arguments)
    monkeypatch.undo()
    assert_right(p, backend.plan(p)(*given), *given)
    assert device.runtime(device.choose()).context != before.context


def test_a_kernel_that_does_not_build_leaves_nothing_behind(usable_afterwards, backend, monkeypatch):
    p, given, out = usable_afterwards
    plan = backend.plan(p)
    monkeypatch.setattr(program, "programs", program.Programs())
    monkeypatch.setattr(program, "source", lambda file: "this is no kernel")
    with pytest.raises(KernelBuildError, match=r"rejected direct.cl built with "):
        plan(*given, out)
    assert not program.programs._of(device.runtime(device.choose()).queue).kernels
    monkeypatch.undo()
    assert_right(p, plan(*given), *given)


def test_plans_can_be_made_in_threads_that_never_saw_the_device(backend):
    found = []
    thread = threading.Thread(target=lambda: found.append(device.runtime(device.choose())))
    thread.start()
    thread.join()
    assert found == [device.runtime(device.choose())]


FORK = """
import os, signal, sys
import numpy as np
from convcore.spi import NoDevice, Problem
from convcore_opencl.backend import OpenCLBackend

problem = Problem("forward", (1, 16, 64, 64), (16, 16, 3, 3), (1, 16, 62, 62), algorithm="register_tile")
ones = [np.ones(shape, np.float32) for shape in problem.operand_shapes]
backend = OpenCLBackend()
plan = backend.plan(problem)
pocl = "Portable" in backend.probe()[0].detail["platform"]
assert (plan(*ones) == 144).all()
child = os.fork()
if child == 0:
    signal.alarm(60)
    if pocl:
        reason = backend.probe()
        assert reason.startswith("PoCL was in use when this process was forked"), reason
        try:
            plan(*ones)
        except NoDevice as error:
            assert str(error) == reason
            os._exit(0)
        os._exit(1)
    os._exit(0 if (plan(*ones) == 144).all() else 1)
assert os.waitpid(child, 0)[1] == 0
assert (plan(*ones) == 144).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_child_computes_or_says_why_not(backend):
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_import_pyopencl():
    code = "import sys, convcore_opencl, convcore_opencl.backend; assert 'pyopencl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kernel_file_opens_with_what_it_is_for():
    for path in (resources.files("convcore_opencl") / "kernels").iterdir():
        if path.name == "common.cl":
            continue
        text = program.source(path.name)
        assert text.startswith("/*\n * Purpose\n")
        assert text.count(" * Purpose\n") == 2 + len(program._IN_FRONT.get(path.name, ()))


def test_largest_magnitudes_are_found_on_the_device(backend):
    values = np.zeros(5000, np.int64)
    values[4321] = -(2**63)
    array = backend.to_device(values)
    assert arrays._magnitude(array.queue, array) == 2**63


# ---------------------------------------------------------------- shared virtual memory, several devices


@pytest.fixture
def shared(backend):
    """An allocator of shared virtual memory.  PyOpenCL's pool of it breaks the heap on PoCL, used or not.

    In a process that has done much else PoCL has died in these tests, so they have one of their own.
    """
    runtime = device.runtime(device.choose())
    if not has_coarse_grain_buffer_svm(runtime.device):
        pytest.skip(f"{runtime.device.name} has no shared virtual memory")
    return SVMAllocator(runtime.context, flags=cl.svm_mem_flags.READ_WRITE, queue=runtime.queue)


@pytest.mark.alone
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
def test_arrays_in_shared_virtual_memory_are_computed_on(backend, shared, op):
    p = problem(op, bias=op != "grad_weight", algorithm="panel")
    given, queue = operands(p), device.runtime(device.choose()).queue
    there = [None if a is None else cla.to_device(queue, np.stack([a, a]), allocator=shared)[1] for a in given]
    result = backend.plan(replace(p, arrays=DEVICE_ARRAY))(*there)
    assert isinstance(result.base_data, cl.SVMPointer)
    assert_right(p, backend.from_device(result), *given)


@pytest.mark.alone
def test_results_in_shared_virtual_memory_may_not_overlap_operands(backend, shared):
    p = problem()
    queue = device.runtime(device.choose()).queue
    both = cla.zeros(queue, 600, np.float32, allocator=shared)
    x, out = both[:378].reshape(p.operand_shapes[0]), both[320:].reshape(p.result_shape)
    weight = cla.zeros(queue, p.operand_shapes[1], np.float32)
    plan = backend.plan(replace(p, arrays=DEVICE_ARRAY))
    with pytest.raises(ValueError, match=r"^opencl: `out` must not share memory with `x`$"):
        plan(x, weight, None, out)


@pytest.mark.alone
def test_a_device_without_shared_virtual_memory_says_so(backend, shared, monkeypatch):
    p, queue = problem(), device.runtime(device.choose()).queue
    x, weight = (cla.zeros(queue, shape, np.float32, allocator=shared) for shape in p.operand_shapes)
    monkeypatch.setattr(arrays, "has_coarse_grain_buffer_svm", lambda _: False)
    with pytest.raises(TypeError) as caught:
        backend.plan(replace(p, arrays=DEVICE_ARRAY))(x, weight)
    name = queue.device.name.strip()
    reason = f"opencl: `x` lies in shared virtual memory, which {name} does not support; put it in a buffer"
    assert str(caught.value) == reason


SEVERAL = """
import threading
import numpy as np
import convcore
from convcore_opencl import device

count = len(device.all_devices())
assert count > 1, device.all_devices()
rng = np.random.default_rng(0)
given = [
    (rng.standard_normal((2, 8, 40, 40 + i), np.float32), rng.standard_normal((16, 8, 3, 3), np.float32))
    for i in range(2 * count)
]
expected = [convcore.conv2d(x, weight, backend="numpy") for x, weight in given]
wrong = []


def work(i):
    for _ in range(10):
        result = convcore.conv2d(*given[i], backend=f"opencl:{i % count}")
        if abs(result - expected[i]).max() > 1e-4:
            wrong.append(i)


threads = [threading.Thread(target=work, args=(i,)) for i in range(len(given))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
assert len(device._process.runtimes) == count
assert len({runtime.context.int_ptr for runtime in device._process.runtimes.values()}) == count
"""


def test_threads_use_several_devices_at_once(backend):
    """PoCL shows the processor as several devices where it is told to."""
    if "Portable" not in device.choose().platform.name and len(device.all_devices()) < 2:
        pytest.skip("one device only")
    several = os.environ | {"POCL_DEVICES": "pthread pthread"}
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], env=several, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
