"""Commands from elsewhere: every entry point of the group ``convcore.commands`` is a subcommand.

The entry point's name is the command's, and it leads to a function that typer can read.  One that cannot be imported
disables itself only: its command says why.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

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
        return point.load()  # type: ignore[no-any-return]  # whatever it is, typer judges it
    except Exception as error:
        reason = f"the command {point.name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
        cause = error

    def broken() -> None:
        raise ImportError(reason) from cause

    broken.__doc__ = f"Broken: {reason}."
    return broken
