"""The CPU backend as the core sees it: what it can do, and the way from a problem to a plan."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from convcore.spi import Backend, Device, Plan, Problem, UnsupportedProblem
from convcore_cpu.calibration import calibrate, calibrated
from convcore_cpu.engine import ISAS, MICRO_KERNELS, CPUPlan, MicroKernel
from convcore_cpu.fourier import OPS as TRANSFORMED
from convcore_cpu.fourier import TILES_AT_ONCE, FourierPlan, Transform, refusal, thread_count, transform_of
from convcore_cpu.machine import exactly, fingerprint
from convcore_cpu.plans import make_prepacked_program, make_program, programs, workspace_limit
from convcore_cpu.program import BUILT_IN, Program, Rates, UnsupportedError

#: What takes less on one core is not worth the look at what a transform would take (seconds).
WORTH_A_TRANSFORM = 5e-3
#: What the model says takes so many times as long as the best is not measured.
HOPELESS = 4.0


class CPUBackend(Backend):
    """SIMD micro-kernels on the cores of this machine.

    ``CONVCORE_CPU_ISA`` forces an instruction set, ``CONVCORE_NUM_THREADS`` limits the threads; both are read when
    a plan is made.
    """

    def probe(self) -> Sequence[Device] | str:
        """List the processor, with the instruction sets it has."""
        rates = calibrated(ISAS[-1]) or BUILT_IN
        return [Device(0, f"host processor ({ISAS[-1]})", "cpu", {"isas": ISAS, "model": str(rates)})]

    def supports(self, problem: Problem) -> bool | str:
        """Return True, or why not: an unknown dtype or algorithm, or more workspace than allowed."""
        try:
            isa = _isa()
            program = _program(problem, isa, _thread_limit(), _rates(problem, isa))
        except UnsupportedError as reason:
            return str(reason)
        return (problem.algorithm == "fft" and refusal(problem, _room_beside(program, problem))) or True

    def plan(self, problem: Problem) -> Plan:
        """Lay out the problem and bind it.

        Raises
        ------
        ValueError
            If an environment variable cannot be understood.
        """
        return self._plan(problem, problem)

    def candidates(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """Name the algorithms that the model does not think hopeless, its own choice first."""
        if problem.algorithm is not None:
            return {}
        isa = _isa()
        if problem.tune in ("cached", "measure"):
            calibrate(isa, _rows(isa))
        own = self.plan(problem).algorithm
        seconds = {
            name: found.seconds
            for name, found in _predictions(problem, isa, _thread_limit()).items()
            if not isinstance(found, str) and found.memory_bytes <= workspace_limit(problem)
        }
        names = sorted(seconds, key=lambda name: (name != own, seconds[name]))
        worth = [name for name in names if seconds[name] <= HOPELESS * min(seconds.values())]
        return {name: {"algorithm": name} for name in worth} if len(worth) > 1 else {}

    def plan_with(self, problem: Problem, parameters: Mapping[str, Any]) -> Plan:
        """Plan a problem by the algorithm that was measured as the fastest.

        Raises
        ------
        UnsupportedProblem
            If it is unknown, or cannot compute this problem within its accuracy and workspace.
        """
        if set(parameters) != {"algorithm"} or not isinstance(parameters["algorithm"], str):
            raise UnsupportedProblem(f"cpu: parameters must be an algorithm, got {dict(parameters)}")
        named = replace(problem, algorithm=parameters["algorithm"])
        answer = self.supports(named)
        if answer is not True:
            raise UnsupportedProblem(f"cpu: {answer}")
        return self._plan(problem, named)

    def fingerprint(self) -> str:
        """Say what measured choices depend on: processor, instruction set, and this engine."""
        return fingerprint(_isa())

    def bucket(self, problem: Problem) -> str:
        """Share measured choices among no two problems: the last pixels of tiles decide between algorithms."""
        return exactly(problem)

    def _plan(self, problem: Problem, named: Problem) -> Plan:
        """Plan a problem as ``named`` asks for it."""
        isa, threads = _isa(), _thread_limit()
        program = _program(named, isa, threads, _rates(named, isa))
        prepacked = partial(make_prepacked_program, named, _rows(isa), threads, program.cost)
        plan = CPUPlan(problem, program, prepacked, partial(_details, problem, isa, threads))
        transform = _transform(named, program)
        if transform is None:
            return plan
        room = _room_beside(program, named) - transform.weight_bytes
        return FourierPlan(problem, transform, plan, program, min(thread_count(threads), room // transform.tile_bytes))


def _room_beside(program: Program, problem: Problem) -> int:
    """Return how many bytes Fourier transforms may take, beside the program for what is not finite: on any machine."""
    return workspace_limit(problem) - program.workspace_bytes - TILES_AT_ONCE * program.scratch_bytes


def _transform(problem: Problem, program: Program) -> Transform | None:
    """Return the Fourier transform of tiles if it is asked for, or is cheaper than a program, beside which it fits."""
    asked = problem.algorithm == "fft"
    room = _room_beside(program, problem)
    if problem.algorithm not in (None, "fft") or (not asked and program.cost.seconds < WORTH_A_TRANSFORM):
        return None
    transform = None if refusal(problem, room) else transform_of(problem, room)
    if transform is None or asked:
        return transform
    return transform if transform.seconds / program.cost.rates.transforms < program.cost.seconds else None


@dataclass(frozen=True)
class Prediction:
    """What the model says of an algorithm: seconds on one core, made up of what, and bytes of memory."""

    seconds: float
    of: str
    memory_bytes: int


def _predictions(problem: Problem, isa: str, threads: int | None) -> dict[str, Prediction | str]:
    """Return what the model says of every algorithm, or why that cannot be used."""
    problem = replace(problem, algorithm=None)
    rates = _rates(problem, isa)
    found: dict[str, Prediction | str] = {}
    for name, program in programs(problem, _rows(isa), threads, rates).items():
        if isinstance(program, str):
            found[name] = program
        else:
            cost = program.cost
            of = f"{cost.cycles:.3g} cycles and {cost.bytes:.3g} bytes"
            found[name] = Prediction(cost.seconds, of, program.memory_bytes)
    room = _room_beside(_program(problem, isa, threads, rates), problem)
    transform = None if problem.op not in TRANSFORMED else refusal(problem, room) or transform_of(problem, room)
    if isinstance(transform, str):
        found["fft"] = transform
    elif transform is not None:
        of = f"tiles of {transform.lines}x{transform.columns} points"
        seconds = transform.seconds / rates.transforms
        found["fft"] = Prediction(seconds, of, transform.workspace_bytes(thread_count(threads)))
    return found


def _details(problem: Problem, isa: str, threads: int | None) -> str:
    """Return the model's numbers of every algorithm, fastest first, for ``explain()``."""
    found = _predictions(problem, isa, threads)
    seconds = {name: answer.seconds for name, answer in found.items() if not isinstance(answer, str)}
    others = min((value for name, value in seconds.items() if name != "fft"), default=math.inf)
    lines = [f"model, on one core, at {_rates(problem, isa)}:"]
    for name in sorted(found, key=lambda name: seconds.get(name, math.inf)):
        answer = found[name]
        said = answer if isinstance(answer, str) else f"{answer.seconds * 1e3:.3g} ms, {answer.of}"
        if not isinstance(answer, str) and answer.memory_bytes > workspace_limit(problem):
            said += f"; its {answer.memory_bytes} bytes of workspace are too many"
        elif name == "fft" and name in seconds and others < WORTH_A_TRANSFORM:
            said += f"; not chosen where others take less than {WORTH_A_TRANSFORM * 1e3:g} ms"
        lines.append(f"  {name}: {said}")
    return "\n".join(lines)


@lru_cache(maxsize=8)
def _program(problem: Problem, isa: str, threads: int | None, rates: Rates) -> Program:
    """Lay out the problem, once for ``supports`` and the ``plan`` that follows; of "fft", what runs if it cannot."""
    if problem.algorithm == "fft":
        problem = replace(problem, algorithm=None)
    return make_program(problem, _rows(isa), threads, rates)


def _rates(problem: Problem, isa: str) -> Rates:
    """Return what the model goes by: the rates measured here, if the problem's ``tune`` allows a file, or its own."""
    return (calibrated(isa) if problem.tune in ("cached", "measure") else None) or BUILT_IN


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
