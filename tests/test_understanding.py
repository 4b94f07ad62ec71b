"""What a lesson spells out and draws."""

import re

import numpy as np
import pytest

import convcore
from convcore import AvgPool2D, Conv2D, ReLU
from convcore.lesson import draw_feature_maps, draw_receptive_field, explain

RNG = np.random.default_rng(9)
STACK = [Conv2D(1, 5, padding=2), ReLU(), AvgPool2D(2), Conv2D(1, 3)]


@pytest.mark.parametrize("padding", [0, "same", ((0, 2), (1, 0))])
@pytest.mark.parametrize("stride", [1, (2, 1)])
def test_explain_adds_up_to_the_correlation(stride, padding):
    x, k = RNG.integers(0, 9, (5, 6)), RNG.integers(-4, 5, (2, 3))
    y = convcore.corr2d(x, k, stride=stride, padding=padding)
    for row, column in np.ndindex(y.shape):
        said = explain(x, k, row, column, stride=stride, padding=padding)
        head, *lines, total = said.splitlines()
        assert len(lines) == 2
        assert sum(eval(line.lstrip("+ ")) for line in lines) == int(total[2:]) == y[row, column]
        top, left = map(int, re.search(r"x\[(-?\d+):-?\d+, (-?\d+):", head).groups())
        outside = top < 0 or left < 0 or top + 2 > 5 or left + 3 > 6
        assert outside == ("zeros beyond the edge" in head)


def test_the_frame_is_drawn_around_what_the_element_depends_on():
    image = RNG.uniform(size=(20, 24))
    figure = draw_receptive_field(STACK, image, 2, 3)
    frame = figure.axes[0].patches[0]
    layers = [Conv2D(1, 5, padding=2, weight_initializer="ones"), AvgPool2D(2), Conv2D(1, 3, weight_initializer="ones")]
    y = image[None, None]
    for layer in layers:
        y = layer(y)
    grad = np.zeros_like(y)
    grad[0, 0, 2, 3] = 1
    for layer in reversed(layers):
        grad = layer.backward(grad)
    rows, columns = np.nonzero(grad[0, 0])
    assert frame.get_xy() == (columns.min() - 0.5, rows.min() - 0.5)
    assert (frame.get_height(), frame.get_width()) == (np.ptp(rows) + 1, np.ptp(columns) + 1)
    seen = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(seen, image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])


def test_feature_maps_are_drawn_on_one_scale():
    maps = RNG.standard_normal((5, 4, 6))
    figure = draw_feature_maps(maps)
    drawn = [axis.images[0] for axis in figure.axes if axis.images and axis.get_title()]
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [f"channel {c}" for c in range(5)]
    for picture, channel in zip(drawn, maps, strict=True):
        np.testing.assert_array_equal(picture.get_array(), channel)
        assert picture.get_clim() == (-np.abs(maps).max(), np.abs(maps).max())


BAD = {
    "element": (
        lambda: explain(np.ones((3, 3)), np.ones((2, 2)), 2, 0),
        "explain: the result has 2 rows and 2 columns, got (2, 0)",
    ),
    "kernel": (
        lambda: explain(np.ones((3, 3)), np.ones(2), 0, 0),
        "explain: `k` must have 2 dimensions, (rows, columns)",
    ),
    "maps": (
        lambda: draw_feature_maps(np.ones((3, 3))),
        "draw_feature_maps: `maps` must be (C, H, W), got shape (3, 3)",
    ),
    "image": (
        lambda: draw_receptive_field(STACK, np.ones(3), 0, 0),
        "draw_receptive_field: `image` must be (H, W) or (H, W, 3), got shape (3,)",
    ),
    "nothing": (
        lambda: draw_receptive_field(STACK, np.ones((9, 9)), 9, 0),
        "draw_receptive_field: element (9, 0) sees nothing of the image",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    call, words = BAD[case]
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("matplotlib.figure", lambda: draw_feature_maps(np.ones((1, 3, 3)))),
        ("scipy.sparse", lambda: convcore.as_matrix(np.ones((2, 2)), (3, 3))),
        ("rich.progress", lambda: convcore.fit_kernel(np.ones((3, 3)), np.ones((3, 3)), 1, progress=True)),
    ],
)
def test_a_missing_library_is_one_sentence(module, call, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"is not installed: pip install 'convcore\[(learn|cli)\]'$"):
        call()
