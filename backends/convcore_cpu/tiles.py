"""Which micro-kernel suits a problem: a model of the cycles its tiles take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from convcore_cpu.engine import MAX_PIXELS_PER_TASK, MAX_TILES_PER_TASK, MicroKernel

#: A first-level cache: bytes of a line, lines of a set, sets.
LINE, WAYS, SETS = 64, 12, 64
#: Lines of A and B that stay where B's are spread over many pages; what one of B costs that does not, and what a term
#: costs whose lines all stay (cycles).
SPREAD_LINES, SPREAD_CYCLES, KEPT_CYCLES = 384, 3.0, 0.5


def outer_kernel(
    micro_kernels: Iterable[MicroKernel],
    rows: int,
    columns: int,
    *,
    fits: bool = False,
    a_stride: int = 1,
    a_terms: tuple[int, int] = (1, 1),
    terms: float = math.inf,
) -> tuple[float, MicroKernel | None]:
    """Return the cycles one term of the sum takes, and the outer-product micro-kernel that takes the fewest.

    Parameters
    ----------
    micro_kernels : iterable of MicroKernel
        The candidates.
    rows, columns : int
        To be covered by tiles.
    fits : bool
        Whether no tile may be wider than ``columns``; if none is that narrow, the answer is (inf, None).
    a_stride : int
        Elements from row to row of A.
    a_terms : tuple of int
        How many channels a row has, and the elements from one to the next.
    terms : float
        How many terms there are, which share what a call takes besides.
    """
    share = 1 / max(terms, 1)
    candidates = [
        (
            -(-rows // row.rows)
            * -(-columns // row.columns)
            * (_outer_cycles(row, a_stride, *a_terms) + _spread_cycles(row, rows, terms) + share * call_cycles(row)),
            row,
        )
        for row in micro_kernels
        if row.algorithm == "outer" and (row.columns <= columns or not fits)
    ]
    return min(candidates, key=lambda candidate: candidate[0], default=(math.inf, None))


def call_cycles(row: MicroKernel) -> float:
    """Return the cycles a call takes besides its terms.

    Where vectors are multiplied one a cycle, a tile of few vectors leaves registers for the next call to begin in while
    it ends, and few rows of results are lines of memory that are soon written.
    """
    if row.multiply <= 0.5:
        return 60.0
    sums = row.rows * row.columns // row.lanes
    crowded = 10.0 * (sums - 16) if sums > 16 else 0.0
    return 30.0 + 2.0 * sums + crowded + (8.0 * (row.rows - 4) if row.rows > 4 else 0.0)


def panel_kernel(
    micro_kernels: Iterable[MicroKernel], rows: int, pixels: int, terms: float = math.inf, wide: float = 1.0
) -> tuple[MicroKernel, float]:
    """Return the panel micro-kernel that takes the fewest cycles for one term of so many rows and pixels, and those.

    ``terms`` are so many that share what a call takes besides.  Of those that take up to ``wide`` times as long as the
    best, it is the widest.
    """
    share = 1 / max(terms, 1)
    candidates = [
        (
            row,
            -(-rows // row.rows)
            * -(-pixels // row.columns)
            * (_panel_cycles(row.rows, row.columns // row.lanes, row.multiply) + share * call_cycles(row)),
        )
        for row in micro_kernels
        if row.algorithm == "panel"
    ]
    best = min(candidates, key=lambda candidate: candidate[1])
    if wide == 1.0:
        return best
    return max((each for each in candidates if each[1] <= wide * best[1]), key=lambda each: each[0].columns)


@lru_cache(maxsize=64)
def _panel_cycles(rows: int, vectors: int, multiply: float) -> float:
    """Return the cycles one term of the sum takes a tile: by arithmetic, loads or latency, and some for the loop.

    Where the rows lie is kept in registers for about 8 of them; others are loaded for every term.
    """
    arithmetic = rows * vectors * multiply
    loads = 0.5 * (rows + vectors)
    hidden = rows * vectors * (multiply - 0.5)
    return max(arithmetic, loads, 4.0) + max(0.7 + 0.2 * max(rows - 8, 0) - hidden, 0.0)


def _outer_cycles(row: MicroKernel, a_stride: int, channels: int, channel: int) -> float:
    """Return the cycles one term of the sum takes a tile: by arithmetic, loads or latency, and one for the loop.

    Half a cycle of that no arithmetic hides (256->1024 1x1 14x14 by tiles of 4x64 0.96 ms, of 4x32 1.03).  A vector of
    64 bytes that starts anywhere lies in two cache lines and costs two loads, and so loses some of what its
    multiplication saves beside two narrower ones.  Each of those loads takes two turns where its multiplication does.
    """
    vectors = row.columns // row.lanes
    wide = row.isa == "avx512"
    arithmetic = row.rows * vectors * (max(row.multiply, 0.75) if wide else row.multiply)
    loads = 0.5 * row.rows + vectors * (2.0 * row.multiply if wide else 0.5)
    size = _element_bytes(row)
    misses = row.rows * _miss_cycles(row.rows, a_stride * size) + _far_cycles(
        row.rows, a_stride * size, channels, channel * size
    )
    hidden = row.rows * vectors * (row.multiply - 0.5)
    return max(arithmetic, loads, 4.0) + max(1.0 + misses - hidden, 0.5)


def _spread_cycles(row: MicroKernel, rows: int, terms: float) -> float:
    """Return what a term costs more whose lanes, of a line each, have left the first-level cache for the next rows.

    They begin anywhere in a line, so they lie in one more than they fill.  Of a vector of AVX-512 that is in the cycles
    that were measured.  256->1024 1x1 14x14, forward by AVX2: 1.34 ms, by panels 0.75.
    """
    if row.isa == "avx512":
        return 0.0
    size = _element_bytes(row)
    lines = row.columns * size // LINE + 1
    if terms * (lines + row.rows * size / LINE) <= SPREAD_LINES:
        return KEPT_CYCLES
    again = 1 - 1 / -(-rows // row.rows)
    return max(KEPT_CYCLES, again * SPREAD_CYCLES * lines)


def _element_bytes(row: MicroKernel) -> int:
    """Return the size of an element."""
    return 4 if row.dtype == "f32" else 8


@lru_cache(maxsize=1024)
def _far_cycles(rows: int, row_bytes: int, channels: int, channel_bytes: int) -> float:
    """Return what a term costs more where the rows of A are near each other, but its channels are not.

    Every channel is then a few lines of its own, which the next tile of pixels wants again: there may be too many for
    the first-level cache, or for some of its sets of 12.  1024->512 1x1 14x14, grad_input: 1.7 ms, without that 1.0.
    """
    if channel_bytes <= row_bytes or channel_bytes < LINE:
        return 0.0
    lines = channels * -(-rows * row_bytes // LINE)
    crowd = lines * math.gcd(channel_bytes // LINE, SETS) // SETS if channel_bytes % LINE == 0 else 0
    return 8.0 if lines > WAYS * SETS or crowd > WAYS else 0.0


@lru_cache(maxsize=1024)
def _miss_cycles(rows: int, line_bytes: int) -> float:
    """Return what an element of A costs more because its line has left the first-level cache.

    Each row of a tile is a line read element by element; those of a set, 8 of which stay, push each other out.  Rows
    a multiple of 4 KiB apart are all in one: 1024->512 1x1 14x14 takes 3.1 ms by tiles of 14 rows, 2.1 by tiles of 8.
    """
    lines = [m * line_bytes // LINE for m in range(rows)]
    crowd = max(Counter(line % SETS for line in set(lines)).values())
    return 1.0 if crowd > 8 else 0.0


def most_tiles(kernel: MicroKernel) -> int:
    """Return how many tiles of pixels a task may have, so that lines are read and written as far as is worth it."""
    return min(MAX_TILES_PER_TASK, MAX_PIXELS_PER_TASK // kernel.columns)


def padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat the last row of a tile table up to a whole number of tiles."""
    return np.concatenate([rows, rows[-1:].repeat(-len(rows) % multiple)])
