"""Choose the algorithm for a problem, and lay out the program that runs it.  Never touches data.

To add an algorithm: its kernel file, its rows of the table of micro-kernels, a function that drafts its program, and an
entry of ``ALGORITHMS``.  Every draft says first what its program costs; of those a problem can have, the cheapest runs,
and what cannot be the cheapest is not laid out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from convcore.spi import Problem
from convcore_cpu.channels import forward_channels, grad_input_channels
from convcore_cpu.correlate import forward, grad_input
from convcore_cpu.dots import grad_weight_dot
from convcore_cpu.engine import MicroKernel
from convcore_cpu.fourier import OPS
from convcore_cpu.grad_weight import grad_weight_direct
from convcore_cpu.layout import Layout, refuse_dtypes
from convcore_cpu.panels import forward_panels, grad_input_panels
from convcore_cpu.pool import max_pool
from convcore_cpu.program import BUILT_IN, FIRST, Cost, Draft, Program, Rates, Step, UnsupportedError, finished
from convcore_cpu.sliding import forward_sliding, grad_input_sliding, grad_weight_sliding
from convcore_cpu.strips import forward_strips, grad_input_strips, grad_weight_strips
from convcore_cpu.winograd import winograd
from convcore_cpu.winograd_grad_weight import winograd_grad_weight

#: Workspace of this size is asked of any problem without being told to (bytes).
FAIR_BYTES = 64_000_000
#: Algorithms that can do without workspace, in smaller pieces.
SPARING = ("channels", "dot")
#: A packed weight is larger, and comes from further away than the model knows: it must promise so much (measured on
#: 512->512 3x3: 7x7, promised 0.72 and took 0.77 of the time; 14x14, promised 0.85 and took 1.9 times as long).
WORTH_PACKING = 0.83


def make_program(
    problem: Problem, micro_kernels: Sequence[MicroKernel], threads: int | None = None, rates: Rates = BUILT_IN
) -> Program:
    """Lay out how to compute a problem.

    Parameters
    ----------
    problem : Problem
        What to compute.
    micro_kernels : sequence of MicroKernel
        The rows of the table that may be used.
    threads : int, optional
        An upper limit.
    rates : Rates, optional
        What the machine does, for the choice.

    Raises
    ------
    UnsupportedError
        With the reason in words.
    """
    refuse_dtypes(problem)
    names = [problem.algorithm] if problem.algorithm else candidates(problem.op)
    if problem.algorithm is not None and problem.algorithm not in ALGORITHMS[problem.op]:
        known = (*ALGORITHMS[problem.op], *(("fft",) if problem.op in OPS else ()))
        raise UnsupportedError(
            f"it has no algorithm {problem.algorithm!r} for {problem.op}; it has {', '.join(map(repr, known))}"
        )
    limit, smallest = workspace_limit(problem), None
    # One image at a time takes less workspace, and one thread; pieces that fit on the stack take none.
    for images, most_threads, sparing in (
        (problem.input_shape[0], threads, problem.workspace_limit is not None),
        (1, threads, True),
        (1, 1, True),
    ):
        drafts, reasons = [], []
        ways = [(name, False) for name in names] + [(name, True) for name in names if sparing and name in SPARING]
        for name, on_stack in ways:
            layout = Layout(problem, micro_kernels, most_threads, images, rates=rates, on_stack=on_stack)
            draft = ALGORITHMS[problem.op][name](layout)
            try:
                drafts.append((next(draft).seconds, draft))
            except UnsupportedError as reason:
                reasons.append(str(reason))
        best: Program | None = None
        for seconds, draft in sorted(drafts, key=lambda pair: pair[0]):
            if best is not None and best.cost.seconds <= seconds:
                break
            try:
                program = finished(draft)
            except UnsupportedError as reason:
                reasons.append(str(reason))
                continue
            if smallest is None or program.memory_bytes < smallest.memory_bytes:
                smallest = program
            if program.memory_bytes <= limit and (best is None or program.cost.seconds < best.cost.seconds):
                best = program
        if best is not None:
            return best
        if smallest is None:
            raise UnsupportedError("; ".join(dict.fromkeys(reasons)))
    if problem.workspace_limit is None:
        return smallest
    raise UnsupportedError(f"it needs {smallest.memory_bytes} bytes of workspace, workspace_limit is {limit}")


def programs(
    problem: Problem, micro_kernels: Sequence[MicroKernel], threads: int | None = None, rates: Rates = BUILT_IN
) -> dict[str, Program | str]:
    """Lay out every algorithm a choice is made among, or say why it cannot be used."""
    found: dict[str, Program | str] = {}
    for name in candidates(problem.op):
        layout = Layout(problem, micro_kernels, threads, problem.input_shape[0], rates=rates)
        try:
            found[name] = finished(ALGORITHMS[problem.op][name](layout))
        except UnsupportedError as reason:
            found[name] = str(reason)
    return found


def candidates(op: str) -> list[str]:
    """Return the algorithms of an operation that a choice is made among."""
    return [name for name in ALGORITHMS[op] if name != BEST_WINOGRAD]


def workspace_limit(problem: Problem) -> int:
    """Return how many bytes of workspace a problem may take: as many as it says, or as is fair for its size."""
    return max(FAIR_BYTES, 2 * problem.bytes) if problem.workspace_limit is None else problem.workspace_limit


def make_prepacked_program(
    problem: Problem, micro_kernels: Sequence[MicroKernel], threads: int | None, cost: Cost
) -> Program | None:
    """Lay out a problem whose weight is packed once for many calls, or return None if that does not take much less.

    ``cost`` is that of the program without.
    """
    if problem.op not in ("forward", "grad_input"):
        return None
    programs = []
    for name in ("panels", "channels", "winograd4", "winograd2"):
        if problem.algorithm not in (None, name):
            continue
        with contextlib.suppress(UnsupportedError):
            layout = Layout(problem, micro_kernels, threads, problem.input_shape[0], prepacked=True, rates=cost.rates)
            programs.append(finished(ALGORITHMS[problem.op][name](layout)))
    limit = workspace_limit(problem)
    cheaper = [p for p in programs if p.cost.seconds < WORTH_PACKING * cost.seconds and p.memory_bytes <= limit]
    return min(cheaper, key=lambda program: program.cost.seconds, default=None)


def _grad_bias(layout: Layout) -> Draft:
    yield layout.cost(0)
    image, channel, _, pixel = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    sizes = {
        "src_image": image,
        "src_channel": channel,
        "src_pixel": pixel,
        "pixels": layout.out_height * layout.out_width,
        "interleave": layout.halves,
    }
    task = f"sum_{layout.source(FIRST)}_{layout.type}"
    step = Step(task, layout.out_channels * layout.halves, sizes, False)
    return layout.program("direct", "", 0, before=((step,),))


#: The name for the better of two that are candidates themselves.
BEST_WINOGRAD = "winograd"


def _winograd(builder: Callable[..., Draft]) -> dict[str, Callable[[Layout], Draft]]:
    return {"winograd4": partial(builder, m=4), "winograd2": partial(builder, m=2), BEST_WINOGRAD: builder}


#: The algorithms of each operation by the names users give them.  One that cannot do a problem, or may not for its
#: accuracy, raises :class:`UnsupportedError`.
ALGORITHMS: dict[str, dict[str, Callable[[Layout], Draft]]] = {
    "forward": {
        "direct": forward,
        "panels": forward_panels,
        "channels": forward_channels,
        "sliding": forward_sliding,
        "strips": forward_strips,
        **_winograd(winograd),
    },
    "grad_input": {
        "direct": grad_input,
        "panels": grad_input_panels,
        "channels": grad_input_channels,
        "sliding": grad_input_sliding,
        "strips": grad_input_strips,
        **_winograd(winograd),
    },
    "grad_weight": {
        "direct": grad_weight_direct,
        "dot": grad_weight_dot,
        "sliding": grad_weight_sliding,
        "strips": grad_weight_strips,
        **_winograd(winograd_grad_weight),
    },
    "grad_bias": {"direct": _grad_bias},
    "max_pool": {"direct": max_pool},
    "max_pool_grad": {"direct": max_pool},
}
