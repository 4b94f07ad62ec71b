"""The kit's fixed problems of floating point by every OpenCL algorithm; `make check-opencl` runs it under oclgrind.

Tensor cores run as the kernel emulates them.  Buffers are never released: oclgrind 21.10 would take what it knew of a
released one, where memory is used again, for what is known of the new one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyopencl as cl
from convcore_opencl import device as devices
from convcore_opencl import plans
from convcore_opencl.execute import OpenCLPlan

from convcore.problem import OPS
from convcore.testing.problems import CASES, random_operands
from convcore.testing.tolerance import assert_within


def keep_buffers() -> None:
    """Hold on to every buffer that is made."""
    kept, make = [], cl.Buffer

    def buffer(*arguments: object, **keywords: object) -> cl.Buffer:
        kept.append(make(*arguments, **keywords))
        return kept[-1]

    cl.Buffer = buffer


def main() -> None:
    """Compute each problem with each algorithm that takes it, and say how many there were."""
    keep_buffers()
    device = devices.choose()
    known = {"tensor_cores": "emulated", "float16": True, "largest_group": 64}
    traits = dataclasses.replace(devices.described(device), **known)
    computed = dict.fromkeys(plans.ALGORITHMS, 0)
    for case in (case for case in CASES.values() if case.op in OPS):
        for algorithm in plans.ALGORITHMS:
            problem = dataclasses.replace(case, algorithm=algorithm, accuracy="fast")
            if problem.result_dtype in (np.float16, np.float32) and not plans.refusal(problem, traits):
                operands = random_operands(problem)
                result = OpenCLPlan(problem, plans.recipe(problem, traits), device)(*operands)
                assert_within(result, problem, *operands, algorithm=algorithm)
                computed[algorithm] += 1
    assert all(computed.values()), f"some algorithm computed nothing: {computed}"
    print(f"{device.name}: computed rightly, problems by algorithm: {computed}")


if __name__ == "__main__":
    main()
