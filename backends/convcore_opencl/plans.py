"""Which kernels run for a problem, over how many work-items, with which -D options.

Nothing here knows a device's API or touches data: a :class:`Recipe` is plain text and numbers,
and ``execute.py`` follows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from convcore.spi import Pair, Problem

#: Work-items in a group where a kernel does not care.  Fixed, because PoCL compiles for each size anew.
GROUP = 64
#: A reduction over images is split until this many work-items share it ...
ITEMS_WANTED = 16384
#: ... but never into more chunks than this, each of which costs a copy of the result.
MOST_CHUNKS = 256

Argument = str | Pair | np.generic


@dataclass(frozen=True)
class Launch:
    """One kernel call.

    Attributes
    ----------
    file, function : str
        Which kernel.
    options : tuple of str
        The -D options it is built with.
    items, group : int
        Work-items in all (rounded up to whole groups), and in a group.
    buffers : tuple of str or None
        The leading arguments, by name: "first", "second", "bias", "out" or one of the recipe's
        workspace.  Each is passed with the position of its first element.
    arguments : tuple
        The rest: NumPy scalars, and pairs that become an int2.
    """

    file: str
    function: str
    options: tuple[str, ...]
    items: int
    buffers: tuple[str, ...]
    arguments: tuple[Pair | np.generic, ...]
    group: int = GROUP

    @property
    def sizes(self) -> tuple[int, int]:
        """Work-items in all, a multiple of the group, and in a group."""
        return -(-self.items // self.group) * self.group, self.group


@dataclass(frozen=True)
class Recipe:
    """What a plan does: launches in order, and the scratch buffers they pass on, in bytes."""

    algorithm: str
    launches: tuple[Launch, ...]
    workspace: dict[str, int] = field(default_factory=dict)
    notes: str = ""


def recipe(problem: Problem) -> Recipe:
    """Choose how a problem is computed."""
    return direct(problem)


# ---------------------------------------------------------------- direct


def direct(problem: Problem) -> Recipe:
    """Compute the formula as it is written, one result element per work-item."""
    if problem.op == "grad_weight":
        return _split(problem, "direct.cl", "grad_weight", ("first", "second"), (*_geometry(problem), _fill(problem)))
    if problem.op == "grad_bias":
        return _split(problem, "sums.cl", "channel_sum", ("first",), _geometry(problem)[2:4])
    items = math.prod(problem.result_shape)
    arguments = (*_geometry(problem), _fill(problem), np.int64(items))
    buffers = ("first", "second", "bias", "out")
    return Recipe("direct", (Launch("direct.cl", problem.op, type_options(problem), items, buffers, arguments),))


def _split(problem: Problem, file: str, function: str, operands: tuple[str, ...], arguments) -> Recipe:
    """Split a reduction over images into chunks of rows, and add the chunks in their order."""
    elements, rows = math.prod(problem.result_shape), problem.output_shape[0] * problem.output_shape[2]
    chunks, per_chunk = split(problem, elements, rows)
    target = "out" if chunks == 1 else "partial"
    numbers = (np.int64(elements * chunks), np.int64(rows), np.int64(per_chunk))
    options = type_options(problem)
    first = Launch(file, function, options, elements * chunks, (*operands, target), (*arguments, *numbers))
    if chunks == 1:
        return Recipe("direct", (first,))
    return Recipe("direct", (first, add_chunks(problem, chunks)), {"partial": chunks * _result_bytes(problem)})


def split(problem: Problem, items: int, rows: int) -> Pair:
    """Return (chunks, rows in each) for a reduction over ``rows`` rows of pixels that ``items`` work-items do."""
    wanted = min(-(-ITEMS_WANTED // items), MOST_CHUNKS, rows)
    if problem.workspace_limit is not None:
        wanted = min(wanted, problem.workspace_limit // _result_bytes(problem))
    per_chunk = -(-rows // max(wanted, 1))
    return max(-(-rows // max(per_chunk, 1)), 1), per_chunk


def add_chunks(problem: Problem, chunks: int) -> Launch:
    """Add the copies of a result that the chunks of a reduction left in the buffer "partial"."""
    elements = math.prod(problem.result_shape)
    arguments = np.int64(elements), np.int32(chunks)
    return Launch("sums.cl", "add_chunks", type_options(problem), elements, ("partial", "out"), arguments)


def _result_bytes(problem: Problem) -> int:
    return math.prod(problem.result_shape) * problem.result_dtype.itemsize


def _geometry(problem: Problem) -> tuple[Pair | np.generic, ...]:
    return (
        np.int32(problem.input_shape[1]),
        problem.input_shape[2:],
        np.int32(problem.output_shape[1]),
        problem.output_shape[2:],
        np.int32(problem.groups),
        problem.weight_shape[2:],
        problem.stride,
        problem.dilation,
        (problem.padding[0][0], problem.padding[1][0]),
    )


def _fill(problem: Problem) -> np.generic:
    return problem.result_dtype.type(complex(problem.fill_value).real)


# ---------------------------------------------------------------- options

_C_TYPES = {"f4": "float", "f8": "double", "i1": "char", "i2": "short", "i4": "int", "i8": "long"}
_C_TYPES |= {"u1": "uchar", "u2": "ushort", "u4": "uint"}


def c_type(dtype: np.dtype) -> str:
    """Return OpenCL C's name of a dtype."""
    return _C_TYPES[dtype.str[1:]]


def type_options(problem: Problem) -> tuple[str, ...]:
    """Return the -D options every kernel file takes (see common.cl)."""
    first, second = problem.dtypes
    return (
        f"-DFIRST={c_type(first)}",
        f"-DSECOND={c_type(second)}",
        f"-DRESULT={c_type(problem.result_dtype)}",
        f"-DNHWC={int(problem.layout == 'NHWC')}",
        f"-DBOUNDARY_{problem.boundary.upper()}=1",
    )
