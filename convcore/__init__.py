"""convcore: two-dimensional cross-correlation and its gradients, on interchangeable engines.

>>> import numpy as np
>>> import convcore
>>> image = np.ones((6, 8), np.float32)
>>> image[:, 2:6] = 0
>>> convcore.corr2d(image, np.array([[1, -1]], np.float32))[0]
array([ 0.,  1.,  0.,  0.,  0., -1.,  0.], dtype=float32)
"""

from convcore.api import (
    as_matrix,
    backends,
    conv2d,
    conv2d_grad_bias,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_transpose2d,
    convolve2d,
    corr2d,
    explain,
    get_backend,
    max_pool2d,
    max_pool2d_grad,
    output_shape,
    plan,
    receptive_field,
    set_backend,
    use,
)
from convcore.errors import (
    BrokenBackend,
    ConfigError,
    ConvcoreError,
    DeviceLost,
    KernelBuildError,
    NoDevice,
    OutOfDeviceMemory,
    UnknownBackend,
    UnsupportedProblem,
)
from convcore.fitting import KernelFit, fit_kernel
from convcore.layers import AvgPool2D, Conv2D, Dense, Layer, MaxPool2D, Parameter, ReLU, Sequential, Sigmoid

__version__ = "0.1.0"

__all__ = [
    "AvgPool2D",
    "BrokenBackend",
    "ConfigError",
    "Conv2D",
    "ConvcoreError",
    "Dense",
    "DeviceLost",
    "KernelBuildError",
    "KernelFit",
    "Layer",
    "MaxPool2D",
    "NoDevice",
    "OutOfDeviceMemory",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "UnknownBackend",
    "UnsupportedProblem",
    "as_matrix",
    "backends",
    "conv2d",
    "conv2d_grad_bias",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv_transpose2d",
    "convolve2d",
    "corr2d",
    "explain",
    "fit_kernel",
    "get_backend",
    "max_pool2d",
    "max_pool2d_grad",
    "output_shape",
    "plan",
    "receptive_field",
    "set_backend",
    "use",
]
