"""A backend under test: how the kit reaches it, and what it demands of every single answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from convcore import config, select
from convcore.errors import UnsupportedProblem
from convcore.problem import Problem
from convcore.registry import registry
from convcore.spi import Backend, BackendSpec, Plan
from convcore.testing.oracle import Array
from convcore.testing.problems import Operands
from convcore.testing.tolerance import assert_within


@dataclass(frozen=True)
class Engine:
    """A backend by its name, "name" or "name:device", as a user would ask for it."""

    name: str

    @property
    def spec(self) -> BackendSpec:
        """What the backend advertises."""
        return registry().specs[self.name.partition(":")[0]]

    @property
    def backend(self) -> Backend:
        """The instance that convcore uses."""
        return registry().backend(self.name)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan a user who names this backend gets; it raises where they would see it raise."""
        plan = select.make_plan(problem, config.parse(self.name, "the conformance kit"))
        assert isinstance(plan, Plan), f"plan() must return a Plan, got {plan!r}"
        assert plan.problem == problem, f"the plan is for another problem, {plan.problem}, than asked: {problem}"
        assert isinstance(plan.algorithm, str), f"Plan.algorithm must be a name, got {plan.algorithm!r}"
        assert plan.algorithm, "Plan.algorithm must not be empty"
        assert plan.workspace_bytes >= 0, f"Plan.workspace_bytes must not be negative, got {plan.workspace_bytes}"
        return plan

    def compute(self, problem: Problem, first: Array, second: Array | None, bias: Array | None) -> Array:
        """Run a problem and return the result."""
        return np.asarray(self.plan(problem)(first, second, bias))

    def refusal(self, problem: Problem) -> str:
        """Return why the backend refuses a problem, by its spec or by supports(); empty if it accepts."""
        reason = select.outside(self.spec, problem)
        if reason:
            return reason
        answer = self.backend.supports(problem)
        assert answer is True or (isinstance(answer, str) and answer.strip()), (
            f"supports() must return True or a reason in words, got {answer!r}: {problem}"
        )
        return "" if answer is True else str(answer)

    def verify(self, problem: Problem, operands: Operands, out: Array | None = None) -> bool:
        """Check one answer: a right result, or a refusal that is meant.

        Parameters
        ----------
        problem : Problem
        operands : tuple of ndarray or None
            first, second, bias.
        out : ndarray, optional
            Where the result must be written; by default it is computed twice, into memory that the
            backend allocates and into memory full of wrong numbers.

        Returns
        -------
        bool
            Whether the backend computed the problem, rather than refuse it.

        Raises
        ------
        AssertionError
            If the result is wrong, an operand was changed, or a refusal is not what it says.
        """
        reason = self.refusal(problem)
        if reason:
            self._verify_refusal(problem, reason)
            return False
        before = [None if operand is None else operand.tobytes() for operand in operands]
        plan = self.plan(problem)
        for target in (None, poisoned(problem)) if out is None else (out,):
            result = plan(*operands, target)
            after = [None if operand is None else operand.tobytes() for operand in operands]
            assert before == after, f"an operand was changed: {problem}"
            assert type(result) is np.ndarray, f"the result must be a numpy.ndarray, got {type(result).__name__}"
            assert target is None or result is target, "a call with out= must return out itself"
            native = result.astype(result.dtype.newbyteorder("="), copy=False)
            assert_within(native, problem, *operands, algorithm=plan.algorithm)
        return True

    def _verify_refusal(self, problem: Problem, reason: str) -> None:
        with pytest.raises(UnsupportedProblem) as refused:
            self.plan(problem)
        assert reason in str(refused.value), f"refused with other words than {reason!r}: {refused.value}"


def poisoned(problem: Problem) -> Array:
    """Return memory for the result, filled with NaN, or for integers with a number no result should be."""
    return np.full(problem.result_shape, -(2**62) if problem.result_dtype.kind == "i" else np.nan, problem.result_dtype)


@contextmanager
def packages_that_run() -> Iterator[set[str]]:
    """Collect the top-level packages whose Python code runs inside the ``with`` block, in this thread."""
    seen: set[str] = set()

    def note(frame: Any, event: str, argument: object) -> None:
        seen.add(frame.f_globals.get("__name__", "").partition(".")[0])

    previous = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(previous)
