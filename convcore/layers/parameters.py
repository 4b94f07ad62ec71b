"""What all layers share: parameters, their gradients, and their state on disk."""

from __future__ import annotations

import copy
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convcore import normalise

Array = np.ndarray[Any, Any]
State = Mapping[str, Any]


class Parameter:
    """A learnable array and its gradient.

    Attributes
    ----------
    name : str
    shape : tuple of int
    """

    def __init__(self, name: str, value: Array) -> None:
        self.name = name
        self._value = np.ascontiguousarray(value)
        self._grad = np.zeros_like(self._value)
        self._stamp = object()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self._value.shape)

    def data(self) -> Array:
        """Return the array itself: writing to it changes the layer."""
        self._stamp = object()
        return self._value

    def equals(self, earlier: Array) -> bool:
        """Whether the array holds the same bits as another of its shape."""
        return np.array_equal(self._value.view(np.uint8), earlier.view(np.uint8))

    def is_alone(self) -> bool:
        """Whether nobody else holds the array, and so nobody can write to it without calling :meth:`data`."""
        return self._references() <= _ALONE

    def _references(self) -> float:
        count = getattr(sys, "getrefcount", None)
        return float("inf") if count is None else count(self._value)

    def grad(self) -> Array:
        """Return the gradient summed by ``backward`` since the last ``zero_grad``."""
        return self._grad

    def zero_grad(self) -> None:
        """Set the gradient to zero, in place."""
        self._grad[...] = 0


_ALONE = Parameter("", np.zeros(1))._references()


class Layer(ABC):
    """A function of an array with parameters and a derivative.

    A call remembers what :meth:`backward` needs; ``backward`` belongs to the last call.
    """

    #: Whether each element of the result depends on one element of the input, or on all of them.
    elementwise = False
    sees_all = False

    @abstractmethod
    def __call__(self, x: Any) -> Array:
        """Return the layer's result."""

    def predict(self, x: Any) -> Array:
        """Return the layer's result for its own sake: :meth:`backward` still belongs to the last call."""
        return copy.copy(self)(x)

    @abstractmethod
    def backward(self, grad_out: Any) -> Array:
        """Add the gradients of ``sum(layer(x) * grad_out)`` to the parameters' and return that for ``x``."""

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result for an input of this shape; raises as a call would."""
        return tuple(input_shape)

    def parameter_shapes(self, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters, by name, for an input of this shape."""
        return {}

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """Return how many products the direct algorithm adds up for an input of this shape."""
        return 0

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters by name."""
        return {}

    def initialize(self, seed: int | None = None) -> None:  # noqa: B027 - most layers have nothing to draw
        """Draw the parameters anew, from ``seed`` if given; shapes that are unknown, at the first call."""

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for parameter in self.parameters().values():
            parameter.zero_grad()

    def state_dict(self, path: str | os.PathLike[str] | None = None) -> dict[str, Array]:
        """Return copies of the parameters by name; with ``path``, also write them there as ``.npz``.

        The file is written beside its place and then moved there, so a failure leaves the old one.
        """
        state: dict[str, Any] = {name: parameter._value.copy() for name, parameter in self.parameters().items()}
        if path is not None:
            write_npz(path, state)
        return state

    def load_state_dict(self, source: State | str | os.PathLike[str]) -> None:
        """Take the parameters from a mapping, or from a ``.npz`` file.

        Raises
        ------
        KeyError, ValueError, TypeError
            If a parameter is missing, unknown, or of another shape; nothing has changed then.
        """
        if isinstance(source, (str, os.PathLike)):
            source = read_npz(source)
        name = type(self).__name__
        arrays = {key: normalise.as_array(name, key, value) for key, value in source.items()}
        self._check_state(arrays)
        self._take_state(arrays)

    def _remembered(self, of_call: Array | None) -> Array:
        """Return what a call left for ``backward``; raise if there was none."""
        if of_call is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}: backward needs the input of a call, and the layer has not been called")
        return of_call

    def _as_grad_out(self, grad_out: Any, shape: tuple[int, ...]) -> Array:
        """Return the argument of ``backward`` as an array, which must have the shape of the last result."""
        name = type(self).__name__
        array: Array = normalise.as_array(name, "grad_out", grad_out)
        if array.shape != shape:
            raise ValueError(f"{name}: `grad_out` must have shape {shape}, got {array.shape}")
        return array

    def _check_state(self, arrays: dict[str, Array]) -> None:
        """Raise unless these are the parameters of this layer."""
        if arrays:
            raise KeyError(f"{type(self).__name__}: it has no parameters, got {', '.join(sorted(arrays))}")

    def _take_state(self, arrays: dict[str, Array]) -> None:  # noqa: B027 - nor to take
        """Take parameters that were checked."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def under(prefix: str, state: dict[str, Array]) -> dict[str, Array]:
    """Return the part of a state whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: array for name, array in state.items() if name.startswith(prefix)}


def write_npz(path: str | os.PathLike[str], arrays: dict[str, Any]) -> None:
    """Write arrays to a file that is whole at any moment: beside its place, and then moved there."""
    target = Path(path)
    beside = target.with_name(f"{target.name}.{os.getpid()}.npz")
    try:
        np.savez(beside, **arrays)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read the arrays of a ``.npz`` file.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is something else, or cut off.
    """
    from zipfile import BadZipFile  # only reading needs it

    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (BadZipFile, EOFError, TypeError, ValueError):
        raise ValueError(f"{os.fspath(path)} is not a whole .npz file") from None
