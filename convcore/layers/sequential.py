"""Layers one after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convcore import api
from convcore.layers.parameters import Array, Layer, Parameter, under


class Sequential(Layer):
    """Layers, each of which takes the result of the one before.

    Parameters
    ----------
    *layers : Layer
        First layer first.

    Examples
    --------
    >>> import convcore
    >>> network = convcore.Sequential(convcore.Conv2D(4, 3), convcore.ReLU(), convcore.Dense(10))
    >>> network.output_shape((1, 1, 8, 8))
    (1, 10)
    """

    def __init__(self, *layers: Layer) -> None:
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: layer {index} must be a Layer, got a {type(layer).__name__}")
        if not layers:
            raise ValueError("Sequential: it must have at least one layer")
        self.layers = layers

    def __call__(self, x: Any) -> Array:
        """Return the result of the last layer.

        Raises
        ------
        TypeError, ValueError
            As the layer that cannot take its input, which is named.
        """
        return self._chain("__call__", x)

    def predict(self, x: Any) -> Array:
        """Return the result of the last layer for its own sake; raises as a call would."""
        return self._chain("predict", x)

    def _chain(self, method: str, x: Any) -> Array:
        for index in range(len(self.layers)):
            x = self._step(index, method, x)
        y: Array = x
        return y

    def backward(self, grad_out: Any) -> Array:
        """Add the gradients of ``sum(network(x) * grad_out)`` to the parameters' and return that for ``x``."""
        for index in reversed(range(len(self.layers))):
            grad_out = self._step(index, "backward", grad_out)
        grad: Array = grad_out
        return grad

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the last result for an input of this shape; raises as a call would."""
        return self._shapes(input_shape)[-1]

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """Return how many products the layers add up for an input of this shape."""
        shapes = self._shapes(input_shape)
        return sum(layer.multiply_adds(shape) for layer, shape in zip(self.layers, shapes, strict=False))

    def parameter_shapes(self, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters, by name, for an input of this shape."""
        shapes = self._shapes(input_shape)
        return {
            f"{index}.{name}": shape
            for index, layer in enumerate(self.layers)
            for name, shape in layer.parameter_shapes(shapes[index]).items()
        }

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters as "index.name"."""
        return {
            f"{index}.{name}": parameter
            for index, layer in enumerate(self.layers)
            for name, parameter in layer.parameters().items()
        }

    def initialize(self, seed: int | None = None) -> None:
        """Draw the parameters of every layer anew, from a seed of its own that follows from ``seed``."""
        for layer, own in zip(self.layers, np.random.SeedSequence(seed).generate_state(len(self.layers)), strict=True):
            layer.initialize(int(own))

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for layer in self.layers:
            layer.zero_grad()

    def summary(self, input_shape: tuple[int, ...]) -> str:
        """Return a table: each layer's result, parameters, multiply-adds, and what one element sees of the input.

        Parameters
        ----------
        input_shape : tuple of int
            (N, C, H, W) of an input; multiply-adds are those of all N images.
        """
        shapes = self._shapes(input_shape)
        rows: list[tuple[str, ...]] = [("layer", "result", "parameters", "multiply-adds", "sees")]
        counts = []
        for index, layer in enumerate(self.layers):
            weights = sum(math.prod(shape) for shape in layer.parameter_shapes(shapes[index]).values())
            counts.append((weights, layer.multiply_adds(shapes[index])))
            sees = self._sees(index)
            rows.append((type(layer).__name__, str(shapes[index + 1]), *map(_thousands, counts[-1]), sees))
        rows.append(("total", "", *(_thousands(sum(column)) for column in zip(*counts, strict=True)), ""))
        return _table(rows)

    def _sees(self, last: int) -> str:
        if any(layer.sees_all for layer in self.layers[: last + 1]):
            return "all"
        height, width = api.receptive_field(self.layers[: last + 1]).size
        return f"{height} x {width}"

    def _shapes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the shape of the input and of each layer's result."""
        shapes = [tuple(input_shape)]
        for index in range(len(self.layers)):
            shapes.append(self._step(index, "output_shape", shapes[-1]))
        return tuple(shapes)

    def _step(self, index: int, method: str, argument: Any) -> Any:
        """Call a method of a layer, and name the layer in what it complains of."""
        layer = self.layers[index]
        try:
            return getattr(layer, method)(argument)
        except (TypeError, ValueError, RuntimeError) as error:
            if type(error) not in (TypeError, ValueError, RuntimeError):
                raise
            raise type(error)(f"layer {index} of the network, {error}") from error

    def _check_state(self, arrays: dict[str, Array]) -> None:
        known = {str(index) for index in range(len(self.layers))}
        strange = sorted(name for name in arrays if name.partition(".")[0] not in known)
        if strange:
            raise KeyError(f"Sequential: a network of {len(self.layers)} layers has no {', '.join(strange)}")
        for index, layer in enumerate(self.layers):
            try:
                layer._check_state(under(f"{index}.", arrays))
            except (KeyError, TypeError, ValueError) as error:
                raise type(error)(f"layer {index} of the network, {error.args[0]}") from None

    def _take_state(self, arrays: dict[str, Array]) -> None:
        for index, layer in enumerate(self.layers):
            layer._take_state(under(f"{index}.", arrays))

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"


def _thousands(number: int) -> str:
    return f"{number:,}"


def _table(rows: list[tuple[str, ...]]) -> str:
    """Align words to the left and numbers, the columns 2 and 3, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if index in (2, 3) else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)
