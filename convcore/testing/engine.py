"""A backend under test: how the kit reaches it, and what it demands of every single answer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from convcore import config, select
from convcore.errors import BrokenBackend, UnsupportedProblem
from convcore.operands import OPERANDS
from convcore.problem import Problem
from convcore.registry import registry
from convcore.spi import Backend, BackendSpec, Plan, hookimpl
from convcore.testing import record
from convcore.testing.diagnosis import diagnose
from convcore.testing.exceptions import exception_for
from convcore.testing.oracle import Array
from convcore.testing.problems import Operands
from convcore.testing.tolerance import Errors, Expectation

#: Elements on both sides of a result, which nobody may write to.
GUARD = 256
# Of first, second and bias, by operation.
_NAMES = {op: (*(*names, "")[:2], "bias") for op, names in OPERANDS.items()}


@dataclass(frozen=True)
class Engine:
    """A backend by its name, "name" or "name:device", as a user would ask for it.

    ``asked_as`` is what the kit was given, which another process can :func:`resolve`.
    """

    name: str
    asked_as: str

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
        assert plan.backend == self.name, f"{self.name} was named, but backend {plan.backend!r} runs"
        assert plan.problem == problem, f"the plan is for another problem, {plan.problem}, than asked: {problem}"
        assert isinstance(plan.algorithm, str), f"Plan.algorithm must be a name, got {plan.algorithm!r}"
        assert plan.algorithm, "Plan.algorithm must not be empty"
        assert plan.workspace_bytes >= 0, f"Plan.workspace_bytes must not be negative, got {plan.workspace_bytes}"
        return plan

    def compute(self, problem: Problem, first: Array, second: Array | None, bias: Array | None) -> Array:
        """Run a problem and return the result, which a test of another kind than :meth:`verify` is to judge."""
        result = np.asarray(self.plan(problem)(first, second, bias))
        record.current().note(problem, "computed")
        return result

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

        What the spec declares must be computed, unless the caller named an algorithm or a workspace limit, or the
        spec has an exception for it.  A refused problem is called all the same, and must raise.

        Parameters
        ----------
        problem : Problem
        operands : tuple of ndarray or None
            first, second, bias.
        out : ndarray, optional
            Where the result must be written; by default it is computed twice, into memory full of
            wrong numbers between guard zones and into memory that the backend allocates.

        Returns
        -------
        bool
            Whether the backend computed the problem, rather than refuse it.

        Raises
        ------
        AssertionError
            If the result is wrong, an operand was changed, something else was written to, another backend ran, or a
            refusal is not what it says.
        """
        answer = "failed"
        try:
            with self.spying():
                if reason := self.refusal(problem):
                    answer = self._verify_refusal(problem, operands, reason)
                else:
                    self._verify_results(problem, operands, out)
                    answer = "computed"
        finally:
            record.current().note(problem, answer)
        return answer == "computed"

    def expect(self, problem: Problem, operands: Operands, result: Array) -> None:
        """Check a result that was computed elsewhere, say by convcore's functions."""
        answer = "failed"
        try:
            plan = self.plan(problem)
            errors = self._check(Expectation(problem, *operands), result, plan, poisoned=False)
            record.current().note_errors(problem, errors, plan.algorithm)
            answer = "computed"
        finally:
            record.current().note(problem, answer)

    @contextmanager
    def spying(self) -> Iterator[None]:
        """Raise at the end of the ``with`` block if code of another backend ran in it, in this thread."""
        own = _package(self.spec)
        others = {_package(spec): name for name, spec in registry().specs.items() if _package(spec) != own}
        with packages_that_run() as seen:
            yield
        for package in sorted(seen & set(others)):
            raise AssertionError(
                f"{self.name} was named, but the work was done by another backend: {others[package]!r} ({package})"
            )

    def _verify_refusal(self, problem: Problem, operands: Operands, reason: str) -> str:
        """Check that a refusal is allowed, and that a call is really refused, in the same words."""
        answer = "refused"
        negotiable = problem.algorithm is not None or problem.workspace_limit is not None
        if not select.outside(self.spec, problem) and not negotiable:
            exception = exception_for(self.spec, problem)
            assert exception, f"declares all that this problem needs, but refuses it: {reason}: {problem}"
            record.current().exceptions[exception] += 1
            answer = "excepted"
        try:
            self.plan(problem)(*operands)
        except UnsupportedProblem as refused:
            words = str(refused)
        except Exception as error:
            raise AssertionError(
                f"a refusal must raise UnsupportedProblem, got {type(error).__name__}: {error}: {problem}"
            ) from error
        else:
            raise AssertionError(f"computed what it refuses ({reason}): {problem}")
        assert reason in words, f"refused with other words than {reason!r}: {words}"
        return answer

    def _verify_results(self, problem: Problem, operands: Operands, out: Array | None) -> None:
        expectation = Expectation(problem, *operands)
        before = [None if operand is None else operand.tobytes() for operand in operands]
        plan = self.plan(problem)
        guarded = Guarded(problem)
        for target in (guarded.out, None) if out is None else (out,):
            result = self._call(plan, operands, target)
            for name, operand, bits in zip(_NAMES[problem.op], operands, before, strict=True):
                changed = operand is not None and operand.tobytes() != bits
                assert not changed, f"its operand `{name}` was changed: {problem}"
            assert type(result) is np.ndarray, f"the result must be a numpy.ndarray, got {type(result).__name__}"
            dtype = result.dtype.newbyteorder("=")
            assert dtype == problem.result_dtype, f"dtype is {dtype}, must be {problem.result_dtype}: {problem}"
            assert target is None or result is target, "a call with out= must return out itself"
            guarded.check(problem)
            native = result.astype(dtype, copy=False)
            errors = self._check(expectation, native, plan, poisoned=target is guarded.out)
            record.current().note_errors(problem, errors, plan.algorithm)

    def _call(self, plan: Plan, operands: Operands, target: Array | None) -> Any:
        try:
            return plan(*operands, target)
        except NotImplementedError as error:
            raise AssertionError(f"accepts a problem and then raises {error!r}: {plan.problem}") from error

    def _check(self, expectation: Expectation, result: Array, plan: Plan, *, poisoned: bool) -> Errors:
        """Compare a result; what is wrong with it is said in words where the kit knows the fault."""
        problem, operands = expectation.problem, expectation.operands
        if poisoned:
            self._check_written(expectation, result, plan)
        try:
            return expectation.check(result, plan.algorithm)
        except AssertionError as error:
            guess = diagnose(problem, operands, result)
            raise AssertionError(f"{guess}: {error}" if guess else str(error)) from None

    def _check_written(self, expectation: Expectation, result: Array, plan: Plan) -> None:
        left = _same_bits(result, poison(result.dtype))
        if not left.any():
            return
        ones = np.ones_like(result)
        plan(*expectation.operands, ones)
        try:
            expectation.check(ones - ones.dtype.type(1), plan.algorithm)
        except AssertionError:
            pass
        else:
            raise AssertionError(f"the result is added to what stood in `out`: {expectation.problem}")
        index = tuple(map(int, np.argwhere(left)[0]))
        raise AssertionError(
            f"{left.sum()} of {left.size} elements were not written, they hold what stood in `out` before; "
            f"the first is at {index}: {expectation.problem}"
        )


class Guarded:
    """Memory for the result of a problem, full of poison, between two guard zones."""

    def __init__(self, problem: Problem) -> None:
        shape, dtype = problem.result_shape, problem.result_dtype
        self.around = np.full(int(np.prod(shape)) + 2 * GUARD, 42, dtype)
        self.out = self.around[GUARD:-GUARD].reshape(shape)
        self.out[...] = poison(dtype)

    def check(self, problem: Problem) -> None:
        """Raise if a guard zone was written to."""
        before, after = self.around[:GUARD], self.around[-GUARD:]
        assert (before == 42).all(), f"wrote out of bounds, before the start of `out`: {problem}"
        assert (after == 42).all(), f"wrote out of bounds, beyond the end of `out`: {problem}"


def poison(dtype: np.dtype[Any]) -> Any:
    """Return a number no result has: a NaN of rare bits, or an integer that is too large."""
    if dtype.kind == "i":
        return np.array(-(2**62) - 4321, dtype)[()]
    real = np.full(dtype.itemsize // (2 if dtype.kind == "c" else 1), 0, np.uint8).view(dtype.type(0).real.dtype)
    real[...] = np.nan
    # A quiet NaN stays one when low bits of its fraction are set.
    real.view(np.uint8)[0 if sys.byteorder == "little" else -1] |= 0x5A
    value: Any = real[0]
    return dtype.type(complex(0, 0)) * 0 + value if dtype.kind == "c" else value


def poisoned(problem: Problem) -> Array:
    """Return memory for the result, full of :func:`poison`."""
    return np.full(problem.result_shape, poison(problem.result_dtype), problem.result_dtype)


def _same_bits(array: Array, value: Any) -> Array:
    """Whether each element has the bits of ``value``; of complex ones, whether either part has them."""
    if array.dtype.kind == "c":
        real = np.ascontiguousarray(array).view(array.real.dtype).reshape(*array.shape, 2)
        return np.asarray(_same_bits(real, value.real).any(axis=-1))
    if array.dtype.kind != "f":
        return np.asarray(array == value)
    return np.asarray((_bytes(array) == _bytes(np.full((), value, array.dtype))).all(axis=-1))


def bits(array: Array) -> bytes:
    """Return the bits of an array's numbers, without what only fills up their memory."""
    return array.tobytes() if array.dtype.kind != "f" else _bytes(array).tobytes()


def _bytes(array: Array) -> Array:
    """View floating numbers as bytes along another axis; of an x87 longdouble ten are its own, the others anybody's."""
    size = array.dtype.itemsize
    used = 10 if np.finfo(array.dtype).nmant == 63 else size
    return np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape, size)[..., :used]


@contextmanager
def packages_that_run() -> Iterator[set[str]]:
    """Collect the top-level packages whose Python code or plans run inside the ``with`` block, in this thread."""
    seen: set[str] = set()

    def note(frame: Any, event: str, argument: object) -> None:
        name = frame.f_globals.get("__name__", "")
        seen.add(name.partition(".")[0])
        if event == "call" and frame.f_code.co_name == "run_on_host" and name == "convcore.operands":
            seen.add(type(frame.f_locals["plan"]).__module__.partition(".")[0])

    previous = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(previous)


def _package(spec: BackendSpec) -> str:
    return spec.factory.partition(":")[0].partition(".")[0]


# ---------------------------------------------------------------- by name


def resolve(name: str) -> str:
    """Make sure that convcore knows a backend, and return the name it knows it by.

    Parameters
    ----------
    name : str
        "name" or "name:device" of an installed backend, or "package:object": a :class:`Backend`, a
        :class:`BackendSpec`, or something that has the hook ``convcore_backends``, installed as a plugin or not.

    Raises
    ------
    UnknownBackend, BrokenBackend
    """
    known = registry()
    base, _, attribute = name.partition(":")
    if base in known.specs or base in known.broken or not attribute.isidentifier():
        return name
    try:
        found = getattr(importlib.import_module(base), attribute)
    except ImportError as error:
        if error.name == base.partition(".")[0]:
            known.check_name(name, "the conformance kit")
        raise BrokenBackend(f"{name}: {type(error).__name__}: {error}") from error
    except AttributeError as error:
        raise BrokenBackend(f"{name}: module {base!r} has no {attribute!r}") from error
    specs = _specs_of(name, found)
    for spec in specs:
        if spec.name not in known.specs:
            known.add_plugin(f"{name} ({spec.name})", _Plugin(spec))
            known.check_name(spec.name, name)
    return specs[0].name


class _Plugin:
    def __init__(self, spec: BackendSpec) -> None:
        self.spec = spec

    @hookimpl
    def convcore_backends(self) -> list[BackendSpec]:
        return [self.spec]


def _specs_of(name: str, found: Any) -> list[BackendSpec]:
    if isinstance(found, BackendSpec):
        return [found]
    if isinstance(found, type) and issubclass(found, Backend):
        own = getattr(found, "spec", None)
        return [own or BackendSpec(found.__name__.lower(), name)]
    hook = getattr(found, "convcore_backends", found)
    specs = list(hook()) if callable(hook) else []
    if len(specs) != 1 or not isinstance(specs[0], BackendSpec):
        raise BrokenBackend(f"{name} must be a Backend, a BackendSpec or a plugin of one backend, got {found!r}")
    return specs
