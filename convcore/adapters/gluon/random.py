"""``mxnet.random``: the generator that parameters are drawn from."""

import numpy as np

_generator = np.random.default_rng()


def seed(seed_state: int) -> None:
    """Make the parameters that are drawn from now on the same in every run."""
    global _generator
    _generator = np.random.default_rng(seed_state)


def uniform(scale: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from -scale to scale."""
    return _generator.uniform(-scale, scale, shape)
