"""gputools: one image, one kernel, by OpenCL; NumPy arrays in and out."""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib.metadata import version

import numpy as np
from convcore_bench.case import Case
from convcore_bench.peers import Peer, Refused, Work, not_importable, single_image


def peers() -> list[Peer]:
    """Return the one way."""
    return [GputoolsPeer()]


class GputoolsPeer(Peer):
    """gputools on the device it chooses; float32 only."""

    name = "gputools"
    alone = True

    def missing(self) -> str:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return not_importable("gputools", install="pip install gputools, and an OpenCL driver")

    def versions(self) -> dict[str, str]:
        import gputools

        return {"gputools": version("gputools"), "device": gputools.get_device().device.name}

    def prepare_one(self, case: Case) -> Work:
        import gputools

        if case.dtype != "float32":
            raise Refused("it computes in float32")
        image, kernel = single_image(case)
        flipped = np.flip(kernel).copy()
        return Work(
            lambda: gputools.convolve(image, flipped), lambda answer: answer[None, None], "one pixel a work-item"
        )
