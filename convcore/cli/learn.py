"""Learn the kernel that made one image of another, and draw what was learned."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

import convcore
from convcore.cli import images
from convcore.fitting import KernelFit, fit_kernel, without_edge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.float64]

console = Console()


def learn(
    before: Annotated[Path, typer.Argument(help="An image, grey or colour; each colour counts as an image.")],
    after: Annotated[Path, typer.Argument(help="What the unknown kernel made of it; of the same size.")],
    size: Annotated[str, typer.Option(help="Of the kernel: one number, or rows,columns.")],
    steps: Annotated[int, typer.Option(help="Steps of gradient descent.")] = 1000,
    lr: Annotated[str, typer.Option(help="Learning rate of plain gradient descent, or auto.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture is written.")] = Path("learned.png"),
    save: Annotated[
        Path | None, typer.Option(help="A .npy file for the kernel, as `filter --kernel` takes it.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help='"cpu", "opencl:1", a list such as "cpu,numpy", or "auto".')
    ] = None,
) -> None:
    """Learn the kernel that turns one image into another, and draw it."""
    importlib.import_module("matplotlib")
    first, second = _planes(before), _planes(after)
    if first.shape != second.shape:
        raise ValueError(
            f"the images must be of one size and have the same colours, got {_size(first)} and {_size(second)}"
        )
    kernel_size = _kernel_size(size)
    fit = fit_kernel(
        first, second, kernel_size, lr=_rate(lr), steps=steps, progress=console.is_terminal, backend=backend
    )
    console.print(str(fit), highlight=False, soft_wrap=True)
    if save is not None:
        np.save(save, fit.kernel)
        console.print(f"Kernel: [bold]{save.resolve()}[/]", soft_wrap=True)
    draw(first[0], second[0], fit).savefig(output, dpi=120)
    console.print(f"Picture: [bold]{output.resolve()}[/]", soft_wrap=True)


def draw(before: Image, after: Image, fit: KernelFit) -> Figure:
    """Return the figure: both images, what the kernel leaves unexplained, the kernel, its frequencies, and the loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, image, title in ((axes[0, 0], before, "before"), (axes[0, 1], after, "after")):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
    left = convcore.corr2d(before, fit.kernel) - without_edge(after, fit.kernel.shape)
    _draw_signed(figure, axes[0, 2], left, "what the kernel does not explain", np.quantile(abs(left), 0.99))
    _draw_signed(figure, axes[1, 0], fit.kernel, "learned kernel", np.abs(fit.kernel).max())
    _write_numbers(axes[1, 0], fit.kernel)
    axes[1, 1].semilogy(np.maximum(fit.losses, np.finfo(float).tiny), color="tab:blue")
    axes[1, 1].set(title="loss", xlabel="step", ylabel="summed squared error")
    directions = np.arange(1, fit.eigenvalues.size + 1)
    axes[1, 2].semilogy(directions[: fit.rank], fit.eigenvalues[: fit.rank], "o-", markersize=3, color="tab:blue")
    known = f"{fit.rank} of {fit.eigenvalues.size} directions are seen"
    axes[1, 2].set(title=f"the Hessian: {known}", xlabel="direction of the kernel", ylabel="eigenvalue")
    for axis in axes[1, 1:]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_signed(figure: Figure, axis: Axes, values: Image, title: str, limit: float) -> None:
    limit = float(limit) or 1.0
    shown = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axis, shrink=0.8)


def _write_numbers(axis: Axes, kernel: Image) -> None:
    """Write every weight into its square, if they are few enough to be read."""
    if max(kernel.shape) > 9:
        return
    largest = np.abs(kernel).max()
    for (row, column), weight in np.ndenumerate(kernel):
        colour = "white" if abs(weight) > 0.6 * largest else "black"
        axis.text(column, row, f"{weight:.3f}", ha="center", va="center", fontsize=9, color=colour)


def _planes(path: Path) -> Image:
    """Return the colours of an image as (colours, H, W), from 0 to 1; transparency is left out."""
    pixels = images.read_image(path)
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    planes = planes[:-1] if len(planes) in (2, 4) else planes
    return np.asarray(planes / np.iinfo(pixels.dtype).max, np.float64)


def _size(planes: Image) -> str:
    colours, height, width = planes.shape
    return f"{width} x {height} pixels of {colours} colour{'s'[: colours > 1]}"


def _kernel_size(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"--size must be one number, or rows,columns, got {text!r}") from None
    return numbers * 2 if len(numbers) == 1 else numbers


def _rate(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--lr must be a number or auto, got {text!r}") from None
