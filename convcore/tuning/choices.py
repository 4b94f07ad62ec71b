"""The user's file of measured choices, and plans by them.

An entry says which of a backend's parameters won for problems of one bucket, under the backend's fingerprint: device,
driver, kernels.  The file is read when a plan is made and it has changed since; it is replaced in one step, after what
others wrote meanwhile was read again.  Of two processes that write at the same moment one may lose its last entry,
which the next measurement makes again.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import threading
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from convcore.errors import UnsupportedProblem
from convcore.problem import Problem
from convcore.spi import Backend, Plan

#: Of the file's contents; a file of another one is foreign.
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """A measured choice.

    Attributes
    ----------
    candidate : str
        The winner's name.
    parameters : mapping
        What :meth:`Backend.plan_with` takes.
    milliseconds, instead : float
        What a call took, and what it took by the backend's own choice.
    measured : str
        The day.
    """

    candidate: str
    parameters: Mapping[str, Any]
    milliseconds: float
    instead: float
    measured: str = field(default_factory=lambda: datetime.date.today().isoformat())

    def __str__(self) -> str:
        gain = self.instead / self.milliseconds
        than = f"{gain:.2f} times as fast as the backend's own choice" if gain > 1 else "the backend's own choice"
        return f"{self.candidate}, measured {self.measured}: {than}"


class Choices:
    """One file of entries, by their keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[int | None, dict[str, Entry]] = None, {}

    @property
    def entries(self) -> dict[str, Entry]:
        """What the file says now; nothing, and a warning once, if it is not such a file."""
        changed = self._changed()
        if changed != self._read[0]:
            self._read = changed, {} if changed is None else self._parsed()
        return self._read[1]

    def add(self, key: str, entry: Entry) -> None:
        """Put an entry into the file, which is written anew.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        entries = self.entries | {key: entry}
        content = {"schema": SCHEMA, "entries": {name: asdict(value) for name, value in sorted(entries.items())}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            beside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)

    def _changed(self) -> int | None:
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return None

    def _parsed(self) -> dict[str, Entry]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA}")
            return {key: _entry(record) for key, record in content["entries"].items()}
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"{self.path} holds no measured choices of convcore and is ignored ({why}); "
                "the next measurement writes it anew",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}


def _entry(record: dict[str, Any]) -> Entry:
    entry = Entry(**record)
    numbers = entry.milliseconds, entry.instead
    if not isinstance(entry.parameters, dict) or not all(isinstance(n, float) and n > 0 for n in numbers):
        raise ValueError(f"an entry is {record!r}")
    return entry


def users() -> Choices:
    """Return the user's file, under the user's cache folder."""
    return _users(os.environ.get("XDG_CACHE_HOME"))


@functools.cache
def _users(home: str | None) -> Choices:
    import platformdirs  # the variable is what it goes by, and its answer takes as long as half a plan

    return Choices(Path(platformdirs.user_cache_dir("convcore")) / "tuning.json")


def key(name: str, backend: Backend, problem: Problem) -> str:
    """Return what an entry is found by."""
    return " | ".join((name.partition(":")[0], backend.fingerprint(), backend.bucket(problem)))


def known(name: str, backend: Backend, problem: Problem) -> Entry | None:
    """Return what was measured for problems like this one."""
    entries = users().entries
    return entries.get(key(name, backend, problem)) if entries else None


def plan_of(name: str, backend: Backend, problem: Problem, *, now: bool = True) -> Plan:
    """Make a backend's plan for a problem: by what was measured, if its ``tune`` allows that, else by its own choice.

    Without ``now`` nothing is measured, whatever its ``tune`` says.
    """
    if type(backend).candidates is Backend.candidates or problem.tune not in ("cached", "measure"):
        return backend.plan(problem)
    entry = known(name, backend, problem)
    if entry is None and problem.tune == "measure":
        if not now:
            return _noted(backend.plan(problem), "a call measures before it chooses")
        from convcore.tuning.search import measured

        entry = measured(name, backend, problem)
    if entry is None:
        return backend.plan(problem)
    where = users().path
    try:
        plan = backend.plan_with(problem, entry.parameters)
    except UnsupportedProblem as error:
        plan = backend.plan(problem)
        return _noted(plan, f"{where} says {entry.candidate}, which does not fit: {error}")
    return _noted(plan, f"by {where}: {entry}")


def store(name: str, backend: Backend, problem: Problem, entry: Entry) -> None:
    """Keep an entry in the user's file; where that cannot be written, a warning says so."""
    file = users()
    try:
        file.add(key(name, backend, problem), entry)
    except OSError as error:
        sentence = f"{file.path} cannot be written: {error}; what was measured is lost with this process"
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)


def _noted(plan: Plan, note: str) -> Plan:
    plan.notes = "; ".join(filter(None, (plan.notes, note)))
    return plan
