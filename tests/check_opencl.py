"""The kit's fixed float32 problems by every OpenCL algorithm; `make check-opencl` runs it under oclgrind."""

from __future__ import annotations

import dataclasses

import numpy as np
from convcore_opencl.backend import OpenCLBackend
from convcore_opencl.plans import ALGORITHMS

from convcore.testing.problems import CASES, random_operands
from convcore.testing.tolerance import assert_within


def main() -> None:
    """Compute each problem with each algorithm that takes it, and say how many there were."""
    backend, computed = OpenCLBackend(), 0
    for case in CASES.values():
        for algorithm in ALGORITHMS:
            problem = dataclasses.replace(case, algorithm=algorithm)
            if problem.result_dtype == np.float32 and backend.supports(problem) is True:
                operands = random_operands(problem)
                assert_within(backend.plan(problem)(*operands), problem, *operands)
                computed += 1
    print(f"{backend.probe()[0].name}: {computed} problems computed, all right")


if __name__ == "__main__":
    main()
