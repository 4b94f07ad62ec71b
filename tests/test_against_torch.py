"""Hundreds of random geometries beside PyTorch, on every built-in backend."""

import numpy as np
import pytest

import convcore

torch = pytest.importorskip(
    "torch", reason="PyTorch is a peer to compare with, not a requirement; install torch to do so"
)

SEEDS = range(120)
DTYPES = ("float32", "float64")


def draw(seed):
    """Draw a geometry in which the kernel fits: shapes of x and weight, and keywords of conv2d."""
    rng = np.random.default_rng(seed)

    def pair(low, high):
        return tuple(map(int, rng.integers(low, high, 2, endpoint=True)))

    groups = int(rng.choice([1, 1, 2, 3]))
    channels, multiplier = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    kernel, stride, dilation, padding = pair(1, 5), pair(1, 4), pair(1, 3), pair(0, 4)
    least = [max(dilation[a] * (kernel[a] - 1) + 1 - 2 * padding[a], 1) for a in (0, 1)]
    size = [least[a] + int(rng.integers(0, 12)) for a in (0, 1)]
    x_shape = (int(rng.integers(1, 4)), groups * channels, *size)
    weight_shape = (groups * multiplier, channels, *kernel)
    return x_shape, weight_shape, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def assert_close(ours, theirs, dtype):
    """Compare to the precision in which both compute; the bound that counts is that of the conformance kit."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    largest = max(np.abs(theirs).max(), 1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=100 * np.finfo(dtype).eps * largest)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv2d_and_gradients(convcore_backend, dtype, layout):
    order = (0, 1, 2, 3) if layout == "NCHW" else (0, 2, 3, 1)
    back = (0, 1, 2, 3) if layout == "NCHW" else (0, 3, 1, 2)
    for seed in SEEDS:
        x_shape, weight_shape, geometry = draw(seed)
        rng = np.random.default_rng(seed)
        x, weight, bias = (normal(rng, shape, dtype) for shape in (x_shape, weight_shape, weight_shape[:1]))
        tensors = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
        expected = torch.nn.functional.conv2d(*tensors, **geometry)
        grad_out = normal(rng, tuple(expected.shape), dtype)
        gradients = torch.autograd.grad(expected, tensors, torch.tensor(grad_out))

        here = geometry | {"layout": layout, "backend": convcore_backend}
        x, grad_out = x.transpose(order), grad_out.transpose(order)
        assert_close(convcore.conv2d(x, weight, bias, **here).transpose(back), expected, dtype)
        grad_input = convcore.conv2d_grad_input(grad_out, weight, x.shape, **here)
        assert_close(grad_input.transpose(back), gradients[0], dtype)
        assert_close(convcore.conv2d_grad_weight(x, grad_out, weight.shape, **here), gradients[1], dtype)
        grad_bias = convcore.conv2d_grad_bias(grad_out, layout=layout, backend=convcore_backend)
        assert_close(grad_bias, gradients[2], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_transpose2d(convcore_backend, dtype):
    for seed in SEEDS:
        x_shape, weight_shape, geometry = draw(seed)
        rng = np.random.default_rng(seed)
        limits = [max(geometry["stride"][a], geometry["dilation"][a]) for a in (0, 1)]
        geometry["output_padding"] = tuple(int(rng.integers(0, limit)) for limit in limits)
        geometry["padding"] = (0, 0) if min(x_shape[2:]) < 5 else tuple(min(p, 2) for p in geometry["padding"])
        x = normal(rng, (x_shape[0], weight_shape[0], *x_shape[2:]), dtype)
        weight = normal(rng, weight_shape, dtype)
        bias = normal(rng, x_shape[1:2], dtype)
        expected = torch.nn.functional.conv_transpose2d(*map(torch.tensor, (x, weight, bias)), **geometry)
        assert_close(convcore.conv_transpose2d(x, weight, bias, **geometry, backend=convcore_backend), expected, dtype)


@pytest.mark.parametrize(("boundary", "mode"), [("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")])
def test_gradients_of_boundaries(boundary, mode):
    for seed in SEEDS:
        x_shape, weight_shape, geometry = draw(seed)
        padding = tuple(min(p, x_shape[2 + a] - 1) for a, p in enumerate(geometry["padding"]))
        if any(x_shape[2 + a] + 2 * padding[a] <= geometry["dilation"][a] * (weight_shape[2 + a] - 1) for a in (0, 1)):
            continue
        geometry["padding"] = padding
        rng = np.random.default_rng(seed)
        x, weight = normal(rng, x_shape, "float64"), normal(rng, weight_shape, "float64")
        tensors = [torch.tensor(array, requires_grad=True) for array in (x, weight)]
        (vertical, horizontal), rest = padding, {k: v for k, v in geometry.items() if k != "padding"}
        padded = torch.nn.functional.pad(tensors[0], (horizontal, horizontal, vertical, vertical), mode=mode)
        expected = torch.nn.functional.conv2d(padded, tensors[1], **rest)
        grad_out = normal(rng, tuple(expected.shape), "float64")
        gradients = torch.autograd.grad(expected, tensors, torch.tensor(grad_out))

        here = geometry | {"boundary": boundary, "backend": "numpy"}
        assert_close(convcore.conv2d(x, weight, **here), expected, "float64")
        assert_close(convcore.conv2d_grad_input(grad_out, weight, x.shape, **here), gradients[0], "float64")
        assert_close(convcore.conv2d_grad_weight(x, grad_out, weight.shape, **here), gradients[1], "float64")
