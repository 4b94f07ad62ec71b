"""What a backend was asked while the kit ran, and how it answered: the figures behind a verdict.

A record holds counts and worst errors only, so records of single tests add up, also those of other processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convcore.problem import HOST_ARRAY, Problem
from convcore.testing.tolerance import Errors

#: The answers a problem can get.  "excepted" is a refusal that the spec's ``exceptions`` announce.
ANSWERS = ("computed", "refused", "excepted", "failed")


@dataclass
class Worst:
    """The worst error of one operation in one dtype, and the problems it was found on."""

    bound: float = 0.0
    ulp: float = 0.0
    algorithm: str = ""
    problem: str = ""

    def merge(self, other: Worst) -> None:
        """Take the larger of each error."""
        if other.bound >= self.bound:
            self.bound, self.algorithm, self.problem = other.bound, other.algorithm, other.problem
        self.ulp = max(self.ulp, other.ulp)


@dataclass
class Record:
    """Answers and worst bounds by capability and operation, worst errors by operation and dtype, used exceptions."""

    answers: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: {name: Counter() for name in ANSWERS})
    problems: Counter[str] = field(default_factory=Counter)
    worst: dict[tuple[str, str], Worst] = field(default_factory=dict)
    bounds: dict[tuple[str, str], float] = field(default_factory=dict)
    exceptions: Counter[str] = field(default_factory=Counter)

    def note(self, problem: Problem, answer: str) -> None:
        """Count one problem, once in all and once for every capability it needs."""
        self.problems[answer] += 1
        for capability in capabilities(problem):
            self.answers[answer][capability, problem.op] += 1

    def note_errors(self, problem: Problem, errors: Errors, algorithm: str) -> None:
        """Remember the errors of a right result, if they are the worst so far."""
        found = Worst(errors.bound, errors.ulp, algorithm, str(problem))
        self.worst.setdefault((problem.op, problem.result_dtype.name), Worst()).merge(found)
        for capability in capabilities(problem):
            self._bound((capability, problem.op), errors.bound)

    def _bound(self, key: tuple[str, str], bound: float) -> None:
        self.bounds[key] = max(self.bounds.get(key, 0.0), bound)

    def merge(self, other: Record) -> None:
        """Add another record's figures to these."""
        for answer in ANSWERS:
            self.answers[answer].update(other.answers[answer])
        self.problems.update(other.problems)
        self.exceptions.update(other.exceptions)
        for key, worst in other.worst.items():
            self.worst.setdefault(key, Worst()).merge(worst)
        for key, bound in other.bounds.items():
            self._bound(key, bound)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return {
            "answers": {answer: _rows(counter) for answer, counter in self.answers.items()},
            "problems": dict(self.problems),
            "worst": [[*key, w.bound, w.ulp, w.algorithm, w.problem] for key, w in self.worst.items()],
            "bounds": _rows(self.bounds),
            "exceptions": dict(self.exceptions),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Return the record that :meth:`to_json` described."""
        record = cls(problems=Counter(data["problems"]), exceptions=Counter(data["exceptions"]))
        for answer, rows in data["answers"].items():
            record.answers[answer].update({(capability, op): count for capability, op, count in rows})
        for op, dtype, *worst in data["worst"]:
            record.worst[op, dtype] = Worst(*worst)
        record.bounds = {(capability, op): bound for capability, op, bound in data["bounds"]}
        return record


def capabilities(problem: Problem) -> Iterable[str]:
    """Name what a backend must be capable of to compute a problem."""
    yield from (f"dtype {name}" for name in dict.fromkeys(dtype.name for dtype in problem.dtypes))
    yield f"layout {problem.layout}"
    yield f"boundary {problem.boundary}"
    if problem.arrays != HOST_ARRAY:
        yield f"arrays {problem.arrays}"
    yield from problem.features


def _rows(table: Mapping[tuple[str, str], float]) -> list[list[Any]]:
    return [[capability, op, value] for (capability, op), value in table.items()]


#: What is being recorded now: the plugin starts a new one for each test.
_current = Record()


def current() -> Record:
    """Return the record of the test that runs."""
    return _current


def start() -> Record:
    """Begin a new record and return it."""
    global _current
    _current = Record()
    return _current
