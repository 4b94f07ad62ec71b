"""What a call costs before any arithmetic: the 6 by 8 image and a 1 by 2 kernel, and the import."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.signal
import torch

import convcore

IMAGE = np.ones((6, 8), np.float32)
KERNEL = np.array([[1, -1]], np.float32)
X, WEIGHT = IMAGE[None, None], KERNEL[None, None]
HOST_BACKENDS = [info.name for info in convcore.backends() if info.state == "ready" and info.name in ("cpu", "numpy")]


@pytest.mark.benchmark(group="6 by 8 image: a call")
@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_conv2d(benchmark, backend):
    with convcore.use(backend):
        benchmark(convcore.conv2d, X, WEIGHT)


@pytest.mark.benchmark(group="6 by 8 image: a call")
@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_corr2d(benchmark, backend):
    with convcore.use(backend):
        benchmark(convcore.corr2d, IMAGE, KERNEL)


@pytest.mark.benchmark(group="6 by 8 image: a call")
@pytest.mark.parametrize("backend", HOST_BACKENDS)
def test_plan(benchmark, backend):
    benchmark(convcore.plan("conv2d", X, WEIGHT, backend=backend), X, WEIGHT)


@pytest.fixture
def one_torch_thread():
    """Keep PyTorch from waking threads for so little work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.benchmark(group="6 by 8 image: a call")
@pytest.mark.usefixtures("one_torch_thread")
def test_torch_functional(benchmark):
    benchmark(torch.nn.functional.conv2d, torch.from_numpy(X), torch.from_numpy(WEIGHT))


@pytest.mark.benchmark(group="6 by 8 image: a call")
def test_opencv_filter2d(benchmark):
    benchmark(cv2.filter2D, IMAGE, cv2.CV_32F, KERNEL)


@pytest.mark.benchmark(group="6 by 8 image: a call")
def test_scipy_correlate2d(benchmark):
    benchmark(scipy.signal.correlate2d, IMAGE, KERNEL, "valid")


@pytest.mark.benchmark(group="a new interpreter")
@pytest.mark.parametrize("modules", ["numpy", "numpy, convcore", "numpy, torch"])
def test_import(benchmark, modules):
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", f"import {modules}"],), {"check": True}, rounds=5)
