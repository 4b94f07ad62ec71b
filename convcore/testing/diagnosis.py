"""What is wrong with a wrong result, in words: the faults that convolutions have, tried one after the other."""

from __future__ import annotations

from convcore.problem import Problem
from convcore.testing.oracle import Array


def diagnose(problem: Problem, operands: tuple[Array, Array | None, Array | None], result: Array) -> str:
    """Name the fault that would explain a wrong result; empty if none that is known does."""
    return ""
