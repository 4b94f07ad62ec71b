"""Charts as SVG text: small, with one scale of colours, legible on light and on dark ground.

Colours are CSS classes (``c0`` … ``c7``, ``grid``, ``ink``), so that the page, or the SVG itself, decides what they
look like.  A chart is 480 units wide: on a telephone its text is still text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 44
COLOURS = 8

STYLE = """
.ink { fill: var(--ink); }
.soft { fill: var(--soft); }
.grid { stroke: var(--grid); stroke-width: 1; }
.roof { fill: none; stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; }
text { font: 12px system-ui, sans-serif; }
""" + "\n".join(
    f".c{i} {{ --colour: var(--c{i}); }} circle.c{i} {{ fill: var(--c{i}); }} .line.c{i} {{ stroke: var(--c{i}); }}"
    for i in range(COLOURS)
)
#: Okabe and Ito's colours, which the colour-blind can tell apart, and lighter ones of the same hues on dark ground.
LIGHT = dict(
    zip(
        ("ink", "soft", "grid", "ground", "raised", *(f"c{i}" for i in range(COLOURS))),
        (
            "#1b1f24", "#59636e", "#d8dee4", "#ffffff", "#f6f8fa",
            "#0072b2", "#d55e00", "#009e73", "#b5528b", "#a67c00", "#2f8fce", "#7a5195", "#5b6770",
        ),
        strict=True,
    )
)  # fmt: skip
DARK = dict(
    zip(
        LIGHT,
        (
            "#e6edf3", "#9aa5b1", "#30363d", "#0d1117", "#161b22",
            "#4da3ff", "#ff8c42", "#3ddc97", "#f08bc0", "#e3b341", "#7fd1ff", "#c19cff", "#a8b3bd",
        ),
        strict=True,
    )
)  # fmt: skip


def variables(colours: dict[str, str]) -> str:
    """Return colours as CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


class Scale:
    """One axis: from data to units of the picture."""

    def __init__(self, values: Iterable[float], first: float, last: float, log: bool) -> None:
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(known), max(known)
        self.log, self.first, self.last = log, first, last
        if log:
            self.low, self.high = math.log10(low) - 0.05, math.log10(high) + 0.05
            if self.high - self.low < 0.5:
                self.low, self.high = self.low - 0.2, self.high + 0.2
        else:
            self.low, self.high = min(0.0, low), high * 1.05 or 1.0

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Return round numbers within the scale, not too many."""
        if not self.log:
            step = 10 ** math.floor(math.log10(self.high - self.low))
            step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2) if (self.high - self.low) / (step * part) <= 6)
            return [number * step for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            found = [part * 10.0**decade for decade in decades for part in parts]
            found = [value for value in found if self.low <= math.log10(value) <= self.high]
            if len(found) <= 8:
                return found
        return found[:: math.ceil(len(found) / 8)]


class Chart:
    """A frame with axes; marks are added, then :meth:`svg` gives the text.

    Parameters
    ----------
    x_label, y_label : str
    x, y : iterable of float
        Every value there will be.
    x_log, y_log : bool
    number : callable
        Writes a tick of the y axis.
    x_ticks : sequence of float, optional
        Instead of round numbers.
    """

    def __init__(
        self,
        x_label: str,
        y_label: str,
        x: Iterable[float],
        y: Iterable[float],
        *,
        x_log: bool = True,
        y_log: bool = True,
        number: Callable[[float], str] = "{:g}".format,
        x_ticks: Sequence[float] = (),
    ) -> None:
        self.x = Scale(x, LEFT, WIDTH - RIGHT, x_log)
        self.y = Scale(y, HEIGHT - BOTTOM, TOP, y_log)
        self.marks: list[str] = []
        for value in x_ticks or self.x.ticks():
            at = self.x(value)
            self.marks += [
                f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
                _text(at, HEIGHT - BOTTOM + 16, f"{value:g}", "middle"),
            ]
        for value in self.y.ticks():
            at = self.y(value)
            self.marks += [
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
                _text(LEFT - 6, at + 4, number(value), "end"),
            ]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self.marks += [
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle", "ink"),
            f'<text class="ink" text-anchor="middle" transform="translate(13 {middle}) rotate(-90)">'
            f"{escape(y_label)}</text>",
        ]

    def dot(self, x: float, y: float, colour: int, title: str = "", radius: float = 3.5) -> None:
        """Add a point; ``title`` is shown when the pointer rests on it."""
        self.marks.append(
            f'<circle class="c{colour % COLOURS}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" '
            f'fill-opacity="0.75"><title>{escape(title)}</title></circle>'
        )

    def line(self, points: Iterable[tuple[float, float]], colour: int | None = None) -> None:
        """Add a line through points; without a colour it is dashed."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        kind = "roof" if colour is None else f"line c{colour % COLOURS}"
        self.marks.append(f'<polyline class="{kind}" points="{path}"/>')

    def note(self, x: float, y: float, text: str, anchor: str = "end") -> None:
        """Write beside a line, above the point."""
        self.marks.append(_text(self.x(x), self.y(y) - 5, text, anchor))

    def key(self, colour: int, text: str) -> None:
        """Say in the upper left what a colour means."""
        y = TOP + 14 + 18 * colour
        self.marks.append(f'<circle class="c{colour}" cx="{LEFT + 14}" cy="{y - 4}" r="5"/>')
        self.marks.append(_text(LEFT + 26, y, text, kind="ink"))

    def svg(self, title: str) -> str:
        """Return the picture."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self.marks)}</svg>'
        )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "soft") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
