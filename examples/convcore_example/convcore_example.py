"""A whole backend: one einsum over sliding windows, forward only and without groups."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from convcore.spi import FEATURES, Backend, BackendSpec, Plan, hookimpl


@hookimpl
def convcore_backends():
    """Say what there is, before anything heavy would be imported."""
    features = tuple(feature for feature in FEATURES if feature != "groups")
    return [BackendSpec("example", f"{__name__}:ExampleBackend", ops=("forward",), features=features)]


class ExampleBackend(Backend):
    """Refuses in words what it cannot do; the core has already refused what the spec leaves out."""

    def supports(self, problem):
        """Return True, or the reason why not."""
        if problem.algorithm not in (None, "direct"):
            return f"the only algorithm is 'direct', got {problem.algorithm!r}"
        return problem.workspace_limit is None or "cannot promise to keep to a workspace_limit"

    def plan(self, problem):
        """Choose how to compute a problem; here there is no choice."""
        return ExamplePlan(problem)


class ExamplePlan(Plan):
    """Computes one problem, again and again."""

    def run(self, first, second, bias, out):
        """Compute x, weight and bias into out."""
        (sh, sw), (dh, dw), (_, _, r, s) = self.problem.stride, self.problem.dilation, self.problem.weight_shape
        padded = np.pad(first, ((0, 0), (0, 0), *self.problem.padding), constant_values=self.problem.fill_value)
        windows = sliding_window_view(padded, (dh * (r - 1) + 1, dw * (s - 1) + 1), axis=(2, 3))
        _, _, p, q = self.problem.output_shape
        y = np.einsum("ncpqrs,kcrs->nkpq", windows[:, :, ::sh, ::sw, ::dh, ::dw][:, :, :p, :q], second)
        out[...] = y if bias is None else y + bias[:, np.newaxis, np.newaxis]
