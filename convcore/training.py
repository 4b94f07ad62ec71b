"""What trains a network: a loss, two ways to step, and a run that can be interrupted and resumed.

>>> import numpy as np
>>> from convcore import Dense
>>> from convcore.training import SGD, softmax_cross_entropy
>>> layer = Dense(2, in_channels=2, weight_initializer="zeros")
>>> x, labels = np.eye(2, dtype=np.float32), np.array([0, 1])
>>> loss, grad = softmax_cross_entropy(layer(x), labels)
>>> layer.zero_grad()
>>> grad_x = layer.backward(grad)
>>> SGD(layer, lr=1.0).step()
>>> layer.weight.data()[0, :, 0, 0]
array([ 0.25, -0.25], dtype=float32)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convcore import normalise
from convcore.layers import Layer
from convcore.layers.parameters import Array, read_npz, under, write_npz

#: A loss this many times the first one has no way back.
_DIVERGED = 100.0


class DivergedError(ArithmeticError):
    """The loss grows instead of falling; the learning rate is too large."""


# ---------------------------------------------------------------- loss


def softmax_cross_entropy(scores: Any, labels: Any) -> tuple[float, Array]:
    """Return the mean of ``-log(softmax(scores)[label])`` and its gradient with respect to the scores.

    Parameters
    ----------
    scores : array (N, classes)
    labels : array of int (N,)
        Each at least 0 and smaller than the number of classes.

    Returns
    -------
    float
    array (N, classes)
    """
    fn = "softmax_cross_entropy"
    scores, labels = normalise.as_array(fn, "scores", scores), normalise.as_array(fn, "labels", labels)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise ValueError(f"{fn}: `scores` must be floating, (N, classes), got {scores.dtype}, shape {scores.shape}")
    n, classes = scores.shape
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"{fn}: `labels` must be {n} integers, got {labels.dtype}, shape {labels.shape}")
    if n == 0:
        raise ValueError(f"{fn}: there must be at least one row of `scores`")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{fn}: `labels` must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    with np.errstate(all="ignore"):  # a loss that is not finite is for the caller to see
        shifted = scores - scores.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=1, keepdims=True)
        picked = np.arange(n), labels
        loss = float(np.mean(np.log(sums[:, 0]) - shifted[picked]))
        grad = powers / sums
        grad[picked] -= 1
        grad /= n
    return loss, grad


# ---------------------------------------------------------------- steps


class SGD:
    """Stochastic gradient descent: ``v = momentum*v + grad``, then ``parameter -= lr*v``.

    Parameters
    ----------
    layer : Layer
        Whose parameters are stepped.
    lr : float
        Learning rate.
    momentum : float
        How much of the step before goes on, from 0 to less than 1.
    """

    def __init__(self, layer: Layer, lr: float, momentum: float = 0.0) -> None:
        self.layer, self.lr = layer, _positive("SGD", "lr", lr)
        self.momentum = _fraction("SGD", "momentum", momentum)
        self._velocity: dict[str, Array] = {}

    def step(self) -> None:
        """Change every parameter by its gradient."""
        with np.errstate(all="ignore"):
            for name, parameter in self.layer.parameters().items():
                change = parameter.grad()
                if self.momentum:
                    velocity = self._velocity.setdefault(name, np.zeros_like(change))
                    velocity *= self.momentum
                    velocity += change
                    change = velocity
                parameter.data()[...] -= self.lr * change

    def state_dict(self) -> dict[str, Array]:
        """Return copies of what it remembers, by name."""
        return {name: velocity.copy() for name, velocity in self._velocity.items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Remember what another one did."""
        self._velocity = {name: velocity.copy() for name, velocity in state.items()}

    def __repr__(self) -> str:
        return f"SGD(lr={self.lr}, momentum={self.momentum})"


class Adam:
    """Steps scaled by running means of the gradient and of its square (Kingma and Ba, "Adam", algorithm 1).

    Parameters
    ----------
    layer : Layer
        Whose parameters are stepped.
    lr : float
        Learning rate.
    betas : (float, float)
        How slowly the two means forget.
    eps : float
        Keeps the division finite.
    """

    def __init__(
        self, layer: Layer, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.layer, self.lr, self.eps = layer, _positive("Adam", "lr", lr), _positive("Adam", "eps", eps)
        self.betas = _fraction("Adam", "betas", betas[0]), _fraction("Adam", "betas", betas[1])
        self._steps = 0
        self._means: dict[str, tuple[Array, Array]] = {}

    def step(self) -> None:
        """Change every parameter by its gradient."""
        self._steps += 1
        first_beta, second_beta = self.betas
        first_bias, second_bias = 1 - first_beta**self._steps, 1 - second_beta**self._steps
        with np.errstate(all="ignore"):
            for name, parameter in self.layer.parameters().items():
                grad = parameter.grad()
                mean, square = self._means.setdefault(name, (np.zeros_like(grad), np.zeros_like(grad)))
                mean += (1 - first_beta) * (grad - mean)
                square += (1 - second_beta) * (grad * grad - square)
                scale = np.sqrt(square / second_bias) + self.eps
                parameter.data()[...] -= self.lr / first_bias * (mean / scale)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of what it remembers, by name."""
        means = {f"{kind}.{name}": pair[kind].copy() for name, pair in self._means.items() for kind in (0, 1)}
        return {"steps": np.array(self._steps)} | means

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Remember what another one did."""
        self._steps = int(state["steps"])
        names = [key.partition(".")[2] for key in state if key.startswith("0.")]
        self._means = {name: (state[f"0.{name}"].copy(), state[f"1.{name}"].copy()) for name in names}

    def __repr__(self) -> str:
        return f"Adam(lr={self.lr}, betas={self.betas}, eps={self.eps})"


# ---------------------------------------------------------------- a run


@dataclass
class Training:
    """A classifier, how it is trained and on what, and how far that has got.

    Parameters
    ----------
    network : Layer
        Gives scores, (N, classes).
    optimiser : SGD or Adam
        Of that network.
    x, labels : array (N, …), array of int (N,)
        What it learns from.
    held_out : (array, array)
        Images and labels it never learns from.
    batch : int
        Images a step.
    seed : int
        Of the order of the images, which is drawn anew for each epoch.

    Attributes
    ----------
    epoch : int
        Epochs that are done.
    losses : list of float
        The loss of every step.
    held_out_losses, accuracies : list of float
        On the held-out images, after every epoch; accuracy from 0 to 1.
    """

    network: Layer
    optimiser: SGD | Adam
    x: Array
    labels: Array
    held_out: tuple[Array, Array]
    batch: int = 32
    seed: int = 0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    held_out_losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batch = normalise.integer("Training", "batch", self.batch, 1)
        for name, images in (("x", self.x), ("held_out", self.held_out[0])):
            broken = images.size - int(np.isfinite(images).sum())
            if broken:
                raise ValueError(f"Training: `{name}` must be finite, got {broken} NaN or infinite of {images.size}")
        if len(self.x) != len(self.labels) or not len(self.x):
            raise ValueError(
                f"Training: `labels` must be one for each image, got {len(self.labels)} for {len(self.x)} images"
            )
        self.network(self.x[:1])  # now every parameter has its shape

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch has; the last one may be short."""
        return -(-len(self.x) // self.batch)

    def run_epoch(self, callback: Callable[[float], None] | None = None) -> None:
        """Go through all images once, then look at the held-out ones.

        Parameters
        ----------
        callback : callable, optional
            Called after every step with its loss.

        Raises
        ------
        DivergedError
            When the loss is no longer finite, or a hundred times the first one.
        """
        for images, labels in self._batches():
            self._step(images, labels)
            if callback is not None:
                callback(self.losses[-1])
        scores = np.concatenate([self.network.predict(part) for part in _parts(self.held_out[0], 256)])
        self.held_out_losses.append(softmax_cross_entropy(scores, self.held_out[1])[0])
        self.accuracies.append(float(np.mean(scores.argmax(axis=1) == self.held_out[1])))
        self.epoch += 1

    def _batches(self) -> Iterator[tuple[Array, Array]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.x))
        for part in _parts(order, self.batch):
            yield self.x[part], self.labels[part]

    def _step(self, images: Array, labels: Array) -> None:
        loss, grad = softmax_cross_entropy(self.network(images), labels)
        first = self.losses[0] if self.losses else loss
        if not loss <= _DIVERGED * max(first, 1.0):
            raise DivergedError(
                f"training diverged: the loss went from {first:.3g} to {loss:.3g} in {len(self.losses)} steps "
                f"with lr={self.optimiser.lr:g}; take a smaller learning rate"
            )
        self.losses.append(loss)
        self.network.zero_grad()
        self.network.backward(grad)
        self.optimiser.step()

    # ------------------------------------------------------------ checkpoints

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that is needed to go on from here; a failure or an interrupt leaves the file that was there."""
        state: dict[str, Any] = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        state |= {f"optimiser.{name}": array for name, array in self.optimiser.state_dict().items()}
        state |= {name: np.array(getattr(self, name)) for name in _PROGRESS}
        state |= {name: np.array(text) for name, text in self._settings().items()}
        write_npz(path, state)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on where a checkpoint was written.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file is no whole checkpoint, or one of another network or other settings; nothing has changed then.
        """
        state, where = read_npz(path), os.fspath(path)
        settings = self._settings()
        if not {*settings, *_PROGRESS} <= set(state):
            raise ValueError(f"{where} is not a checkpoint of a training")
        for name, mine in settings.items():
            if str(state[name]) != mine:
                raise ValueError(f"{where} is a checkpoint of another {name}: it has {state[name]}, this is {mine}")
        self.network.load_state_dict(under("network.", state))
        self.optimiser.load_state_dict(under("optimiser.", state))
        self.epoch = int(state["epoch"])
        for name in _PROGRESS[1:]:
            setattr(self, name, state[name].tolist())

    def _settings(self) -> dict[str, str]:
        """Return what must be the same for a run to go on, in words."""
        first = next(iter(self.network.parameters().values())).data()
        return {
            "network": f"{self.network!r} in {first.dtype}",
            "optimiser": repr(self.optimiser),
            "batch": str(self.batch),
            "seed": str(self.seed),
        }


_PROGRESS = ("epoch", "losses", "held_out_losses", "accuracies")


def _parts(array: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _positive(fn: str, name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{fn}: `{name}` must be positive and finite, got {value!r}")
    return float(value)


def _fraction(fn: str, name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{fn}: `{name}` must be from 0 to less than 1, got {value!r}")
    return float(value)
