"""Commands from elsewhere: every entry point of the group ``convcore.commands`` is a subcommand.

The entry point's name is the command's, and it leads to a function that typer can read.  One that cannot be imported
disables itself only: its command says why.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from convcore.errors import BrokenBackend
from convcore.registry import fence

GROUP = "convcore.commands"


def add_commands(app: typer.Typer) -> None:
    """Add the installed commands to ``app``; its own ones cannot be replaced."""
    taken = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name not in taken:
            app.command(point.name)(_load(point))
            taken.add(point.name)


def _load(point: EntryPoint) -> Callable[..., Any]:
    try:
        with fence(f"the command {point.name!r} ({point.value}) cannot be imported"):
            return point.load()  # type: ignore[no-any-return]  # whatever it is, typer judges it
    except BrokenBackend as error:
        failure = error

    def broken() -> None:
        raise failure

    broken.__doc__ = f"Broken: {failure}."
    return broken
