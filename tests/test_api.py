"""What the public functions mean, beyond the kit that every backend is held to."""

import inspect
import itertools

import numpy as np
import pytest
import scipy.sparse
from scipy.signal import convolve2d as scipy_convolve2d
from scipy.signal import correlate2d as scipy_correlate2d

import convcore

RNG = np.random.default_rng(7)
GEOMETRY = ("stride", "padding", "dilation", "groups", "boundary", "fill_value", "layout", "accuracy", "tune")


@pytest.fixture(autouse=True, params=["numpy", "cpu", "opencl"])
def backend(request):
    with convcore.use(request.param):
        yield request.param


def image(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_corr2d_and_convolve2d_against_scipy(mode):
    x, k = image(9, 11), image(3, 5)
    np.testing.assert_allclose(convcore.corr2d(x, k, padding=mode), scipy_correlate2d(x, k, mode), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        convcore.convolve2d(x, k, padding=mode), scipy_convolve2d(x, k, mode), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0, 3)])
def test_corr2d_takes_stacks(leading):
    x, k = image(*leading, 6, 8), image(1, 2)
    y = convcore.corr2d(x, k)
    assert y.shape == (*leading, 6, 7)
    for index in np.ndindex(leading):
        np.testing.assert_array_equal(y[index], convcore.corr2d(x[index], k))


def test_corr2d_of_integers_does_not_wrap():
    x = np.full((4, 4), 60000, np.uint16)
    assert (convcore.corr2d(x, np.full((3, 3), 1, np.uint16)) == 540000).all()
    x = np.array([[0, 229, 0]], np.uint8)
    assert convcore.corr2d(x, [[1, -1]]).tolist() == [[-229, 229]]


def test_lists_are_arrays():
    y = convcore.corr2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]])
    assert y.dtype == np.int64
    assert y.tolist() == [[19, 25], [37, 43]]


@pytest.mark.parametrize("padding", [0, "same", ((0, 2), (3, 1))])
@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
def test_as_matrix_is_the_correlation(stride, padding, dilation):
    x, k, geometry = image(7, 8), image(3, 2), {"stride": stride, "padding": padding, "dilation": dilation}
    matrix, y = convcore.as_matrix(k, x.shape, **geometry), convcore.corr2d(x, k, **geometry)
    assert matrix.shape == (y.size, x.size)
    np.testing.assert_allclose(matrix @ x.ravel(), y.ravel(), rtol=1e-4, atol=1e-5)
    g = image(*y.shape)
    grad = convcore.conv2d_grad_input(g[None, None], k[None, None], (1, 1, *x.shape), **geometry)
    np.testing.assert_allclose(matrix.T @ g.ravel(), grad.ravel(), rtol=1e-4, atol=1e-5)


def test_as_matrix_is_sparse():
    k = image(2, 3)
    matrix = convcore.as_matrix(k, (5, 6))
    assert scipy.sparse.issparse(matrix)
    assert matrix.nnz == 4 * 4 * k.size
    x = image(5, 6)
    np.testing.assert_allclose(matrix @ x.ravel(), convcore.corr2d(x, k).ravel(), rtol=1e-4, atol=1e-5)
    g = image(4, 4)
    grad = convcore.conv2d_grad_input(g[None, None], k[None, None], (1, 1, 5, 6))
    np.testing.assert_allclose(matrix.T @ g.ravel(), grad.ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [0, (1, 2), ((0, 1), (2, 0)), "valid", "same", "same_lower", "full"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_output_shape_is_what_comes_out(padding, layout):
    for stride, dilation, size in itertools.product((1, 2, (3, 1)), (1, (2, 1)), ((7, 8), (9, 6))):
        shape = (2, 4, *size) if layout == "NCHW" else (2, *size, 4)
        keywords = {"stride": stride, "dilation": dilation, "padding": padding, "groups": 2, "layout": layout}
        weight = image(6, 2, 3, 2)
        y = convcore.conv2d(image(*shape), weight, **keywords)
        assert y.shape == convcore.output_shape(shape, weight.shape, **keywords)
        if padding in ("same", "same_lower"):
            rows, columns = y.shape[2:] if layout == "NCHW" else y.shape[1:3]
            sh, sw = stride if isinstance(stride, tuple) else (stride, stride)
            assert (rows, columns) == (-(-size[0] // sh), -(-size[1] // sw))


def test_same_puts_the_odd_pixel_at_the_end_and_same_lower_at_the_start():
    x, k = np.array([[1.0, 2.0, 4.0]]), np.array([[1.0, 10.0]])
    assert convcore.corr2d(x, k, padding="same").tolist() == [[21, 42, 4]]
    assert convcore.corr2d(x, k, padding="same_lower").tolist() == [[10, 21, 42]]


def test_transpose_same_and_output_padding():
    x, w = image(1, 2, 4, 5), image(2, 3, 3, 3)
    assert convcore.conv_transpose2d(x, w, stride=2, padding="same").shape == (1, 3, 8, 10)
    whole = convcore.conv_transpose2d(x, w, stride=2)
    cut = convcore.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)
    # Two problems of two sizes, which a backend may well compute by two algorithms.
    np.testing.assert_allclose(cut, whole[:, :, 1:, 1:], rtol=1e-5, atol=1e-5)
    bias = image(3)
    np.testing.assert_allclose(
        convcore.conv_transpose2d(x, w, bias, stride=2), whole + bias[:, None, None], rtol=1e-5, atol=1e-5
    )


def test_receptive_field_finds_what_an_output_depends_on():
    layers = [
        convcore.Conv2D(1, 3, padding=1, use_bias=False, weight_initializer="ones"),
        convcore.Conv2D(1, (3, 2), strides=2, use_bias=False, weight_initializer="ones"),
        convcore.Conv2D(1, 2, dilation=2, use_bias=False, weight_initializer="ones"),
    ]
    field = convcore.receptive_field(layers)
    x = np.ones((1, 1, 24, 24), np.float32)
    for layer in layers:
        x = layer(x)
    grad = np.zeros_like(x)
    grad[0, 0, 2, 3] = 1
    for layer in reversed(layers):
        grad = layer.backward(grad)
    rows, columns = np.nonzero(grad[0, 0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == field.size
    assert (rows.min(), columns.min()) == (field.offset[0] + 2 * field.stride[0], field.offset[1] + 3 * field.stride[1])


def test_receptive_field_of_plain_numbers():
    field = convcore.receptive_field([3, (3, 3), {"kernel_size": 3, "stride": 2, "padding": 1}])
    assert (field.size, field.stride, field.offset) == ((7, 7), (2, 2), (-1, -1))


def test_out_is_returned_and_filled():
    x, w = image(1, 1, 6, 8), image(2, 1, 3, 3)
    expected = convcore.conv2d(x, w)
    for out in (
        np.empty((1, 2, 4, 6), np.float32),
        np.empty((1, 2, 4, 12), np.float32)[..., ::2],
        np.empty((1, 2, 4, 6), ">f4"),
        np.empty((6, 4, 2, 1), np.float32).T,
    ):
        assert convcore.conv2d(x, w, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_inputs_are_never_written_to():
    x, w = image(1, 2, 6, 8), image(2, 2, 3, 3)
    x.flags.writeable = w.flags.writeable = False
    y = convcore.conv2d(x, w, padding=1)
    convcore.conv2d_grad_input(y, w, x.shape, padding=1)
    convcore.conv2d_grad_weight(x, y, w.shape, padding=1)


@pytest.mark.parametrize(
    "variant",
    [
        lambda a: a[::-1, ::-1, ::-1, ::-1][::-1, ::-1, ::-1, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    ],
    ids=["negative strides", "Fortran", "byte-swapped", "strided", "unaligned"],
)
def test_any_memory_layout(variant):
    x, w = image(2, 3, 6, 7), image(4, 3, 3, 2)
    y = convcore.conv2d(x, w, padding=1)
    g = image(*y.shape)
    np.testing.assert_array_equal(convcore.conv2d(variant(x), variant(w), padding=1), y)
    np.testing.assert_array_equal(
        convcore.conv2d_grad_input(variant(g), variant(w), x.shape, padding=1),
        convcore.conv2d_grad_input(g, w, x.shape, padding=1),
    )
    np.testing.assert_array_equal(
        convcore.conv2d_grad_weight(variant(x), variant(g), w.shape, padding=1),
        convcore.conv2d_grad_weight(x, g, w.shape, padding=1),
    )
    np.testing.assert_array_equal(convcore.conv2d_grad_bias(variant(g)), convcore.conv2d_grad_bias(g))


def test_plan_is_the_function(backend):
    x, w, b = image(1, 2, 6, 8), image(2, 2, 3, 3), image(2)
    plan = convcore.plan("conv2d", x, w, b, stride=2)
    assert plan.backend == backend
    np.testing.assert_array_equal(plan(x, w, b), convcore.conv2d(x, w, b, stride=2))


def test_named_algorithm_runs_or_raises():
    x, w = image(1, 2, 6, 8), image(2, 2, 3, 3)
    name = convcore.plan("conv2d", x, w).algorithm
    assert convcore.plan("conv2d", x, w, algorithm=name).algorithm == name
    with pytest.raises(convcore.UnsupportedProblem, match="no-such-algorithm"):
        convcore.plan("conv2d", x, w, algorithm="no-such-algorithm")


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (convcore.conv2d, ("x", "weight", "bias", *GEOMETRY, "backend", "out")),
        (convcore.conv2d_grad_input, ("grad_out", "weight", "input_shape", *GEOMETRY, "backend", "out")),
        (convcore.conv2d_grad_weight, ("x", "grad_out", "weight_shape", *GEOMETRY, "backend", "out")),
        (convcore.conv2d_grad_bias, ("grad_out", "layout", "backend")),
    ],
)
def test_signatures(function, parameters):
    assert tuple(inspect.signature(function).parameters) == parameters
