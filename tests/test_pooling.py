"""Pooling beside PyTorch, and the layers that pool."""

import numpy as np
import pytest
import torch

import convcore

SEEDS = range(60)


def draw(seed):
    """Draw windows that PyTorch takes: padding is at most half of the kernel."""
    rng = np.random.default_rng(seed)
    kernel, stride = (tuple(map(int, rng.integers(1, 5, 2))) for _ in range(2))
    padding = tuple(int(rng.integers(0, k // 2, endpoint=True)) for k in kernel)
    size = [int(rng.integers(k, 12)) for k in kernel]
    # Whole numbers, so that many are equal.
    x = rng.integers(-3, 4, (2, 3, *size)).astype(np.float32)
    return x, kernel, {"stride": stride, "padding": padding, "ceil_mode": bool(rng.integers(0, 2))}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_max_pool2d_is_that_of_pytorch(backend, layout):
    axes, back = ((0, 1, 2, 3),) * 2 if layout == "NCHW" else ((0, 2, 3, 1), (0, 3, 1, 2))
    for seed in SEEDS:
        x, kernel, keywords = draw(seed)
        leaf = torch.tensor(x, requires_grad=True)
        theirs = torch.nn.functional.max_pool2d(leaf, kernel, **keywords)
        grad_out = np.random.default_rng(seed).integers(-9, 9, theirs.shape).astype(np.float32)
        theirs.backward(torch.tensor(grad_out))
        images, grads = x.transpose(axes), grad_out.transpose(axes)
        y = convcore.max_pool2d(images, kernel, **keywords, layout=layout, backend=backend)
        grad = convcore.max_pool2d_grad(images, grads, kernel, **keywords, layout=layout, backend=backend)
        np.testing.assert_array_equal(y.transpose(back), theirs.detach().numpy())
        np.testing.assert_array_equal(grad.transpose(back), leaf.grad.numpy())


def test_a_backend_that_does_not_pool_refuses():
    x = np.ones((1, 1, 4, 4), np.float32)
    with pytest.raises(convcore.UnsupportedProblem, match="opencl: op max_pool is not supported"):
        convcore.max_pool2d(x, 2, backend="opencl")
    assert convcore.max_pool2d(x, 2, backend=["opencl", "numpy"]).shape == (1, 1, 2, 2)


def test_explain_knows_the_default_stride():
    found = convcore.explain("max_pool2d", (1, 2, 9, 9), 3, backend="cpu")
    assert found.problem.stride == (3, 3)
    assert found.chosen == "cpu"


# ---------------------------------------------------------------- layers

GEOMETRIES = [
    {},
    {"strides": (2, 1)},
    {"pool_size": (3, 2), "padding": (1, 0), "ceil_mode": True},
    {"pool_size": 3, "strides": 4, "ceil_mode": True},
    {"pool_size": 3, "padding": "same", "strides": 2},
    {"layout": "NHWC", "ceil_mode": True},
]


def images(layer, channels=2, size=(7, 6)):
    rng = np.random.default_rng(5)
    x = rng.permutation(2 * channels * size[0] * size[1]).astype(np.float64)  # no two are equal
    return x.reshape((2, channels, *size) if layer.layout == "NCHW" else (2, *size, channels))


def every_pixel_nudged(layer, x, grad_out):
    """Return the gradient of sum(layer(x) * grad_out) by central differences."""
    grad = np.empty_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + 0.25
        above = (layer(x) * grad_out).sum()
        x[index] = value - 0.25
        grad[index] = (above - (layer(x) * grad_out).sum()) * 2
        x[index] = value
    return grad


@pytest.mark.parametrize("keywords", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kind", [convcore.MaxPool2D, convcore.AvgPool2D])
def test_backward_against_finite_differences(kind, keywords):
    for backend in ("numpy", "cpu") if kind is convcore.MaxPool2D else ("numpy", "cpu", "opencl"):
        layer = kind(**keywords, backend=backend)
        x = images(layer)
        y = layer(x)
        assert y.shape == layer.output_shape(x.shape)
        grad_out = np.random.default_rng(6).standard_normal(y.shape)
        grad = layer.backward(grad_out)
        np.testing.assert_allclose(grad, every_pixel_nudged(layer, x, grad_out), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("backend", ["numpy", "cpu", "opencl"])
def test_averages_are_those_of_pytorch(backend, count_include_pad):
    for seed in SEEDS[:20]:
        x, kernel, keywords = draw(seed)
        theirs = torch.nn.functional.avg_pool2d(
            torch.tensor(x), kernel, **keywords, count_include_pad=count_include_pad
        )
        layer = convcore.AvgPool2D(
            kernel,
            keywords["stride"],
            keywords["padding"],
            keywords["ceil_mode"],
            backend=backend,
            count_include_pad=count_include_pad,
        )
        np.testing.assert_allclose(layer(x), theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_averages_of_constant_images_are_constant_without_padding():
    layer = convcore.AvgPool2D(3, 2, 1, ceil_mode=True, count_include_pad=False)
    assert (layer(np.full((1, 2, 8, 7), 4.0)) == 4).all()
