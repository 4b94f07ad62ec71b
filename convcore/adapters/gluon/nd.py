"""``mxnet.nd``: arrays that print, slice, assign and differentiate as MXNet's do."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from numbers import Real
from typing import Any

import numpy as np

from convcore.adapters.common import needs
from convcore.adapters.gluon import autograd

with needs("mygrad"):
    import mygrad


def computed(function: Callable[..., Any], *operands: Any) -> NDArray:
    """Return what a function of tensors makes of arrays and numbers, recorded if that is wanted here."""
    tensors = [operand._tensor if isinstance(operand, NDArray) else operand for operand in operands]
    with mygrad.mem_guard_off, nullcontext() if autograd.is_recording() else mygrad.no_autodiff:
        return NDArray(function(*tensors))


def _binary(function: Callable[[Any, Any], Any], reflected: bool = False) -> Callable[[NDArray, Any], Any]:
    def method(self: NDArray, other: Any) -> Any:
        if isinstance(other, Real):
            other = self._tensor.dtype.type(other)  # or a Python number would make float64 of float32
        elif not isinstance(other, NDArray):
            return NotImplemented
        return computed(function, *((other, self) if reflected else (self, other)))

    return method


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[NDArray, Any], NDArray]:
    def method(self: NDArray, other: Any) -> NDArray:
        self[:] = function(self, other)
        return self

    return method


class NDArray:
    """An array of at least one axis: made by :func:`array`, :func:`zeros` and :func:`ones`, or computed."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor if tensor.ndim else tensor.reshape(1)
        self._wants_grad = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(self._tensor.shape)

    def asnumpy(self) -> np.ndarray[Any, Any]:
        """Return a copy as a NumPy array."""
        return np.array(self._tensor.data)

    def asscalar(self) -> Any:
        """Return the only element as a number."""
        if self._tensor.size != 1:
            raise ValueError(f"asscalar: the array must have one element, got shape {self.shape}")
        return self._tensor.item()

    def __repr__(self) -> str:
        return f"\n{self._tensor.data}\n<NDArray {'x'.join(map(str, self.shape))} @cpu(0)>"

    def __len__(self) -> int:
        return self.shape[0]

    # ------------------------------------------------------------ computing

    __add__ = __radd__ = _binary(operator.add)
    __mul__ = __rmul__ = _binary(operator.mul)
    __sub__, __rsub__ = _binary(operator.sub), _binary(operator.sub, reflected=True)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _binary(operator.truediv, reflected=True)
    __pow__ = _binary(operator.pow)
    __iadd__, __isub__ = _in_place(operator.add), _in_place(operator.sub)
    __imul__, __itruediv__ = _in_place(operator.mul), _in_place(operator.truediv)

    def __neg__(self) -> NDArray:
        return computed(operator.neg, self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> NDArray:
        """Return the sum over all axes, or over some."""
        return computed(lambda tensor: tensor.sum(axis=axis, keepdims=keepdims), self)

    def mean(self, axis: Any = None, keepdims: bool = False) -> NDArray:
        """Return the mean over all axes, or over some."""
        return computed(lambda tensor: tensor.mean(axis=axis, keepdims=keepdims), self)

    def reshape(self, *shape: Any) -> NDArray:
        """Return the elements in another shape: -1 is what is left over, 0 the size of this axis now."""
        sizes = shape if isinstance(shape[0], int) else shape[0]
        kept = [self.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
        return computed(lambda tensor: tensor.reshape(kept), self)

    def __getitem__(self, key: Any) -> NDArray:
        return computed(lambda tensor: tensor[key], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        def assign(tensor: Any, value: Any) -> Any:
            tensor[key] = value.reshape(()) if isinstance(value, mygrad.Tensor) and value.size == 1 else value
            return tensor

        computed(assign, self, value)

    # ------------------------------------------------------------ gradients

    def attach_grad(self) -> None:
        """Ask for the gradient with respect to this array."""
        self._wants_grad = True

    @property
    def grad(self) -> NDArray | None:
        """The gradient by the latest ``backward()``, zeros before it; None without ``attach_grad()``."""
        if not self._wants_grad:
            return None
        grad = self._tensor.grad
        return array(np.zeros(self.shape) if grad is None else grad)

    def backward(self) -> None:
        """Take the gradients of the sum of this array, in place of those of an earlier ``backward()``."""
        if self._tensor.creator is None:
            raise RuntimeError(
                "backward: nothing was recorded of this array; compute it inside `with autograd.record():`"
            )
        self._tensor.backward()


def array(source_array: Any, dtype: Any = np.float32) -> NDArray:
    """Return an array with a copy of a list's or an array's numbers."""
    source = source_array.asnumpy() if isinstance(source_array, NDArray) else source_array
    return NDArray(mygrad.tensor(np.array(source, dtype)))


def zeros(shape: Any, dtype: Any = np.float32) -> NDArray:
    """Return an array of zeros."""
    return array(np.zeros(shape, dtype), dtype)


def ones(shape: Any, dtype: Any = np.float32) -> NDArray:
    """Return an array of ones."""
    return array(np.ones(shape, dtype), dtype)
