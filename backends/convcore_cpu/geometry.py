"""Where pixels lie in the planes the kernels read: phases, padding, and the offset of every tap.

One axis is looked at here at a time.  A plane axis has positions; position ``i`` of phase ``u`` stands for the pixel
``starts[u] + i*stride`` of an operand, or for padding where that is outside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PlaneAxis:
    """The positions of one axis of a plane, phase by phase.

    Attributes
    ----------
    size : int
        Positions in each phase.
    starts : tuple of int
        The operand's pixel at position 0 of each phase; negative inside the padding.
    stride : int
        Pixels from position to position.
    extent : int
        Pixels the operand has.
    """

    size: int
    starts: tuple[int, ...]
    stride: int
    extent: int

    @property
    def is_operand(self) -> bool:
        """Whether the positions are a run of the operand's own pixels."""
        return len(self.starts) == 1 and self.stride == 1 and not self.is_padded

    @property
    def is_padded(self) -> bool:
        """Whether some position stands for padding."""
        last = self.stride * (self.size - 1)
        return any(start < 0 or start + last >= self.extent for start in self.starts)

    def inside(self, start: int) -> tuple[int, int]:
        """Return the range of positions of a phase that are pixels of the operand."""
        lo = min(max(-(start // self.stride), 0), self.size)
        hi = min(max((self.extent - 1 - start) // self.stride + 1, lo), self.size)
        return lo, hi

    def outside(self, step: int, boundary: str) -> np.ndarray:
        """Return, phase by phase, where the pixel lies that stands at each position, under a boundary of pixels."""
        positions = np.arange(self.size) * self.stride
        return np.concatenate([sources(start + positions, self.extent, boundary) for start in self.starts]) * step

    def table(self, step: int) -> np.ndarray:
        """Return the C ``axis`` of every phase; ``step`` is the operand's stride in elements."""
        return np.array(
            [(self.size, *self.inside(start), start * step, self.stride * step) for start in self.starts], np.int64
        )


def sources(positions: np.ndarray, extent: int, boundary: str) -> np.ndarray:
    """Return which of ``extent`` pixels stands at each position: docs/spec.md, Boundaries."""
    if boundary == "edge":
        return positions.clip(0, extent - 1)
    if boundary == "wrap":
        return positions % extent
    repeated = boundary == "symmetric"
    period = 2 * extent if repeated else max(2 * extent - 2, 1)
    return np.minimum(positions % period, (-positions - repeated) % period)


@dataclass(frozen=True)
class Tap:
    """Where one position of a kernel axis is found: ``offset`` positions on, in a phase."""

    index: int
    phase: int
    offset: int


def forward_axis(
    extent: int, kernel: int, stride: int, dilation: int, padding: int, outputs: int
) -> tuple[PlaneAxis, tuple[Tap, ...]]:
    """Lay out an axis of x so that output ``p`` meets tap ``r`` at position ``p + offset`` of a phase."""
    phases = sorted({r * dilation % stride for r in range(kernel)})
    size = outputs + (kernel - 1) * dilation // stride
    axis = PlaneAxis(size, tuple(phase - padding for phase in phases), stride, extent)
    taps = tuple(Tap(r, phases.index(r * dilation % stride), r * dilation // stride) for r in range(kernel))
    return axis, taps


@dataclass(frozen=True)
class GatherPhase:
    """The pixels ``start, start + stride, ...`` of x, ``count`` of them, which meet the same taps."""

    start: int
    count: int
    taps: tuple[Tap, ...]


def gather_axis(
    extent: int, kernel: int, stride: int, dilation: int, padding: int, outputs: int
) -> tuple[PlaneAxis, tuple[GatherPhase, ...]]:
    """Lay out an axis of grad_out so that pixel ``i`` of a phase of x meets tap ``r`` at position ``i + offset``.

    Pixel h of x met tap r in output p where p*stride + r*dilation - padding = h: the taps of a pixel are those with
    r*dilation congruent to h + padding, and consecutive pixels of a congruence class meet consecutive outputs.
    """
    phases = []
    for start in range(min(stride, extent)):
        taps = [
            (r, (start + padding - r * dilation) // stride)
            for r in range(kernel)
            if (start + padding - r * dilation) % stride == 0
        ]
        phases.append((start, -(-(extent - start) // stride), taps))
    firsts = [p for _, _, taps in phases for _, p in taps]
    first = min(firsts, default=0)
    # Pixels that meet no tap are numbered over the plane as well, so it must not be shorter than they are many.
    size = max(count + max((p - first for _, p in taps), default=0) for _, count, taps in phases)
    axis = PlaneAxis(size, (first,), 1, outputs)
    return axis, tuple(
        GatherPhase(start, count, tuple(Tap(r, 0, p - first) for r, p in taps)) for start, count, taps in phases
    )
