"""Layers that pool: the maximum, and the average, over windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convcore import api, normalise
from convcore.layers.parameters import Array, Layer
from convcore.problem import Pair


class _Pool(Layer):
    dilation = (1, 1)

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        layout: str = "NCHW",
        backend: Any = None,
    ) -> None:
        fn = type(self).__name__
        self.kernel_size = normalise.pair(fn, "pool_size", pool_size, 1)
        self.strides = self.kernel_size if strides is None else normalise.pair(fn, "strides", strides, 1)
        self.padding = normalise.unresolved_padding(fn, padding)
        self.ceil_mode = bool(ceil_mode)
        self.layout = normalise.word(fn, "layout", layout, ("NCHW", "NHWC"))
        self.backend = backend
        self._input: Array | None = None

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result for an input of this shape; raises as a call would."""
        fn = type(self).__name__
        n, channels, size = self._logical(normalise.shape4(fn, "input_shape", input_shape))
        (p, q), _ = normalise.pool_windows(fn, size, self.kernel_size, self.strides, self.padding, self.ceil_mode)
        return (n, channels, p, q) if self.layout == "NCHW" else (n, p, q, channels)

    def _logical(self, shape: tuple[int, ...]) -> tuple[int, int, Pair]:
        n, a, b, c = shape
        return (n, a, (b, c)) if self.layout == "NCHW" else (n, c, (a, b))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.kernel_size}, strides={self.strides}, padding={self.padding}, "
            f"ceil_mode={self.ceil_mode})"
        )


class MaxPool2D(_Pool):
    """The largest pixel of every window.

    Parameters
    ----------
    pool_size : int or (int, int)
        Size of the window.
    strides : int or (int, int), optional
        Distance between windows; the window's size by default.
    padding : as in :func:`convcore.max_pool2d`
    ceil_mode : bool
        Whether a last window that the image does not fill counts too.
    layout : "NCHW" or "NHWC"
    backend : str or list of str, optional
        As in :func:`convcore.conv2d`; not every backend has the maximum.
    """

    def __call__(self, x: Any) -> Array:
        """Return :func:`convcore.max_pool2d` of ``x``."""
        x = normalise.as_array("MaxPool2D", "x", x)
        y: Array = api.max_pool2d(x, self.kernel_size, **self._geometry())
        self._input = x
        return y

    def backward(self, grad_out: Any) -> Array:
        """Return the gradient with respect to the last input: it goes to the first largest pixel of each window."""
        x = self._remembered(self._input)
        grad: Array = api.max_pool2d_grad(x, grad_out, self.kernel_size, **self._geometry())
        return grad

    def _geometry(self) -> dict[str, Any]:
        return {
            "stride": self.strides,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
            "layout": self.layout,
            "backend": self.backend,
        }


class AvgPool2D(_Pool):
    """The average of every window: a depthwise correlation with equal weights, on any backend.

    Parameters
    ----------
    pool_size, strides, padding, ceil_mode, layout, backend
        As in :class:`MaxPool2D`.
    count_include_pad : bool
        Whether the padding counts, as zeros, among the pixels of a window.  What lies beyond it never does.
    """

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        layout: str = "NCHW",
        backend: Any = None,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, layout, backend)
        self.count_include_pad = bool(count_include_pad)

    def __call__(self, x: Any) -> Array:
        """Return the averages, an array of the dtype of ``x``."""
        x = normalise.as_array("AvgPool2D", "x", x)
        if normalise.operand("AvgPool2D", "x", x).dtype.kind not in "fc":
            raise TypeError(f"AvgPool2D: `x` must be floating or complex, got {x.dtype}")
        weight, geometry, counts = self._correlation(x)
        y: Array = api.conv2d(x, weight, **geometry)
        self._input = x
        return y / counts

    def backward(self, grad_out: Any) -> Array:
        """Return the gradient with respect to the last input: each pixel of a window has its equal share."""
        x = self._remembered(self._input)
        weight, geometry, counts = self._correlation(x)
        grad_out = self._as_grad_out(grad_out, self.output_shape(x.shape))
        grad: Array = api.conv2d_grad_input(grad_out / counts, weight, x.shape, **geometry)
        return grad

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """Return the products of the correlation."""
        return math.prod(self.output_shape(input_shape)) * math.prod(self.kernel_size)

    def _correlation(self, x: Array) -> tuple[Array, dict[str, Any], Array]:
        """Return the weight of ones, the geometry of the sums, and by how much each is to be divided."""
        _, channels, size = self._logical(x.shape)
        counts, padding = normalise.pool_windows(
            "AvgPool2D", size, self.kernel_size, self.strides, self.padding, self.ceil_mode
        )
        geometry = {
            "stride": self.strides,
            "padding": padding,
            "groups": channels,
            "layout": self.layout,
            "backend": self.backend,
        }
        asked = normalise.forward_padding("AvgPool2D", self.padding, size, self.kernel_size, self.strides, (1, 1))
        lines, columns = (
            self._pixels(counts[axis], size[axis], padding[axis][0], asked[axis], axis) for axis in (0, 1)
        )
        pixels = np.outer(lines, columns).astype(x.dtype)
        return (
            np.ones((channels, 1, *self.kernel_size), x.dtype),
            geometry,
            pixels if self.layout == "NCHW" else pixels[..., np.newaxis],
        )

    def _pixels(self, count: int, size: int, before: int, asked: Pair, axis: int) -> Array:
        """Return how many pixels each window of an axis has."""
        first = np.arange(count) * self.strides[axis] - before
        low, high = (-asked[0], size + asked[1]) if self.count_include_pad else (0, size)
        return np.minimum(first + self.kernel_size[axis], high) - np.maximum(first, low)
