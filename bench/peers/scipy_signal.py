"""SciPy: ``signal`` by the sum and by the FFT, and ``ndimage``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from convcore_bench.case import Case
from convcore_bench.peers import Peer, Work, not_importable, single_image


def peers() -> list[Peer]:
    """Return the three ways."""
    return [SciPyPeer("scipy-direct", _direct), SciPyPeer("scipy-fft", _fft), SciPyPeer("ndimage", _ndimage)]


def _direct(image: Any, kernel: Any) -> Any:
    from scipy.signal import correlate2d

    return correlate2d(image, kernel, "same")


def _fft(image: Any, kernel: Any) -> Any:
    from scipy.signal import oaconvolve

    return oaconvolve(image, np.flip(kernel), "same")


def _ndimage(image: Any, kernel: Any) -> Any:
    from scipy.ndimage import correlate

    return correlate(image, kernel, mode="constant")


class SciPyPeer(Peer):
    """One of SciPy's functions for a single image; the FFT one has the number of threads of the case."""

    family = "scipy"

    def __init__(self, name: str, function: Callable[[Any, Any], Any]) -> None:
        self.name, self.function = name, function

    def missing(self) -> str:
        return not_importable("scipy.signal", "scipy.ndimage", install="pip install scipy")

    def versions(self) -> dict[str, str]:
        import scipy

        return {"scipy": scipy.__version__}

    def prepare_one(self, case: Case) -> Work:
        import scipy.fft

        image, kernel = single_image(case)

        def run() -> Any:
            with scipy.fft.set_workers(case.threads):
                return self.function(image, kernel)

        return Work(run, lambda answer: answer[None, None], self.function.__name__.strip("_"), normwise=True)
