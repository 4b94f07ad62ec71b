"""Which micro-kernel suits a problem: a model of the cycles its tiles take."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from convcore_cpu.engine import MicroKernel


def outer_kernel(
    micro_kernels: Iterable[MicroKernel], rows: int, columns: int, *, fits: bool = False
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
    """
    candidates = [
        (-(-rows // row.rows) * -(-columns // row.columns) * _outer_cycles(row), row)
        for row in micro_kernels
        if row.algorithm == "outer" and (row.columns <= columns or not fits)
    ]
    return min(candidates, key=lambda candidate: candidate[0], default=(math.inf, None))


def dot_kernel(micro_kernels: Iterable[MicroKernel], taps: int, width: int) -> tuple[float, MicroKernel]:
    """Return the cycles one line of ``width`` pixels takes, and the dot-product micro-kernel that takes the fewest."""
    candidates = [
        # Two loads for every multiply-add, and something for the call.
        (-(-taps // row.rows) * (row.rows + 2.0) * -(-width // row.lanes), row)
        for row in micro_kernels
        if row.algorithm == "dot"
    ]
    return min(candidates, key=lambda candidate: candidate[0])


def _outer_cycles(row: MicroKernel) -> float:
    """Return the cycles one term of the sum takes a tile: by arithmetic, loads or latency, and one for the loop.

    Of vectors of 64 bytes a core multiplies one in a cycle, of narrower ones two; one of 64 bytes that starts anywhere
    lies in two cache lines, and costs two loads.
    """
    vectors = row.columns // row.lanes
    wide = row.isa == "avx512"
    arithmetic = row.rows * vectors * (1.0 if wide else 0.5)
    loads = 0.5 * row.rows + vectors * (1.0 if wide else 0.5)
    return max(arithmetic, loads, 4.0) + 1.0


def padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat the last row of a tile table up to a whole number of tiles."""
    return np.pad(rows, (0, -len(rows) % multiple), mode="edge")
