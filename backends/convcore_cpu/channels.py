"""Forward and grad_input by outer products whose lanes are channels of the result (``kernels/channels.h``).

The geometry is that of ``correlate.py``; the weight is what is packed, once for all pixels, and a task copies what its
piece of the result reads into a band.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from convcore_cpu.correlate import CALL_CYCLES, exact_in_place
from convcore_cpu.direction import (
    Direction,
    Gather,
    forward_direction,
    grad_input_direction,
    is_in_pages,
    place_result,
    weight_taps,
)
from convcore_cpu.engine import MAX_BAND_BYTES, MicroKernel
from convcore_cpu.geometry import Tap
from convcore_cpu.layout import Layout, whole
from convcore_cpu.program import FIRST, SECOND, WORKSPACE, Draft, Step, UnsupportedError
from convcore_cpu.tiles import panel_kernel

#: What a tile reads of a chunk of channels stays in the first-level cache (bytes).
PIXEL_BYTES = 24 << 10
#: A band and the sums of a task stay in the second-level cache (bytes).
BAND_BYTES, SUM_BYTES = 256 << 10, 256 << 10
#: The part of the weight that the tiles of a task meet stays there as well (bytes).
WEIGHT_BYTES = 1 << 20
#: What a task packs at a time for itself (bytes).
OWN_BYTES = 160 << 10
#: Pieces are no wider (pixels), and no larger where more tasks are no longer needed.
WIDEST, LARGEST = 256, 512
#: Tasks there should be for each thread, so that all end at about the same time.
TASKS_PER_THREAD = 4
#: No vector has more lanes.
MAX_LANES = 16
# What it takes to pack an element of the weight tap by tap, or turned by a task, to copy one to a band, and to store
# one of the result (cycles).
TAP_CYCLES, TURNED_CYCLES, BAND_CYCLES, STORE_CYCLES = 0.8, 0.4, 0.4, 0.5
# The same where each is in another page.
FAR_TAP_CYCLES = 1.5
#: How many times as long as the model says pieces on the stack take (measured: 1.1 to 2).
ON_STACK = 1.5


def forward_channels(layout: Layout) -> Draft:
    """Lay out forward by channels."""
    problem = layout.problem
    return _program(layout, forward_direction(layout), problem.fill_value, problem.boundary)


def grad_input_channels(layout: Layout) -> Draft:
    """Lay out grad_input by channels; where there is a NaN, the exact steps of outer products follow."""
    return _program(layout, grad_input_direction(layout), 0, "constant")


@dataclass(frozen=True)
class Pieces:
    """How many parts lines and columns of the result are cut into; the channels and panels a task takes at a time.

    ``packs``: a task packs what it needs of the weight for itself.
    """

    extent: tuple[int, int]
    parts: tuple[int, int]
    at_once: int
    panels_per_task: int
    packs: bool = False

    @property
    def largest(self) -> tuple[int, int]:
        """Lines and columns of the largest piece."""
        (lines, columns), (down, across) = self.extent, self.parts
        return max(1, -(-lines // max(1, down))), max(1, -(-columns // max(1, across)))

    def table(self) -> np.ndarray:
        """Return (line, column, lines, columns) of every piece."""
        lines, columns = map(_cut, self.extent, self.parts)
        return np.array([(i, j, h, w) for i, h in lines for j, w in columns], np.int64).reshape(-1, 4)


@dataclass(frozen=True)
class Scratch:
    """Where a task has what in its scratch memory, after the sums; and how its band is laid out."""

    plane: int
    pitch: int
    phase: int
    turned: int
    band: int
    weight: int
    size: int

    @classmethod
    def of(cls, layout: Layout, direction: Direction, kernel: MicroKernel, pieces: Pieces) -> Scratch:
        """Lay out what the largest piece needs."""
        (more_lines, more_columns), (lines, columns) = _reach(direction), pieces.largest
        # Channels of a line side by side, and a vector of room after them and after each phase, see band.h.
        plane = columns + more_columns
        pitch = pieces.at_once * plane + MAX_LANES
        phase = (lines + more_lines) * pitch + MAX_LANES
        most_tiles = len(direction.gathers) * -(-lines * columns // kernel.rows)
        turned = most_tiles * pieces.panels_per_task * kernel.rows * kernel.columns + MAX_LANES * kernel.columns
        band = turned + kernel.columns * MAX_LANES
        phases = len(direction.lines.starts) * len(direction.columns.starts)
        weight = -(-(band + phase * phases + MAX_LANES) // MAX_LANES) * MAX_LANES
        packed = pieces.at_once * _taps(direction) * kernel.columns * pieces.panels_per_task if pieces.packs else 0
        return cls(plane, pitch, phase, turned, band, weight, weight + packed)


def _program(layout: Layout, direction: Direction, fill: complex, boundary: str) -> Draft:
    if not layout.turn or not (layout.is_direct(FIRST) and layout.is_direct(SECOND)):
        raise UnsupportedError("its algorithm 'channels' is for float32 and float64")
    if layout.problem.op == "grad_input" and layout.problem.layout != "NCHW":
        raise UnsupportedError("its algorithm 'channels' wants NCHW for grad_input")
    if layout.prepacked and direction.watch_nan:
        raise UnsupportedError("its algorithm 'channels' packs only what it need not look at again")
    layout.batch = max(layout.images, 1)
    if direction.folded:
        layout.set_batch(direction.out_image)
    # The choice of an algorithm decides bits, so it must not depend on how many threads there are.
    cycles, kernel, pieces = _cheapest(layout, direction, 2)
    yield layout.cost(cycles)
    if layout.most_threads != 2 and not layout.on_stack:
        _, kernel, pieces = _cheapest(layout, direction, layout.most_threads)
    places, folding = place_result(layout, direction)
    weights: list[tuple[int, tuple[Step, ...]]] = [(0, ()) for _ in direction.gathers]
    if not pieces.packs:
        weights = [_pack_weight(layout, direction, gather, kernel) for gather in direction.gathers]
    step = _step(layout, direction, kernel, pieces, [offset for offset, _ in weights], places, fill, boundary)
    packing = () if layout.prepacked else tuple(step for _, steps in weights for step in steps)
    exact = exact_in_place(layout, direction, places) if direction.watch_nan else ()
    return layout.program(
        "channels",
        kernel.name,
        cycles,
        before=(packing,),
        each=((step,), folding),
        exact=(exact, folding) if exact else (),
    )


def _cheapest(layout: Layout, direction: Direction, threads: int) -> tuple[float, MicroKernel, Pieces]:
    """Return the cycles, the kernel and the pieces that take the fewest where so many threads share the work."""
    if layout.on_stack:
        kernel, pieces = _pieces_on_stack(layout, direction)
        return _cycles(layout, direction, kernel, pieces), kernel, pieces
    pixels = math.prod(_extent(direction))
    kernel, _ = panel_kernel(layout.micro_kernels, min(pixels, LARGEST), len(direction.rows))
    pieces = _pieces(layout, direction, kernel, threads)
    ways = [(_cycles(layout, direction, kernel, pieces), kernel, pieces), *_whole_pieces(layout, direction, threads)]
    return min(ways, key=lambda way: way[0])


def _cycles(layout: Layout, direction: Direction, kernel: MicroKernel, pieces: Pieces) -> float:
    """Estimate the cycles: products, copies to bands, results turned, and a weight packed tap by tap."""
    rows, channels = len(direction.rows), direction.channels // layout.groups
    lines, columns = pieces.largest
    taps = _taps(direction)
    copied = channels * math.prod(len(axis.starts) for axis in (direction.lines, direction.columns))
    copied *= math.prod(size + more for size, more in zip(pieces.largest, _reach(direction), strict=True))
    panels = -(-rows // kernel.columns)
    shares, chunks = -(-panels // pieces.panels_per_task), -(-channels // pieces.at_once)
    tiles = len(direction.gathers) * -(-lines * columns // kernel.rows)
    per_piece = (
        channels * taps * panel_kernel([kernel], lines * columns, rows)[1]
        + len(direction.gathers) * lines * columns * rows * STORE_CYCLES
        + shares * copied * BAND_CYCLES
        + chunks * tiles * panels * CALL_CYCLES
    )
    cycles = layout.images * layout.groups * math.prod(pieces.parts) * per_piece
    weights, in_line = layout.groups * channels * taps, direction.weight_term == layout.taps
    if pieces.packs:  # every task packs its panels
        packed = layout.images * math.prod(pieces.parts) * panels * kernel.columns
        each = TURNED_CYCLES if in_line else TAP_CYCLES
        return (ON_STACK if layout.on_stack else 1.0) * (cycles + weights * packed * each)
    if layout.prepacked or in_line:
        return cycles
    return cycles + weights * rows * (FAR_TAP_CYCLES if is_in_pages(layout, direction) else TAP_CYCLES)


def _extent(direction: Direction) -> tuple[int, int]:
    """Return how many lines and columns the largest gather has."""
    return max(gather.lines for gather in direction.gathers), max(gather.width for gather in direction.gathers)


def _reach(direction: Direction) -> tuple[int, int]:
    """Return how many positions past its last line and column a gather meets, at most."""
    return (
        max((tap.offset for gather in direction.gathers for tap in gather.line_taps), default=0),
        max((tap.offset for gather in direction.gathers for tap in gather.column_taps), default=0),
    )


def _pieces(layout: Layout, direction: Direction, kernel: MicroKernel, threads: int) -> Pieces:
    """Cut the result so that there are tasks enough, and what a task needs at hand stays in the caches."""
    lines, width = _extent(direction)
    channels, panels = direction.channels // layout.groups, -(-len(direction.rows) // kernel.columns)
    wanted = TASKS_PER_THREAD * threads
    cuts = -(-width // WIDEST)
    repeats = max(1, layout.images * layout.groups * cuts)
    wide = -(-width // max(1, cuts))
    high = max(1, min(LARGEST // max(1, wide), -(-lines // -(-wanted // repeats))))
    down = -(-lines // high)
    sum_bytes = len(direction.gathers) * (high * wide + kernel.rows) * kernel.columns * layout.itemsize
    band_bytes = (
        (high + _reach(direction)[0])
        * wide
        * len(direction.lines.starts)
        * len(direction.columns.starts)
        * layout.itemsize
    )
    chunks = max(_chunks_of_pixels(direction, channels), channels * band_bytes // BAND_BYTES) + 1
    at_once = max(1, -(-channels // chunks))
    weight_bytes = at_once * max(1, *(gather.taps for gather in direction.gathers)) * kernel.columns * layout.itemsize
    most = max(1, min(SUM_BYTES // sum_bytes, WEIGHT_BYTES // weight_bytes))
    # The panels are shared out, and bands copied for each share, where there are too few pieces or too many panels.
    shares = max(-(-panels // most), min(panels, -(-wanted // (repeats * max(1, down)))))
    return Pieces((lines, width), (down, cuts), at_once, -(-panels // max(1, shares)))


def _whole_pieces(layout: Layout, direction: Direction, threads: int) -> Iterator[tuple[float, MicroKernel, Pieces]]:
    """Yield cycles, kernels and pieces by which tasks pack for themselves, where one piece has all pixels.

    Each element of the weight is then packed once, and read from the cache of the core that packed it.
    """
    extent, channels = _extent(direction), direction.channels // layout.groups
    pixels = math.prod(extent)
    if layout.prepacked or layout.images != 1 or not 0 < pixels <= LARGEST or not channels:
        return
    taps, widest = _taps(direction), layout.micro_kernels[-1].isa
    for kernel in layout.micro_kernels:
        if kernel.algorithm != "panel" or kernel.isa != widest:
            continue
        for panels in (1, 2):
            lanes = panels * kernel.columns
            if len(direction.gathers) * pixels * lanes * layout.itemsize > SUM_BYTES:
                continue
            chunks = max(_chunks_of_pixels(direction, channels), channels * taps * lanes * layout.itemsize // OWN_BYTES)
            pieces = Pieces(extent, (1, 1), -(-channels // (chunks + 1)), panels, packs=True)
            tasks = layout.groups * -(-len(direction.rows) // lanes)
            idle = -(-tasks // threads) * threads / tasks
            yield idle * _cycles(layout, direction, kernel, pieces), kernel, pieces


def _taps(direction: Direction) -> int:
    """Return how many taps all gathers meet."""
    return sum(gather.taps for gather in direction.gathers)


def _chunks_of_pixels(direction: Direction, channels: int) -> int:
    """Return how often the first-level cache would be filled by what a tile reads of so many channels."""
    lines = max(gather.lines_met for gather in direction.gathers)
    return channels * lines * 128 // PIXEL_BYTES


def _pieces_on_stack(layout: Layout, direction: Direction) -> tuple[MicroKernel, Pieces]:
    """Cut the result so that all that a task needs fits on the stack, and as few cycles are taken as can be."""
    extent, channels, best = _extent(direction), direction.channels // layout.groups, None
    for kernel in layout.micro_kernels:
        if kernel.algorithm != "panel":
            continue
        for parts in product(*map(_halvings, extent)):
            none, one = (
                Scratch.of(layout, direction, kernel, Pieces(extent, parts, n, 1, packs=True)).size * layout.itemsize
                for n in (0, 1)
            )
            at_once = min(channels, (MAX_BAND_BYTES - none) // (one - none))
            if at_once < min(channels, 1):
                continue
            chunks = -(-channels // max(at_once, 1))
            pieces = Pieces(extent, parts, max(1, -(-channels // max(chunks, 1))), 1, packs=True)
            cycles = _cycles(layout, direction, kernel, pieces)
            if best is None or cycles < best[0]:
                best = cycles, kernel, pieces
    if best is None:
        raise UnsupportedError("its algorithm 'channels' has too large a kernel for pieces that fit on the stack")
    return best[1:]


def _halvings(size: int) -> Iterator[int]:
    """Yield into how many parts an axis may be cut: of at most WIDEST pixels, each time half as many, down to one."""
    parts = max(1, -(-size // WIDEST))
    while parts < 2 * max(size, 1):
        yield min(parts, size)
        parts *= 2


def _cut(size: int, parts: int) -> np.ndarray:
    """Return (start, length) of so many parts of about the same size."""
    ends = np.arange(parts + 1) * size // max(1, parts)
    return np.stack([ends[:-1], np.diff(ends)], axis=-1)


def _pack_weight(
    layout: Layout, direction: Direction, gather: Gather, kernel: MicroKernel
) -> tuple[int, tuple[Step, ...]]:
    """Lay the weight out as (group, panel, channel, tap, lane): where that begins, and the steps."""
    taps = weight_taps(layout, gather)
    rows, wide, channels = len(direction.rows), kernel.columns, direction.channels // layout.groups
    panel, panels = channels * len(taps) * wide, -(-rows // wide)
    workspace = layout.workspace
    if layout.prepacked:
        layout.workspace = layout.packed_size
    offset = layout.reserve(layout.groups * panels * panel)
    row = direction.weight_row
    columns = np.array([[wide, 0, min(wide, rows - k), k * row, row] for k in range(0, rows, wide)], np.int64)
    is_line = direction.weight_term == layout.taps == len(taps)  # of memory, all terms of a row
    steps: tuple[Step, ...] = ()
    if panel and rows:
        step = layout.pack_step(
            SECOND,
            lines=whole(channels * len(taps), 1) if is_line else whole(channels, direction.weight_term, taps),
            columns=columns,
            per_image=False,
            channels=layout.groups,
            src_channel=direction.weight_group,
            dst_offset=offset,
            dst_channel=panels * panel,
            dst_line_phase=wide,
            dst_column_phase=panel,
            dst_line=wide if is_line else len(taps) * wide,
            phases_per_task=1 if is_line else layout.blocks_at_once(wide),
        )
        steps = (step,)
    if layout.prepacked:
        layout.packed_size, layout.workspace = layout.workspace, workspace
        layout.packing += steps
    return offset, steps


def _step(
    layout: Layout,
    direction: Direction,
    kernel: MicroKernel,
    pieces: Pieces,
    weights: list[int],
    places: dict[str, int],
    fill: complex,
    boundary: str,
) -> Step:
    """Return the one step there is."""
    channels, panels = direction.channels // layout.groups, -(-len(direction.rows) // kernel.columns)
    more_lines, more_columns = _reach(direction)
    scratch = Scratch.of(layout, direction, kernel, pieces)
    phase = scratch.phase
    band, tables = layout.band(
        direction.lines, direction.columns, direction.channels, phase=phase, pitch=scratch.pitch, fill=fill,
        boundary=boundary,
    )  # fmt: skip
    band["channel"] = scratch.plane
    at_once = np.arange(pieces.at_once)[:, None]
    gathers, offsets, a_terms = [], [], []
    for gather, weight in zip(direction.gathers, weights, strict=True):
        taps = np.array([_place(u, v, band, phase) for u in gather.line_taps for v in gather.column_taps], np.int64)
        terms = sum(map(len, offsets))
        gathers.append((gather.out_offset, gather.lines, gather.width, len(taps), terms, weight))
        offsets.append((at_once * scratch.plane + taps).ravel())
        a_terms.append((at_once * direction.weight_term + weight_taps(layout, gather)).ravel())
    layout.scratch = 0 if layout.on_stack else scratch.size
    image, channel, _, _ = layout.strides(direction.channels, direction.lines.extent, direction.columns.extent)
    piece_table = pieces.table()
    panel_tasks = -(-panels // max(1, pieces.panels_per_task))
    # Those of a line are stored as one run of pixels.
    interleaved = direction.interleaved if len({gather.width for gather in direction.gathers}) == 1 else 1
    sizes = {
        **places,
        "x_image": image,
        "x_group": channels * channel,
        "a_buffer": SECOND if layout.prepacked or pieces.packs else WORKSPACE,
        "a_group": direction.weight_group,
        "a_row": direction.weight_row,
        "a_channel": direction.weight_term,
        "a_in_line": int(all((np.diff(terms) == 1).all() for terms in a_terms)),
        "out_image": direction.out_image,
        "out_group": direction.out_group,
        "out_channel": direction.out_group // len(direction.rows),
        "out_line": direction.gathers[0].out_line,
        "out_column": direction.gathers[0].out_column,
        "groups": layout.groups,
        "rows": len(direction.rows),
        "channels": channels,
        "channels_at_once": pieces.at_once,
        "gathers": len(gathers),
        "interleaved": interleaved,
        "pieces": len(piece_table),
        "panels": panels,
        "panel_tasks": panel_tasks,
        "panels_per_task": pieces.panels_per_task,
        "more_lines": more_lines,
        "more_columns": more_columns,
        "turned_offset": scratch.turned,
        "band_offset": scratch.band,
        "weight_offset": scratch.weight,
        "on_stack": int(layout.on_stack),
        "packs": int(pieces.packs),
        "watch_nan": int(direction.watch_nan),
    }
    tables |= {
        "pieces": piece_table,
        "gathers": np.array(gathers, np.int64),
        "offsets": np.concatenate(offsets),
        "a_terms": np.concatenate(a_terms),
        "tile_row": np.arange(kernel.rows) * interleaved * kernel.columns,
    }
    copy = next(row for row in reversed(layout.micro_kernels) if row.algorithm == "band")
    tasks = layout.groups * len(piece_table) * panel_tasks
    return Step(
        f"channels_{layout.type}", tasks, sizes, True, kernel.name, tables, layout.turn, band=band, fill=copy.name
    )


def _place(line: Tap, column: Tap, band: dict[str, int], phase: int) -> int:
    """Return where a tap finds the pixel of channel 0 in a band."""
    return (column.phase * band["line_phases"] + line.phase) * phase + line.offset * band["pitch"] + column.offset
