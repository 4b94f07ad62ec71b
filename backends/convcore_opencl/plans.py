"""Which kernels run for a problem, over how many work-items, with which -D options.

Nothing here knows a device's API or touches data: a :class:`Recipe` is plain text and numbers,
and ``execute.py`` follows it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convcore.spi import Pair, Problem

#: Work-items in a group.  Fixed, because PoCL compiles a kernel again for each size it is started with;
#: one for tiles on a CPU, whose compilers would else make vectors across work-items too.
GROUP = 64
#: A reduction over images is split until so many work-items share it: scalar ones, and tiles on a CPU ...
ITEMS_WANTED = 16384
TILES_WANTED = 256
#: ... but never into more chunks than this, each of which costs a copy of the result.
MOST_CHUNKS = 256

#: Bytes of a vector of channels: a register of AVX2.  Wider vectors abort PoCL 3.0.
VECTOR_BYTES = 32
#: Accumulators of a tile of taps: 16 registers hold them, a gradient and a pixel.
TAP_ACCUMULATORS = 12
#: Pixels of a tile: the one with the least waste in a row is taken, so a specialisation has three at most.
TILE_PIXELS = (8, 7, 4)
#: Pixels of a row a tile may span; the kernel keeps them in registers or on the stack.
WIDEST_SPAN = 128
#: Rows and vectors of a tile of pixels: at most 12 of the 16 vector registers of AVX2 hold them.
ROW_TILES = ((4, 1), (4, 2), (4, 3))
#: Vectors of outputs that grad_weight stages the pixels of at a time.
SEGMENTS = (1, 2, 4)
#: Pixels under such a tile that are staged; the kernel keeps them on the stack.
MOST_STAGED = 8192
#: Phases of a stride that are worth a launch each.
MOST_PHASES = 256
#: Below so many flops the direct kernels, which are compiled once for all geometries, are soon enough done.
TILING_PAYS = 500_000

_INT_MAX = 2**31 - 1


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
    """

    name: str
    kind: str = "cpu"
    float64: bool = True
    memory: int = 2**40
    largest_buffer: int = 2**40


# ---------------------------------------------------------------- the choice


def recipe(problem: Problem, device: Traits) -> Recipe:
    """Choose how a problem is computed; :func:`refusal` has nothing against it."""
    room = device.largest_buffer if problem.workspace_limit is None else problem.workspace_limit
    if problem.algorithm is not None:
        return ALGORITHMS[problem.algorithm](problem, device, room)
    for algorithm in _preferred(problem):
        if not _inapplicable(problem, algorithm):
            tiled = ALGORITHMS[algorithm](problem, device, room)
            if tiled.workspace_bytes <= room:
                return tiled
    return direct(problem, device, room)


def _preferred(problem: Problem) -> tuple[str, ...]:
    """Name the tiled algorithms worth a try, best first; small problems are done before a tile is compiled."""
    if problem.flops < TILING_PAYS:
        return ()
    read, written = problem.weight_shape[1], problem.output_shape[1] // problem.groups
    if problem.op == "grad_input":
        read, written = written, read
    few = written < _lanes(problem) // 2 or problem.op == "grad_weight"
    if written == 1 or (read == 1 and few):
        return "row_tile", "register_tile"
    return ("register_tile",)


def refusal(problem: Problem, device: Traits) -> str:
    """Return why a device cannot compute a problem, in words; empty when it can."""
    if problem.result_dtype == np.float64 and not device.float64:
        return f"{device.name} does not compute in float64"
    longest = max(_extents(problem))
    if longest > _INT_MAX:
        return f"an extent of {longest} pixels or channels is too large, at most {_INT_MAX}"
    if problem.algorithm is not None and problem.algorithm not in ALGORITHMS:
        return f"algorithm {problem.algorithm!r} is unknown, known are {', '.join(ALGORITHMS)}"
    if problem.algorithm is not None and _inapplicable(problem, problem.algorithm):
        return f"algorithm {problem.algorithm!r} {_inapplicable(problem, problem.algorithm)}"
    return _memory_refusal(problem, device)


def _memory_refusal(problem: Problem, device: Traits) -> str:
    workspace = recipe(problem, device).workspace
    needed = sum(workspace.values())
    if problem.workspace_limit is not None and needed > problem.workspace_limit:
        return (
            f"algorithm {problem.algorithm!r} needs {needed} bytes of workspace, the limit is {problem.workspace_limit}"
        )
    largest = max(*_array_bytes(problem), *workspace.values(), 0)
    if largest > device.largest_buffer:
        return f"a buffer of {largest} bytes is larger than {device.name} allows, {device.largest_buffer}"
    if problem.bytes + needed > device.memory:
        return f"{problem.bytes + needed} bytes are more than the memory of {device.name}, {device.memory}"
    return ""


def _array_bytes(problem: Problem) -> Iterator[int]:
    for shape, dtype in zip(problem.operand_shapes, problem.dtypes, strict=False):
        yield math.prod(shape) * dtype.itemsize
    yield math.prod(problem.result_shape) * problem.result_dtype.itemsize


def _extents(problem: Problem) -> Iterator[int]:
    yield from problem.input_shape + problem.weight_shape + problem.output_shape
    for size, taps, dilation, padding in zip(
        problem.input_shape[2:], problem.weight_shape[2:], problem.dilation, problem.padding, strict=True
    ):
        yield size + sum(padding) + taps * dilation


def _inapplicable(problem: Problem, algorithm: str) -> str:
    """Say why an algorithm cannot compute a problem; empty when it can."""
    if algorithm == "direct":
        return ""
    if problem.op == "grad_bias":
        return "does not compute grad_bias, which is a sum"
    if problem.result_dtype.kind != "f":
        return f"computes float32 and float64, not {problem.dtypes[0]}"
    phases_of_stride = math.prod(map(min, problem.stride, problem.input_shape[2:]))
    if problem.op == "grad_input" and phases_of_stride > MOST_PHASES:
        return f"launches {MOST_PHASES} phases of a stride at most, this one has {phases_of_stride}"
    stride = problem.stride if problem.op != "grad_input" else (1, 1)
    if algorithm == "row_tile":
        height, width = (max(tile) for tile in zip(*ROW_TILES, (1, max(SEGMENTS)), strict=True))
        staged = math.prod(_spans(problem, (height, width * _lanes(problem)), stride))
        return f"stages {MOST_STAGED} pixels at most, these tiles need {staged}" if staged > MOST_STAGED else ""
    _, span = _spans(problem, (1, max(TILE_PIXELS)), stride)
    if problem.op != "grad_weight" and span > WIDEST_SPAN:
        return f"takes tiles that span {WIDEST_SPAN} pixels of a row, these span {span}"
    return ""


def _spans(problem: Problem, tile: Pair, stride: Pair) -> Iterator[int]:
    """Yield how many rows and columns of the input a tile of the output reads."""
    for outputs, step, taps, dilation in zip(tile, stride, problem.weight_shape[2:], problem.dilation, strict=True):
        yield (outputs - 1) * step + (taps - 1) * dilation + 1


# ---------------------------------------------------------------- direct


def direct(problem: Problem, device: Traits, room: int) -> Recipe:
    """Compute the formula as it is written, one result element per work-item."""
    options = type_options(problem)
    if problem.op == "grad_weight":
        elements = math.prod(problem.weight_shape)
        launch = Launch(
            "direct.cl", "grad_weight", options, elements, ("first", "second"), (*_geometry(problem), _fill(problem))
        )
        return Recipe("direct", *_split(problem, launch, ITEMS_WANTED, room))
    if problem.op == "grad_bias":
        launch = Launch("sums.cl", "channel_sum", options, problem.output_shape[1], ("first",), _geometry(problem)[2:4])
        return Recipe("direct", *_split(problem, launch, ITEMS_WANTED, room))
    items = math.prod(problem.result_shape)
    if problem.op == "grad_input":
        arguments = _folding(problem)
    else:
        arguments = (*_geometry(problem), _fill(problem), np.int64(items))
    launch = Launch("direct.cl", problem.op, options, items, ("first", "second", "bias", "out"), arguments)
    return Recipe("direct", (launch,))


def _folding(problem: Problem) -> tuple[Any, ...]:
    after = problem.padding[0][1], problem.padding[1][1]
    return *_geometry(problem), after, np.int64(math.prod(problem.input_shape))


def _folds(problem: Problem) -> bool:
    return problem.op == "grad_input" and problem.boundary != "constant" and any(map(any, problem.padding))


def _fold(problem: Problem) -> Launch:
    """Add to grad_input what falls on padding that holds pixels of the image: little, so directly."""
    items = math.prod(problem.input_shape)
    buffers = "first", "second", "out"
    return Launch("direct.cl", "fold", type_options(problem), items, buffers, _folding(problem))


def _split(problem: Problem, launch: Launch, wanted: int, room: int) -> tuple[tuple[Launch, ...], dict[str, int]]:
    """Let a launch do a reduction over images in chunks of rows, and add the chunks in their order.

    Returns the launches and their workspace; chunks are as many as give ``wanted`` work-items and find room.
    """
    rows = problem.output_shape[0] * problem.output_shape[2]
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


# ---------------------------------------------------------------- register tile


@dataclass(frozen=True)
class Axis:
    """One axis of a dense correlation that writes every ``step``-th position of its result.

    Position i of the grid reads input positions ``i * stride + t * dilation - before`` with taps t,
    which are taps ``first_tap + t * tap_step`` of the weight.
    """

    taps: int
    stride: int
    dilation: int
    before: int
    grid: int
    first: int = 0
    step: int = 1
    first_tap: int = 0
    tap_step: int = 1


def phases(size: int, taps: int, stride: int, dilation: int, before: int) -> Iterator[Axis]:
    """Split one axis of grad_input into dense correlations, one for each phase of the stride.

    Tap r carries output position p to input position h = p * stride + r * dilation - before, so the
    positions h of one phase, h + before = phase (mod stride), have the same taps: every
    (stride / gcd)-th.  A phase that no tap reaches has ``taps=0``.
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", section 4.

    Parameters
    ----------
    size : int
        Of the input, in pixels.
    taps, stride, dilation, before : int
        Of the forward correlation; ``before`` is the padding at the start.
    """
    common = math.gcd(stride, dilation)
    tap_step, dense = stride // common, dilation // common
    for first in range(min(stride, size)):
        grid = -(-(size - first) // stride)
        reaching = [r for r in range(taps) if (first + before - r * dilation) % stride == 0]
        if not reaching:
            yield Axis(0, 1, 1, 0, grid, first, stride)
            continue
        # The gather runs from the last tap to the first: larger taps come from smaller positions.
        position = (first + before - reaching[-1] * dilation) // stride
        yield Axis(len(reaching), 1, dense, -position, grid, first, stride, reaching[-1], -tap_step)


@dataclass(frozen=True)
class Dense:
    """A dense correlation: of an image of ``channels``, to the grid of ``rows`` and ``columns`` of the result.

    ``depth`` is the number of channels added up, 0 where no tap reaches; ``blocks`` counts vectors of
    output channels in a group.
    """

    rows: Axis
    columns: Axis
    channels: int
    image: Pair
    out_channels: int
    result: Pair
    depth: int
    blocks: int


def register_tile(problem: Problem, device: Traits, room: int) -> Recipe:
    """Keep a tile of output channels by pixels, or by taps, in registers; what they share is packed first."""
    if problem.op == "grad_weight":
        return _weight_tile(problem, device, room)
    launches: list[Launch] = []
    workspace: dict[str, int] = {}
    for rows, columns in _dense_axes(problem):
        dense = _dense(problem, rows, columns)
        packed = f"packed{len(workspace)}"
        pack = _pack_weights(problem, dense, packed)
        workspace[packed] = max(pack.items, 1) * VECTOR_BYTES
        launches += [pack] if pack.items else []
        launches.append(_correlate(problem, dense, packed, device))
    if _folds(problem):
        launches.append(_fold(problem))
    tile = f"tile of {_lanes(problem)} channels x {_pixels(columns.grid)} pixels, {len(workspace)} launch(es)"
    return Recipe("register_tile", tuple(launches), workspace, tile)


def _dense_axes(problem: Problem) -> Iterator[tuple[Axis, Axis]]:
    before = (padding[0] for padding in problem.padding)
    geometry = zip(problem.weight_shape[2:], problem.stride, problem.dilation, before, strict=True)
    if problem.op == "grad_input":
        rows, columns = (phases(size, *axis) for size, axis in zip(problem.input_shape[2:], geometry, strict=True))
        yield from itertools.product(rows, columns)
    else:
        rows, columns = (Axis(*axis, grid) for axis, grid in zip(geometry, problem.output_shape[2:], strict=True))
        yield rows, columns


def _dense(problem: Problem, rows: Axis, columns: Axis) -> Dense:
    shapes = problem.input_shape, problem.output_shape
    source, target = shapes if problem.op == "forward" else shapes[::-1]
    image, result = source[2:], target[2:]
    depth = source[1] // problem.groups if rows.taps and columns.taps else 0
    blocks = -(-(target[1] // problem.groups) // _lanes(problem))
    rows, columns = (replace(axis, taps=max(axis.taps, 1)) for axis in (rows, columns))
    pointwise = _pointwise(rows, image[0], result[0]) and _pointwise(columns, image[1], result[1])
    if pointwise and math.prod(image) <= _INT_MAX:
        # A 1x1 weight cannot tell an image from one long row, which tiles cover better.
        image = result = 1, math.prod(image)
        rows, columns = replace(rows, grid=1), replace(columns, grid=image[1])
    return Dense(rows, columns, source[1], image, target[1], result, depth, blocks)


def _tile_options(problem: Problem, dense: Dense) -> tuple[str, ...]:
    return *_dense_options(problem, dense), f"-DPIXELS={_pixels(dense.columns.grid)}"


def _dense_options(problem: Problem, dense: Dense) -> tuple[str, ...]:
    if problem.op == "grad_input":
        problem = replace(problem, boundary="constant")  # the output that it reads has none
    return (
        *type_options(problem),
        *_vector_options(problem),
        *_axis_options(dense.rows.taps, dense.rows.stride, dense.rows.dilation, "H"),
        *_axis_options(dense.columns.taps, dense.columns.stride, dense.columns.dilation, "W"),
        f"-DSKIP_OUTSIDE={int(problem.op == 'grad_input')}",
    )


def _pack_weights(problem: Problem, dense: Dense, packed: str) -> Launch:
    items = problem.groups * dense.blocks * dense.depth * dense.rows.taps * dense.columns.taps
    arguments = (
        *(np.int64(items), np.int32(dense.out_channels // problem.groups), np.int32(dense.depth)),
        *_weight_steps(problem, dense),
    )
    return Launch("register_tile.cl", "pack", _tile_options(problem, dense), items, ("second", packed), arguments)


def _weight_steps(problem: Problem, dense: Dense) -> tuple[Any, ...]:
    """Say where the taps of a dense correlation lie in the weight."""
    rows, columns, taps = dense.rows, dense.columns, problem.weight_shape[2:]
    plane = math.prod(taps)
    steps = np.int64(problem.weight_shape[1] * plane), np.int64(plane)
    return (
        taps,
        np.int64(math.prod(problem.weight_shape) // problem.groups),
        *(steps if problem.op == "forward" else steps[::-1]),
        (rows.first_tap, columns.first_tap),
        (rows.tap_step, columns.tap_step),
    )


def _dense_arguments(problem: Problem, dense: Dense) -> tuple[Any, ...]:
    rows, columns = dense.rows, dense.columns
    return (
        *(np.int32(dense.channels), dense.image, np.int32(dense.out_channels), dense.result),
        *(np.int32(problem.groups), np.int32(dense.depth)),
        (rows.before, columns.before),
        (rows.grid, columns.grid),
        (rows.step, columns.step),
        (rows.first, columns.first),
        _fill(problem) if problem.op == "forward" else problem.result_dtype.type(0),
    )


def _correlate(problem: Problem, dense: Dense, packed: str, device: Traits) -> Launch:
    tiles = dense.rows.grid * -(-dense.columns.grid // _pixels(dense.columns.grid))
    items = problem.input_shape[0] * problem.groups * dense.blocks * tiles
    arguments = *_dense_arguments(problem, dense), np.int64(items)
    options, buffers = _tile_options(problem, dense), ("first", packed, "bias", "out")
    return Launch("register_tile.cl", "correlate", options, items, buffers, arguments, _tile_group(device))


def row_tile(problem: Problem, device: Traits, room: int) -> Recipe:
    """Keep a tile of neighbouring pixels of one output channel in registers; the pixels it reads are staged."""
    if problem.op == "grad_weight":
        return _row_weight(problem, device, room)
    launches: list[Launch] = []
    for rows, columns in _dense_axes(problem):
        dense = _dense(problem, rows, columns)
        launches.append(_correlate_rows(problem, dense, device))
    if _folds(problem):
        launches.append(_fold(problem))
    height, vectors = _row_tile(problem, dense)
    tile = f"tile of {height} rows x {vectors * _lanes(problem)} pixels, {len(launches)} launch(es)"
    return Recipe("row_tile", tuple(launches), notes=tile)


def _correlate_rows(problem: Problem, dense: Dense, device: Traits) -> Launch:
    rows, columns = dense.rows, dense.columns
    height, vectors = _row_tile(problem, dense)
    tiles = -(-rows.grid // height) * -(-columns.grid // (vectors * _lanes(problem)))
    items = problem.input_shape[0] * dense.out_channels * tiles
    geometry = _dense_arguments(problem, dense)
    arguments = (*geometry[:6], *_weight_steps(problem, dense), *geometry[6:], np.int64(items))
    options = (
        *_dense_options(problem, dense),
        f"-DTILE_H={height}",
        f"-DVECTORS={vectors}",
    )
    buffers = "first", "second", "bias", "out"
    return Launch("row_tile.cl", "correlate", options, items, buffers, arguments, _tile_group(device))


def _row_weight(problem: Problem, device: Traits, room: int) -> Recipe:
    """Keep the taps of one pair of channels in registers."""
    _, depth, *taps = problem.weight_shape
    lanes, width = _lanes(problem), problem.output_shape[3]
    height, columns, _ = tap_tile((taps[0], taps[1]), 1)
    vectors = min(SEGMENTS, key=lambda vectors: -(-width // (vectors * lanes)) * (vectors + 2))
    options = (
        *type_options(problem),
        *_vector_options(problem),
        *(f"-DTILE_H={height}", f"-DTILE_W={columns}", f"-DVECTORS={vectors}"),
        *_axis_options(taps[0], problem.stride[0], problem.dilation[0], "H"),
        *_axis_options(taps[1], problem.stride[1], problem.dilation[1], "W"),
    )
    geometry = _geometry(problem)
    items = problem.weight_shape[0] * depth * -(-taps[0] // height) * -(-taps[1] // columns)
    arguments = *geometry[:6], geometry[-1], _fill(problem)
    buffers = "first", "second"
    launch = Launch("row_weight.cl", "correlate", options, items, buffers, arguments, _tile_group(device))
    wanted = TILES_WANTED if device.kind == "cpu" else ITEMS_WANTED
    tile = f"tile of {height}x{columns} taps x {lanes} pixels"
    return Recipe("row_tile", *_split(problem, launch, wanted, room), tile)


def _row_tile(problem: Problem, dense: Dense) -> Pair:
    """Return the (rows, vectors) that cover the grid in the least time; a tile costs about two vectors of its own."""
    lanes, grid = _lanes(problem), (dense.rows.grid, dense.columns.grid)
    return min(
        ROW_TILES, key=lambda tile: -(-grid[0] // tile[0]) * -(-grid[1] // (tile[1] * lanes)) * (math.prod(tile) + 2)
    )


def _pointwise(axis: Axis, size: int, result_size: int) -> bool:
    return (axis.taps, axis.stride, axis.before, axis.step) == (1, 1, 0, 1) and size == axis.grid == result_size


def _pixels(grid: int) -> int:
    """Return the tile that covers a row of the grid in the least time; a tile costs about one pixel of its own."""
    return min(TILE_PIXELS, key=lambda pixels: -(-grid // pixels) * (pixels + 1))


def _lanes(problem: Problem) -> int:
    return VECTOR_BYTES // problem.result_dtype.itemsize


def _vector_options(problem: Problem) -> tuple[str, ...]:
    index = "int" if problem.result_dtype.itemsize == 4 else "long"
    return f"-DLANES={_lanes(problem)}", f"-DINDEX={index}"


def _tile_group(device: Traits) -> int:
    return 1 if device.kind == "cpu" else GROUP


def _axis_options(taps: int, stride: int, dilation: int, axis: str) -> tuple[str, ...]:
    return f"-DTAPS_{axis}={taps}", f"-DSTRIDE_{axis}={stride}", f"-DDILATION_{axis}={dilation if taps > 1 else 1}"


def _weight_tile(problem: Problem, device: Traits, room: int) -> Recipe:
    """Tile grad_weight: taps take the place of pixels."""
    _, depth, *taps = problem.weight_shape
    n, k, p, q = problem.output_shape
    groups, lanes = problem.groups, _lanes(problem)
    blocks = -(-(k // groups) // lanes)
    height, width, channels = tap_tile((taps[0], taps[1]), depth)
    options = (
        *type_options(problem),
        *_vector_options(problem),
        *(f"-DTILE_H={height}", f"-DTILE_W={width}", f"-DCHANNELS={channels}"),
        *_axis_options(taps[0], problem.stride[0], problem.dilation[0], "H"),
        *_axis_options(taps[1], problem.stride[1], problem.dilation[1], "W"),
    )
    geometry = _geometry(problem)
    packed_items = n * groups * blocks * p * q
    pack = Launch(
        "weight_tile.cl", "pack", options, packed_items, ("second", "packed"), (*geometry[2:5], np.int64(packed_items))
    )
    tiles = -(-taps[0] // height) * -(-taps[1] // width) * -(-depth // channels)
    arguments = (*geometry[:6], geometry[-1], _fill(problem))
    correlate = Launch(
        "weight_tile.cl",
        "correlate",
        options,
        groups * blocks * tiles,
        ("first", "packed"),
        arguments,
        _tile_group(device),
    )
    wanted = TILES_WANTED if device.kind == "cpu" else ITEMS_WANTED
    packed_bytes = max(packed_items, 1) * VECTOR_BYTES
    launches, workspace = _split(problem, correlate, wanted, max(room - packed_bytes, 0))
    return Recipe(
        "register_tile",
        (pack, *launches) if packed_items else launches,
        {"packed": packed_bytes, **workspace},
        f"tile of {lanes} channels x {channels} channels x {height}x{width} taps",
    )


def tap_tile(taps: Pair, depth: int) -> tuple[int, int, int]:
    """Return the (rows, columns, channels) of taps that fill the accumulators best.

    Tiles of one row or column of tiles are made equally large; channels are a power of two, so that
    nothing is compiled for a particular depth.
    """
    width = _even(taps[1], TAP_ACCUMULATORS)
    height = _even(taps[0], TAP_ACCUMULATORS // width)
    most = min(TAP_ACCUMULATORS // (height * width), depth)
    return height, width, 2 ** int(math.log2(most))


def _even(size: int, most: int) -> int:
    return -(-size // -(-size // most))


ALGORITHMS: dict[str, Callable[[Problem, Traits, int], Recipe]] = {
    "direct": direct,
    "register_tile": register_tile,
    "row_tile": row_tile,
}


# ---------------------------------------------------------------- arguments and options


def _geometry(problem: Problem) -> tuple[Any, ...]:
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


#: Work-items that look for the extremes of an array.
EXTREMES = 1024


def extremes(dtype: np.dtype[Any], elements: int) -> Launch:
    """Look for the smallest and largest integer in buffer "first": they are in the (EXTREMES, 2) longs of "out"."""
    options = f"-DFIRST={c_type(dtype)}", "-DRESULT=long", "-DNHWC=0", "-DBOUNDARY_CONSTANT=1"
    arguments = np.int64(elements), np.int64(EXTREMES)
    return Launch("sums.cl", "extremes", options, EXTREMES, ("first", "out"), arguments)


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
