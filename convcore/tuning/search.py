"""Which of a backend's candidates for a problem wins: each is tried, the near ones once more, in turns."""

from __future__ import annotations

import os
import statistics
import threading
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from convcore.problem import Problem
from convcore.spi import Backend
from convcore.tuning import choices
from convcore.tuning.child import ChildError, ChildTrial
from convcore.tuning.choices import Entry
from convcore.tuning.trial import Trial, WrongResultError

#: How much faster than the backend's own choice another must be in three of four turns: less may be noise.
MARGIN = 1.03
#: Those that took up to so many times as long as the best are compared with it once more, for so many seconds each.
NEAR, EFFORT = 1.25, 0.3


class Attempt(NamedTuple):
    """What became of a candidate: the seconds of a call, or why it cannot win."""

    candidate: str
    seconds: float | None
    failure: str = ""


class Search:
    """The candidates of one problem, and what became of those that were tried.

    Parameters
    ----------
    name : str
        The backend, "name" or "name:device".
    backend : Backend
    problem : Problem
    told : callable, optional
        Is told of each attempt.
    """

    def __init__(
        self, name: str, backend: Backend, problem: Problem, told: Callable[[Attempt], None] = lambda attempt: None
    ) -> None:
        self.candidates = backend.candidates(problem)
        self.attempts: dict[str, Attempt] = {}
        self._told = told
        self._trial = ChildTrial(name, problem) if backend.may_abort() else Trial(name, problem)

    def close(self) -> None:
        """End what was started for the search."""
        self._trial.close()

    @property
    def best(self) -> Attempt | None:
        """The fastest of those that compute the problem rightly."""
        right = (attempt for attempt in self.attempts.values() if attempt.seconds is not None)
        return min(right, key=lambda attempt: attempt.seconds or 0.0, default=None)

    def attempt(self, candidate: str) -> Attempt:
        """Try a candidate, if it was not yet."""
        if candidate not in self.attempts:
            best = self.best
            self.attempts[candidate] = found = self._attempt(candidate, best.seconds if best else None)
            self._told(found)
        return self.attempts[candidate]

    def _attempt(self, candidate: str, best: float | None) -> Attempt:
        try:
            (calls,) = self._trial.times([self.candidates[candidate]], best)
        except WrongResultError as error:
            return Attempt(candidate, None, f"computes wrongly: {error}")
        except ChildError as error:
            return Attempt(candidate, None, str(error))
        except Exception as error:  # a compiler's refusal, no memory: whatever it is, the candidate is out
            return Attempt(candidate, None, f"{type(error).__name__}: {error}")
        return Attempt(candidate, statistics.median(calls))

    def winner(self) -> Entry | None:
        """Return the best, after the near ones and the own choice were taken in turns; None if all failed."""
        best, own = self.best, self.attempts[next(iter(self.candidates))]
        if best is None or best.seconds is None:
            return None
        near = [each for each in self.attempts.values() if each.seconds and each.seconds <= NEAR * best.seconds]
        finalists = list(dict.fromkeys([own, *near] if own.seconds else near))
        turns = self._compared(finalists)
        seconds = {each: statistics.median(calls) for each, calls in turns.items()}
        best = min(finalists, key=lambda each: seconds[each])
        if own in turns and not _clearly_faster(turns[best], turns[own]):
            best = own
        instead = seconds.get(own, seconds[best])
        return Entry(best.candidate, dict(self.candidates[best.candidate]), 1e3 * seconds[best], 1e3 * instead)

    def _compared(self, finalists: list[Attempt]) -> dict[Attempt, list[float]]:
        """Return the seconds of calls taken in turns."""
        first = {each: [each.seconds or 0.0] for each in finalists}
        if len(finalists) == 1:
            return first
        try:
            again = self._trial.times([self.candidates[each.candidate] for each in finalists], effort=EFFORT)
        except Exception:  # what had worked once: its first time counts
            return first
        return dict(zip(finalists, again, strict=True))


def _clearly_faster(calls: list[float], others: list[float]) -> bool:
    ratios = sorted(other / call for call, other in zip(calls, others, strict=True))
    return ratios[len(ratios) // 4] > MARGIN


def in_order(search: Search) -> None:
    """Try every candidate, as the backend lists them."""
    for candidate in search.candidates:
        search.attempt(candidate)


def tuned(
    name: str,
    backend: Backend,
    problem: Problem,
    visit: Callable[[Search], None] = in_order,
    told: Callable[[Attempt], None] = lambda attempt: None,
) -> Entry | None:
    """Measure candidates of a problem and keep the winner in the user's file; None if none is right."""
    with closing(Search(name, backend, problem, told)) as search:
        search.attempt(next(iter(search.candidates)))  # what the others are compared with
        visit(search)
        entry = search.winner()
    if entry is not None:
        choices.store(name, backend, problem, entry)
    return entry


_measuring = threading.Lock()


def _start_anew() -> None:
    global _measuring
    _measuring = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def measured(name: str, backend: Backend, problem: Problem) -> Entry | None:
    """Measure now, one thread at a time, unless another has just done it; None where there is no choice to make."""
    if len(backend.candidates(problem)) < 2:
        return None
    with _measuring:
        entry = choices.known(name, backend, problem)
        if entry is not None:
            return entry
        failed: list[Attempt] = []
        entry = tuned(name, backend, problem, told=lambda attempt: failed.append(attempt) if attempt.failure else None)
    if entry is None:
        reasons = "; ".join(f"{attempt.candidate}: {attempt.failure}" for attempt in failed)
        warnings.warn(
            f"no candidate of {name} could be measured for this problem: {reasons}", RuntimeWarning, stacklevel=2
        )
    return entry
