"""PyTorch: both memory formats, on the CPU (oneDNN, which is asked what it ran) and on CUDA."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from convcore_bench.case import Case
from convcore_bench.peers import Peer, Work, not_importable


def peers() -> list[Peer]:
    """Return the two memory formats on the two devices."""
    return [TorchPeer(layout, device) for device in ("cpu", "cuda") for layout in ("nchw", "nhwc")]


class TorchPeer(Peer):
    """PyTorch with tensors of one memory format; float32 means float32: TF32 is off."""

    def __init__(self, layout: str, device: str) -> None:
        self.name = f"torch-{layout}" if device == "cpu" else f"torch-{device}-{layout}"
        self.family = "torch" if device == "cpu" else f"torch-{device}"
        self.layout, self.device = layout, device

    def missing(self) -> str:
        reason = not_importable("torch", install="pip install torch")
        if reason or self.device == "cpu":
            return reason
        import torch

        return "" if torch.cuda.is_available() else "PyTorch finds no CUDA device"

    def versions(self) -> dict[str, str]:
        import torch

        found = {"torch": torch.__version__}
        if self.device == "cuda":
            return found | {"device": torch.cuda.get_device_name(), "cudnn": str(torch.backends.cudnn.version())}
        found["capability"] = torch.backends.cpu.get_cpu_capability()
        for line in torch.__config__.show().splitlines():
            if "oneDNN" in line or "MKL-DNN" in line:
                found["onednn"] = line.strip(" -")
        return found

    def prepare_one(self, case: Case) -> Work:
        import torch

        torch.set_num_threads(case.threads)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        x, padding = case.padded()
        memory_format = torch.contiguous_format if self.layout == "nchw" else torch.channels_last
        x, weight, grad_out = (
            torch.from_numpy(array).to(self.device).contiguous(memory_format=memory_format)
            for array in (x, *case.operands[1:])
        )
        layer = case.layer
        run = self._run(case.direction, (x, weight, grad_out), (layer.stride, padding, layer.dilation, layer.groups))
        if self.device == "cuda":
            run = _synchronised(run)
        cut = case.unpadded if case.direction == "grad_input" else np.asarray
        implementation = _onednn_says(run) if self.device == "cpu" else ""
        return Work(
            run=run,
            to_numpy=lambda answer: cut(np.ascontiguousarray(answer.cpu().numpy())),
            algorithm=implementation or ("native" if self.device == "cpu" else "cuDNN"),
            normwise=self.device == "cuda",
        )

    def _run(self, direction: str, tensors: Any, geometry: Any) -> Callable[[], Any]:
        import torch

        x, weight, grad_out = tensors
        stride, padding, dilation, groups = geometry
        if direction == "forward":
            return lambda: torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
        wanted = [direction == "grad_input", direction == "grad_weight", False]
        backward = torch.ops.aten.convolution_backward
        arguments = (grad_out, x, weight, None, stride, padding, dilation, False, (0, 0), groups, wanted)
        return lambda: backward(*arguments)[wanted.index(True)]


def _synchronised(run: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    def synchronised() -> Any:
        answer = run()
        torch.cuda.synchronize()
        return answer

    return synchronised


def _onednn_says(run: Callable[[], Any]) -> str:
    """Run once with oneDNN's verbose flag and return the names of the convolutions that ran; empty when none did."""
    import torch

    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as heard:
        libc.fflush(None)
        stdout = os.dup(1)
        os.dup2(heard.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                run()
            libc.fflush(None)
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        heard.seek(0)
        lines = heard.read().decode(errors="replace").splitlines()
    fields = [line.split(",") for line in lines if ",exec," in line and ",convolution," in line]
    return ", ".join(dict.fromkeys(line[line.index("convolution") + 1] for line in fields))
