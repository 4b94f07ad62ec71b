"""A fixed list of problems with a name each, chosen to be nasty, and data to go with them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from convcore.problem import BOUNDARIES, OPS, POOL_OPS, Op, Padding, Pair, Problem, output_size
from convcore.testing.oracle import Array

#: Every operation a backend may be asked for.
ALL_OPS: tuple[Op, ...] = (*OPS, *POOL_OPS)
#: Every dtype a backend may be asked for; "longdouble" goes by another name on each platform.
DTYPES = (
    "float16", "float32", "float64", np.dtype(np.longdouble).name, "complex64", "complex128",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
)  # fmt: skip

Operands = tuple[Array, Array | None, Array | None]


def make_problem(
    op: Op = "forward",
    *,
    images: int = 2,
    channels: Pair = (3, 4),
    size: Pair = (7, 8),
    kernel: Pair = (3, 3),
    stride: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
    cropped: Pair = (0, 0),
    dtypes: tuple[Any, Any] = ("float32", "float32"),
    bias: bool = True,
    **rest: Any,
) -> Problem:
    """Build a problem from numbers that fit together.

    Parameters
    ----------
    op : str
    images : int
        N.
    channels : (int, int)
        C and K.
    size, kernel : (int, int)
        (H, W) and (R, S), pixels.
    stride, padding, dilation, groups
        As in :class:`~convcore.problem.Problem`.
    cropped : (int, int)
        Rows and columns of output left away, as a transposed convolution may do.
    dtypes : pair of dtypes
        Of the two operands.
    bias : bool
        Whether there is a bias, where ``op`` can have one.
    **rest
        Other fields of :class:`~convcore.problem.Problem`.
    """
    c, k = channels
    p, q = (output_size(size[a], kernel[a], stride[a], padding[a], dilation[a]) - cropped[a] for a in (0, 1))
    first, second = np.dtype(dtypes[0]), np.dtype(dtypes[1])
    forward = Problem(
        "forward",
        (images, c, *size),
        (k, c // groups, *kernel),
        (images, k, p, q),
        stride,
        padding,
        dilation,
        groups,
        dtypes=(first, second),
        result_dtype=np.dtype(np.int64) if first.kind in "iu" else first,
        bias=bias,
        **rest,
    )
    return sibling(forward, op)


def sibling(problem: Problem, op: Op) -> Problem:
    """Turn a forward problem into that of one of its gradients, or of pooling; the bias stays where it can."""
    if op in POOL_OPS:
        return _pooling(problem, op)
    if op == "grad_bias":
        channels = problem.output_shape[1]
        return dataclasses.replace(
            problem,
            op=op,
            input_shape=problem.output_shape,
            weight_shape=(channels, 1, 1, 1),
            stride=(1, 1),
            padding=((0, 0), (0, 0)),
            dilation=(1, 1),
            groups=channels,
            boundary="constant",
            fill_value=0.0,
            dtypes=(problem.dtypes[0], problem.dtypes[0]),
            bias=False,
        )
    return dataclasses.replace(problem, op=op, bias=problem.bias and op != "grad_weight")


def _pooling(problem: Problem, op: Op) -> Problem:
    """Pool over windows of the kernel's size, as far apart as its positions are; every window holds a pixel."""
    (n, channels, *size), kernel, stride = problem.input_shape, problem.weight_shape[2:], problem.stride
    padding = [(min(problem.padding[a][0], kernel[a] - 1), min(problem.padding[a][1], kernel[a] - 1)) for a in (0, 1)]
    p, q = (output_size(size[a], kernel[a], stride[a], padding[a], 1) for a in (0, 1))
    return dataclasses.replace(
        problem,
        op=op,
        weight_shape=(channels, 1, *kernel),
        output_shape=(n, channels, p, q),
        padding=(padding[0], padding[1]),
        dilation=(1, 1),
        groups=channels,
        boundary="constant",
        fill_value=0.0,
        bias=False,
    )


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Draw normal deviates, or integers of up to 99 and of both signs where there are any."""
    if dtype.kind in "iu":
        return rng.integers(-99 if dtype.kind == "i" else 0, 100, shape).astype(dtype)
    deviates = rng.standard_normal(shape)
    return (deviates + 1j * rng.standard_normal(shape) if dtype.kind == "c" else deviates).astype(dtype)


def random_operands(problem: Problem, seed: int = 0) -> Operands:
    """Draw the operands of a problem: first, second (None where it has one only) and bias (None without one).

    Pixels to be pooled are whole numbers, many of them equal.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        random_array(rng, shape, dtype) for shape, dtype in zip(problem.operand_shapes, problem.dtypes, strict=False)
    ]
    if problem.op in POOL_OPS:
        drawn[0] = np.rint(drawn[0])
    bias = random_array(rng, (problem.result_channels,), problem.result_dtype) if problem.bias else None
    return drawn[0], drawn[1] if len(drawn) > 1 else None, bias


_ODD: dict[str, Any] = {
    "channels": (4, 6),
    "groups": 2,
    "size": (9, 8),
    "kernel": (3, 2),
    "stride": (2, 1),
    "padding": ((1, 2), (0, 3)),
    "dilation": (1, 2),
}

#: Arguments of :func:`make_problem` by name.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "same": {"padding": ((1, 1), (1, 1))},
    "one-pixel": {"images": 1, "channels": (1, 1), "size": (1, 1), "kernel": (1, 1)},
    "one-row": {"size": (1, 67), "kernel": (1, 2)},
    "one-column": {"size": (67, 1), "kernel": (2, 1)},
    "1x1": {"kernel": (1, 1)},
    "1x1-strided": {"kernel": (1, 1), "stride": (2, 3)},
    "even-kernel": {"kernel": (2, 4), "padding": ((0, 1), (1, 2))},
    "row-kernel": {"kernel": (1, 7), "padding": ((0, 0), (3, 3))},
    "column-kernel": {"kernel": (7, 1), "padding": ((3, 3), (0, 0))},
    "whole-image-kernel": {"kernel": (7, 8)},
    "kernel-beyond-image": {"size": (2, 3), "kernel": (5, 6), "padding": ((2, 2), (3, 2))},
    "full": {"padding": ((2, 2), (2, 2))},
    "padding-beyond-kernel": {"size": (3, 2), "kernel": (2, 1), "padding": ((5, 4), (3, 7))},
    "padding-one-side": {"padding": ((0, 2), (1, 0))},
    "stride-2": {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "size": (8, 9)},
    "stride-3-1": {"stride": (3, 1), "size": (10, 5)},
    "stride-beyond-kernel": {"stride": (4, 5), "kernel": (2, 3), "size": (11, 9)},
    "pixels-left-over": {"stride": (3, 4), "size": (10, 10), "kernel": (2, 2)},
    "11x11-stride-4": {
        "images": 1,
        "kernel": (11, 11),
        "stride": (4, 4),
        "padding": ((2, 2), (2, 2)),
        "size": (19, 23),
    },
    "dilation": {"dilation": (2, 3), "size": (9, 11)},
    "dilation-stride": {"dilation": (3, 2), "stride": (2, 3), "padding": ((3, 1), (2, 4)), "size": (9, 10)},
    "dilation-shares-stride": {"dilation": (2, 4), "stride": (4, 2), "padding": ((1, 2), (3, 3)), "size": (12, 9)},
    "groups": {"channels": (6, 4), "groups": 2},
    "groups-odd": _ODD,
    "depthwise": {"channels": (5, 5), "groups": 5, "padding": ((1, 1), (1, 1))},
    "depthwise-multiplier": {"channels": (3, 9), "groups": 3, "padding": ((1, 0), (0, 1))},
    "depthwise-strided": {
        "channels": (4, 4),
        "groups": 4,
        "stride": (2, 2),
        "kernel": (5, 5),
        "padding": ((2, 2), (2, 2)),
    },
    "one-channel": {"images": 1, "channels": (1, 1), "size": (18, 35), "kernel": (5, 5)},
    "to-one-channel": {"channels": (5, 1)},
    "many-channels": {"images": 1, "channels": (33, 35), "size": (5, 4), "padding": ((1, 1), (1, 1))},
    "width-15": {"images": 1, "channels": (2, 9), "size": (4, 17)},
    "width-16": {"images": 1, "channels": (2, 8), "size": (4, 18)},
    "width-17": {"images": 1, "channels": (2, 7), "size": (4, 19)},
    "width-49": {"images": 1, "channels": (1, 17), "size": (3, 51)},
    "many-images": {"images": 19, "channels": (2, 3), "size": (4, 4)},
    "no-image": {"images": 0, "padding": ((1, 0), (0, 1))},
    "cropped-output": {"cropped": (2, 1), "stride": (2, 1), "padding": ((1, 1), (2, 0)), "size": (11, 9)},
    "fill-value": {"padding": ((2, 1), (1, 3)), "fill_value": -1.5},
    "fill-nan": {"padding": ((1, 0), (0, 1)), "fill_value": float("nan")},
    "fill-inf": {"padding": ((1, 0), (0, 1)), "fill_value": float("inf")},
}


def _up_to(dense: int, around: tuple[int, ...]) -> Callable[[str], list[int]]:
    """List every size up to ``dense``, and one less and one more than each of ``around``, fewer of them in "quick"."""

    def sizes(profile: str) -> list[int]:
        most = dense if profile == "full" else dense // 2 + 1
        near = around if profile == "full" else around[:2]
        return sorted({*range(1, most + 1), *(size + off for size in near for off in (-1, 0, 1))})

    return sizes


_LENGTHS, _CHANNELS = _up_to(66, (96, 112, 128, 192, 256)), _up_to(20, (32, 64, 24, 48, 96))

#: Problems that differ in one size only, by the name of that size: a profile's arguments of :func:`make_problem`.
SWEEPS: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {
    "width": lambda profile: ({"images": 1, "channels": (2, 3), "size": (3, size + 2)} for size in _LENGTHS(profile)),
    "height": lambda profile: ({"images": 1, "channels": (3, 2), "size": (size + 2, 4)} for size in _LENGTHS(profile)),
    "in-channels": lambda profile: (
        {"images": 1, "channels": (size, 3), "size": (4, 5)} for size in _CHANNELS(profile)
    ),
    "out-channels": lambda profile: (
        {"images": 1, "channels": (3, size), "size": (4, 5)} for size in _CHANNELS(profile)
    ),
    "images": lambda profile: ({"images": size - 1, "channels": (2, 2), "size": (4, 4)} for size in _CHANNELS(profile)),
    "large": lambda profile: (
        {"images": 1, "size": (5, 6), "padding": ((1, 1), (1, 1)), **large}
        for large in (
            {"channels": (512, 8)},
            {"channels": (8, 512)},
            {"channels": (320, 320), "groups": 320},
            {"channels": (256, 256), "kernel": (1, 1)},
            {"channels": (160, 160), "groups": 5, "size": (20, 21)},
        )[: None if profile == "full" else 3]
    ),
}


_NHWC = ("plain", "no-image", "depthwise-multiplier", "groups-odd", "cropped-output", "1x1", "width-17")
_MIRRORED = ("same", "groups-odd", "padding-beyond-kernel", "kernel-beyond-image", "dilation-stride", "no-image")


def _case_list() -> dict[str, Problem]:
    cases = {}
    for op in OPS:
        for name, arguments in GEOMETRIES.items():
            cases[f"{op}-{name}"] = make_problem(op, **arguments)
        for name in _NHWC:
            cases[f"{op}-{name}-nhwc"] = make_problem(op, **GEOMETRIES[name], layout="NHWC")
        for dtype in DTYPES:
            cases[f"{op}-{dtype}"] = make_problem(op, **_ODD, dtypes=(dtype, dtype))
            cases[f"{op}-{dtype}-nhwc"] = make_problem(op, **_ODD, dtypes=(dtype, dtype), layout="NHWC")
        cases[f"{op}-uint8-int16"] = make_problem(op, **_ODD, dtypes=("uint8", "int16"), fill_value=200)
        cases[f"{op}-complex-fill"] = make_problem(op, **_ODD, dtypes=("complex64", "complex64"), fill_value=1 - 2j)
        cases[f"{op}-without-bias"] = make_problem(op, bias=False)
    for op in POOL_OPS:
        for name, arguments in GEOMETRIES.items():
            if not name.startswith(("fill", "dilation", "groups", "cropped", "full")):
                cases[f"{op}-{name}"] = make_problem(op, **arguments)
        for dtype in (name for name in DTYPES if np.dtype(name).kind == "f"):
            cases[f"{op}-{dtype}"] = make_problem(op, **_ODD, dtypes=(dtype, dtype))
            cases[f"{op}-{dtype}-nhwc"] = make_problem(op, **_ODD, dtypes=(dtype, dtype), layout="NHWC")
    for op in OPS[:3]:
        for boundary in BOUNDARIES[1:]:
            for name in _MIRRORED:
                cases[f"{op}-{boundary}-{name}"] = make_problem(op, **GEOMETRIES[name], boundary=boundary)
            cases[f"{op}-{boundary}-int32-nhwc"] = make_problem(
                op, **_ODD, boundary=boundary, dtypes=("int32", "int32"), layout="NHWC"
            )
    return cases


#: The fixed problems of the conformance kit, by name.
CASES = _case_list()


def seed_of(name: str) -> int:
    """Return a seed that is the same in every run."""
    return zlib.crc32(name.encode())
