"""What a call costs before any arithmetic: the 6 by 8 image and a 1 by 2 kernel."""

import numpy as np
import pytest

import convcore

IMAGE = np.ones((6, 8), np.float32)
IMAGE[:, 2:6] = 0
KERNEL = np.array([[1, -1]], np.float32)
X, WEIGHT = IMAGE[None, None], KERNEL[None, None]
EDGES = np.array([[0, 1, 0, 0, 0, -1, 0]] * 6, np.float32)
HOST_BACKENDS = [info.name for info in convcore.backends() if info.state == "ready" and info.name in ("cpu", "numpy")]

pytestmark = pytest.mark.benchmark(group="6 by 8 image: a call")


def check(benchmark, function, *operands, **keywords):
    """Hold the answer against the edges of the image, which are known, and time the call."""
    answer = np.asarray(function(*operands, **keywords)).reshape(6, -1)
    assert np.array_equal(answer if answer.shape == EDGES.shape else answer[:, 1:], EDGES)
    benchmark(function, *operands, **keywords)


@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_conv2d(benchmark, backend):
    with convcore.use(backend):
        check(benchmark, convcore.conv2d, X, WEIGHT)


@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_corr2d(benchmark, backend):
    with convcore.use(backend):
        check(benchmark, convcore.corr2d, IMAGE, KERNEL)


@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_plan(benchmark, backend):
    check(benchmark, convcore.plan("conv2d", X, WEIGHT, backend=backend), X, WEIGHT)


def test_torch(benchmark):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # or it wakes threads for so little work
    check(benchmark, torch.nn.functional.conv2d, torch.from_numpy(X), torch.from_numpy(WEIGHT))
    torch.set_num_threads(threads)


def test_opencv(benchmark):
    cv2 = pytest.importorskip("cv2")
    check(benchmark, cv2.filter2D, IMAGE, cv2.CV_32F, KERNEL, borderType=cv2.BORDER_REPLICATE)


def test_scipy(benchmark):
    signal = pytest.importorskip("scipy.signal")
    check(benchmark, signal.correlate2d, IMAGE, KERNEL, "valid")
