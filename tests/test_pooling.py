"""Pooling beside PyTorch, and the layers that pool."""

import numpy as np
import pytest

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
    torch = pytest.importorskip("torch", reason="PyTorch is a peer to compare with; install torch to do so")
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
