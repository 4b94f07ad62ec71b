"""The main job on a photograph: edges by every backend, then the edge kernel learned from an example."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import convcore
from convcore.cli.images import KERNELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.float32]

#: What is computed on the photograph: each name stands for the kernels whose answers are combined to a magnitude.
EDGES = {"[1, -1]": ("edge",), "Sobel pair": ("sobel-x", "sobel-y")}
REPEATS = 7


@dataclass(frozen=True)
class Edges:
    """Edge maps of one backend.

    Attributes
    ----------
    answers : dict of str to ndarray
        What correlation with each kernel gave, by the kernel's name.
    first, typical : dict of str to float
        Seconds of the first call and the median of later ones, by the names of ``EDGES``.
    """

    answers: dict[str, Image]
    first: dict[str, float]
    typical: dict[str, float]

    def magnitude(self, name: str) -> Image:
        """Return the edge strength that an entry of ``EDGES`` stands for."""
        return np.sqrt(sum(self.answers[kernel] ** 2 for kernel in EDGES[name]))


@dataclass(frozen=True)
class Lesson:
    """What gradient descent did: summed squared error before each step, and the weight at the end."""

    losses: list[float]
    learned: Image
    true: Image


def run(console: Console, output: Path) -> None:
    """Do the main job, telling of it on a console, and write its picture."""
    import skimage.data

    photograph: Image = np.divide(skimage.data.camera(), 255, dtype=np.float32)
    console.print(f"[bold]Edges of a photograph[/] ({photograph.shape[0]} by {photograph.shape[1]} pixels, float32)")
    results = {}
    for info in convcore.backends():
        if info.state == "ready":
            with console.status(f"computing with {info.name} on {info.devices[0].name}"):
                results[info.name] = find_edges(photograph, info.name)
        else:
            remedy = f"; to add it: {info.install_hint}" if info.install_hint else ""
            console.print(escape(f"  {info.name} was left out ({info.state}): {info.reason}{remedy}"), soft_wrap=True)
    console.print(_timings(results))
    for one, other in combinations(results, 2):
        console.print(f"  largest difference between {one} and {other}: {difference(results[one], results[other]):.1e}")

    console.print("\n[bold]Learning the kernel [1, -1][/] from the 6 by 8 black-and-white image, ten steps")
    lesson = learn()
    for step, loss in list(enumerate(lesson.losses, start=1))[1::2]:
        console.print(f"  step {step:2d}, loss {loss:8.4f}")
    console.print(f"  learned {_numbers(lesson.learned)}, true {_numbers(lesson.true)}")

    with console.status("drawing"):
        draw(photograph, next(iter(results.values())), lesson).savefig(output, dpi=120)
    console.print(f"\nPicture: [bold]{output.resolve()}[/]", soft_wrap=True)


def find_edges(photograph: Image, backend: str) -> Edges:
    """Correlate a photograph with every kernel of ``EDGES``, taking the time."""
    answers: dict[str, Image] = {}
    first, typical = {}, {}
    for name, kernels in EDGES.items():

        def correlate(kernels: tuple[str, ...] = kernels) -> None:
            for kernel in kernels:
                answers[kernel] = convcore.corr2d(photograph, KERNELS[kernel], backend=backend)

        first[name] = _seconds(correlate)
        typical[name] = median(_seconds(correlate) for _ in range(REPEATS))
    return Edges(answers, first, typical)


def difference(one: Edges, other: Edges) -> float:
    """Return the largest absolute difference between the answers of two backends."""
    return max(float(np.abs(one.answers[kernel] - other.answers[kernel]).max()) for kernel in one.answers)


def black_and_white() -> Image:
    """Return the 6 x 8 image of ones with a black band in its columns 2 to 5."""
    image = np.ones((6, 8), np.float32)
    image[:, 2:6] = 0
    return image


def learn(steps: int = 10, rate: float = 0.03) -> Lesson:
    """Learn the kernel [1, -1] from one image and its edges by gradient descent on the summed squared error.

    The Hessian's eigenvalues are 12 and 60 here, so a rate above 1/30 would diverge.
    """
    image, true = black_and_white(), KERNELS["edge"]
    x, y = image[None, None], convcore.corr2d(image, true)[None, None]
    layer = convcore.Conv2D(1, kernel_size=(1, 2), use_bias=False)
    layer.initialize(seed=0)
    losses = []
    for _ in range(steps):
        error = layer(x) - y
        losses.append(float(np.sum(error**2)))
        layer.zero_grad()
        layer.backward(2 * error)
        layer.weight.data()[:] -= rate * layer.weight.grad()
    return Lesson(losses, layer.weight.data()[0, 0].copy(), true)


def draw(photograph: Image, edges: Edges, lesson: Lesson) -> Figure:
    """Return the figure: photograph, edge maps, the lesson's image, loss, and learned against true kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    figure.suptitle("convcore: edges of a photograph, and the edge kernel learned", fontsize=15)
    axes = figure.subplots(2, 3, height_ratios=(1.6, 1))
    _show(axes[0, 0], photograph, "photograph", cmap="gray")
    for axis, name in zip(axes[0, 1:], EDGES, strict=True):
        strength = edges.magnitude(name)
        _show(axis, strength, f"strength of edges: {name}", cmap="magma", vmax=np.quantile(strength, 0.995))
    _show(axes[1, 0], black_and_white(), "image to learn from, 6 by 8 pixels", cmap="gray")
    _draw_loss(axes[1, 1], lesson)
    _draw_kernels(axes[1, 2], lesson)
    return figure


def _show(axis: Axes, image: Image, title: str, **options: Any) -> None:
    axis.imshow(image, vmin=0, **options)
    axis.set(title=title, xticks=[], yticks=[])


def _draw_loss(axis: Axes, lesson: Lesson) -> None:
    steps = range(1, len(lesson.losses) + 1)
    axis.semilogy(steps, lesson.losses, "o-", color="tab:blue")
    axis.set(title="loss in ten steps of gradient descent", xlabel="step", ylabel="summed squared error", xticks=steps)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_kernels(axis: Axes, lesson: Lesson) -> None:
    taps = np.arange(lesson.true.size)
    for offset, kernel, label, colour in (
        (-0.2, lesson.learned, "learned", "tab:blue"),
        (0.2, lesson.true, "true", "0.7"),
    ):
        bars = axis.bar(taps + offset, kernel.ravel(), 0.38, label=label, color=colour)
        axis.bar_label(bars, fmt="%.3f", padding=3)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(title="kernel, learned and true", xticks=taps, xticklabels=["left tap", "right tap"], ylim=(-1.35, 1.35))
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.legend(frameon=False)


def _timings(results: dict[str, Edges]) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("backend")
    table.add_column("kernels")
    table.add_column("first call, ms", justify="right")
    table.add_column(f"median of {REPEATS}, ms", justify="right")
    for backend, edges in results.items():
        for name in EDGES:
            table.add_row(backend, escape(name), f"{1e3 * edges.first[name]:.2f}", f"{1e3 * edges.typical[name]:.2f}")
    return table


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _numbers(kernel: Image) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in kernel.ravel()) + ")"
