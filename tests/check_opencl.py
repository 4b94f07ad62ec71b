"""The kit's fixed problems by every OpenCL algorithm under oclgrind, which `make check-opencl` starts.

A few of them that reach every family, its edges and its interior, in all directions, under every boundary, in both
layouts and both dtypes; all of them with `--all`, which takes an hour or more.  Tensor cores run as the kernel
emulates them.  Faults are planted first: a check that does not see them would see nothing.

Buffers are never released: oclgrind 21.10 would take what it knew of a released one, where memory is used again, for
what is known of the new one.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyopencl as cl
from convcore_opencl import device as devices
from convcore_opencl import plans
from convcore_opencl.execute import OpenCLPlan

from convcore.problem import OPS, Problem
from convcore.testing.problems import CASES, random_operands
from convcore.testing.tolerance import assert_within

#: The problems of a family, by name or, in all directions, by geometry.  What a work-item of a group of 256, or a lane
#: of an emulated warp, does for a small problem takes seconds.
CHOSEN = {
    "window": ("width-17-nhwc",),
    "local_tile": ("1x1", "width-17-nhwc", "padding-one-side", "dilation-stride"),
    "tensor_tile_tf32": ("forward-width-17-nhwc", "grad_input-1x1", "grad_weight-width-17-nhwc"),
    "tensor_tile_f16": ("float16",),
    "winograd4": ("width-17-nhwc", "forward-width-49"),
    "winograd2": ("width-17-nhwc", "forward-width-49"),
    "winograd2_fused": ("width-17-nhwc",),
}
#: Those of the other families, which take a fraction of a second each.
MANY = (
    *("1x1", "width-17-nhwc", "padding-one-side", "dilation-stride", "groups-odd", "float16-nhwc"),
    *("depthwise-strided", "stride-3-1"),
    *("reflect-padding-beyond-kernel", "wrap-same", "edge-groups-odd", "symmetric-kernel-beyond-image"),
)
#: Two families need so many work-items in a group; the rest has smaller tiles for fewer.
LARGE_GROUPS = {"window": 256, "winograd2_fused": 256}

PLANTED = """
kernel void beyond(global int *a) { a[get_global_size(0)] = 1; }
kernel void race(global int *a) { a[0] = get_global_id(0); }
kernel void unset(global int *a) { int b[2]; b[0] = 1; a[get_global_id(0)] = b[get_global_id(0) % 2] ? 2 : 3; }
"""
SEEN = {"beyond": "Invalid write", "race": "data race", "unset": "ninitialized"}


def keep_buffers() -> None:
    """Hold on to every buffer that is made."""
    kept, make = [], cl.Buffer

    def buffer(*arguments: object, **keywords: object) -> cl.Buffer:
        kept.append(make(*arguments, **keywords))
        return kept[-1]

    cl.Buffer = buffer


def plant_faults(device: cl.Device, log: Path) -> None:
    """Run three kernels with a fault each, and see that each is reported."""
    runtime = devices.runtime(device)
    program = cl.Program(runtime.context, PLANTED).build(cache_dir=False)
    for name, words in SEEN.items():
        before = len(log.read_text())
        buffer = cl.Buffer(runtime.context, cl.mem_flags.READ_WRITE, 16)
        getattr(program, name)(runtime.queue, (4,), (4,), buffer)
        runtime.queue.finish()
        assert words in log.read_text()[before:], f"oclgrind does not report the planted fault {name!r}"


def problems(everything: bool) -> Iterator[tuple[str, Problem]]:
    """Yield each problem with each algorithm that is to compute it."""
    for name, case in CASES.items():
        if case.op not in OPS or case.result_dtype not in (np.float16, np.float32):
            continue
        geometry = name.removeprefix(f"{case.op}-")
        for algorithm in plans.ALGORITHMS:
            if everything or not {name, geometry}.isdisjoint(CHOSEN.get(algorithm, MANY)):
                yield name, dataclasses.replace(case, algorithm=algorithm, accuracy="fast")


def main(everything: bool) -> None:
    """Compute each problem with each algorithm that takes it, and say how many there were and how long they took."""
    keep_buffers()
    device, log = devices.choose(), Path(os.environ["OCLGRIND_LOG"])
    plant_faults(device, log)
    planted = log.stat().st_size
    computed, seconds = Counter(dict.fromkeys(plans.ALGORITHMS, 0)), Counter()
    known = {"tensor_cores": "emulated", "float16": True}
    for name, problem in problems(everything):
        group = LARGE_GROUPS.get(problem.algorithm, 64)
        traits = dataclasses.replace(devices.described(device), largest_group=group, **known)
        if plans.refusal(problem, traits):
            continue
        start = time.perf_counter()
        operands = random_operands(problem)
        result = OpenCLPlan(problem, plans.recipe(problem, traits), device)(*operands)
        assert_within(result, problem, *operands, algorithm=problem.algorithm)
        reported = log.read_text()[planted:]
        assert not reported, f"oclgrind on {name} by {problem.algorithm}:\n{reported}"
        computed[problem.algorithm] += 1
        seconds[problem.algorithm] += time.perf_counter() - start
    assert all(computed.values()), f"some algorithm computed nothing: {dict(computed)}"
    for algorithm, count in computed.items():
        print(f"{algorithm:18} {count:4} problems {seconds[algorithm]:6.1f} s")
    print(f"{device.name}: all right, and nothing to report but what was planted")


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
