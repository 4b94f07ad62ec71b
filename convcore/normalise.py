"""User arguments to a :class:`~convcore.problem.Problem`; every complaint about an argument is made here."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from convcore.problem import (
    ACCURACIES,
    BOUNDARIES,
    HOST_ARRAY,
    LAYOUTS,
    TUNES,
    Op,
    Padding,
    Pair,
    Problem,
    Shape4,
    output_size,
)

#: No size, stride or amount of padding may be larger: kernels count pixels in 32 bits.
MOST = 2**31 - 1
PADDING_WORDS = ("valid", "same", "same_lower", "full")

_NO_PADDING: Padding = ((0, 0), (0, 0))
# One object for every NaN, so that problems that differ in nothing else compare equal.
_NAN = float("nan")


class Operand(NamedTuple):
    """What is known of an array before its data is looked at."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    arrays: str = HOST_ARRAY


@dataclass(frozen=True)
class Geometry:
    """The geometry keywords, as the user wrote them."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1
    boundary: Any = "constant"
    fill_value: Any = 0.0
    layout: Any = "NCHW"
    accuracy: Any = None
    tune: Any = None
    algorithm: Any = None
    workspace_limit: Any = None


# ---------------------------------------------------------------- arrays


def as_array(fn: str, name: str, value: Any) -> Any:
    """Return ``value`` as a NumPy array, or as it is when it is some other library's device array."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{fn}: `{name}` must not be a masked array, its mask would be lost; fill it with .filled(value)"
        )
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if is_device_array(value):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{fn}: `{name}` must be an array of numbers, got {_kind(value)}: {error}") from None
    if array.dtype == object:
        raise TypeError(f"{fn}: `{name}` must be an array of numbers, got {_kind(value)}")
    return array


def is_device_array(value: Any) -> bool:
    """Whether ``value`` looks like an array that NumPy does not own and cannot see into."""
    return isinstance(getattr(value, "dtype", None), np.dtype) and not hasattr(value, "__array__")


def as_images(fn: str, x: Any, k: Any) -> tuple[Any, Any]:
    """Return an image or a stack of them as a batch of one channel, and a two-dimensional kernel as its weight."""
    if len(x.shape) not in (2, 3, 4):
        raise ValueError(f"{fn}: `x` must have 2, 3 or 4 dimensions, got shape {_shape(x.shape)}")
    check_ndim(fn, "k", k, 2)
    *leading, height, width = x.shape
    return x.reshape((math.prod(leading), 1, height, width)), k.reshape((1, 1, *k.shape))


def array_type(value: Any) -> str:
    """Return the qualified name by which backends list the array types they accept."""
    cls = type(value)
    return HOST_ARRAY if isinstance(value, np.ndarray) else f"{cls.__module__}.{cls.__qualname__}"


def operand(fn: str, name: str, array: Any, ndim: int = 4) -> Operand:
    """Describe an array, checking that its rank and dtype are ones convcore knows."""
    check_ndim(fn, name, array, ndim)
    return Operand(name, tuple(map(int, array.shape)), check_dtype(fn, name, array.dtype), array_type(array))


def check_dtype(fn: str, name: str, dtype: Any) -> np.dtype[Any]:
    """Return the dtype in native byte order, refusing what cannot be correlated."""
    native: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    if native.kind not in "fciu":
        raise TypeError(f"{fn}: `{name}` must be floating, complex or integer, got dtype {native}")
    if native.kind == "u" and native.itemsize == 8:
        raise TypeError(
            f"{fn}: `{name}` must not be uint64, its products do not fit int64; convert it with .astype('int64')"
        )
    return native


def result_dtype(fn: str, first: Operand, second: Operand) -> np.dtype[Any]:
    """Return the dtype of the result: equal floating or complex dtypes stay, integers of any mix give int64."""
    if first.dtype.kind in "iu" and second.dtype.kind in "iu":
        return np.dtype(np.int64)
    if first.dtype != second.dtype:
        raise TypeError(
            f"{fn}: `{second.name}` must have the dtype of `{first.name}`, "
            f"got {first.name} {first.dtype}, {second.name} {second.dtype}; convert one with .astype()"
        )
    return first.dtype


# ---------------------------------------------------------------- single arguments


def integer(fn: str, name: str, value: Any, least: int) -> int:
    """Return an int of at least ``least``; floats and booleans are refused."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{fn}: `{name}` must be an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{fn}: `{name}` must be at least {least}, got {number}")
    if number > MOST:
        raise ValueError(f"{fn}: `{name}` must be at most {MOST}, got {number}")
    return number


def pair(fn: str, name: str, value: Any, least: int) -> Pair:
    """Return (vertical, horizontal) from an int or a pair of ints."""
    if not _is_sequence(value):
        number = integer(fn, name, value, least)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{fn}: `{name}` must be an int or a pair, got {value!r}")
    return integer(fn, name, value[0], least), integer(fn, name, value[1], least)


def word(fn: str, name: str, value: Any, words: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``words``."""
    words = list(words)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{fn}: `{name}` must be one of {', '.join(words)}, got {value!r}{did_you_mean(value, words)}")
    return value


def did_you_mean(value: Any, words: Iterable[str]) -> str:
    """Return '; did you mean …?' when one of ``words`` is close to ``value``, else nothing."""
    import difflib  # only an error needs it

    close = difflib.get_close_matches(str(value), list(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shape4(fn: str, name: str, value: Any) -> Shape4:
    """Return a shape of four positive ints; only the first, a batch, may be zero."""
    if not _is_sequence(value) or len(value) != 4:
        raise ValueError(f"{fn}: `{name}` must be a shape of 4 ints, got {value!r}")
    n, c, h, w = (integer(fn, name, size, 0) for size in value)
    return n, c, h, w


def explicit_padding(fn: str, value: Any) -> Padding:
    """Return ((top, bottom), (left, right)) from an int, a pair or a pair of pairs."""
    if isinstance(value, str):
        word(fn, "padding", value, PADDING_WORDS)
    if not _is_sequence(value):
        amount = integer(fn, "padding", value, 0)
        return (amount, amount), (amount, amount)
    if len(value) != 2:
        raise ValueError(
            f"{fn}: `padding` must be an int, a pair, ((top, bottom), (left, right)) or a word, got {value!r}"
        )
    if any(_is_sequence(side) for side in value):
        return _side(fn, value[0]), _side(fn, value[1])
    vertical, horizontal = pair(fn, "padding", value, 0)
    return (vertical, vertical), (horizontal, horizontal)


def _side(fn: str, value: Any) -> Pair:
    if not _is_sequence(value):
        raise ValueError(f"{fn}: `padding` must not mix ints and pairs, got {value!r} beside a pair")
    return pair(fn, "padding", value, 0)


def unresolved_padding(fn: str, value: Any) -> Padding | str:
    """Return padding that any size of input may have: in pixels, or one of the words."""
    return word(fn, "padding", value, PADDING_WORDS) if isinstance(value, str) else explicit_padding(fn, value)


def forward_padding(fn: str, value: Any, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
    """Resolve the padding of a forward correlation over an input of ``size`` pixels."""
    if not isinstance(value, str):
        return explicit_padding(fn, value)
    if word(fn, "padding", value, PADDING_WORDS) == "valid":
        return _NO_PADDING
    axes = []
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1)
        if value == "full":
            axes.append((reach, reach))
            continue
        positions = -(-size[axis] // stride[axis])
        axes.append(_split(max((positions - 1) * stride[axis] + reach + 1 - size[axis], 0), value))
    return axes[0], axes[1]


def _split(total: int, side: str) -> Pair:
    """Halve an amount of padding; the odd pixel goes to the end for "same", to the start for "same_lower"."""
    small, large = total // 2, total - total // 2
    return (large, small) if side == "same_lower" else (small, large)


# ---------------------------------------------------------------- problems


def forward(fn: str, x: Operand, weight: Operand, bias: Operand | None, geometry: Geometry) -> Problem:
    """Describe a forward correlation."""
    settings = _settings(fn, geometry)
    return _problem(
        fn, "forward", (x, weight), bias, _logical(x.shape, settings["layout"]), weight.shape, geometry, settings
    )


def grad_input(fn: str, grad_out: Operand, weight: Operand, input_shape: Any, geometry: Geometry) -> Problem:
    """Describe the gradient with respect to the input."""
    settings = _settings(fn, geometry)
    shape = _logical(shape4(fn, "input_shape", input_shape), settings["layout"])
    problem = _problem(fn, "grad_input", (grad_out, weight), None, shape, weight.shape, geometry, settings)
    return _check_grad_out(fn, problem, grad_out)


def grad_weight(fn: str, x: Operand, grad_out: Operand, weight_shape: Any, geometry: Geometry) -> Problem:
    """Describe the gradient with respect to the weight."""
    settings = _settings(fn, geometry)
    shape = shape4(fn, "weight_shape", weight_shape)
    problem = _problem(
        fn, "grad_weight", (x, grad_out), None, _logical(x.shape, settings["layout"]), shape, geometry, settings
    )
    return _check_grad_out(fn, problem, grad_out)


def grad_bias(fn: str, grad_out: Operand, geometry: Geometry) -> Problem:
    """Describe the gradient with respect to the bias, as a 1x1 depthwise problem."""
    layout = word(fn, "layout", geometry.layout, LAYOUTS)
    shape = _logical(grad_out.shape, layout)
    channels = shape[1]
    return Problem(
        "grad_bias",
        shape,
        (channels, 1, 1, 1),
        shape,
        groups=channels,
        layout=layout,
        tune=_tune(fn, geometry),
        dtypes=(grad_out.dtype, grad_out.dtype),
        result_dtype=result_dtype(fn, grad_out, grad_out),
        arrays=grad_out.arrays,
    )


def max_pool(
    fn: str, x: Operand, kernel_size: Any, stride: Any, ceil_mode: Any, geometry: Geometry, op: Op = "max_pool"
) -> Problem:
    """Describe the maximum over windows; a ``stride`` of None is the kernel's size."""
    settings = _settings(fn, geometry)
    if (settings["dilation"], settings["groups"], settings["boundary"]) != ((1, 1), 1, "constant"):
        raise ValueError(f"{fn}: pooling has no `dilation`, `groups` or `boundary`")
    if x.dtype.kind != "f":
        raise TypeError(f"{fn}: `x` must be floating, got {x.dtype}")
    n, channels, *size = _logical(x.shape, settings["layout"])
    if channels < 1:
        raise ValueError(f"{fn}: in_channels must be at least 1, got {channels}")
    kernel = pair(fn, "kernel_size", kernel_size, 1)
    settings["stride"] = pair(fn, "stride", kernel if stride is None else stride, 1)
    (p, q), settings["padding"] = pool_windows(
        fn, _two(size), kernel, settings["stride"], geometry.padding, bool(ceil_mode)
    )
    return Problem(
        op,
        (n, channels, *_two(size)),
        (channels, 1, *kernel),
        (n, channels, p, q),
        **settings | {"groups": channels},
        dtypes=(x.dtype, x.dtype),
        result_dtype=x.dtype,
        arrays=x.arrays,
    )


def max_pool_grad(
    fn: str, x: Operand, grad_out: Operand, kernel_size: Any, stride: Any, ceil_mode: Any, geometry: Geometry
) -> Problem:
    """Describe the gradient of :func:`max_pool` with respect to ``x``."""
    problem = max_pool(fn, x, kernel_size, stride, ceil_mode, geometry, "max_pool_grad")
    _operand_fields(fn, (x, grad_out), None, 0)
    return _check_grad_out(fn, problem, grad_out)


def pool_windows(
    fn: str, size: Pair, kernel: Pair, stride: Pair, padding: Any, ceil_mode: bool
) -> tuple[Pair, Padding]:
    """Return how many windows there are along each axis, and the padding that holds them all.

    With ``ceil_mode`` a last window may reach beyond the padding, but it starts inside or before it.
    """
    if min(size) < 1:
        raise ValueError(f"{fn}: the input must have at least one pixel, got {size[0]} rows and {size[1]} columns")
    counts, padded = [], []
    for axis, (before, after) in enumerate(forward_padding(fn, padding, size, kernel, stride, (1, 1))):
        if max(before, after) >= kernel[axis]:
            raise ValueError(
                f"{fn}: `padding` must be smaller than the kernel, got padding {(before, after)}, "
                f"kernel {_shape(kernel)}: a window would hold no pixel"
            )
        whole = size[axis] + before + after
        if whole < kernel[axis]:
            raise ValueError(
                f"{fn}: the kernel must fit into the padded input, "
                f"got kernel {_shape(kernel)}, input {_shape(size)}, padding {(before, after)}"
            )
        slack = stride[axis] - 1 if ceil_mode else 0
        count = (whole - kernel[axis] + slack) // stride[axis] + 1
        if (count - 1) * stride[axis] >= size[axis] + before:
            count -= 1
        counts.append(count)
        padded.append((before, max(after, (count - 1) * stride[axis] + kernel[axis] - size[axis] - before)))
    return _two(counts), (padded[0], padded[1])


def transpose(
    fn: str, x: Operand, weight: Operand, bias: Operand | None, output_padding: Any, geometry: Geometry
) -> Problem:
    """Describe a transposed convolution: grad_input with an output size.

    ``x`` plays the part of grad_out, and ``weight`` is (in_channels, out_channels/groups, R, S).
    """
    settings = _settings(fn, geometry)
    layout = settings["layout"]
    n, channels, *size = _logical(x.shape, layout)
    _check_weight_shape(fn, "weight", weight.shape)
    groups = settings["groups"]
    if weight.shape[0] != channels:
        raise ValueError(
            f"{fn}: `weight` must have in_channels={channels} as its first axis, got weight {_shape(weight.shape)}"
        )
    _check_groups(fn, groups, in_channels=channels)
    kernel = weight.shape[2:]
    extra = pair(fn, "output_padding", output_padding, 0)
    padding, result = [], []
    for axis in (0, 1):
        stride, dilation = settings["stride"][axis], settings["dilation"][axis]
        if extra[axis] >= max(stride, dilation):
            raise ValueError(
                f"{fn}: `output_padding` must be smaller than stride or dilation, "
                f"got output_padding={extra[axis]}, stride={stride}, dilation={dilation}"
            )
        reach = dilation * (kernel[axis] - 1)
        whole = (size[axis] - 1) * stride + reach + 1
        amount, lacking = _transpose_padding(fn, geometry.padding, axis, whole, size[axis] * stride, reach)
        padding.append(amount)
        result.append(whole - sum(amount) + lacking + extra[axis])
    if min(result) < 1:
        raise ValueError(
            f"{fn}: the result must not be empty, got {_shape(result)} "
            f"from input {_shape(size)}, kernel {_shape(kernel)}, padding {tuple(padding)}"
        )
    settings["padding"] = (padding[0], padding[1])
    return Problem(
        "grad_input",
        (n, weight.shape[1] * groups, result[0], result[1]),
        _four(weight.shape),
        (n, channels, size[0], size[1]),
        **_drop_boundary(settings),
        **_operand_fields(fn, (x, weight), bias, weight.shape[1] * groups),
    )


def _transpose_padding(fn: str, value: Any, axis: int, whole: int, same: int, reach: int) -> tuple[Pair, int]:
    """Return what is cut from both ends of the whole transposed result, and the pixels "same" lacks at its end."""
    if not isinstance(value, str):
        return explicit_padding(fn, value)[axis], 0
    if word(fn, "padding", value, PADDING_WORDS) == "valid":
        return (0, 0), 0
    if value == "full":
        return (reach, reach), 0
    return _split(max(whole - same, 0), value), max(same - whole, 0)


def _problem(
    fn: str,
    op: Op,
    operands: tuple[Operand, Operand],
    bias: Operand | None,
    input_shape: Shape4,
    weight_shape: tuple[int, ...],
    geometry: Geometry,
    settings: dict[str, Any],
) -> Problem:
    """Check the one shape rule of the correlation and put the problem together."""
    n, in_channels, *size = input_shape
    _check_weight_shape(fn, "weight_shape" if op == "grad_weight" else operands[1].name, weight_shape)
    out_channels, per_group, *kernel = weight_shape
    groups, stride, dilation = settings["groups"], settings["stride"], settings["dilation"]
    _check_groups(fn, groups, in_channels=in_channels)
    _check_groups(fn, groups, out_channels=out_channels)
    if per_group * groups != in_channels:
        raise ValueError(
            f"{fn}: `weight` must have in_channels/groups={in_channels // groups} as its second axis, "
            f"got weight {_shape(weight_shape)}, in_channels={in_channels}, groups={groups}"
        )
    if min(size) < 1:
        raise ValueError(f"{fn}: the input must have at least one pixel, got {size[0]} rows and {size[1]} columns")
    padding = forward_padding(fn, geometry.padding, _two(size), _two(kernel), stride, dilation)
    positions = [output_size(size[a], kernel[a], stride[a], padding[a], dilation[a]) for a in (0, 1)]
    if min(positions) < 1:
        reach = [dilation[a] * (kernel[a] - 1) + 1 for a in (0, 1)]
        padded = [size[a] + sum(padding[a]) for a in (0, 1)]
        raise ValueError(
            f"{fn}: the kernel must fit into the padded input, "
            f"got kernel {_shape(reach)} with its dilation, padded input {_shape(padded)}"
        )
    settings["padding"] = padding
    settings["fill_value"] = _fill_value(fn, settings, operands[0].dtype, geometry.fill_value)
    # The gradient with respect to the input never sees what stands in a constant boundary.
    if padding == _NO_PADDING or (op == "grad_input" and settings["boundary"] == "constant"):
        settings = _drop_boundary(settings)
    return Problem(
        op,
        input_shape,
        _four(weight_shape),
        (n, out_channels, positions[0], positions[1]),
        **settings,
        **_operand_fields(fn, operands, bias, out_channels),
    )


def _settings(fn: str, geometry: Geometry) -> dict[str, Any]:
    """Check the keywords that need no shapes."""
    limit = geometry.workspace_limit
    if geometry.algorithm is not None and not isinstance(geometry.algorithm, str):
        raise TypeError(f"{fn}: `algorithm` must be a name, got {geometry.algorithm!r}")
    return {
        "stride": pair(fn, "stride", geometry.stride, 1),
        "dilation": pair(fn, "dilation", geometry.dilation, 1),
        "groups": integer(fn, "groups", geometry.groups, 1),
        "boundary": word(fn, "boundary", geometry.boundary, BOUNDARIES),
        "layout": word(fn, "layout", geometry.layout, LAYOUTS),
        "accuracy": "standard" if geometry.accuracy is None else word(fn, "accuracy", geometry.accuracy, ACCURACIES),
        "tune": _tune(fn, geometry),
        "algorithm": geometry.algorithm,
        "workspace_limit": None if limit is None else integer(fn, "workspace_limit", limit, 0),
    }


def _tune(fn: str, geometry: Geometry) -> str:
    return "cached" if geometry.tune is None else TUNES[word(fn, "tune", geometry.tune, TUNES)]


def _fill_value(fn: str, settings: dict[str, Any], dtype: np.dtype[Any], value: Any) -> complex:
    """Return the fill value as a Python number that the input's dtype can hold."""
    if np.ndim(value) or isinstance(value, str) or not np.can_cast(np.asarray(value).dtype, np.complex128, "same_kind"):
        raise TypeError(f"{fn}: `fill_value` must be a number, got {value!r}")
    if settings["boundary"] != "constant":
        if value != 0:
            raise ValueError(f"{fn}: `fill_value` needs boundary='constant', got boundary={settings['boundary']!r}")
        return 0.0
    if not _holds(dtype, value):
        raise ValueError(f"{fn}: `fill_value` must be representable in {dtype}, got {value!r}")
    held = dtype.type(value).item()
    number: complex = _NAN if held != held else held + 0  # adding 0 makes 0.0 of -0.0
    return number


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    """Whether a number keeps its meaning in a dtype: exactly in integers, finite where it was finite elsewhere."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return bool(limits.min <= value.real <= limits.max and value == int(value.real))
    if dtype.kind == "f" and isinstance(value, (complex, np.complexfloating)):
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(dtype.type(value)) or not np.isfinite(value))


def _drop_boundary(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"boundary": "constant", "fill_value": 0.0}


def _operand_fields(fn: str, operands: tuple[Operand, Operand], bias: Operand | None, channels: int) -> dict[str, Any]:
    """Check that operands and bias agree in dtype, length and home."""
    first, second = operands
    dtype = result_dtype(fn, first, second)
    if bias is not None:
        if bias.shape != (channels,):
            raise ValueError(
                f"{fn}: `bias` must have shape ({channels},), one value per out_channel, got {_shape(bias.shape)}"
            )
        if bias.dtype != dtype and not (dtype.kind == "i" and bias.dtype.kind in "iu"):
            raise TypeError(
                f"{fn}: `bias` must have the dtype of `{first.name}`, got {first.name} {first.dtype}, bias {bias.dtype}"
            )
    for other in (second, bias):
        if other is not None and other.arrays != first.arrays:
            raise TypeError(
                f"{fn}: `{other.name}` must live where `{first.name}` lives, "
                f"got {first.name} {first.arrays}, {other.name} {other.arrays}"
            )
    return {
        "dtypes": (first.dtype, second.dtype),
        "result_dtype": dtype,
        "bias": bias is not None,
        "arrays": first.arrays,
    }


def check_ndim(fn: str, name: str, array: Any, ndim: int) -> None:
    """Raise ValueError unless an array has ``ndim`` axes."""
    if len(array.shape) != ndim:
        axes = {1: "(channels,)", 2: "(rows, columns)", 4: "4 axes"}[ndim]
        raise ValueError(
            f"{fn}: `{name}` must have {ndim} dimension{'s'[: ndim > 1]}, {axes}, got shape {_shape(array.shape)}"
        )


def _check_weight_shape(fn: str, name: str, shape: tuple[int, ...]) -> None:
    if min(shape) < 1:
        raise ValueError(f"{fn}: `{name}` must not be empty, got shape {_shape(shape)}")


def _check_groups(fn: str, groups: int, **channels: int) -> None:
    ((name, count),) = channels.items()
    if count < 1:
        raise ValueError(f"{fn}: {name} must be at least 1, got {count}")
    if count % groups:
        raise ValueError(f"{fn}: `groups` must divide {name}, got groups={groups}, {name}={count}")


def _check_grad_out(fn: str, problem: Problem, grad_out: Operand) -> Problem:
    expected = problem.in_memory(problem.output_shape)
    if grad_out.shape != expected:
        raise ValueError(
            f"{fn}: `grad_out` must have the shape of the forward result, "
            f"{_shape(expected)}, got {_shape(grad_out.shape)}"
        )
    return problem


def _logical(shape: tuple[int, ...], layout: str) -> Shape4:
    n, a, b, c = shape
    return (n, a, b, c) if layout == "NCHW" else (n, c, a, b)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _four(values: tuple[int, ...]) -> Shape4:
    return values[0], values[1], values[2], values[3]


def _two(values: Any) -> Pair:
    return values[0], values[1]


def _shape(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(tuple(shape)) == 1 else "") + ")"


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
