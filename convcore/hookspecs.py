"""The hooks of convcore.  A plugin is a module that implements some of them, named by an entry point.

The entry point's group is ``convcore``; its name appears in messages about the plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pluggy

from convcore.problem import Problem
from convcore.spi import BackendSpec

hookspec = pluggy.HookspecMarker("convcore")


@dataclass(frozen=True, slots=True)
class Event:
    """One finished call.

    Attributes
    ----------
    backend, algorithm : str
        What ran.
    problem : Problem
        What was asked.
    seconds : float
        Time until the call returned; a device may still be at work.
    """

    backend: str
    algorithm: str
    problem: Problem
    seconds: float


@hookspec
def convcore_backends() -> Sequence[BackendSpec]:  # type: ignore[empty-body]
    """List the backends this plugin provides.  Must be cheap and import nothing heavy."""


@hookspec(firstresult=True)
def convcore_select(problem: Problem, candidates: Sequence[str]) -> str | None:
    """Choose a backend for a problem, or return None to leave it to the next plugin.

    Consulted only where the user asked for ``"auto"``, once for each new problem.
    ``candidates`` are the names of the backends that accept the problem, best first.
    """


@hookspec
def convcore_observe(event: Event) -> None:
    """Take notice of a finished call.  Calls are timed only when a plugin implements this."""
