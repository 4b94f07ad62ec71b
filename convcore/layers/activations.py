"""Functions of each element by itself, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from convcore import normalise
from convcore.layers.parameters import Array, Layer


class _Activation(Layer):
    elementwise = True

    def __init__(self) -> None:
        self._slope: Array | None = None

    def __call__(self, x: Any) -> Array:
        """Return the function of every element; an array of the shape and dtype of ``x``."""
        name = type(self).__name__
        x = normalise.as_array(name, "x", x)
        if x.dtype.kind != "f":
            raise TypeError(f"{name}: `x` must be floating, got {x.dtype}")
        with np.errstate(all="ignore"):
            y, self._slope = self._value_and_slope(x)
        return y

    def backward(self, grad_out: Any) -> Array:
        """Return the gradient with respect to the last input.

        Raises
        ------
        RuntimeError
            If the layer has not been called.
        ValueError
            If ``grad_out`` has not the shape of the last result.
        """
        slope = self._remembered(self._slope)
        grad_out = self._as_grad_out(grad_out, slope.shape)
        with np.errstate(all="ignore"):
            grad: Array = grad_out * slope
        return grad

    def _value_and_slope(self, x: Array) -> tuple[Array, Array]:
        raise NotImplementedError


class ReLU(_Activation):
    """``max(x, 0)``; the slope at 0 is 0."""

    def _value_and_slope(self, x: Array) -> tuple[Array, Array]:
        return np.maximum(x, 0), (x > 0).astype(x.dtype)


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``, by the hyperbolic tangent, which does not overflow."""

    def _value_and_slope(self, x: Array) -> tuple[Array, Array]:
        y = 0.5 + 0.5 * np.tanh(0.5 * x)
        return y, y * (1 - y)
