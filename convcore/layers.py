"""The Conv2D layer: a weight, a bias, their gradients, and a forward and backward call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcore import api, normalise

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:  # naming numpy.random is importing it
    Initializer = str | float | Array | Callable[[np.random.Generator, tuple[int, ...]], Any] | None


class Parameter:
    """A learnable array and its gradient.

    Attributes
    ----------
    name : str
    shape : tuple of int
    """

    def __init__(self, name: str, value: Array) -> None:
        self.name = name
        self._value = value
        self._grad = np.zeros_like(value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self._value.shape)

    def data(self) -> Array:
        """Return the array itself: writing to it changes the layer."""
        return self._value

    def grad(self) -> Array:
        """Return the gradient summed by ``backward`` since the last ``zero_grad``."""
        return self._grad

    def zero_grad(self) -> None:
        """Set the gradient to zero, in place."""
        self._grad[...] = 0


class Conv2D:
    """A layer that cross-correlates its input with a learnable weight and adds a learnable bias.

    Parameters
    ----------
    channels : int
        Output channels, K.
    kernel_size, strides, dilation : int or (int, int)
        Pixels, vertical then horizontal.
    padding : as in :func:`convcore.conv2d`
    groups : int
    use_bias : bool
    in_channels : int
        C; 0 takes it, and the dtype, from the first input.
    layout : "NCHW" or "NHWC"
    weight_initializer, bias_initializer : optional
        "zeros", "ones", a number, an array of the right shape, or a function ``f(rng, shape)``.
        None draws uniformly within ±1/sqrt(fan_in) (LeCun et al., "Efficient BackProp", section 4.6,
        with the bound in place of the deviation).
    backend : str or list of str, optional
        As in :func:`convcore.conv2d`.

    Raises
    ------
    TypeError, ValueError
        For an argument that cannot be.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        use_bias: bool = True,
        in_channels: int = 0,
        layout: str = "NCHW",
        weight_initializer: Initializer = None,
        bias_initializer: Initializer = "zeros",
        backend: Any = None,
    ) -> None:
        fn = "Conv2D"
        self.channels = normalise.integer(fn, "channels", channels, 1)
        self.kernel_size = normalise.pair(fn, "kernel_size", kernel_size, 1)
        self.strides = normalise.pair(fn, "strides", strides, 1)
        self.dilation = normalise.pair(fn, "dilation", dilation, 1)
        self.groups = normalise.integer(fn, "groups", groups, 1)
        self.padding = padding if isinstance(padding, str) else normalise.explicit_padding(fn, padding)
        if isinstance(padding, str):
            normalise.word(fn, "padding", padding, normalise.PADDING_WORDS)
        self.layout = normalise.word(fn, "layout", layout, ("NCHW", "NHWC"))
        self.use_bias = bool(use_bias)
        self.in_channels = normalise.integer(fn, "in_channels", in_channels, 0)
        for name, count in (("channels", self.channels), ("in_channels", self.in_channels)):
            if count % self.groups:
                raise ValueError(f"{fn}: `groups` must divide {name}, got groups={self.groups}, {name}={count}")
        self.weight_initializer = weight_initializer
        self.bias_initializer = bias_initializer
        self.backend = backend
        self._seed: int | None = None
        self._parameters: dict[str, Parameter] = {}
        self._input: Array | None = None

    # ------------------------------------------------------------ parameters

    @property
    def weight(self) -> Parameter:
        """The weight, (channels, in_channels/groups, R, S).

        Raises
        ------
        RuntimeError
            As long as ``in_channels`` is unknown.
        """
        return self._known("weight")

    @property
    def bias(self) -> Parameter | None:
        """The bias, (channels,), or None without one."""
        return self._known("bias") if self.use_bias else None

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters by name."""
        self._known("weight")
        return dict(self._parameters)

    def initialize(self, seed: int | None = None) -> None:
        """Draw the parameters anew, from ``seed`` if given; with ``in_channels`` unknown, at the first call."""
        self._seed = seed
        self._parameters = {}
        if self.in_channels:
            self._create(np.dtype(np.float32))

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for parameter in self._parameters.values():
            parameter.zero_grad()

    def _known(self, name: str) -> Parameter:
        if not self._parameters:
            if not self.in_channels:
                raise RuntimeError(
                    f"Conv2D: `{name}` has no shape before the first call; give in_channels or call the layer"
                )
            self._create(np.dtype(np.float32))
        return self._parameters[name]

    def _create(self, dtype: np.dtype[Any]) -> None:
        rng = np.random.default_rng(self._seed)
        shapes = self._shapes(self.in_channels)
        initializers = {"weight": self.weight_initializer, "bias": self.bias_initializer}
        fan_in = int(np.prod(shapes["weight"][1:]))
        self._parameters = {
            name: Parameter(name, _initial(name, initializers[name], rng, shape, fan_in).astype(dtype))
            for name, shape in shapes.items()
        }

    def _shapes(self, in_channels: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.channels, in_channels // self.groups, *self.kernel_size)}
        if self.use_bias:
            shapes["bias"] = (self.channels,)
        return shapes

    # ------------------------------------------------------------ computing

    def __call__(self, x: Any) -> Array:
        """Return ``conv2d(x, weight, bias)`` and remember ``x`` for :meth:`backward`.

        Parameters
        ----------
        x : array (N, C, H, W), or (N, H, W, C)

        Raises
        ------
        As :func:`convcore.conv2d`.
        """
        x = normalise.as_array("Conv2D", "x", x)
        if not self._parameters:
            self._infer(x)
        bias = self._parameters["bias"].data() if self.use_bias else None
        y: Array = api.conv2d(x, self._parameters["weight"].data(), bias, **self._geometry(), backend=self.backend)
        self._input = x
        return y

    def backward(self, grad_out: Any) -> Array:
        """Add the gradients of ``sum(layer(x) * grad_out)`` to the parameters' and return that for ``x``.

        Parameters
        ----------
        grad_out : array of the shape of the last result

        Returns
        -------
        array of the shape of the last input

        Raises
        ------
        RuntimeError
            If the layer has not been called.
        TypeError, ValueError
            As :func:`convcore.conv2d_grad_weight`; no gradient has changed then.
        """
        if self._input is None:
            raise RuntimeError("Conv2D: backward needs the input of a call, and the layer has not been called")
        weight, geometry = self._parameters["weight"], self._geometry()
        grad_input: Array = api.conv2d_grad_input(
            grad_out, weight.data(), self._input.shape, **geometry, backend=self.backend
        )
        grads = {
            "weight": api.conv2d_grad_weight(self._input, grad_out, weight.shape, **geometry, backend=self.backend)
        }
        if self.use_bias:
            grads["bias"] = api.conv2d_grad_bias(grad_out, layout=self.layout, backend=self.backend)
        for name, grad in grads.items():
            self._parameters[name]._grad += grad
        return grad_input

    def _infer(self, x: Array) -> None:
        """Take in_channels and dtype from the first input."""
        operand = normalise.operand("Conv2D", "x", x)
        if operand.dtype.kind not in "fc":
            raise TypeError(f"Conv2D: `x` must be floating or complex to learn from, got {operand.dtype}")
        if not self.in_channels:
            found = operand.shape[1 if self.layout == "NCHW" else 3]
            if found < 1 or found % self.groups:
                raise ValueError(
                    f"Conv2D: `groups` must divide in_channels, got groups={self.groups}, in_channels={found}"
                )
            self.in_channels = found
        self._create(operand.dtype)

    def _geometry(self) -> dict[str, Any]:
        return {
            "stride": self.strides,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "layout": self.layout,
        }

    # ------------------------------------------------------------ state

    def state_dict(self, path: str | os.PathLike[str] | None = None) -> dict[str, Array]:
        """Return copies of the parameters by name; with ``path``, also write them there as ``.npz``.

        The file is written beside its place and then moved there, so a failure leaves the old one.
        """
        state: dict[str, Any] = {name: parameter.data().copy() for name, parameter in self.parameters().items()}
        if path is not None:
            target = Path(path)
            beside = target.with_name(f"{target.name}.{os.getpid()}.npz")
            try:
                np.savez(beside, **state)
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
        return state

    def load_state_dict(self, source: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Take the parameters from a mapping, or from a ``.npz`` file.

        Raises
        ------
        KeyError, ValueError, TypeError
            If a parameter is missing, unknown, or of another shape; nothing has changed then.
        """
        if isinstance(source, (str, os.PathLike)):
            with np.load(source, allow_pickle=False) as file:
                source = dict(file)
        arrays = {name: normalise.as_array("Conv2D", name, value) for name, value in source.items()}
        in_channels = self._check_state(arrays)
        self.in_channels = in_channels
        self._parameters = self._parameters or {
            name: Parameter(name, np.empty(array.shape, array.dtype)) for name, array in arrays.items()
        }
        for name, array in arrays.items():
            self._parameters[name].data()[...] = array

    def _check_state(self, arrays: dict[str, Array]) -> int:
        names = ("weight", "bias") if self.use_bias else ("weight",)
        if set(arrays) != set(names):
            raise KeyError(
                f"Conv2D: a state must hold {', '.join(names)}, got {', '.join(sorted(arrays)) or 'nothing'}"
            )
        weight = arrays["weight"]
        in_channels = self.in_channels or (weight.shape[1] * self.groups if weight.ndim == 4 else 0)
        for name, shape in self._shapes(in_channels).items():
            if arrays[name].shape != shape:
                raise ValueError(f"Conv2D: `{name}` must have shape {shape}, got {arrays[name].shape}")
            dtype = self._parameters[name].data().dtype if self._parameters else np.dtype(np.complex128)
            if not np.can_cast(arrays[name].dtype, dtype, "same_kind"):
                raise TypeError(f"Conv2D: `{name}` must be castable to {dtype}, got {arrays[name].dtype}")
        return in_channels

    def __repr__(self) -> str:
        return (
            f"Conv2D({self.channels}, kernel_size={self.kernel_size}, strides={self.strides}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, in_channels={self.in_channels or 'unknown'})"
        )


def _initial(
    name: str, initializer: Initializer, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int
) -> Array:
    if initializer is None:
        bound = fan_in**-0.5
        return rng.uniform(-bound, bound, shape)
    if isinstance(initializer, str):
        constants = {"zeros": 0.0, "ones": 1.0}
        return np.full(shape, constants[normalise.word("Conv2D", f"{name}_initializer", initializer, constants)])
    value = np.asarray(initializer(rng, shape) if callable(initializer) else initializer)
    if value.shape not in ((), shape):
        raise ValueError(f"Conv2D: `{name}_initializer` must give shape {shape}, got {value.shape}")
    return np.broadcast_to(value, shape)
