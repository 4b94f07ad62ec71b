"""Where the choice of a backend comes from when the call does not make it.

Precedence: call argument > ``use()`` > ``set_backend()`` > ``CONVCORE_BACKEND`` > project file
(``convcore.toml``, or ``[tool.convcore]`` in ``pyproject.toml``, in the working directory or
nearest above it) > user file > built-in order.  The files are read once for a process.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convcore.errors import ConfigError
from convcore.normalise import did_you_mean
from convcore.registry import BUILTIN_ORDER

VARIABLE = "CONVCORE_BACKEND"
AUTO = "auto"
_KEYS = ("backend",)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Setting:
    """A choice of backend and where it came from.

    Attributes
    ----------
    names : tuple of str
        One name: that backend runs or raises.  Several: the first that accepts runs.
        ("auto",): every installed backend is a candidate.
    source : str
        In words, for messages: "call argument", "CONVCORE_BACKEND", the path of a file, …
    """

    names: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return ",".join(self.names)


BUILTIN = Setting(BUILTIN_ORDER, "built-in order")

#: The innermost ``with use(...)`` of this thread or task.
scope: ContextVar[Setting | None] = ContextVar("convcore_backend", default=None)
_process: Setting | None = None


def parse(value: Any, source: str) -> Setting:
    """Return the setting that "cpu", "opencl:1", "cpu,numpy", ["cpu", "numpy"] or "auto" stands for."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not parts or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{source}: `backend` must be a name or a list of names, got {value!r}")
    names = tuple(part.strip() for part in parts)
    if not all(names):
        raise ConfigError(f"{source}: `backend` must not hold an empty name, got {value!r}")
    if AUTO in names and len(names) > 1:
        raise ConfigError(f"{source}: 'auto' stands alone, got {value!r}")
    return Setting(names, source)


def parse_bool(name: str, text: str) -> bool:
    """Read a boolean variable strictly.

    Raises
    ------
    ConfigError
        If the text is none of 1, true, yes, on, 0, false, no, off.
    """
    lower = text.strip().lower()
    if lower not in _TRUE + _FALSE:
        raise ConfigError(f"{name} must be one of {', '.join(_TRUE + _FALSE)}, got {text!r}")
    return lower in _TRUE


def current(argument: Any = None) -> Setting:
    """Return the setting that applies here and now, asking the sources in their order."""
    if argument is not None:
        return parse(argument, "call argument")
    setting = scope.get() or _process
    if setting is not None:
        return setting
    if text := os.environ.get(VARIABLE):
        return parse(text, VARIABLE)
    return from_files() or BUILTIN


def set_process(setting: Setting | None) -> None:
    """Make a setting the process's; None takes it back."""
    global _process
    _process = setting


def reload() -> None:
    """Forget what the configuration files said; they are read again when next needed."""
    from_files.cache_clear()


@functools.cache
def from_files() -> Setting | None:
    """Return the setting of the project file, else of the user file, else None."""
    for path, table in _tables():
        for key in table:
            if key not in _KEYS:
                raise ConfigError(f"{path}: unknown key {key!r}{did_you_mean(key, _KEYS)}; known: {', '.join(_KEYS)}")
        if "backend" in table:
            return parse(table["backend"], str(path))
    return None


def _tables() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the tables that speak of convcore, nearest first: one project file, then the user's."""
    here = Path.cwd()
    project = (found for folder in (here, *here.parents) for found in _project_tables(folder))
    for first in project:
        yield first
        break
    import platformdirs

    user = Path(platformdirs.user_config_dir("convcore")) / "config.toml"
    if user.is_file():
        yield user, _read(user)


def _project_tables(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    own, shared = folder / "convcore.toml", folder / "pyproject.toml"
    if own.is_file():
        yield own, _read(own)
    if shared.is_file():
        table = _read(shared).get("tool", {}).get("convcore")
        if table is not None:
            yield shared, table


def _read(path: Path) -> dict[str, Any]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # a TOMLDecodeError or UnicodeDecodeError is a ValueError
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    return table
