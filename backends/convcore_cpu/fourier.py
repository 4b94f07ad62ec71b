"""Forward and grad_input of large kernels by Fourier transforms of tiles (overlap-save), NumPy's and in float64.

    y[k] = the first n-R+1 lines and n-S+1 columns of  F^-1 ( sum_c F(x tile)[c] * conj(F(w)[k, c]) )

A tile of n pixels is padded by its boundary as it is gathered, and gives n-R+1 lines of the result.  grad_input is
the same on grad_out, with the taps reversed.  The transforms of float32 numbers are computed in float64 as well: NumPy
takes no longer for them, and their rounding, which is relative to the largest pixel of a tile and not to those an
element sees, disappears below that of float32.

Source: Oppenheim and Schafer, "Discrete-Time Signal Processing", section 8.7, in two dimensions.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from convcore.spi import Plan, Problem
from convcore_cpu.geometry import sources
from convcore_cpu.program import Program

OPS = ("forward", "grad_input")
#: What a transform of n elements takes for each n*log2(n), and a complex product for each element (seconds, one core).
TRANSFORM_SECONDS, PRODUCT_SECONDS = 0.36e-9, 2e-9
#: Tiles have at most so many lines or columns, and the transforms of the weight so many bytes.
MOST_POINTS, MOST_WEIGHT_BYTES = 2048, 32 << 20
#: Tiles that must have room side by side, whether there are so many threads or not.
TILES_AT_ONCE = 4
#: Lengths whose transforms are fast.
LENGTHS = sorted(2**a * 3**b * 5**c for a, b, c in product(range(1, 12), range(3), range(2)))


@dataclass(frozen=True)
class Transform:
    """The points of a tile along its axes, and what the algorithm costs with them."""

    lines: int
    columns: int
    seconds: float
    weight_bytes: int
    tile_bytes: int

    def workspace_bytes(self, threads: int) -> int:
        """Return the bytes of the weight's transforms, and of a tile's for each thread."""
        return self.weight_bytes + threads * self.tile_bytes


def refusal(problem: Problem, room: int) -> str | None:
    """Return why the algorithm cannot do a problem in so many bytes, None if it can."""
    dtypes = {dtype.str[1:] for dtype in (*problem.dtypes, problem.result_dtype)}
    name = "its algorithm 'fft'"
    if problem.op not in OPS:
        return f"{name} knows {' and '.join(OPS)} only"
    if problem.layout != "NCHW":
        return f"{name} wants NCHW"
    if len(dtypes) > 1 or not dtypes <= {"f4", "f8"}:
        return f"{name} knows float32 and float64 only"
    if problem.stride != (1, 1) or problem.dilation != (1, 1):
        return f"{name} knows stride 1 and dilation 1 only"
    if problem.op == "grad_input" and problem.boundary != "constant":
        return f"{name} knows grad_input under the boundary 'constant' only"
    if problem.accuracy == "strict" or (problem.accuracy == "standard" and dtypes == {"f8"}):
        return f"{name} errs more than accuracy {problem.accuracy!r} allows"
    if transform_of(problem, room) is None:
        return f"{name} has no tile for so large a kernel, so many channels, or {room} bytes of workspace"
    return None


@lru_cache(maxsize=8)
def transform_of(problem: Problem, room: int) -> Transform | None:
    """Return the cheapest tile, or None if there is none within the limits; found once, whoever asks on the way.

    However many threads there are, some of their tiles fit into ``room`` bytes: results depend on the tile.
    """
    kernels, channels_per_group, height, width = problem.weight_shape
    images, channels = problem.operand_shapes[0][:2]
    outputs, out_height, out_width = problem.result_shape[1:]
    best: Transform | None = None
    for lines, columns in product(_lengths(height, out_height), _lengths(width, out_width)):
        points = lines * (columns // 2 + 1)
        weight_bytes = 16 * kernels * channels_per_group * points
        tile_bytes = 2 * 16 * points * (channels + outputs)
        if weight_bytes > MOST_WEIGHT_BYTES or weight_bytes + TILES_AT_ONCE * tile_bytes > room:
            continue
        tiles = images * math.ceil(out_height / (lines - height + 1)) * math.ceil(out_width / (columns - width + 1))
        transforms = kernels * channels_per_group + tiles * (channels + outputs)
        products = tiles * points * kernels * channels_per_group
        size = lines * columns
        seconds = transforms * TRANSFORM_SECONDS * size * math.log2(size) + products * PRODUCT_SECONDS
        if best is None or seconds < best.seconds:
            best = Transform(lines, columns, seconds, weight_bytes, tile_bytes)
    return best


def _lengths(kernel: int, outputs: int) -> list[int]:
    """Return the lengths worth a try: from twice the kernel to one tile for all."""
    whole = kernel + outputs - 1
    lengths = [n for n in LENGTHS if min(2 * kernel, whole) <= n <= MOST_POINTS]
    one = next((i for i, n in enumerate(lengths) if n >= whole), len(lengths) - 1)
    return lengths[: one + 1][-12:]


def thread_count(limit: int | None) -> int:
    """Return how many threads transform tiles: one for each core, fewer where ``OMP_NUM_THREADS`` or the limit is."""
    openmp = os.environ.get("OMP_NUM_THREADS", "")
    limits = (limit, int(openmp) if openmp.isdigit() else None)
    return min([os.cpu_count() or 1, *(most for most in limits if most)])


class FourierPlan(Plan):
    """Tiles, transformed; what is not finite is left to the plan that would have run otherwise.

    Parameters
    ----------
    problem : Problem
        What to compute.
    transform : Transform
        Of its tiles.
    otherwise : Plan
        For operands that are not finite: a transform would smear them over their tiles.
    program : Program
        That plan's.
    threads : int
        An upper limit.

    What it was chosen from, ``otherwise`` says.
    """

    algorithm = "fft"

    def __init__(self, problem: Problem, transform: Transform, otherwise: Plan, program: Program, threads: int) -> None:
        super().__init__(problem)
        self.otherwise, self.transform, self.threads = otherwise, transform, threads
        self.workspace_bytes = transform.workspace_bytes(threads) + otherwise.workspace_bytes
        error = "errs by up to 2**-48 of its tile's largest pixel times the weight's sum of magnitudes"
        milliseconds = f"{transform.seconds * 1e3:.3g} ms on one core, {program.cost.seconds * 1e3:.3g}"
        self.notes = (
            f"overlap-save, tiles of {transform.lines}x{transform.columns} points, in float64; an element {error}; "
            f"{milliseconds} by {otherwise.algorithm!r}"
        )

    def details(self) -> str:
        """Return what the choice was among; see :meth:`convcore.spi.Plan.details`."""
        return self.otherwise.details()

    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Compute into ``out``; see :meth:`convcore.spi.Plan.run`."""
        if not (_is_finite(first) and _is_finite(second)):
            self.otherwise.run(first, second, bias, out)
            return
        weight = self._weight(second)
        (height, width), (lines, columns) = second.shape[2:], out.shape[2:]
        down, across = self.transform.lines - height + 1, self.transform.columns - width + 1
        tiles = list(product(range(out.shape[0]), range(0, lines, down), range(0, columns, across)))

        def compute(tile: tuple[int, int, int]) -> None:
            image, p, q = tile
            target = out[image, :, p : p + down, q : q + across]
            result = self._tile(first[image], weight, p, q)[:, : target.shape[1], : target.shape[2]]
            with np.errstate(over="ignore"):
                target[...] = result if bias is None else result + bias[:, None, None]

        with ThreadPoolExecutor(min(self.threads, max(len(tiles), 1))) as pool:
            for _ in pool.map(compute, tiles):
                pass

    def _weight(self, weight: np.ndarray) -> np.ndarray:
        """Return the conjugate transforms as (group, channel of the result, channel of the first operand, points)."""
        groups = self.problem.groups
        grouped = weight.reshape(groups, -1, *weight.shape[1:]).astype(np.float64)
        if self.problem.op == "grad_input":
            grouped = grouped.swapaxes(1, 2)[..., ::-1, ::-1]
        return np.fft.rfft2(grouped, (self.transform.lines, self.transform.columns)).conj()

    def _tile(self, image: np.ndarray, weight: np.ndarray, p: int, q: int) -> np.ndarray:
        points = self.transform.lines, self.transform.columns
        pixels = self._gather(image, p, q).reshape(weight.shape[0], weight.shape[2], *points)
        products = np.einsum("gkchw,gchw->gkhw", weight, np.fft.rfft2(pixels))
        return np.fft.irfft2(products, points).reshape(-1, *points)

    def _gather(self, image: np.ndarray, p: int, q: int) -> np.ndarray:
        """Return the tile that gives the result from line p and column q on, with what stands around the image."""
        problem = self.problem
        starts = tuple(before for before, _ in problem.padding)
        if problem.op == "grad_input":
            starts = tuple(size - 1 - start for size, start in zip(problem.weight_shape[2:], starts, strict=True))
        lines = p - starts[0] + np.arange(self.transform.lines)
        columns = q - starts[1] + np.arange(self.transform.columns)
        if problem.op == "forward" and problem.boundary != "constant":
            height, width = image.shape[1:]
            found = image[
                :, sources(lines, height, problem.boundary)[:, None], sources(columns, width, problem.boundary)
            ]
            return found.astype(np.float64)
        fill = problem.fill_value.real if problem.op == "forward" else 0.0
        tile = np.full((image.shape[0], lines.size, columns.size), fill)
        (top, bottom), (left, right) = (
            _inside(axis, size) for axis, size in zip((lines, columns), image.shape[1:], strict=True)
        )
        tile[:, top:bottom, left:right] = image[
            :, lines[0] + top : lines[0] + bottom, columns[0] + left : columns[0] + right
        ]
        return tile


def _inside(positions: np.ndarray, extent: int) -> tuple[int, int]:
    """Return the range of consecutive positions that are pixels."""
    lo, hi = np.searchsorted(positions, [0, extent])
    return int(lo), int(hi)


def _is_finite(array: np.ndarray) -> bool:
    return array.size == 0 or bool(np.isfinite(array.min()) and np.isfinite(array.max()))
