"""Layers with a weight and a bias: Conv2D, and Dense, which is a 1x1 correlation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from convcore import api, calls, normalise
from convcore.layers.parameters import Array, Layer, Parameter
from convcore.spi import Packed, Plan

#: Plans, of inputs of different shapes, for which a layer keeps its weight packed.
MOST_PACKED = 2

if TYPE_CHECKING:  # naming numpy.random is importing it
    Initializer = str | float | Array | Callable[[np.random.Generator, tuple[int, ...]], Any] | None


class Conv2D(Layer):
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
        fn = type(self).__name__
        self.channels = normalise.integer(fn, "channels", channels, 1)
        self.kernel_size = normalise.pair(fn, "kernel_size", kernel_size, 1)
        self.strides = normalise.pair(fn, "strides", strides, 1)
        self.dilation = normalise.pair(fn, "dilation", dilation, 1)
        self.groups = normalise.integer(fn, "groups", groups, 1)
        self.padding = normalise.unresolved_padding(fn, padding)
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
        self._packed: dict[Plan, tuple[Parameter, object, Packed | None]] = {}
        self._packing: list[Plan] = []

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
        """Set every gradient to zero; there is none before the first call if ``in_channels`` is unknown."""
        for parameter in self._parameters.values():
            parameter.zero_grad()

    def _known(self, name: str) -> Parameter:
        if not self._parameters:
            if not self.in_channels:
                fn = type(self).__name__
                raise RuntimeError(
                    f"{fn}: `{name}` has no shape before the first call; give in_channels or call the layer"
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
        x = self._admitted(x)
        weight = self._parameters["weight"]._value
        plan, operands = self._planned(x, weight)
        y: Array = plan(*operands)
        self._input = x
        return y

    def predict(self, x: Any) -> Array:
        """Return ``conv2d(x, weight, bias)`` for its own sake: :meth:`backward` still belongs to the last call.

        A backend that reads a weight faster once it is packed (:meth:`Plan.pack`) packs it at the first prediction for
        inputs of a shape, and again when it has changed.  As long as somebody holds the array that ``weight.data()``
        has returned, and so may change it at any time, it is read as it is.

        Parameters
        ----------
        x : array (N, C, H, W), or (N, H, W, C)

        Raises
        ------
        As :func:`convcore.conv2d`.
        """
        x = self._admitted(x)
        weight = self._parameters["weight"]
        # The gradient looks like the weight; who may hold the weight itself is counted.
        plan, (x, _, bias) = self._planned(x, weight._grad)
        packed = self._packed_for(plan, weight)
        y: Array = plan(x, weight._value if packed is None else packed, bias)
        return y

    def _admitted(self, x: Any) -> Array:
        """Return the input as an array, having made the parameters if it is the first."""
        array: Array = normalise.as_array(type(self).__name__, "x", x)
        if not self._parameters:
            self._infer(array)
        return array

    def _planned(self, x: Array, weight: Array) -> tuple[Plan, calls.Operands]:
        """Return the plan of this correlation and its operands."""
        bias = self._parameters["bias"]._value if self.use_bias else None
        geometry = (self.strides, self.padding, self.dilation, self.groups, "constant", 0.0, self.layout, None)
        return calls.planned("conv2d", (x, weight, bias), geometry, (), self.backend)

    def _packed_for(self, plan: Plan, weight: Parameter) -> Packed | None:
        """Return the weight packed for a plan, if that reads it faster and the weight is what it was."""
        parameter, stamp, packed = self._packed.get(plan, (None, None, None))
        if parameter is weight and packed is None:
            return None
        # Somebody else who holds it is another thread that is packing it, or may write to it at any time.
        alone = weight.is_alone()
        if not alone and not self._packing:
            return None
        if parameter is not weight or stamp is not weight._stamp:
            return self._pack(plan, weight)
        return packed if alone or (packed is not None and weight.equals(packed.weight)) else None

    def _pack(self, plan: Plan, weight: Parameter) -> Packed | None:
        """Pack the weight for a plan, and keep it in place of the oldest."""
        stamp = weight._stamp
        self._packing.append(plan)
        try:
            packed: Packed | None = plan.pack(weight._value)
        finally:
            self._packing.pop()
        if packed is not None and packed.prepared is None:
            packed = None
        others = [(other, kept) for other, kept in self._packed.items() if other is not plan]
        self._packed = dict([*others[1 - MOST_PACKED :], (plan, (weight, stamp, packed))])
        return packed

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is packed: it is made again, and plans cannot be pickled."""
        return self.__dict__ | {"_packed": {}, "_packing": []}

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
        x, weight, geometry = self._remembered(self._input), self._parameters["weight"], self.geometry
        grad_input: Array = api.conv2d_grad_input(grad_out, weight.data(), x.shape, **geometry, backend=self.backend)
        grads = {"weight": api.conv2d_grad_weight(x, grad_out, weight.shape, **geometry, backend=self.backend)}
        if self.use_bias:
            grads["bias"] = api.conv2d_grad_bias(grad_out, layout=self.layout, backend=self.backend)
        for name, grad in grads.items():
            self._parameters[name]._grad += grad
        return grad_input

    def _infer(self, x: Array) -> None:
        """Take in_channels and dtype from the first input."""
        fn = type(self).__name__
        operand = normalise.operand(fn, "x", x)
        if operand.dtype.kind not in "fc":
            raise TypeError(f"{fn}: `x` must be floating or complex to learn from, got {operand.dtype}")
        if not self.in_channels:
            found = operand.shape[1 if self.layout == "NCHW" else 3]
            if found < 1 or found % self.groups:
                raise ValueError(
                    f"{fn}: `groups` must divide in_channels, got groups={self.groups}, in_channels={found}"
                )
            self.in_channels = found
        self._create(operand.dtype)

    @property
    def geometry(self) -> dict[str, Any]:
        """The keywords of :func:`convcore.conv2d`, or of an adapter's, that make it this layer's correlation."""
        return {
            "stride": self.strides,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "layout": self.layout,
        }

    # ------------------------------------------------------------ shapes

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result for an input of this shape; raises as a call would."""
        shape = normalise.shape4(type(self).__name__, "input_shape", input_shape)
        return api.output_shape(shape, self.parameter_shapes(shape)["weight"], **self.geometry)

    def parameter_shapes(self, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters, by name, for an input of this shape."""
        return self._shapes(self.in_channels or input_shape[1 if self.layout == "NCHW" else 3])

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """Return the products of the correlation."""
        return math.prod(self.output_shape(input_shape)) * math.prod(self.parameter_shapes(input_shape)["weight"][1:])

    # ------------------------------------------------------------ state

    def _check_state(self, arrays: dict[str, Array]) -> None:
        fn, names = type(self).__name__, ("weight", "bias") if self.use_bias else ("weight",)
        if set(arrays) != set(names):
            raise KeyError(f"{fn}: a state must hold {', '.join(names)}, got {', '.join(sorted(arrays)) or 'nothing'}")
        for name, shape in self._shapes(self._in_channels_of(arrays["weight"])).items():
            if arrays[name].shape != shape:
                raise ValueError(f"{fn}: `{name}` must have shape {shape}, got {arrays[name].shape}")
            dtype = self._parameters[name].data().dtype if self._parameters else np.dtype(np.complex128)
            if not np.can_cast(arrays[name].dtype, dtype, "same_kind"):
                raise TypeError(f"{fn}: `{name}` must be castable to {dtype}, got {arrays[name].dtype}")

    def _take_state(self, arrays: dict[str, Array]) -> None:
        self.in_channels = self._in_channels_of(arrays["weight"])
        self._parameters = self._parameters or {
            name: Parameter(name, np.empty(array.shape, array.dtype)) for name, array in arrays.items()
        }
        for name, array in arrays.items():
            self._parameters[name].data()[...] = array

    def _in_channels_of(self, weight: Array) -> int:
        return self.in_channels or (weight.shape[1] * self.groups if weight.ndim == 4 else 0)

    def __repr__(self) -> str:
        return (
            f"Conv2D({self.channels}, kernel_size={self.kernel_size}, strides={self.strides}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, in_channels={self.in_channels or 'unknown'})"
        )


class Dense(Conv2D):
    """A layer in which every output depends on every input: ``y = x @ weight.T + bias``.

    It is the correlation of images of one pixel with a 1x1 kernel, so it runs on the backend in force like any other.
    The rows of ``x`` are handed over as the pixels of a single image, which is what backends are fast at; the backend
    must take the layout "NHWC".

    Parameters
    ----------
    units : int
        Outputs.
    use_bias : bool
    in_channels : int
        Inputs; 0 takes them, and the dtype, from the first input.
    weight_initializer, bias_initializer, backend : optional
        As in :class:`Conv2D`; the weight's shape is (units, inputs, 1, 1).
    """

    sees_all = True

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        in_channels: int = 0,
        weight_initializer: Initializer = None,
        bias_initializer: Initializer = "zeros",
        backend: Any = None,
    ) -> None:
        normalise.integer("Dense", "units", units, 1)
        super().__init__(
            units,
            1,
            use_bias=use_bias,
            in_channels=in_channels,
            layout="NHWC",
            weight_initializer=weight_initializer,
            bias_initializer=bias_initializer,
            backend=backend,
        )
        self._shape: tuple[int, ...] = ()

    def __call__(self, x: Any) -> Array:
        """Return the outputs, (N, units), of ``x``, (N, …), whose further axes count as one."""
        x = normalise.as_array("Dense", "x", x)
        y = super().__call__(x.reshape(self._rows(x.shape)))
        self._shape = x.shape
        return y.reshape(len(x), self.channels)

    def predict(self, x: Any) -> Array:
        """Return the outputs, (N, units), for their own sake; see :meth:`Conv2D.predict`."""
        x = normalise.as_array("Dense", "x", x)
        return super().predict(x.reshape(self._rows(x.shape))).reshape(len(x), self.channels)

    def backward(self, grad_out: Any) -> Array:
        """Add the gradients to the parameters' and return that for the last ``x``, of its shape."""
        self._remembered(self._input)
        grad_out = self._as_grad_out(grad_out, (self._shape[0], self.channels))
        return super().backward(grad_out.reshape(1, 1, *grad_out.shape)).reshape(self._shape)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (N, units); raises as a call would."""
        return self._rows(input_shape)[2], self.channels

    def parameter_shapes(self, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters, by name, for an input of this shape."""
        return self._shapes(self._rows(input_shape)[3])

    def _rows(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the image whose pixels are the rows of an array of this shape."""
        if len(shape) < 2:
            raise ValueError(f"Dense: `x` must have at least 2 dimensions, (N, inputs), got shape {tuple(shape)}")
        inputs = math.prod(shape[1:])
        if self.in_channels and inputs != self.in_channels:
            raise ValueError(
                f"Dense: `x` must have {self.in_channels} values a row, got {inputs}, shape {tuple(shape)}"
            )
        return 1, 1, shape[0], inputs

    def __repr__(self) -> str:
        return f"Dense({self.channels}, in_channels={self.in_channels or 'unknown'})"


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
