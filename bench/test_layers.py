"""A few layers and single images, each backend beside PyTorch, OpenCV and SciPy; NumPy arrays in and out."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from problem_set import load

import convcore

LAYERS = load()
CHOSEN = (
    "resnet50/conv1",
    "resnet50/layer1.0.conv2",
    "resnet50/layer4.0.conv1",
    "vgg16/features.24",
    "mobilenet_v2/features.1.conv.0.0",
)
BACKENDS = [info.name for info in convcore.backends() if info.state == "ready"]
RNG = np.random.default_rng(0)


def draw(shape):
    """Return normally distributed float32 numbers."""
    return RNG.standard_normal(shape, np.float32)


def operands(layer):
    """Return x, weight and grad_out of a layer."""
    x, weight = draw(layer.input_shape), draw(layer.weight_shape)
    return x, weight, draw(convcore.output_shape(x.shape, weight.shape, **layer.geometry))


@pytest.fixture(params=CHOSEN)
def layer(request, benchmark):
    """Name the benchmark's group after the layer."""
    benchmark.group = f"{request.param} {request.node.originalname.split('_', 2)[2]}"
    return LAYERS[request.param]


@pytest.mark.parametrize("backend", BACKENDS)
class TestConvcore:
    """The primitives of each backend."""

    def test_convcore_forward(self, benchmark, layer, backend):
        x, weight, _ = operands(layer)
        benchmark(convcore.conv2d, x, weight, backend=backend, **layer.geometry)

    def test_convcore_grad_input(self, benchmark, layer, backend):
        x, weight, grad = operands(layer)
        benchmark(convcore.conv2d_grad_input, grad, weight, x.shape, backend=backend, **layer.geometry)

    def test_convcore_grad_weight(self, benchmark, layer, backend):
        x, weight, grad = operands(layer)
        benchmark(convcore.conv2d_grad_weight, x, grad, weight.shape, backend=backend, **layer.geometry)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
class TestTorch:
    """PyTorch's, with the input in either memory format."""

    def tensors(self, layer, memory_format):
        return [torch.from_numpy(array).contiguous(memory_format=memory_format) for array in operands(layer)]

    def geometry(self, layer):
        (top, bottom), (left, right) = layer.padding
        assert (top, left) == (bottom, right)
        return {"stride": layer.stride, "padding": (top, left), "dilation": layer.dilation, "groups": layer.groups}

    def test_torch_forward(self, benchmark, layer, memory_format):
        x, weight, _ = self.tensors(layer, memory_format)
        benchmark(torch.nn.functional.conv2d, x, weight, **self.geometry(layer))

    def test_torch_grad_input(self, benchmark, layer, memory_format):
        x, weight, grad = self.tensors(layer, memory_format)
        benchmark(torch.nn.grad.conv2d_input, x.shape, weight, grad, **self.geometry(layer))

    def test_torch_grad_weight(self, benchmark, layer, memory_format):
        x, weight, grad = self.tensors(layer, memory_format)
        benchmark(torch.nn.grad.conv2d_weight, x, weight.shape, grad, **self.geometry(layer))


# ---------------------------------------------------------------- one image, one kernel


@pytest.fixture(params=[3, 7, 15])
def image_and_kernel(request, benchmark):
    """Return a 1024 by 1024 image and a square kernel."""
    benchmark.group = f"1024 by 1024 image, {request.param} by {request.param} kernel"
    return draw((1024, 1024)), draw((request.param, request.param))


@pytest.mark.parametrize("backend", BACKENDS)
def test_image_convcore(benchmark, image_and_kernel, backend):
    benchmark(convcore.corr2d, *image_and_kernel, padding="same", backend=backend)


def test_image_opencv(benchmark, image_and_kernel):
    image, kernel = image_and_kernel
    benchmark(cv2.filter2D, image, cv2.CV_32F, kernel, borderType=cv2.BORDER_CONSTANT)


def test_image_ndimage(benchmark, image_and_kernel):
    benchmark(scipy.ndimage.correlate, *image_and_kernel, mode="constant")


def test_image_scipy_fft(benchmark, image_and_kernel):
    benchmark(scipy.signal.fftconvolve, *image_and_kernel, mode="same")
