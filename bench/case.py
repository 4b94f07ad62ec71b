"""One piece of work: a layer, a batch, a direction and a dtype, its operands, and the oracle of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from convcore_bench.problem_set import Layer

import convcore
from convcore.problem import Problem
from convcore.testing.tolerance import ERROR_CONSTANTS

DIRECTIONS = ("forward", "grad_input", "grad_weight")
#: A layer's training step: the three of them.
STEP = "step"
Array = Any


@dataclass(frozen=True)
class Case:
    """What contenders are given.

    Attributes
    ----------
    layer : Layer
    batch : int
        Instead of the layer's own N.
    direction : "forward", "grad_input", "grad_weight" or "step"
    dtype : "float32" or "float64"
    accuracy : "strict", "standard" or "fast"
        convcore's policy; others have none.
    threads : int
    """

    layer: Layer
    batch: int
    direction: str
    dtype: str = "float32"
    accuracy: str = "standard"
    threads: int = 1

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Case:
        """Make one of what :meth:`to_json` gave."""
        layer = record.pop("layer")
        for name in ("input_shape", "weight_shape", "stride", "dilation"):
            layer[name] = tuple(layer[name])
        layer["padding"] = tuple(map(tuple, layer["padding"]))
        return cls(Layer(**layer), **record)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @cached_property
    def parts(self) -> list[Case]:
        """The single directions of a step; itself otherwise."""
        if self.direction != STEP:
            return [self]
        found = [replace(self, direction=direction) for direction in DIRECTIONS]
        for part in found:
            part.__dict__["operands"] = self.operands
        return found

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W), with this case's batch."""
        return (self.batch, *self.layer.input_shape[1:])

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(K, C/G, R, S)."""
        return self.layer.weight_shape

    @cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, K, P, Q)."""
        return convcore.output_shape(self.input_shape, self.weight_shape, **self.layer.geometry)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct algorithm."""
        return sum(part.problem.flops for part in self.parts)

    @property
    def bytes(self) -> int:
        """The least that must be moved: operands and results, once for each direction."""
        return sum(part.problem.bytes for part in self.parts)

    @cached_property
    def problem(self) -> Problem:
        """The problem of one direction."""
        operands = self.arguments(self.input_shape, self.weight_shape, self.output_shape)
        return convcore.explain(
            self.direction, *operands, dtype=np.dtype(self.dtype), backend="numpy", **self.layer.geometry
        ).problem

    @cached_property
    def operands(self) -> tuple[Array, Array, Array]:
        """x, weight and grad_out: normally distributed, the same ones each time."""
        rng = np.random.default_rng(0)
        shapes = self.input_shape, self.weight_shape, self.output_shape
        x, weight, grad_out = (rng.standard_normal(shape, np.dtype(self.dtype).type) for shape in shapes)
        return x, weight, grad_out

    @property
    def function(self) -> Callable[..., Array]:
        """convcore's function of one direction; see :meth:`arguments`."""
        return {
            "forward": convcore.conv2d,
            "grad_input": convcore.conv2d_grad_input,
            "grad_weight": convcore.conv2d_grad_weight,
        }[self.direction]

    def arguments(self, x: Any, weight: Any, grad_out: Any) -> tuple[Any, ...]:
        """Return what convcore takes for one direction: two arrays, or their shapes, and a gradient's own shape."""
        return {
            "forward": (x, weight),
            "grad_input": (grad_out, weight, self.input_shape),
            "grad_weight": (x, grad_out, self.weight_shape),
        }[self.direction]

    def answers(self) -> Iterable[tuple[Any, Array, Array]]:
        """Return what :func:`oracle` yields, kept for the next contender unless it is large."""
        return oracle(self) if 16 * math.prod(self.problem.result_shape) > KEPT else self._kept

    @cached_property
    def _kept(self) -> list[tuple[Any, Array, Array]]:
        return list(oracle(self))

    def padded(self) -> tuple[Array, tuple[int, int]]:
        """Return x and the padding of each axis, for libraries that know only even padding: the rest is added to x."""
        x = self.operands[0]
        (top, bottom), (left, right) = self.layer.padding
        if (top, left) == (bottom, right):
            return x, (top, left)
        return np.pad(x, ((0, 0), (0, 0), *self.layer.padding)), (0, 0)

    def unpadded(self, grad: Array) -> Array:
        """Cut from a gradient what :meth:`padded` added to x."""
        if grad.shape == self.input_shape:
            return grad
        (top, _), (left, _) = self.layer.padding
        _, _, height, width = self.input_shape
        return grad[:, :, top : top + height, left : left + width]


#: Bytes of answers that a case keeps for the next contender.
KEPT = 2**28


class WrongAnswer(AssertionError):  # noqa: N818 - an answer, and not a failure of the program
    """A contender computed something else."""


@dataclass(frozen=True)
class Verdict:
    """How far an answer is from the oracle.

    Attributes
    ----------
    error : float
        Root mean square of the difference, over that of the oracle.
    of_allowed : float
        The worst element's error, over the error allowed to it.
    """

    error: float
    of_allowed: float


def check(case: Case, answer: Array, *, algorithm: str = "direct", normwise: bool = False) -> Verdict:
    """Hold an answer of one direction against the oracle, all of it.

    Parameters
    ----------
    case : Case
    answer : ndarray
    algorithm : str
        Whose constant of ``convcore.testing.tolerance`` is allowed.
    normwise : bool
        Algorithms that transform tiles or whole images err by their largest element: every element of an image
        may then be as wrong as the one with the largest scale.

    Raises
    ------
    WrongAnswer
        With the worst element's error and what was allowed.
    """
    shape = dict(zip(DIRECTIONS, (case.output_shape, case.input_shape, case.weight_shape), strict=True))[case.direction]
    if answer.shape != shape or answer.dtype != case.dtype:
        raise WrongAnswer(f"it is {answer.dtype} {answer.shape}, must be {case.dtype} {shape}")
    unit = ERROR_CONSTANTS.get(algorithm, 2.0) * np.finfo(case.dtype).eps * math.sqrt(case.problem.reduction_length)
    worst = difference = square = 0.0
    for part, expected, scale in case.answers():
        error = np.abs(answer[part] - expected)
        allowed = unit * (scale.max() if normwise else scale) + np.finfo(case.dtype).smallest_normal
        worst = max(worst, float(np.max(error / allowed)) if np.isfinite(error).all() else math.inf)
        difference += float(np.sum(error**2))
        square += float(np.sum(expected**2))
    if not worst <= 1:
        raise WrongAnswer(f"{case.layer.id} {case.direction}: its worst element errs by {worst:.3g} times the allowed")
    return Verdict(math.sqrt(difference / square), worst)


def oracle(case: Case) -> Iterator[tuple[Any, Array, Array]]:
    """Yield parts of the answer in float64: their index, value, and the same of the operands' magnitudes.

    The formula tap by tap, each one matrix product; image by image, because float64 copies of a batch are large.  A
    large kernel on one channel has too many taps for that, and is applied by the FFT, to answers in float32 only.
    """
    x, weight, grad_out = case.operands
    total: tuple[Array, Array] | None = None
    for n in range(case.batch):
        operands = [array.astype(np.float64) for array in (x[n : n + 1], weight, grad_out[n : n + 1])]
        by = _fft if _has_many_taps(case) else _taps
        pair = by(case, *operands), by(case, *map(np.abs, operands))
        if case.direction == "grad_weight":
            total = pair if total is None else (total[0] + pair[0], total[1] + pair[1])
        else:
            yield slice(n, n + 1), *pair
    if total:
        yield slice(None), *total


def _has_many_taps(case: Case) -> bool:
    k, c, r, s = case.weight_shape
    plain = case.layer.stride == case.layer.dilation == (1, 1) and case.layer.groups == 1
    return plain and k == c == 1 and r * s >= 81 and (case.direction, case.dtype) == ("forward", "float32")


def _fft(case: Case, x: Array, weight: Array, grad_out: Array) -> Array:
    image = np.pad(x[0, 0], case.layer.padding)
    spectrum = np.fft.rfft2(image) * np.fft.rfft2(weight[0, 0], image.shape).conj()
    # A correlation by the FFT wraps around, but only behind the last position of the kernel.
    p, q = grad_out.shape[2:]
    return np.fft.irfft2(spectrum, image.shape)[None, None, :p, :q]


def _taps(case: Case, x: Array, weight: Array, grad_out: Array) -> Array:
    layer, groups = case.layer, case.layer.groups
    _, k, p, q = grad_out.shape
    _, c, r_count, s_count = weight.shape
    grad = grad_out.reshape(groups, k // groups, p * q)
    taps = weight.reshape(groups, k // groups, c, r_count, s_count)
    images = np.pad(x[0], ((0, 0), *layer.padding))
    result = {"forward": np.zeros_like(grad), "grad_input": np.zeros_like(images), "grad_weight": np.zeros_like(taps)}[
        case.direction
    ]
    for r, s in np.ndindex(r_count, s_count):
        rows, columns = (
            slice(tap * dilation, tap * dilation + step * (count - 1) + 1, step)
            for tap, dilation, step, count in zip((r, s), layer.dilation, layer.stride, (p, q), strict=True)
        )
        if case.direction == "grad_input":
            spread = np.matmul(taps[..., r, s].transpose(0, 2, 1), grad)
            result[:, rows, columns] += spread.reshape(-1, p, q)
            continue
        seen = images[:, rows, columns].reshape(groups, c, p * q)
        if case.direction == "forward":
            result += np.matmul(taps[..., r, s], seen)
        else:
            result[..., r, s] = np.matmul(grad, seen.transpose(0, 2, 1))
    if case.direction == "grad_input":
        (top, bottom), (left, right) = layer.padding
        return result[None, :, top : result.shape[1] - bottom, left : result.shape[2] - right]
    return result.reshape(grad_out.shape if case.direction == "forward" else weight.shape)
