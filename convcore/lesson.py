"""What a lesson spells out and draws: one element of a correlation, what it sees, and feature maps.

Pictures are matplotlib figures; ``figure.savefig("name.png")`` writes them, and a notebook shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from convcore import api, normalise
from convcore.problem import ReceptiveField

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explain(x: Any, k: Any, row: int, column: int, *, stride: Any = 1, padding: Any = 0) -> str:
    """Spell out how one element of ``corr2d(x, k)`` is computed.

    Parameters
    ----------
    x : array (H, W)
    k : array (R, S)
    row, column : int
        Of the element, from 0.
    stride, padding
        As in :func:`convcore.corr2d`; in the padding stand zeros.

    Returns
    -------
    str
        What the element sees, the products line by line, and their sum.

    Raises
    ------
    TypeError, ValueError
        As :func:`convcore.corr2d`, and for an element that is not there.

    Examples
    --------
    >>> import numpy as np
    >>> from convcore.lesson import explain
    >>> print(explain(np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2), 0, 1))
    y[0, 1] sees x[0:2, 1:3]; pixel times weight, added up:
      1*0 + 2*1
    + 4*2 + 5*3
    = 25
    """
    fn = "explain"
    x, k = normalise.as_array(fn, "x", x), normalise.as_array(fn, "k", k)
    for name, array in (("x", x), ("k", k)):
        normalise.operand(fn, name, array, ndim=2)
    geometry = {"stride": stride, "padding": padding}
    _, _, rows, columns = api.output_shape((1, 1, *x.shape), (1, 1, *k.shape), **geometry)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(f"{fn}: the result has {rows} rows and {columns} columns, got ({row}, {column})")
    strides = normalise.pair(fn, "stride", stride, 1)
    sides = normalise.forward_padding(fn, padding, x.shape, k.shape, strides, (1, 1))
    first = row * strides[0], column * strides[1]
    window = np.pad(x, sides)[first[0] : first[0] + k.shape[0], first[1] : first[1] + k.shape[1]]
    top, left = first[0] - sides[0][0], first[1] - sides[1][0]
    seen = f"x[{top}:{top + k.shape[0]}, {left}:{left + k.shape[1]}]"
    edge = "" if window.size == _inside(top, left, k.shape, x.shape) else ", zeros beyond the edge"
    lines = [" + ".join(map(_product, *line)) for line in zip(window, k, strict=True)]
    products = "\n  " + "\n+ ".join(lines)
    return f"y[{row}, {column}] sees {seen}{edge}; pixel times weight, added up:{products}\n= {np.vdot(k, window):g}"


def _product(pixel: float, weight: float) -> str:
    return f"{pixel:g}*{weight:g}" if weight >= 0 else f"{pixel:g}*({weight:g})"


def _inside(top: int, left: int, kernel: tuple[int, ...], size: tuple[int, ...]) -> int:
    """Return how many pixels of a window are pixels of the image."""
    rows, columns = ReceptiveField((kernel[0], kernel[1]), (1, 1), (top, left)).region(0, 0, (size[0], size[1]))
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


def _figure(fn: str, size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        sentence = f"{fn} needs matplotlib, which is not installed: pip install 'convcore[learn]'"
        raise ModuleNotFoundError(sentence, name=error.name) from None
    return Figure(figsize=size, layout="constrained")


def draw_receptive_field(layers: Iterable[Any], image: Any, row: int, column: int) -> Figure:
    """Draw over an image the region that one element of a stack's result depends on.

    Parameters
    ----------
    layers : iterable
        As in :func:`convcore.receptive_field`.
    image : array (H, W) or (H, W, 3)
    row, column : int
        Of the element, from 0.

    Returns
    -------
    matplotlib.figure.Figure
        The image with the region framed, in the padding too, and beside it the region alone.
    """
    image = normalise.as_array("draw_receptive_field", "image", image)
    if image.ndim not in (2, 3):
        raise ValueError(f"draw_receptive_field: `image` must be (H, W) or (H, W, 3), got shape {image.shape}")
    field = api.receptive_field(layers)
    rows, columns = field.region(row, column, image.shape[:2])
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(f"draw_receptive_field: element ({row}, {column}) sees nothing of the image")
    figure = _figure("draw_receptive_field", (10, 5))
    from matplotlib.patches import Rectangle

    whole, detail = figure.subplots(1, 2)
    whole.imshow(image, cmap="gray", vmin=image.min(), vmax=image.max())
    top, left = (field.offset[axis] + (row, column)[axis] * field.stride[axis] for axis in (0, 1))
    height, width = field.size
    frame = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="tab:red", linewidth=2)
    whole.add_patch(frame)
    whole.set(
        title=f"element ({row}, {column}) sees {height} x {width} pixels",
        xlim=(min(left, 0) - 1, max(left + width, image.shape[1])),
        ylim=(max(top + height, image.shape[0]), min(top, 0) - 1),
    )
    detail.imshow(
        image[rows, columns],
        cmap="gray",
        vmin=image.min(),
        vmax=image.max(),
        extent=(columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5),
    )
    detail.set(title="the pixels of the image among them")
    detail.spines[:].set_color("tab:red")
    return figure


def draw_feature_maps(maps: Any, titles: Iterable[str] = ()) -> Figure:
    """Draw feature maps as a grid, on one scale: red is positive, blue negative.

    Parameters
    ----------
    maps : array (C, H, W)
        The channels of one image.
    titles : iterable of str, optional
        One for each channel; its number by default.

    Returns
    -------
    matplotlib.figure.Figure
    """
    maps = normalise.as_array("draw_feature_maps", "maps", maps)
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"draw_feature_maps: `maps` must be (C, H, W), got shape {maps.shape}")
    across = math.ceil(math.sqrt(len(maps)))
    down = math.ceil(len(maps) / across)
    figure = _figure("draw_feature_maps", (2.2 * across + 1, 2.2 * down + 0.3))
    axes = figure.subplots(down, across, squeeze=False).ravel()
    limit = float(np.abs(maps).max()) or 1.0
    names = [*titles] or [f"channel {channel}" for channel in range(len(maps))]
    for axis in axes:
        axis.set_axis_off()
    for axis, channel, name in zip(axes, maps, names, strict=False):
        shown = axis.imshow(channel, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(name, fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure
