"""A problem as many smaller ones, whose arrays are parts of its own with the halo they need: text and numbers only.

Host arrays are computed so where one of them, or a workspace, is larger than a buffer of the device may be, and batches
where the copies of one part can travel while another is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from convcore.spi import Pair, Problem
from convcore_opencl.plans.half import is_half, widened

#: Where along an axis a part lies: a range, or the position of each of its pixels, -1 for the fill value.
Where = range | tuple[int, ...]
#: How much of what a piece has at most.  "in" and "out" are channels of a group, which are divided where there is one
#: group only; rows and columns are those of the output, or of the input that grad_input computes.
Sizes = dict[str, int]

_CHANNELS = ("images", "groups", "out", "in")
_SPATIAL = ("rows", "columns")
#: What is summed over: dividing it gives several results to add up.
_SUMMED = {
    "forward": ("in",),
    "grad_input": ("out",),
    "grad_weight": ("images", "rows", "columns"),
    "grad_bias": ("images", "rows", "columns"),
}
#: To halve something must make the largest array at least so much smaller, as long as there is one that does.
_WORTHWHILE = 0.75


@dataclass(frozen=True)
class Piece:
    """One part: what is computed, on which parts of the operands, and where the result belongs.

    Attributes
    ----------
    problem : Problem
    first, second, out : tuple of Where
        Along the logical axes: (N, C, H, W) of an image, (K, C/G, R, S) of a weight, (K,) of a sum.
    bias : range
        Channels of the result.
    adds : bool
        Whether its result is added to what is there.
    """

    problem: Problem
    first: tuple[Where, ...]
    second: tuple[Where, ...]
    out: tuple[Where, ...]
    bias: range
    adds: bool


class _Chunk(NamedTuple):
    """Some images, groups or channels; ``later`` ones are added to the first."""

    where: range
    later: bool = False


class _Span(NamedTuple):
    """Part of a spatial axis: pixels of the input, positions of the output, and the padding that is left."""

    pixels: Where
    outputs: range
    padding: Pair
    later: bool = False


def _pixels(span: _Span) -> int:
    return len(span.pixels)


def _outputs(span: _Span) -> int:
    return len(span.outputs)


class Division:
    """How a problem is divided: iterate over it for its pieces, those that add after those they are added to.

    Parameters
    ----------
    problem : Problem
    sizes : dict
        The most that a piece has.
    """

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        self.problem, self.sizes = problem, sizes
        whole = whole_sizes(problem)
        self._cut = {axis for axis in sizes if sizes[axis] < whole[axis]}
        # What grad_input gathers from the padding is then computed at its own positions, and added.
        mirrored = problem.op == "grad_input" and problem.boundary != "constant" and any(map(any, problem.padding))
        self._unfolded = mirrored and not self._cut.isdisjoint(_SPATIAL)
        #: Whether any results are added up; the bias is then added last.
        self.adds = self._unfolded or not self._cut.isdisjoint(_SUMMED[problem.op])
        self._base = widened(problem) if is_half(problem) else problem
        if self.adds:
            self._base = replace(self._base, bias=False)

        self._parts: dict[str, list[Any]] = {axis: self._chunks(axis, whole[axis]) for axis in _CHANNELS}
        self._parts |= {"rows": self._spans(0), "columns": self._spans(1)}

    def __len__(self) -> int:
        return math.prod(map(len, self._parts.values()))

    def __iter__(self) -> Iterator[Piece]:
        summed = [axis for axis in _CHANNELS if axis in _SUMMED[self.problem.op]]
        order = [*(axis for axis in _CHANNELS if axis not in summed), *_SPATIAL, *summed]
        for chosen in itertools.product(*(self._parts[axis] for axis in order)):
            yield self._piece(dict(zip(order, chosen, strict=True)))

    def largest(self) -> list[Problem]:
        """Return problems of pieces, one of which is the largest: by what they read or by what they write."""
        first = {axis: self._parts[axis][0] for axis in _CHANNELS}
        spans = []
        for axis in _SPATIAL:
            most = (max(self._parts[axis], key=size) for size in (_pixels, _outputs))
            spans.append(list(dict.fromkeys(most)))
        return [
            self._piece(first | dict(zip(_SPATIAL, pair, strict=True))).problem for pair in itertools.product(*spans)
        ]

    def _chunks(self, axis: str, size: int) -> list[_Chunk]:
        later = axis in _SUMMED[self.problem.op]
        return [_Chunk(part, later and part.start > 0) for part in _parts(size, self.sizes[axis]) or [range(0)]]

    def _spans(self, axis: int) -> list[_Span]:
        problem, name = self.problem, _SPATIAL[axis]
        size, outputs = problem.input_shape[2 + axis], problem.output_shape[2 + axis]
        if name not in self._cut and not self._unfolded:
            return [_Span(range(size), range(outputs), problem.padding[axis])]
        if problem.op != "grad_input":
            later = name in _SUMMED[problem.op]
            return [
                _seen(problem, axis, part)._replace(later=later and part.start > 0)
                for part in _parts(outputs, self.sizes[name])
            ]
        spans = [_reaching(problem, axis, part) for part in _parts(size, self.sizes[name])]
        if self._unfolded:
            before, after = problem.padding[axis]
            for part in (*_parts(before, self.sizes[name], -before), *_parts(after, self.sizes[name], size)):
                stands = tuple(source(i, size, problem.boundary) for i in part)
                spans.append(_reaching(problem, axis, part)._replace(pixels=stands, later=True))
        return spans

    def _piece(self, chosen: dict[str, Any]) -> Piece:
        problem, rows, columns = self.problem, chosen["rows"], chosen["columns"]
        images, groups, out, into = (chosen[axis].where for axis in _CHANNELS)
        k = _channels(groups, out, problem.weight_shape[0] // problem.groups)
        c = _channels(groups, into, problem.weight_shape[1])
        weight = k, into, range(problem.weight_shape[2]), range(problem.weight_shape[3])
        x, y = (images, c, rows.pixels, columns.pixels), (images, k, rows.outputs, columns.outputs)
        smaller = replace(
            self._base,
            input_shape=_shape(x),
            weight_shape=_shape(weight),
            output_shape=_shape(y),
            padding=(rows.padding, columns.padding),
            groups=len(groups),
            boundary="constant" if self._unfolded or not any(rows.padding + columns.padding) else problem.boundary,
        )
        first, second, result = {
            "forward": (x, weight, y),
            "grad_input": (y, weight, x),
            "grad_weight": (x, y, weight),
            "grad_bias": (y, (), (k,)),
        }[problem.op]
        adds = any(part.later for part in chosen.values())
        return Piece(smaller, first, second, result, c if problem.op == "grad_input" else k, adds)


def whole_sizes(problem: Problem) -> Sizes:
    """Return the sizes of a problem that is not divided."""
    k, per_group = problem.weight_shape[:2]
    rows, columns = problem.input_shape[2:] if problem.op == "grad_input" else problem.output_shape[2:]
    sizes = problem.input_shape[0], problem.groups, k // problem.groups, per_group
    return dict(zip((*_CHANNELS, *_SPATIAL), (*sizes, rows, columns), strict=True))


def divide(problem: Problem, fits: Callable[[Problem], bool]) -> Division | None:
    """Halve what makes the largest array smaller at the least cost until every piece fits; None if none ever does.

    Sums are divided last: those of several pieces are rounded in another order than those of one.
    """
    division = Division(problem, whole_sizes(problem))
    while not all(map(fits, division.largest())):
        further = _halved(division)
        if further is None:
            return None
        division = further
    return division


def _halved(division: Division) -> Division | None:
    problem, sizes = division.problem, division.sizes
    largest = _largest_array(division)
    halves = []
    for axis, size in sizes.items():
        if size < 2 or (axis in ("out", "in") and sizes["groups"] > 1):
            continue
        half = Division(problem, sizes | {axis: -(-size // 2)})
        left = _largest_array(half) / largest
        if left < 1:
            rank, left = (_rank(problem, axis), 0.0) if left <= _WORTHWHILE else (3, left)
            halves.append((rank, left, half.largest()[0].bytes * len(half), half))
    return min(halves, key=lambda half: half[:3])[-1] if halves else None


def _rank(problem: Problem, axis: str) -> int:
    """Return when an axis is divided: of those with the same rank, what travels decides.

    Rows before columns, whose parts do not lie in one run.
    """
    if problem.op in ("forward", "grad_input") and axis in _SUMMED[problem.op]:
        return 2
    return int(axis == "columns")


def _largest_array(division: Division) -> int:
    return max(max(array_bytes(problem)) for problem in division.largest())


def array_bytes(problem: Problem) -> Iterator[int]:
    """Yield the bytes of each operand and of the result."""
    for shape, dtype in zip(problem.operand_shapes, problem.dtypes, strict=False):
        yield math.prod(shape) * dtype.itemsize
    yield math.prod(problem.result_shape) * problem.result_dtype.itemsize


def source(i: int, size: int, boundary: str) -> int:
    """Return the pixel that stands at position i of an axis, -1 for the fill value; as common.cl has it."""
    if boundary == "edge":
        return min(max(i, 0), size - 1)
    if boundary == "wrap":
        return i % size
    if boundary == "reflect":
        period = max(2 * size - 2, 1)
        return min(i % period, period - i % period)
    if boundary == "symmetric":
        return min(i % (2 * size), 2 * size - 1 - i % (2 * size))
    return i if 0 <= i < size else -1


def _parts(size: int, most: int, start: int = 0) -> list[range]:
    """Cut ``size`` positions from ``start`` on into ranges of at most ``most``."""
    return [range(i, min(i + most, start + size)) for i in range(start, start + size, max(most, 1))]


def _seen(problem: Problem, axis: int, outputs: range) -> _Span:
    """Return what positions of the output see: with all of their padding, as pixels or as the fill value."""
    size, reach = problem.input_shape[2 + axis], (problem.weight_shape[2 + axis] - 1) * problem.dilation[axis]
    start, step = -problem.padding[axis][0], problem.stride[axis]
    positions = range(outputs.start * step + start, (outputs.stop - 1) * step + start + reach + 1)
    if positions.start < 0 or positions.stop > size:
        return _Span(tuple(source(i, size, problem.boundary) for i in positions), outputs, (0, 0))
    return _Span(positions, outputs, (0, 0))


def _reaching(problem: Problem, axis: int, pixels: range) -> _Span:
    """Return what reads positions of the padded input, and at least one position of the output."""
    reach = (problem.weight_shape[2 + axis] - 1) * problem.dilation[axis]
    step, (before, _) = problem.stride[axis], problem.padding[axis]
    begin, count = pixels.start + before, problem.output_shape[2 + axis]
    first = min(max(-((reach - begin) // step), 0), begin // step, count - 1)
    outputs = range(first, max(min((pixels.stop - 1 + before) // step + 1, count), first + 1))
    left = begin - first * step
    seen = (len(outputs) - 1) * step + reach + 1
    return _Span(pixels, outputs, (left, max(seen - len(pixels) - left, 0)))


def _channels(groups: range, part: range, per_group: int) -> range:
    return range(groups.start * per_group + part.start, (groups.stop - 1) * per_group + part.stop)


def _shape(where: tuple[Where, ...]) -> tuple[int, int, int, int]:
    n, c, h, w = map(len, where)
    return n, c, h, w
