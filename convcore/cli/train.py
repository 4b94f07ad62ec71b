"""Train a LeNet on handwritten digits, on any backend."""

from __future__ import annotations

import importlib
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import convcore
from convcore.layers import AvgPool2D, Conv2D, Dense, ReLU, Sequential
from convcore.normalise import word
from convcore.training import SGD, Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

console = Console()

#: Data sets by the name the command takes.
DATA = ("digits",)


def lenet() -> Sequential:
    """Return a LeNet for images of 8 x 8 pixels: two correlations, each averaged over windows, and three dense layers.

    After LeCun et al., "Gradient-Based Learning Applied to Document Recognition", section 2.B; with ReLU, and
    padding in both correlations because the images are small.
    """
    return Sequential(
        Conv2D(6, 5, padding=2), ReLU(), AvgPool2D(2),
        Conv2D(16, 5, padding=2), ReLU(), AvgPool2D(2),
        Dense(120), ReLU(), Dense(84), ReLU(), Dense(10),
    )  # fmt: skip


def load_digits(dtype: str = "float64") -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return images (N, 1, 8, 8), 0 to 1, and labels: to learn from, and held out, a random fifth, always the same."""
    from sklearn import datasets

    data = datasets.load_digits()
    images, labels = (data.images[:, np.newaxis] / 16).astype(dtype), data.target
    order = np.random.default_rng(0).permutation(len(images))
    fifth = len(images) // 5
    held_out, rest = order[:fifth], order[fifth:]
    return (images[rest], labels[rest]), (images[held_out], labels[held_out])


def digits_training(dtype: str, lr: float, momentum: float, batch: int, seed: int) -> Training:
    """Return the run that the command makes, at its start."""
    (x, labels), held_out = load_digits(dtype)
    network = lenet()
    network.initialize(seed)
    return Training(network, SGD(network, lr, momentum), x, labels, held_out, batch, seed)


def train(
    data: Annotated[str, typer.Argument(help="digits: 1,797 scans of 8 by 8 pixels that come with scikit-learn.")],
    epochs: Annotated[int, typer.Option(help="Passes over the images, those before a checkpoint included.")] = 40,
    lr: Annotated[float, typer.Option(help="Learning rate of stochastic gradient descent.")] = 0.05,
    momentum: Annotated[float, typer.Option(help="How much of each step goes on into the next.")] = 0.9,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the images.")] = 0,
    dtype: Annotated[str, typer.Option(help="float64: the same curve on every backend; or float32.")] = "float64",
    output: Annotated[Path, typer.Option(help="Where the curves are drawn.")] = Path("digits.png"),
    checkpoint: Annotated[Path | None, typer.Option(help="A file that is written after every epoch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    backend: Annotated[
        str | None, typer.Option(help='"cpu", "opencl:1", a list such as "cpu,numpy", or "auto".')
    ] = None,
) -> None:
    """Train a LeNet, tell how it does on a fifth of the images held out, and draw its curves."""
    importlib.import_module("matplotlib")  # what is missing is said now, not after the training
    word("train", "data", data, DATA)
    word("train", "dtype", dtype, ("float32", "float64"))
    if resume and checkpoint is None:
        raise ValueError("--resume needs --checkpoint, the file to go on from")
    with nullcontext() if backend is None else convcore.use(backend):
        training = digits_training(dtype, lr, momentum, batch, seed)
        if resume and checkpoint is not None:
            training.resume(checkpoint)
            console.print(f"going on after epoch {training.epoch}", highlight=False)
        start = time.perf_counter()
        try:
            _run(training, epochs, checkpoint)
        except KeyboardInterrupt:
            kept = "nothing was kept" if checkpoint is None else f"{checkpoint} holds epoch {training.epoch}: --resume"
            console.print(f"interrupted in epoch {training.epoch + 1}; {kept}", highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
        if training.accuracies:
            console.print(
                f"{training.accuracies[-1]:.1%} of {len(training.held_out[0])} held-out digits right after "
                f"{training.epoch} epochs, {time.perf_counter() - start:.1f} s with backend {convcore.get_backend()}",
                highlight=False,
            )
    draw_curves(training).savefig(output, dpi=120)
    console.print(f"Curves: [bold]{output.resolve()}[/]", soft_wrap=True)


def _run(training: Training, epochs: int, checkpoint: Path | None) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=epochs * training.steps_per_epoch, state="")
        progress.advance(task, training.epoch * training.steps_per_epoch)
        while training.epoch < epochs:
            training.run_epoch(lambda loss: progress.advance(task))
            state = f"epoch {training.epoch}, loss {np.mean(training.losses[-training.steps_per_epoch :]):.3f}"
            progress.update(task, state=f"{state}, held out {training.accuracies[-1]:.1%}")
            if checkpoint is not None:
                training.save(checkpoint)


def draw_curves(training: Training) -> Figure:
    """Return the figure of a run: loss of every step and after every epoch, and accuracy."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = np.arange(1, training.epoch + 1)
    steps = np.arange(1, len(training.losses) + 1) / training.steps_per_epoch
    loss.semilogy(steps, training.losses, color="tab:blue", alpha=0.35, linewidth=0.8, label="each step")
    loss.semilogy(epochs, training.held_out_losses, "o-", color="tab:orange", markersize=3, label="held out")
    loss.set(title="loss: softmax cross-entropy", xlabel="epoch")
    loss.legend(frameon=False)
    accuracy.plot(epochs, training.accuracies, "o-", color="tab:orange", markersize=3)
    last = f": {training.accuracies[-1]:.1%} at the end" if training.accuracies else ""
    accuracy.set(title=f"held-out digits right{last}", xlabel="epoch", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in (loss, accuracy):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
