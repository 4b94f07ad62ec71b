"""One problem on one backend: whether a candidate computes it rightly, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convcore.normalise import array_type
from convcore.problem import Problem
from convcore.registry import registry
from convcore.spi import Plan
from convcore.testing.tolerance import Expectation

Parameters = Mapping[str, Any]

#: A candidate is given up when a call takes so many times as long as the best one's.
HOPELESS = 3.0
#: Calls of a candidate, at least, and seconds that are spent on more of them.
CALLS, SECONDS = 5, 0.1


class WrongResultError(Exception):
    """A candidate whose result is not within the problem's tolerance."""


class Trial:
    """A problem with operands, on the backend's device, and what must come out.

    Parameters
    ----------
    name : str
        The backend, "name" or "name:device".
    problem : Problem
    """

    def __init__(self, name: str, problem: Problem) -> None:
        self._backend = registry().backend(name)
        rng = np.random.default_rng(0)
        host = [
            _numbers(rng, shape, dtype) for shape, dtype in zip(problem.operand_shapes, problem.dtypes, strict=False)
        ]
        bias = _numbers(rng, (problem.result_channels,), problem.result_dtype) if problem.bias else None
        first, second = host if len(host) == 2 else (host[0], None)
        self._expected = Expectation(problem, first, second, bias, precision=_wider(problem.result_dtype))
        self._operands = [None if each is None else self._backend.to_device(each) for each in (first, second, bias)]
        self._problem = replace(problem, arrays=array_type(self._operands[0]))

    def times(
        self, parameters: Sequence[Parameters], best: float | None = None, effort: float = SECONDS
    ) -> list[list[float]]:
        """Return the seconds of calls with each set of parameters, taken in turns for ``effort`` seconds each.

        One that takes :data:`HOPELESS` times ``best`` is called twice only.

        Raises
        ------
        WrongResultError
            If one of them does not compute the problem.
        """
        plans = [self._backend.plan_with(self._problem, each) for each in parameters]
        for plan in plans:
            self._check(plan)
        spent: list[list[float]] = [[] for _ in plans]
        for plan, calls in zip(plans, spent, strict=True):
            calls.append(self._timed(plan))
        if best is not None and min(map(min, spent)) > HOPELESS * best:
            return spent
        while len(spent[0]) < CALLS or sum(map(sum, spent)) < effort * len(plans):
            for plan, calls in zip(plans, spent, strict=True):
                if len(plans) > 1:
                    self._timed(plan)  # finds the caches as the one before has left them
                calls.append(self._timed(plan))
        return spent

    def close(self) -> None:
        """Nothing was started; see :class:`ChildTrial`."""

    def _check(self, plan: Plan) -> None:
        result = self._backend.from_device(plan(*self._operands))
        try:
            self._expected.check(result, plan.algorithm)
        except AssertionError as error:
            raise WrongResultError(str(error).partition(": Problem(")[0]) from None

    def _timed(self, plan: Plan) -> float:
        start = time.perf_counter()
        plan(*self._operands)
        self._backend.synchronize()
        return time.perf_counter() - start


def _wider(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """Return what a result is compared in: float64 is fast, where it is wide enough."""
    return np.longdouble if dtype in (np.float64, np.complex128) else np.float64


def _numbers(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if dtype.kind in "iu":
        return rng.integers(0, 5, shape).astype(dtype)
    numbers = rng.standard_normal(shape)
    return (numbers + 1j * rng.standard_normal(shape) if dtype.kind == "c" else numbers).astype(dtype)
