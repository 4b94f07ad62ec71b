"""The program of the two pooling operations: one step over the operands where they lie."""

from __future__ import annotations

from convcore_cpu.layout import TASKS, Layout
from convcore_cpu.program import Draft, Step, UnsupportedError


def max_pool(layout: Layout) -> Draft:
    """Lay out the maximum over windows, or its gradient."""
    problem, planes = layout.problem, layout.images * layout.channels
    if problem.result_dtype.kind != "f":
        raise UnsupportedError(f"it pools real floating dtypes only, got {problem.result_dtype}")
    cycles = 2.0 * problem.flops
    yield layout.cost(cycles)
    grad = problem.op == "max_pool_grad"
    image, channel, line, column = layout.strides(layout.channels, layout.height, layout.width)
    out_image, out_channel, out_line, _ = layout.strides(layout.channels, layout.out_height, layout.out_width)
    (top, _), (left, _) = problem.padding
    # Whole channels where there are enough of them; the windows of the gradient overlap and must stay together.
    blocks = 1 if grad else min(layout.out_height, -(-TASKS // max(planes, 1)))
    lines_per_block = -(-layout.out_height // blocks)
    sizes = {
        "in_image": image,
        "in_channel": channel,
        "in_line": line,
        "out_image": out_image,
        "out_channel": out_channel,
        "out_line": out_line,
        "column": column,
        "channels": layout.channels,
        "height": layout.height,
        "width": layout.width,
        "out_height": layout.out_height,
        "out_width": layout.out_width,
        "kernel_height": layout.kernel_height,
        "kernel_width": layout.kernel_width,
        "line_step": problem.stride[0],
        "column_step": problem.stride[1],
        "top": top,
        "left": left,
        "blocks": blocks,
        "lines_per_block": lines_per_block,
    }
    step = Step(f"{'maxpoolgrad' if grad else 'maxpool'}_{layout.type}", planes * blocks, sizes, per_image=False)
    return layout.program("direct", "", cycles, before=((step,),))
