"""The backend itself: PyTorch's convolution and its gradients."""

import os

import numpy as np
import torch
from torch.nn import functional, grad

from convcore.spi import Backend, Plan

# The threads of OpenMP do not survive a fork, and a child that needs them would wait for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class TorchBackend(Backend):
    """Computes on the CPU; what it says of itself stands in ``convcore_backends``."""

    def supports(self, problem):
        """Return True, or why not; what the spec leaves out has been refused already."""
        if problem.algorithm not in (None, "torch"):
            return f"the only algorithm is 'torch', got {problem.algorithm!r}"
        return problem.workspace_limit is None or "PyTorch does not say how much workspace it takes"

    def plan(self, problem):
        """Choose how to compute a problem: here there is one way."""
        return TorchPlan(problem)


class TorchPlan(Plan):
    """Computes one problem, as often as it is called."""

    algorithm = "torch"

    def run(self, first, second, bias, out):
        """Compute all of out."""
        operands = [torch.from_numpy(np.require(a, requirements="W")) for a in (first, second) if a is not None]
        result = compute(self.problem, *operands).numpy()
        out[...] = result if bias is None else result + bias[:, np.newaxis, np.newaxis]


def compute(problem, first, second=None):
    """Return the result of a problem, without its bias."""
    if problem.op == "grad_bias":
        return first.sum((0, 2, 3))
    (top, bottom), (left, right) = problem.padding
    *images, h, w = problem.input_shape
    taps, outputs = problem.weight_shape[2:], problem.output_shape[2:]
    # The kernel sees the padded image up to here; what a stride leaves over is cut off.
    seen_h, seen_w = (
        (outputs[axis] - 1) * problem.stride[axis] + (taps[axis] - 1) * problem.dilation[axis] + 1 for axis in (0, 1)
    )
    geometry = problem.stride, 0, problem.dilation, problem.groups
    if problem.op == "grad_input":
        seen = grad.conv2d_input((*images, seen_h, seen_w), second, first, *geometry)
        padded = functional.pad(seen, (0, left + w + right - seen_w, 0, top + h + bottom - seen_h))
        return padded[..., top : top + h, left : left + w]
    padded = functional.pad(first, (left, right, top, bottom), value=problem.fill_value)
    seen = padded[..., :seen_h, :seen_w]
    if problem.op == "grad_weight":
        return grad.conv2d_weight(seen, problem.weight_shape, second, *geometry)
    return functional.conv2d(seen, second, None, *geometry)
