"""The problem descriptor: everything a backend must know before it sees data.

Symbols: N batch, C in_channels, K out_channels, G groups, H W input size,
R S kernel size, P Q output size.  Shapes in a :class:`Problem` are always in
the logical order (N, C, H, W), whatever the memory layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Shape4 = tuple[int, int, int, int]
Op = Literal["forward", "grad_input", "grad_weight", "grad_bias", "max_pool", "max_pool_grad"]

OPS: tuple[Op, ...] = ("forward", "grad_input", "grad_weight", "grad_bias")
#: What a backend may offer besides: its spec lists them, or it does not have them.
POOL_OPS: tuple[Op, ...] = ("max_pool", "max_pool_grad")
BOUNDARIES = ("constant", "reflect", "edge", "wrap", "symmetric")
LAYOUTS = ("NCHW", "NHWC")
ACCURACIES = ("strict", "standard", "fast")
#: How far a backend goes to find out what is fast; what users may write, and what a problem then says.
TUNES = {word: word for word in ("off", "heuristic", "cached", "measure")} | {"tune": "measure"}
#: What a problem may ask for beyond one kernel on the pixels of an image; see :attr:`Problem.features`.
FEATURES = ("padding", "stride", "bias", "dilation", "groups", "fill_value", "output_padding", "mixed_integers")
HOST_ARRAY = "numpy.ndarray"

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Problem:
    """One correlation, or one gradient of it, without its data.  Frozen and hashable.

    The geometry is always that of the forward correlation::

        y[n,k,p,q] = bias[k] + sum_{c,r,s} weight[k,c,r,s]
                     * x[n, c, p*stride_h + r*dilation_h - top, q*stride_w + s*dilation_w - left]

    and ``op`` says which part of it is asked for:

    =============  =====================  =======================
    op             operands               result
    =============  =====================  =======================
    forward        x, weight [, bias K]   y         output_shape
    grad_input     g, weight [, bias C]   dL/dx     input_shape
    grad_weight    x, g                   dL/dw     weight_shape
    grad_bias      g                      dL/dbias  (K,)
    max_pool       x                      y         output_shape
    max_pool_grad  x, g                   dL/dx     input_shape
    =============  =====================  =======================

    ``grad_bias`` is described as a 1x1 depthwise problem: ``input_shape`` equals
    ``output_shape`` and ``weight_shape`` is (K, 1, 1, 1).  Gradients are plain
    transposes: complex weights are not conjugated.

    The two of ``POOL_OPS`` are depthwise too, ``weight_shape`` is (C, 1, R, S), and there is no
    weight: an element of y is the largest pixel of its window.  What stands in the padding is
    never chosen, every window holds a pixel, NaN is larger than any number, and of equal pixels
    the first, row by row, is the one whose gradient counts.  Their dtype is a real floating one.

    Attributes
    ----------
    input_shape, weight_shape, output_shape : tuple of 4 int
        (N, C, H, W), (K, C/G, R, S) and (N, K, P, Q).  P and Q never exceed what
        the geometry allows, but a transposed convolution may ask for fewer.
    stride, dilation : (int, int)
        Pixels, vertical then horizontal; dilation 1 is dense.
    padding : ((top, bottom), (left, right))
        Pixels added around the input, never negative.
    boundary : str
        What stands in the padding: "constant" (``fill_value``), or NumPy's pad names
        "reflect", "edge", "wrap", "symmetric".
    layout : str
        Memory order of x and y: "NCHW" or "NHWC".  The weight is always (K, C/G, R, S).
    dtypes : (numpy.dtype, numpy.dtype)
        Of the two operands, in native byte order (grad_bias: the same one twice).
    result_dtype : numpy.dtype
        Of the result and of the bias: the operands' own for floating and complex
        dtypes, int64 for all integers.
    bias : bool
        Whether a bias, shaped (result channels,), is added.
    accuracy : str
        "strict", "standard" or "fast": which algorithms the caller allows.
    tune : str
        By what a backend may choose among its algorithms, tiles and other parameters: "off", its built-in rule, no
        table and no file; "heuristic", its model and the tables it ships; "cached", the user's file of measured
        choices where that has an entry, else as "heuristic"; "measure", as "cached", but where there is no entry
        candidates are measured now and the winner is stored.  Never which results are right.
    algorithm : str or None
        An algorithm named by the caller: it runs, or the backend refuses.
    workspace_limit : int or None
        Bytes of scratch memory a plan may use.
    arrays : str
        Qualified name of the operands' array type; the result is of the same type.
    """

    op: Op
    input_shape: Shape4
    weight_shape: Shape4
    output_shape: Shape4
    stride: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    boundary: str = "constant"
    fill_value: complex = 0.0
    layout: str = "NCHW"
    dtypes: tuple[np.dtype[Any], np.dtype[Any]] = (_FLOAT32, _FLOAT32)
    result_dtype: np.dtype[Any] = _FLOAT32
    bias: bool = False
    accuracy: str = "standard"
    tune: str = "cached"
    algorithm: str | None = None
    workspace_limit: int | None = None
    arrays: str = HOST_ARRAY

    @property
    def operand_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the operands as they lie in memory, bias left out."""
        x, w, y = self.in_memory(self.input_shape), self.weight_shape, self.in_memory(self.output_shape)
        return {
            "forward": (x, w),
            "grad_input": (y, w),
            "grad_weight": (x, y),
            "grad_bias": (y,),
            "max_pool": (x,),
            "max_pool_grad": (x, y),
        }[self.op]

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result as it lies in memory."""
        if self.op in ("forward", "max_pool"):
            return self.in_memory(self.output_shape)
        if self.op in ("grad_input", "max_pool_grad"):
            return self.in_memory(self.input_shape)
        return self.weight_shape if self.op == "grad_weight" else self.weight_shape[:1]

    @property
    def result_channels(self) -> int:
        """Length of the bias: K for forward, C for grad_input."""
        return self.input_shape[1] if self.op == "grad_input" else self.output_shape[1]

    @property
    def reduction_length(self) -> int:
        """The largest number of products, or for a gradient of ``POOL_OPS`` of windows, summed into one element."""
        n, k, p, q = self.output_shape
        _, c, r, s = self.weight_shape
        return {
            "forward": c * r * s,
            "grad_input": k // self.groups * r * s * self.positions_per_pixel,
            "grad_weight": n * p * q,
            "grad_bias": n * p * q,
            "max_pool": 1,
            "max_pool_grad": -(-r // self.stride[0]) * -(-s // self.stride[1]),
        }[self.op]

    @property
    def features(self) -> tuple[str, ...]:
        """Which of :data:`FEATURES` this problem needs.

        "output_padding" is an output smaller than the geometry gives, as a transposed convolution may ask for.
        """
        (p, q), padded = self.output_shape[2:], self.padding != ((0, 0), (0, 0))
        needed = {
            "padding": padded,
            "stride": self.stride != (1, 1),
            "bias": self.bias,
            "dilation": self.dilation != (1, 1),
            "groups": self.groups > 1 and self.op not in ("grad_bias", *POOL_OPS),
            "fill_value": padded and self.boundary == "constant" and self.fill_value != 0,
            "output_padding": any(a < b for a, b in zip((p, q), map(output_size, *self._axes()), strict=True)),
            "mixed_integers": self.dtypes[0] != self.dtypes[1],
        }
        return tuple(feature for feature in FEATURES if needed[feature])

    def _axes(self) -> tuple[tuple[Any, Any], ...]:
        """Return what :func:`output_size` takes, each of both axes."""
        return self.input_shape[2:], self.weight_shape[2:], self.stride, self.padding, self.dilation

    @property
    def positions_per_pixel(self) -> int:
        """At most how many positions of the padded input one pixel stands at; 1 with a constant boundary."""
        _, _, h, w = self.input_shape
        return _repeats(h, self.padding[0], self.boundary) * _repeats(w, self.padding[1], self.boundary)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct algorithm, padding included; for ``POOL_OPS``, comparisons."""
        if self.op == "grad_bias":
            return math.prod(self.output_shape)
        if self.op in POOL_OPS:
            return math.prod(self.output_shape) * math.prod(self.weight_shape[2:])
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    @property
    def bucket(self) -> str:
        """What problems that want the same algorithm have in common, in words.

        Sizes are the nearest powers of two; kernel, stride, dilation, dtype, boundary, layout and limits are exact.
        """
        n, c, h, w = self.input_shape
        k, _, r, s = self.weight_shape
        sizes = {"n": n, "c": c, "h": h, "w": w, "k": k, "groups": self.groups}
        pairs = {"r": (r, s), "stride": self.stride, "dilation": self.dilation}
        words = [self.op, self.result_dtype.name, self.layout, self.boundary, self.accuracy]
        words += [f"{name}{_near_power(size)}" for name, size in sizes.items()]
        words += [f"{name}{down}x{across}" for name, (down, across) in pairs.items()]
        limits = {"algorithm=": self.algorithm, "workspace<=": self.workspace_limit}
        return " ".join(words + [f"{name}{limit}" for name, limit in limits.items() if limit is not None])

    @property
    def bytes(self) -> int:
        """Bytes of operands and result together: the least any algorithm must move."""
        moved = sum(math.prod(s) * d.itemsize for s, d in zip(self.operand_shapes, self.dtypes, strict=False))
        return moved + math.prod(self.result_shape) * self.result_dtype.itemsize

    def in_memory(self, shape: Shape4) -> Shape4:
        """Put a logical (N, C, H, W) shape into the order of ``layout``."""
        n, c, h, w = shape
        return shape if self.layout == "NCHW" else (n, h, w, c)


def _near_power(size: int) -> int:
    """Return the power of two that is nearest by ratio."""
    return 1 << round(math.log2(size)) if size else 0


def _repeats(size: int, padding: Pair, boundary: str) -> int:
    """Return at most how often one pixel of an axis stands in it once it is padded."""
    padded = size + sum(padding)
    if boundary == "constant":
        return 1
    if boundary == "edge":
        return padded if size == 1 else 1 + max(padding)
    period, per_period = {"wrap": (size, 1), "symmetric": (2 * size, 2), "reflect": (max(2 * size - 2, 1), 2)}[boundary]
    return min(padded, -(-padded // period) * per_period)


def output_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> int:
    """Return how many positions a kernel has along one axis, in pixels; below 1 when it does not fit.

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", relationship 15.
    """
    return (size + padding[0] + padding[1] - dilation * (kernel - 1) - 1) // stride + 1


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What one output element sees of the input: pixels, vertical then horizontal.

    Attributes
    ----------
    size : (int, int)
        Height and width of the patch.
    stride : (int, int)
        Distance in the input between the patches of neighbouring outputs.
    offset : (int, int)
        Row and column where the first output's patch begins; negative inside the padding.
    """

    size: Pair
    stride: Pair
    offset: Pair

    def region(self, row: int, column: int, image_size: Pair) -> tuple[slice, slice]:
        """Return the rows and columns of an image that output (row, column) sees; empty in the padding."""
        first = [self.offset[axis] + (row, column)[axis] * self.stride[axis] for axis in (0, 1)]
        ends = [(max(first[axis], 0), max(min(first[axis] + self.size[axis], image_size[axis]), 0)) for axis in (0, 1)]
        return slice(*ends[0]), slice(*ends[1])


def compose_receptive_field(layers: Iterable[tuple[Pair, Pair, Padding, Pair]]) -> ReceptiveField:
    """Compose (kernel, stride, padding, dilation) of layers, first layer first.

    Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", section 2.
    """
    size, jump, offset = [1, 1], [1, 1], [0, 0]
    for kernel, stride, padding, dilation in layers:
        for axis in (0, 1):
            size[axis] += (kernel[axis] - 1) * dilation[axis] * jump[axis]
            offset[axis] -= padding[axis][0] * jump[axis]
            jump[axis] *= stride[axis]
    return ReceptiveField(_pair(size), _pair(jump), _pair(offset))


def _pair(values: Sequence[int]) -> Pair:
    return values[0], values[1]
