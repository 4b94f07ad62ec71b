"""tinygrad on OpenCL: arrays on the device; the kernel it generates for the expression."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

from convcore_bench.case import Case
from convcore_bench.peers import Peer, Refused, Work, not_importable


def peers() -> list[Peer]:
    """Return the one way."""
    return [TinygradPeer()]


class TinygradPeer(Peer):
    """tinygrad, forward only: its gradients are graphs of their own, made anew for each step."""

    name = "tinygrad"
    alone = True

    def missing(self) -> str:
        reason = not_importable("pyopencl", "tinygrad", install="pip install tinygrad 'convcore[opencl]'")
        if reason:
            return reason
        _use_the_loader_of_pyopencl()
        from tinygrad import Device

        try:
            Device["CL"]
        except Exception as error:
            return f"tinygrad finds no OpenCL device: {error}"
        return ""

    def versions(self) -> dict[str, str]:
        return {"tinygrad": version("tinygrad"), "device": "CL"}

    def prepare_one(self, case: Case) -> Work:
        from tinygrad import Device, Tensor, TinyJit

        if case.direction != "forward":
            raise Refused("its gradients are not timed")
        layer = case.layer
        (top, bottom), (left, right) = layer.padding
        x, weight = (Tensor(array, device="CL").realize() for array in case.operands[:2])

        @TinyJit
        def forward(x, weight):
            return x.conv2d(
                weight, None, layer.groups, layer.stride, layer.dilation, (left, right, top, bottom)
            ).realize()

        def run():
            answer = forward(x, weight)
            Device["CL"].synchronize()
            return answer

        return Work(run, lambda answer: answer.numpy(), "generated")


def _use_the_loader_of_pyopencl() -> None:
    """Name the OpenCL library that came with PyOpenCL, where the system has none of its own."""
    import pyopencl

    for path in (Path(pyopencl.__file__).parent / ".libs").glob("libOpenCL*"):
        os.environ.setdefault("OPENCL_PATH", str(path))
