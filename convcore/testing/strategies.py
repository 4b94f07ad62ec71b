"""Hypothesis strategies over the whole geometry: small problems, and awkward arrays to go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from convcore.problem import BOUNDARIES, LAYOUTS, OPS, Op, Pair, Problem
from convcore.testing.oracle import Array
from convcore.testing.problems import DTYPES, Operands, make_problem, random_operands

_FILL_VALUES: dict[str, Sequence[complex]] = {
    "i": (0, 3, -7),
    "u": (0, 3),
    "f": (0.0, 1.5, float("inf"), float("nan")),
    "c": (0.0, 1 - 2j),
}


@st.composite
def problems(
    draw: st.DrawFn,
    ops: Sequence[Op] = OPS,
    dtypes: Sequence[str] = DTYPES,
    layouts: Sequence[str] = LAYOUTS,
    boundaries: Sequence[str] = BOUNDARIES,
) -> Problem:
    """Draw a problem with a few hundred products at most per element.

    Parameters
    ----------
    ops, dtypes, layouts, boundaries : sequence of str
        What to choose from, for instance what a backend's spec advertises.
    """
    vertical, horizontal = draw(_axes()), draw(_axes())
    groups = draw(st.integers(1, 3))
    first = np.dtype(draw(st.sampled_from(dtypes)))
    second = np.dtype(
        draw(st.sampled_from([d for d in dtypes if np.dtype(d).kind in "iu"] if first.kind in "iu" else [first]))
    )
    boundary = draw(st.sampled_from(boundaries))
    return make_problem(
        draw(st.sampled_from(ops)),
        images=draw(st.integers(0, 3)),
        channels=(groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))),
        size=(vertical["size"], horizontal["size"]),
        kernel=(vertical["kernel"], horizontal["kernel"]),
        stride=(vertical["stride"], horizontal["stride"]),
        padding=(vertical["padding"], horizontal["padding"]),
        dilation=(vertical["dilation"], horizontal["dilation"]),
        groups=groups,
        cropped=(vertical["cropped"], horizontal["cropped"]),
        dtypes=(first, second),
        bias=draw(st.booleans()),
        layout=draw(st.sampled_from(layouts)),
        boundary=boundary,
        fill_value=draw(st.sampled_from(_FILL_VALUES[first.kind])) if boundary == "constant" else 0.0,
    )


@st.composite
def _axes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the geometry of one axis, in which the kernel fits."""
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    padding: Pair = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    missing = dilation * (kernel - 1) + 1 - sum(padding)
    size = draw(st.integers(max(missing, 1), max(missing, 1) + 8))
    positions = (size - missing) // stride + 1
    cropped = draw(st.sampled_from((0, 0, min(1, positions - 1))))
    return {
        "kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding, "size": size, "cropped": cropped,
    }  # fmt: skip


@st.composite
def operands(draw: st.DrawFn, problem: Problem) -> Operands:
    """Draw first, second and bias for a problem, each in a memory layout of its own.

    Of real floating operands some hold a NaN or an infinity.
    """
    drawn = random_operands(problem, draw(st.integers(0, 2**32 - 1)))
    special = draw(st.sampled_from((None, None, np.nan, np.inf, -np.inf)))
    victims = [array for array in drawn if array is not None and array.size]
    if special is not None and victims and problem.result_dtype.kind == "f":
        victim = draw(st.sampled_from(victims))
        victim.flat[draw(st.integers(0, victim.size - 1))] = special
    first, second, bias = (None if a is None else in_memory(a, draw(st.sampled_from(MEMORIES))) for a in drawn)
    assert first is not None
    return first, second, bias


#: The memory layouts :func:`in_memory` knows.
MEMORIES = ("plain", "fortran", "negative", "strided", "byteswapped", "readonly", "misaligned")


def in_memory(array: Array, memory: str) -> Array:
    """Copy an array into one of :data:`MEMORIES`; values and shape stay.

    Parameters
    ----------
    array : ndarray
    memory : str
        "negative" runs backwards along every axis, "strided" has gaps along every axis,
        "misaligned" starts one byte late.
    """
    if memory == "fortran":
        return array.copy(order="F")
    if memory == "negative":
        backwards = (slice(None, None, -1),) * array.ndim
        return array[backwards].copy()[backwards]
    if memory == "strided":
        wide = np.zeros([2 * size + 1 for size in array.shape], array.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if memory == "byteswapped":
        swapped: Array = array.astype(array.dtype.newbyteorder())
        return swapped
    if memory == "misaligned":
        view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    copy = array.copy()
    copy.flags.writeable = memory != "readonly"
    return copy
