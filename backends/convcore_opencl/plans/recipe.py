"""The words a plan is written in: launches, recipes, what is known of a device, and the -D options all kernels take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from convcore.spi import Pair, Problem

T = TypeVar("T", bound=tuple[Any, ...])

#: Work-items in a group.  Fixed, because PoCL compiles a kernel again for each size it is started with;
#: one for tiles on a CPU, whose compilers would else make vectors across work-items too.
GROUP = 64
#: A reduction over images is split until so many scalar work-items share it ...
ITEMS_WANTED = 16384
#: ... but never into more chunks than this, each of which costs a copy of the result.
MOST_CHUNKS = 256
#: Phases of a stride that are worth a launch each.
MOST_PHASES = 256
INT_MAX = 2**31 - 1
#: A pair of int32.
INT2 = np.dtype((np.void, 8))


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
        Work-items that do something, and work-items in a group.
    buffers : tuple of str
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
    def sizes(self) -> Pair:
        """Work-items in all, a multiple of the group, and in a group."""
        return -(-self.items // self.group) * self.group, self.group

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """The arguments after the buffers, as the driver takes them."""
        return tuple(np.array(value, np.int32) if isinstance(value, tuple) else value for value in self.arguments)

    @cached_property
    def types(self) -> tuple[np.dtype[Any] | None, ...]:
        """The type of each argument; None is a buffer's."""
        buffers = (None, np.dtype(np.int64)) * len(self.buffers)
        return *buffers, *(INT2 if isinstance(value, tuple) else value.dtype for value in self.arguments)

    @cached_property
    def kernel(self) -> tuple[Any, ...]:
        """What launches of the same kernel have in common."""
        return self.file, self.function, self.options, self.types


@dataclass(frozen=True)
class Recipe:
    """What a plan does: launches in order, and the scratch buffers they pass on, in bytes."""

    algorithm: str
    launches: tuple[Launch, ...]
    workspace: dict[str, int] = field(default_factory=dict)
    notes: str = ""

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory in all."""
        return sum(self.workspace.values())


@dataclass(frozen=True)
class Traits:
    """What choosing needs to know of a device.

    Attributes
    ----------
    name, kind : str
        What it is called, and "gpu", "accelerator" or "cpu".
    float64 : bool
        Whether it computes in double precision.
    memory, largest_buffer : int
        In bytes.
    units : int
        Compute units: cores of a CPU.
    vector_bytes : int
        Of the vectors that tiles are made of: a register of AVX2, or of AVX-512 where a probe has seen them work.
    local_memory, largest_group : int
        Bytes of __local memory of a group, and work-items in it at most.
    tensor_cores : str
        "nvidia" where a probe has seen them work, "emulated" in tests; else empty.
    float16 : bool
        Whether a probe has seen numbers of half precision read and written.
    vendor, platform : str
        Who made the device, and the name of its driver's platform.
    families : tuple of str
        The tiled families in the order in which they are tried; empty for the order of the device's kind.
    tiles_per_unit : int
        Tiles that each core of a CPU should have, so that one that is late does not hold up all.
    groups_per_unit : int
        Groups that keep a compute unit of a GPU busy while others wait for memory.
    staged_bytes : int
        Of a panel, or of strips, that are staged at a time: as much as a first-level cache holds.
    winograd_pays : float
        How much faster Winograd's algorithm must promise to be: its estimate is a rough one.
    start_flops : float
        What a product could do in the time that three more launches take; 0 for a guess by the device's kind.
    tile_rates : tuple of (str, float)
        How fast a tile is beside the others of its family: ("strip forward 12x2", 0.45), and 1 where nothing is said.
    tile : tuple of int
        The tile that was chosen by measuring, as its family writes it; empty for the family's own choice.
    unified : bool
        Whether it reads the host's memory as its own, so that no array need be copied.
    """

    name: str
    kind: str = "cpu"
    float64: bool = True
    memory: int = 2**40
    largest_buffer: int = 2**40
    units: int = 2
    vector_bytes: int = 32
    local_memory: int = 2**15
    largest_group: int = 256
    tensor_cores: str = ""
    float16: bool = False
    vendor: str = ""
    platform: str = ""
    families: tuple[str, ...] = ()
    tiles_per_unit: int = 8
    groups_per_unit: int = 2
    staged_bytes: int = 32768
    winograd_pays: float = 1.2
    start_flops: float = 0.0
    tile_rates: tuple[tuple[str, float], ...] = ()
    tile: tuple[int, ...] = ()
    unified: bool = True

    @property
    def tile_group(self) -> int:
        """Work-items in a group of those that keep a tile each."""
        return 1 if self.kind == "cpu" else GROUP

    @property
    def tiles_wanted(self) -> int:
        """Work-items with a tile each that keep the device busy."""
        return self.tiles_per_unit * self.units if self.kind == "cpu" else ITEMS_WANTED

    def chosen(self, tiles: Iterable[T]) -> list[T]:
        """Return those of a family's tiles that begin like the one that was chosen by measuring, or all of them."""
        every = list(tiles)
        return [tile for tile in every if tuple(tile[: len(self.tile)]) == self.tile] or every

    def lanes(self, problem: Problem) -> int:
        """Return the elements of a vector."""
        return self.vector_bytes // problem.result_dtype.itemsize


def split(
    problem: Problem, launch: Launch, wanted: int, room: int, rows: int
) -> tuple[tuple[Launch, ...], dict[str, int]]:
    """Let a launch do a reduction in chunks of its ``rows``, and add the chunks in their order.

    Returns the launches and their workspace; chunks are as many as give ``wanted`` work-items and find room.
    """
    elements = math.prod(problem.result_shape)
    result_bytes = elements * problem.result_dtype.itemsize
    most = min(-(-wanted // launch.items), MOST_CHUNKS, rows, room // result_bytes)
    rows_each = -(-rows // max(most, 1))
    chunks = max(-(-rows // max(rows_each, 1)), 1)
    items = launch.items * chunks
    split = replace(
        launch,
        items=items,
        buffers=(*launch.buffers, "out" if chunks == 1 else "partial"),
        arguments=(*launch.arguments, np.int64(items), np.int64(rows), np.int64(rows_each)),
    )
    if chunks == 1:
        return (split,), {}
    arguments = np.int64(elements), np.int32(chunks)
    addition = Launch("sums.cl", "add_chunks", type_options(problem), elements, ("partial", "out"), arguments)
    return (split, addition), {"partial": chunks * result_bytes}


# ---------------------------------------------------------------- arguments and options


def geometry(problem: Problem) -> tuple[Any, ...]:
    """Return the arguments that direct.cl calls GEOMETRY."""
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


def fill_of(problem: Problem) -> np.generic:
    """Return, in the dtype of the result, what stands beyond the image that is read: 0 beyond grad_input's gradient."""
    return problem.result_dtype.type(0 if problem.op == "grad_input" else complex(problem.fill_value).real)


_C_TYPES = {"f4": "float", "f8": "double", "i1": "char", "i2": "short", "i4": "int", "i8": "long"}
_C_TYPES |= {"u1": "uchar", "u2": "ushort", "u4": "uint"}


def c_type(dtype: np.dtype[Any]) -> str:
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


def vector_options(problem: Problem, device: Traits, lanes: int | None = None) -> tuple[str, ...]:
    """Return the -D options of kernels that use vectors, the device's or of ``lanes`` elements, and read one image."""
    if problem.op == "grad_input":
        problem = replace(problem, boundary="constant")  # the output that it reads has none
    index = "int" if problem.result_dtype.itemsize == 4 else "long"
    return *type_options(problem), f"-DLANES={lanes or device.lanes(problem)}", f"-DINDEX={index}"


def axis_options(taps: int, stride: int, dilation: int, axis: str) -> tuple[str, ...]:
    """Return the -D options of one axis, "H" or "W"."""
    return f"-DTAPS_{axis}={taps}", f"-DSTRIDE_{axis}={stride}", f"-DDILATION_{axis}={dilation if taps > 1 else 1}"


def weight_options(problem: Problem) -> tuple[str, ...]:
    """Return the -D options of both axes of the problem itself."""
    taps, stride, dilation = problem.weight_shape[2:], problem.stride, problem.dilation
    return (
        *axis_options(taps[0], stride[0], dilation[0], "H"),
        *axis_options(taps[1], stride[1], dilation[1], "W"),
    )


def pointwise(problem: Problem) -> bool:
    """Whether each result is of one pixel, and at the same place, so that an image may be taken for one long row."""
    image = problem.input_shape[2:]
    return (
        problem.weight_shape[2:] == problem.stride == (1, 1)
        and not any(map(any, problem.padding))
        and image == problem.output_shape[2:]
        and math.prod(image) <= INT_MAX
    )


def spans(problem: Problem, tile: Pair) -> Iterator[int]:
    """Yield how many rows and columns a tile of the result of forward, or of a phase of grad_input, reads."""
    stride = problem.stride if problem.op == "forward" else (1, 1)
    for outputs, step, taps, dilation in zip(tile, stride, problem.weight_shape[2:], problem.dilation, strict=True):
        yield (outputs - 1) * step + (taps - 1) * dilation + 1


def floats_only(problem: Problem) -> str:
    """Say why kernels of floating point cannot compute a problem; empty when they can."""
    if problem.op == "grad_bias":
        return "does not compute grad_bias, which is a sum"
    if problem.result_dtype.kind != "f":
        return f"computes float32 and float64, not {problem.dtypes[0]}"
    phases_of_stride = math.prod(map(min, problem.stride, problem.input_shape[2:]))
    if problem.op == "grad_input" and phases_of_stride > MOST_PHASES:
        return f"launches {MOST_PHASES} phases of a stride at most, this one has {phases_of_stride}"
    return ""
