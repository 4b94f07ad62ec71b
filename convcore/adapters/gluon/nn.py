"""``mxnet.gluon.nn``: blocks with parameters, and the layer."""

from __future__ import annotations

import warnings
from typing import Any

from convcore import normalise
from convcore.adapters import mygrad
from convcore.adapters.gluon import nd, random
from convcore.adapters.gluon.nd import NDArray

#: The bound of Gluon's default initializer, Uniform.
SCALE = 0.07


class Parameter:
    """A named array that is learned.  An axis of size 0 is one that the first input will tell."""

    def __init__(self, name: str, shape: Any, init: str | None = None) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.init = init
        self._data: NDArray | None = None
        self._waits = False

    def initialize(self, force_reinit: bool = False) -> None:
        """Draw from -0.07 to 0.07, or zero what the layer starts at zero; later, if the shape is not known."""
        if self._data is not None and not force_reinit:
            warnings.warn(f"Parameter {self.name!r} keeps its value; force_reinit=True draws a new one", stacklevel=3)
            return
        self._waits = 0 in self.shape
        if not self._waits:
            zeros = self.init == "zeros"
            self._data = nd.zeros(self.shape) if zeros else nd.array(random.uniform(SCALE, self.shape))
            self._data.attach_grad()

    def infer(self, shape: tuple[int, ...]) -> None:
        """Take the shape from the first input, and draw what had to wait for it."""
        if self._waits:
            self.shape = shape
            self.initialize()

    def data(self) -> NDArray:
        """Return the array itself: writing to it changes the parameter."""
        if self._data is None:
            how = "call the layer, or give in_channels" if self._waits else "call initialize()"
            raise RuntimeError(f"Parameter {self.name!r} has no value yet: {how}")
        return self._data

    def grad(self) -> NDArray:
        """Return the gradient by the latest ``backward()``, zeros before it."""
        grad = self.data().grad
        assert grad is not None
        return grad


class ParameterDict(dict[str, Parameter]):
    """The parameters of one block, by name."""

    def get(self, name: str, shape: Any = None, init: str | None = None) -> Parameter:  # type: ignore[override]
        """Return the parameter of that name; made of ``shape`` when there is none yet."""
        if name not in self:
            if shape is None:
                raise ValueError(f"params.get: parameter {name!r} is new and needs a shape")
            self[name] = Parameter(name, (shape,) if isinstance(shape, int) else shape, init)
        return self[name]


class Block:
    """A part of a network: parameters, blocks inside it, and ``forward``, which a call runs."""

    def __init__(self) -> None:
        self.params = ParameterDict()

    def initialize(self, force_reinit: bool = False) -> None:
        """Draw the parameters of this block and of the blocks that are its attributes."""
        for parameter in self.params.values():
            parameter.initialize(force_reinit)
        for child in vars(self).values():
            if isinstance(child, Block):
                child.initialize(force_reinit)

    def forward(self, *args: Any) -> Any:
        """Compute; every block has its own."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `forward`")

    def __call__(self, *args: Any) -> Any:
        """Run ``forward``."""
        return self.forward(*args)


class Conv2D(Block):
    """A layer that cross-correlates its input (N, C, H, W) with its weight and adds its bias.

    Parameters
    ----------
    channels : int
        Output channels.
    kernel_size, strides, padding, dilation : int or (int, int)
        Pixels, vertical then horizontal.
    groups : int
    use_bias : bool
    in_channels : int
        0 takes it from the first input.
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
    ) -> None:
        super().__init__()
        self._kernel_size = normalise.pair("Conv2D", "kernel_size", kernel_size, 1)
        self._geometry = {"stride": strides, "padding": padding, "dilation": dilation, "groups": groups}
        self._channels = normalise.integer("Conv2D", "channels", channels, 1)
        in_channels = normalise.integer("Conv2D", "in_channels", in_channels, 0)
        self.weight = self.params.get("weight", shape=self._weight_shape(in_channels))
        self.bias = self.params.get("bias", shape=(channels,), init="zeros") if use_bias else None

    def _weight_shape(self, in_channels: int) -> tuple[int, ...]:
        return self._channels, in_channels // self._geometry["groups"], *self._kernel_size

    def forward(self, x: NDArray) -> NDArray:
        """Return the correlation of ``x``."""
        self.weight.infer(self._weight_shape(x.shape[1]))
        parameters = [parameter.data() for parameter in self.params.values()]
        return nd.computed(lambda *tensors: mygrad.conv2d(*tensors, **self._geometry), x, *parameters)
