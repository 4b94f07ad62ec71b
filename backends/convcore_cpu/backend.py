"""The CPU backend as the core sees it: what it can do, and the way from a problem to a plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from convcore.spi import Backend, Device, Plan, Problem
from convcore_cpu.engine import ISAS, MICRO_KERNELS, CPUPlan, MicroKernel
from convcore_cpu.fourier import FourierPlan, refusal, thread_count, transform_of
from convcore_cpu.plans import make_prepacked_program, make_program, workspace_limit
from convcore_cpu.program import Program, UnsupportedError

#: What takes less on one core is not worth the look at what a transform would take (seconds).
WORTH_A_TRANSFORM = 5e-3


class CPUBackend(Backend):
    """SIMD micro-kernels on the cores of this machine.

    ``CONVCORE_CPU_ISA`` forces an instruction set, ``CONVCORE_NUM_THREADS`` limits the threads; both are read when
    a plan is made.
    """

    def probe(self) -> Sequence[Device] | str:
        """List the processor, with the instruction sets it has."""
        return [Device(0, f"host processor ({ISAS[-1]})", "cpu", {"isas": ISAS})]

    def supports(self, problem: Problem) -> bool | str:
        """Return True, or why not: an unknown algorithm, or more workspace than allowed."""
        if problem.algorithm == "fft":
            reason = refusal(problem)
            if reason is not None:
                return reason
        try:
            _program(problem, _isa(), _thread_limit())
        except UnsupportedError as reason:
            return str(reason)
        return True

    def plan(self, problem: Problem) -> Plan:
        """Lay out the problem and bind it.

        Raises
        ------
        ValueError
            If an environment variable cannot be understood.
        """
        isa, threads = _isa(), _thread_limit()
        program = _program(problem, isa, threads)

        def prepacked() -> Program | None:
            return make_prepacked_program(problem, _rows(isa), threads, program.cost.seconds)

        plan = CPUPlan(problem, program, prepacked)
        transformers = thread_count(threads)
        if not _is_transformed(problem, program, transformers):
            return plan
        return FourierPlan(problem, plan, program, transformers)


def _is_transformed(problem: Problem, program: Program, threads: int) -> bool:
    """Return whether Fourier transforms are asked for, or are cheaper."""
    if problem.algorithm is not None or program.cost.seconds < WORTH_A_TRANSFORM or refusal(problem) is not None:
        return problem.algorithm == "fft"
    transform = transform_of(problem)
    assert transform is not None
    memory_bytes = transform.workspace_bytes(threads) + program.memory_bytes
    return transform.seconds < program.cost.seconds and memory_bytes <= workspace_limit(problem)


@lru_cache(maxsize=8)
def _program(problem: Problem, isa: str, threads: int | None) -> Program:
    """Lay out the problem, once for ``supports`` and the ``plan`` that follows; of "fft", what runs if it cannot."""
    if problem.algorithm == "fft":
        problem = replace(problem, algorithm=None)
    return make_program(problem, _rows(isa), threads)


def _rows(isa: str) -> list[MicroKernel]:
    """Return the micro-kernels of an instruction set and of those below it."""
    return [row for name in ISAS[: ISAS.index(isa) + 1] for row in MICRO_KERNELS[name]]


def _isa() -> str:
    """Return the best instruction set, or the one that is forced; rows of those below it may run too."""
    isa = os.environ.get("CONVCORE_CPU_ISA", ISAS[-1])
    if isa not in MICRO_KERNELS:
        raise ValueError(f"CONVCORE_CPU_ISA={isa!r}: expected one of {', '.join(MICRO_KERNELS)}")
    if isa not in ISAS:
        raise ValueError(f"CONVCORE_CPU_ISA={isa!r}: this processor has only {', '.join(ISAS)}")
    return isa


def _thread_limit() -> int | None:
    text = os.environ.get("CONVCORE_NUM_THREADS")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"CONVCORE_NUM_THREADS={text!r}: expected a whole number of at least 1")
    return int(text)
