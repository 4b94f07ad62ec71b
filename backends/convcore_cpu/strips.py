"""Groups of one channel and small square kernels: strips that go down the planes (``kernels/strip.h``)."""

from __future__ import annotations

from dataclasses import replace

from convcore_cpu.correlate import exact_in_place
from convcore_cpu.direction import grad_input_direction, place_result
from convcore_cpu.engine import MicroKernel
from convcore_cpu.layout import TASKS, Layout
from convcore_cpu.program import FIRST, SECOND, Cost, Draft, Step, UnsupportedError

#: The lines of a piece lie in so few bytes that strips side by side find them, and their pages, where they were left;
#: but no piece has fewer lines than that.
PIECE_BYTES, PIECE_LINES = 64 << 10, 16
#: What the cycles of strips are worth beside those of other algorithms, with AVX-512 (on Zen 4) and without (on Zen 3).
WORTH, WORTH_NARROW = 0.5, 0.7
#: What a strip and a plane take, however small they are (cycles).
STRIP_CYCLES, PLANE_CYCLES = 25, 10
#: What the totals of some lines of taps take (cycles).
TOTALS_CYCLES = 25
#: Groups there must be for grad_weight, which is not summed in parts.
FEWEST_GROUPS = 8


def forward_strips(layout: Layout) -> Draft:
    """Lay out forward by strips."""
    kernel, problem = _kernel(layout, "strip"), layout.problem
    step, ((top, _), (left, _)) = problem.stride[0], problem.padding
    strips = -(-layout.out_width // kernel.lanes)
    planes = _side_by_side(layout, kernel, layout.out_width)
    high, cost = _pieces(layout, kernel, layout.width * step, strips / planes, _gather_cycles(kernel, step))
    yield cost
    sizes = {
        **_planes(layout),
        "w_first": 0,
        "w_line": kernel.rows,
        "w_column": 1,
        "bias_buffer": layout.bias_buffer,
        "step": step,
        "scatter": 0,
        "top": top,
        "left": left,
        "planes": planes,
        "watch_nan": 0,
        "skip_zeros": int(problem.padding[0] != (0, 0)),
    }
    layout.batch = max(layout.images, 1)
    program = layout.program("strips", kernel.name, 0, each=((_step(layout, kernel, sizes, high),),))
    return replace(program, cost=cost)


def grad_input_strips(layout: Layout) -> Draft:
    """Lay out grad_input by strips; where a weight is not finite, the exact steps of outer products follow.

    A stride of 1 gathers by the taps in reverse.
    """
    kernel, problem = _kernel(layout, "strip"), layout.problem
    if layout.k_per_group > 1:
        raise UnsupportedError("its algorithm 'strips' knows grad_input of one channel of grad_out in a group only")
    step, ((top, _), (left, _)), last = problem.stride[0], problem.padding, kernel.rows - 1
    if step == 1:
        top, left, taps = last - top, last - left, (layout.taps - 1, -kernel.rows, -1)
        columns, cycles = layout.width, _gather_cycles(kernel, step)
    else:
        taps = (0, kernel.rows, 1)
        columns, cycles = (layout.width + left + 1) // 2 - left // 2, _scatter_cycles(kernel) / 2
    planes = _side_by_side(layout, kernel, columns)
    high, cost = _pieces(layout, kernel, layout.out_width, -(-columns // kernel.lanes) / planes, cycles)
    yield cost
    direction = grad_input_direction(layout)
    sizes = {
        **_planes(layout),
        **dict(zip(("w_first", "w_line", "w_column"), taps, strict=True)),
        "bias_buffer": layout.bias_buffer,
        "step": step,
        "scatter": int(step == 2),
        "top": top,
        "left": left,
        "planes": planes,
        "watch_nan": int(direction.watch_nan),
        "skip_zeros": 0,
    }
    layout.batch = max(layout.images, 1)
    places, _ = place_result(layout, direction)
    exact = exact_in_place(layout, direction, places) if direction.watch_nan else ()
    program = layout.program(
        "strips", kernel.name, 0, each=((_step(layout, kernel, sizes, high),),), exact=(exact,) if exact else ()
    )
    return replace(program, cost=cost)


def grad_weight_strips(layout: Layout) -> Draft:
    """Lay out grad_weight by strips."""
    kernel, problem = _kernel(layout, "weigh"), layout.problem
    if layout.groups < FEWEST_GROUPS:
        raise UnsupportedError(f"its algorithm 'strips' wants {FEWEST_GROUPS} groups for grad_weight")
    if not layout.images:
        raise UnsupportedError("its algorithm 'strips' has no image to sum over")
    step, ((top, _), (left, _)) = problem.stride[0], problem.padding
    planes = _side_by_side(layout, kernel, layout.out_width)
    strips = -(-layout.out_width // kernel.lanes) / planes
    passes, line_cycles = _weigh_cycles(kernel, step)
    per_image = strips * (passes * STRIP_CYCLES + layout.out_height * line_cycles)
    cycles = layout.out_channels * (PLANE_CYCLES + passes * TOTALS_CYCLES + layout.images * per_image)
    cycles *= WORTH if kernel.isa == "avx512" else WORTH_NARROW
    yield layout.cost(cycles)
    groups_per_task = _whole(max(1, layout.groups // TASKS), planes)
    sizes = {
        **_planes(layout, of_weight=True),
        "w_first": 0,
        "w_line": 0,
        "w_column": 0,
        "bias_buffer": -1,
        "groups_per_task": groups_per_task,
        "pieces": 1,
        "lines_per_piece": layout.out_height,
        "step": step,
        "scatter": 0,
        "top": top,
        "left": left,
        "planes": planes,
        "watch_nan": 0,
        "skip_zeros": 0,
    }
    layout.batch = layout.images
    step_of_all = Step(f"weigh_{layout.type}", -(-layout.groups // groups_per_task), sizes, False, kernel.name)
    return layout.program("strips", kernel.name, cycles, each=((step_of_all,),))


def _kernel(layout: Layout, algorithm: str) -> MicroKernel:
    """Return the micro-kernel that takes the fewest cycles, or say why there is none."""
    problem = layout.problem
    if problem.layout != "NCHW":
        raise UnsupportedError("its algorithm 'strips' wants NCHW")
    if layout.type == "i64" or not (layout.is_direct(FIRST) and layout.is_direct(SECOND)):
        raise UnsupportedError("its algorithm 'strips' is for float32 and float64")
    if layout.c_per_group > 1:
        raise UnsupportedError("its algorithm 'strips' knows groups of one channel only")
    if problem.dilation != (1, 1) or problem.stride not in ((1, 1), (2, 2)):
        raise UnsupportedError("its algorithm 'strips' knows strides of 1 or 2 both ways, and no dilation")
    padded = problem.padding != ((0, 0), (0, 0))
    if padded and (problem.boundary != "constant" or (problem.op != "grad_input" and problem.fill_value != 0)):
        raise UnsupportedError("its algorithm 'strips' knows no boundary but zeros")
    kernels = [
        row
        for row in layout.micro_kernels
        if row.algorithm == algorithm and (row.rows, row.rows) == (layout.kernel_height, layout.kernel_width)
    ]
    if not kernels:
        raise UnsupportedError("its algorithm 'strips' has no micro-kernel for this kernel")
    return max(kernels, key=lambda row: row.lanes)


def _planes(layout: Layout, of_weight: bool = False) -> dict[str, int]:
    """Return where the planes of the first operand and of the result lie; of grad_weight, of x and grad_out."""
    x = (layout.channels, layout.height, layout.width)
    y = (layout.out_channels, layout.out_height, layout.out_width)
    first, result = (y, x) if layout.problem.op == "grad_input" else (x, y)
    x_image, x_channel, _, _ = layout.strides(*first)
    out_image, out_channel, _, _ = layout.strides(*result)
    return {
        "x_image": x_image,
        "x_channel": x_channel,
        "x_lines": first[1],
        "x_width": first[2],
        "out_image": out_image,
        "out_channel": out_channel,
        "out_lines": result[1],
        "out_width": result[2],
        "groups": layout.groups,
        "rows": result[0] // layout.groups,
    }


def _side_by_side(layout: Layout, kernel: MicroKernel, columns: int) -> int:
    """Return how many planes, whose strips have so many columns in all, go side by side in a vector."""
    return 2 if 2 * columns <= kernel.lanes and layout.groups > 1 else 1


def _whole(groups: int, planes: int) -> int:
    """Return how many groups a task has at least, so that only the last one has a plane without one beside it."""
    return -(-groups // planes) * planes


def _pieces(layout: Layout, kernel: MicroKernel, line: int, strips: float, cycles: float) -> tuple[int, Cost]:
    """Return how high pieces of the result are, and what all of them cost.

    ``line`` is how many elements of the first operand a line of the result takes, ``cycles`` what it takes in one of
    ``strips`` of a plane.
    """
    planes, lines = layout.out_channels, layout.out_height
    if layout.problem.op == "grad_input":
        planes, lines = layout.channels, layout.height
    most = max(PIECE_LINES, PIECE_BYTES // max(1, line * layout.itemsize))
    wanted = -(-TASKS // (max(layout.images, 1) * layout.groups))
    pieces = max(-(-lines // most), min(wanted, lines // PIECE_LINES), 1)
    per_strip = pieces * STRIP_CYCLES + (lines + pieces * (kernel.rows - 1) / 2) * cycles
    cycles = layout.images * planes * (PLANE_CYCLES + strips * per_strip)
    return -(-lines // pieces), layout.cost(cycles * (WORTH if kernel.isa == "avx512" else WORTH_NARROW))


def _step(layout: Layout, kernel: MicroKernel, sizes: dict[str, int], high: int) -> Step:
    """Return the one step there is."""
    pieces = -(-sizes["out_lines"] // high)
    groups_per_task = min(layout.groups, max(1, max(layout.images, 1) * layout.groups * pieces // TASKS))
    groups_per_task = _whole(groups_per_task, sizes["planes"])
    sizes |= {"groups_per_task": groups_per_task, "pieces": pieces, "lines_per_piece": high}
    tasks = -(-layout.groups // groups_per_task) * pieces
    return Step(f"strips_{layout.type}", tasks, sizes, True, kernel.name)


def _gather_cycles(kernel: MicroKernel, step: int) -> float:
    """Return the cycles a line of a strip takes: by arithmetic or loads; of every second element, with shuffles.

    A vector of x from any address costs two loads; more than 9 taps are loaded as well.
    """
    taps = kernel.rows**2
    if step == 2:
        return taps * kernel.multiply + 2 * kernel.rows + 6
    return max(taps * kernel.multiply, 0.9 * kernel.rows + (0.5 * taps if kernel.rows > 3 else 0)) + 2.5


def _scatter_cycles(kernel: MicroKernel) -> float:
    """Return the cycles a pair of lines of a strip takes: four vectors are stored, of elements in turns."""
    return kernel.rows**2 * kernel.multiply + 14


def _weigh_cycles(kernel: MicroKernel, step: int) -> tuple[int, float]:
    """Return how many times a strip is gone through, and the cycles a line of it takes."""
    passes = -(-kernel.rows // max(1, (32 if kernel.isa == "avx512" else 16) // (2 * kernel.rows)))
    loads = 1.1 * kernel.rows if step == 1 else 2.4 * (3 + kernel.rows)
    return passes, kernel.rows**2 * kernel.multiply + passes * loads
