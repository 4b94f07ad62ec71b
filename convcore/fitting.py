"""Learn a kernel from images and what it made of them, by gradient descent on the summed squared error.

With A the matrix whose rows are the patches of the images and k the kernel, the loss is ``|A k - y|**2``: a quadratic
in k, whose Hessian is ``2 A'A``.  All that gradient descent needs is ``A'A``, ``A'y`` and ``y'y``, which correlations
give once; a step then costs no look at the images.  Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from convcore import api, normalise
from convcore.layers.parameters import Array

#: Eigenvalues smaller than this part of the largest are rounding: patches do not vary that way at all.
_NO_TRACE = 1e-12


@dataclass(frozen=True)
class KernelFit:
    """A kernel that was learned, and what could be known of it beforehand.

    Attributes
    ----------
    kernel : ndarray (R, S)
        The kernel after the last step, float64.
    losses : list of float
        The summed squared error before each step, and after the last one.
    largest_lr : float
        Plain gradient descent falls at every smaller rate and diverges at larger ones: 2 divided by the
        largest eigenvalue of the Hessian.
    eigenvalues : ndarray (R*S,)
        Of the Hessian, largest first.
    identifiable : bool
        Whether the images determine every direction of the kernel.
    rank : int
        How many directions they determine.
    """

    kernel: Array
    losses: list[float]
    largest_lr: float
    eigenvalues: Array
    identifiable: bool
    rank: int

    def __str__(self) -> str:
        r, s = self.kernel.shape
        known = "the images determine all of it" if self.identifiable else (
            f"the images determine only {self.rank} of {r * s} directions, the others stay where they started"
        )  # fmt: skip
        return (
            f"kernel {r} x {s}: {known}\n"
            f"largest stable learning rate {self.largest_lr:.6g} (2 / largest eigenvalue {self.eigenvalues[0]:.6g})\n"
            f"loss {self.losses[0]:.6g} before, {self.losses[-1]:.6g} after {len(self.losses) - 1} steps"
        )


def fit_kernel(
    x: Any,
    y: Any,
    kernel_size: Any,
    *,
    lr: float | str = "auto",
    steps: int = 1000,
    seed: int = 0,
    callback: Callable[[int, float, Array], None] | None = None,
    progress: bool = False,
    backend: Any = None,
) -> KernelFit:
    """Learn the kernel k that makes ``corr2d(x, k)`` closest to ``y``.

    Parameters
    ----------
    x : array (H, W), or (N, H, W)
        Images before.
    y : array
        Images after: as many, either of the size of the valid correlation, or of the size of ``x`` with
        the kernel's middle on each pixel.  Of the latter the edge is left out, where what stood beyond counts.
    kernel_size : int or (int, int)
        R, S.
    lr : float or "auto"
        Learning rate of plain gradient descent; it must be below the largest stable one.  "auto" gives each step
        the rate and the momentum under which the slowest direction falls fastest (Golub and Varga, "Chebyshev
        semi-iterative methods").
    steps : int
    seed : int
        Of the numbers to start from, uniform within ±0.07.
    callback : callable, optional
        Called as ``callback(step, loss, kernel)`` before each step.
    progress : bool
        Whether to show a bar (needs rich).
    backend : str or list of str, optional
        As in :func:`convcore.conv2d`; it correlates the images.

    Returns
    -------
    KernelFit

    Raises
    ------
    TypeError, ValueError
        For images that do not belong together or are not finite, and for a learning rate that must diverge.

    Examples
    --------
    >>> import numpy as np
    >>> from convcore import corr2d, fit_kernel
    >>> image = np.ones((6, 8))
    >>> image[:, 2:6] = 0
    >>> fit = fit_kernel(image, corr2d(image, np.array([[1.0, -1.0]])), (1, 2), lr=0.03, steps=10)
    >>> round(1 / fit.largest_lr, 9)
    30.0
    >>> fit.kernel.round(1)
    array([[ 1., -1.]])
    """
    kernel = normalise.pair("fit_kernel", "kernel_size", kernel_size, 1)
    steps = normalise.integer("fit_kernel", "steps", steps, 0)
    images, wanted = _pairs(x, y, kernel)
    gram, seen = _normal_equations(images, wanted, kernel, backend)
    eigenvalues = np.linalg.eigvalsh(2 * gram)[::-1]
    rank = int(np.sum(eigenvalues > _NO_TRACE * eigenvalues[0]))
    if not rank:
        raise ValueError("fit_kernel: `x` must not be all zero, or no kernel leaves a trace in `y`")
    largest = 2 / float(eigenvalues[0])
    rates = _rates(lr, eigenvalues[:rank])
    total = float(np.vdot(wanted, wanted))
    weights = np.random.default_rng(seed).uniform(-0.07, 0.07, kernel[0] * kernel[1])
    losses, velocity = [], np.zeros_like(weights)
    with _bar(progress, steps) as advance:
        for step, (rate, momentum) in zip(range(steps), rates, strict=False):
            losses.append(_loss(weights, gram, seen, total))
            if callback is not None:
                callback(step, losses[-1], weights.reshape(kernel).copy())
            velocity = momentum * velocity - rate * 2 * (gram @ weights - seen)
            weights = weights + velocity
            advance()
    losses.append(_loss(weights, gram, seen, total))
    return KernelFit(weights.reshape(kernel), losses, largest, eigenvalues, rank == len(eigenvalues), rank)


def _pairs(x: Any, y: Any, kernel: tuple[int, int]) -> tuple[Array, Array]:
    """Return the images (N, 1, H, W), and what is wanted of their valid correlation."""
    images, wanted = _stack("x", x), _stack("y", y)
    if len(images) != len(wanted):
        raise ValueError(f"fit_kernel: there must be as many `y` as `x`, got {len(wanted)} for {len(images)}")
    size = images.shape[2:]
    valid = size[0] - kernel[0] + 1, size[1] - kernel[1] + 1
    if min(valid) < 1:
        raise ValueError(f"fit_kernel: the kernel must fit into the images, got kernel {kernel}, images {size}")
    if wanted.shape[2:] == size:
        wanted = without_edge(wanted, kernel)
    if wanted.shape[2:] != valid:
        raise ValueError(
            f"fit_kernel: `y` must be of size {valid}, or {size} like `x`, for a kernel {kernel}, "
            f"got {wanted.shape[2:]}"
        )
    return images, np.ascontiguousarray(wanted)


def without_edge(y: Array, kernel_size: tuple[int, int]) -> Array:
    """Return the pixels of (…, H, W) around which the whole kernel fits: those of the valid correlation."""
    (r, s), (height, width) = kernel_size, y.shape[-2:]
    top, left = (r - 1) // 2, (s - 1) // 2
    return y[..., top : top + height - r + 1, left : left + width - s + 1]


def _stack(name: str, value: Any) -> Array:
    """Return images as (N, 1, H, W) in float64."""
    if isinstance(value, Sequence):
        sizes = sorted({np.shape(image) for image in value})
        if len(sizes) > 1:
            raise ValueError(
                f"fit_kernel: the images of `{name}` must be of one size, got {' and '.join(map(str, sizes))}"
            )
    array = normalise.as_array("fit_kernel", name, value)
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"fit_kernel: `{name}` must be an image (H, W) or images (N, H, W), got shape {array.shape}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"fit_kernel: `{name}` must be real, got {array.dtype}")
    broken = array.size - int(np.isfinite(array).sum())
    if broken:
        raise ValueError(f"fit_kernel: `{name}` must be finite, got {broken} NaN or infinite of {array.size} pixels")
    stack: Array = array.reshape(-1, 1, *array.shape[-2:]).astype(np.float64)
    return stack


def _normal_equations(images: Array, wanted: Array, kernel: tuple[int, int], backend: Any) -> tuple[Array, Array]:
    """Return A'A and A'y: each row is what the gradient of the weight would be for one window of the images."""
    shape = (1, 1, *kernel)
    p, q = wanted.shape[2:]

    def against(windows: Array) -> Array:
        grad: Array = api.conv2d_grad_weight(images, windows, shape, backend=backend)
        return grad.ravel()

    rows = [against(images[:, :, r : r + p, s : s + q]) for r, s in np.ndindex(kernel)]
    gram = np.array(rows)
    return (gram + gram.T) / 2, against(wanted)


def _rates(lr: float | str, eigenvalues: Array) -> Iterator[tuple[float, float]]:
    """Return the learning rate and the momentum of every step, or say why the rate given would not do."""
    if isinstance(lr, str):
        normalise.word("fit_kernel", "lr", lr, ("auto",))
        return _best_rates(float(eigenvalues[0]), float(eigenvalues[-1]))
    largest = 2 / eigenvalues[0]
    if not 0 < lr < largest:
        raise ValueError(
            f"fit_kernel: `lr` must be above 0 and below {largest:.6g}: from there on each step overshoots by more "
            f"than it corrects and the loss grows without end, got {lr:g}"
        )
    return repeat((float(lr), 0.0))


def _best_rates(high: float, low: float) -> Iterator[tuple[float, float]]:
    """Yield the steps of Chebyshev's iteration: of all made of gradients, the slowest direction falls fastest."""
    middle, reach = (high + low) / 2, (high - low) / 2
    rate, first = 1 / middle, True
    yield rate, 0.0
    while True:
        more = (reach * rate) ** 2 / (2 if first else 4)
        before, rate, first = rate, 1 / (middle - more / rate), False
        yield rate, rate * more / before


def _loss(weights: Array, gram: Array, seen: Array, total: float) -> float:
    return max(float(weights @ gram @ weights - 2 * weights @ seen) + total, 0.0)


def _bar(progress: bool, steps: int) -> Any:
    if not progress:
        return nullcontext(lambda: None)
    return _rich_bar(steps)


def _rich_bar(steps: int) -> Any:
    try:
        from rich.progress import Progress
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "fit_kernel: `progress` needs rich, which is not installed: pip install 'convcore[cli]'", name=error.name
        ) from None

    @contextmanager
    def bar() -> Any:
        with Progress(transient=True) as shown:
            task = shown.add_task("learning the kernel", total=steps)
            yield lambda: shown.advance(task)

    return bar()
