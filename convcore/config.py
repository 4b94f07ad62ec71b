"""Where the choice of a backend, and of its tuning, comes from when the call does not make it.

Precedence: call argument > ``use()`` > ``set_backend()`` > ``CONVCORE_BACKEND`` > project file
(``convcore.toml``, or ``[tool.convcore]`` in ``pyproject.toml``, in the working directory or
nearest above it) > user file > built-in order.  For the tuning: call argument > ``CONVCORE_TUNE`` >
project file > user file > "cached".  The files are read once for a process, and an error in one
names its line.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convcore.errors import ConfigError
from convcore.normalise import did_you_mean
from convcore.problem import TUNES
from convcore.registry import BUILTIN_ORDER

VARIABLE, TUNE_VARIABLE = "CONVCORE_BACKEND", "CONVCORE_TUNE"
AUTO = "auto"
#: The files of a project in the order of their rank, and where in each the table of convcore is.
_PROJECT_FILES = {"convcore.toml": (), "pyproject.toml": ("tool", "convcore")}
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
        In words, for messages: "call argument", "CONVCORE_BACKEND", a file and its line, …
    """

    names: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return ",".join(self.names)


BUILTIN = Setting(BUILTIN_ORDER, "built-in order")


@dataclass(frozen=True)
class Tuning:
    """How far a backend goes to find out what is fast (:attr:`Problem.tune`), and where that choice came from."""

    word: str
    source: str


DEFAULT_TUNING = Tuning("cached", "default")

#: The innermost ``with use(...)`` of this thread or task.
scope: ContextVar[Setting | None] = ContextVar("convcore_backend", default=None)
#: What ``set_backend()`` chose.
process: Setting | None = None


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


def parse_tune(value: Any, source: str) -> Tuning:
    """Return the tuning that "off", "heuristic", "cached", "measure" or "tune" stands for."""
    if not isinstance(value, str) or value not in TUNES:
        hint = did_you_mean(value, TUNES)
        raise ConfigError(f"{source}: `tune` must be one of {', '.join(TUNES)}, got {value!r}{hint}")
    return Tuning(TUNES[value], source)


_PARSERS: dict[str, Callable[[Any, str], Any]] = {"backend": parse, "tune": parse_tune}


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
    return resolve(argument, scope.get() or process, os.environ.get(VARIABLE))


def resolve(argument: Any, chosen: Setting | None, variable: str | None) -> Setting:
    """Return the setting by a call's argument, what ``use()`` or ``set_backend()`` chose, and the variable's text."""
    if argument is not None:
        return parse(argument, "call argument")
    if chosen is not None:
        return chosen
    if variable:
        return parse(variable, VARIABLE)
    return from_files("backend") or BUILTIN


def tuning(argument: Any = None) -> Tuning:
    """Return the tuning that applies here and now; ``normalise`` checks a call's argument."""
    if argument is not None:
        return Tuning(argument, "call argument")
    if variable := os.environ.get(TUNE_VARIABLE):
        return parse_tune(variable, TUNE_VARIABLE)
    return from_files("tune") or DEFAULT_TUNING


def set_process(setting: Setting | None) -> None:
    """Make a setting the process's; None takes it back."""
    global process
    process = setting


def reload() -> None:
    """Forget what the configuration files said; they are read again when next needed."""
    from_files.cache_clear()


@functools.cache
def from_files(key: str) -> Any:
    """Return what the project file says of "backend" or "tune", else the user file, else None."""
    for file in _files():
        for found in file.table:
            if found not in _PARSERS:
                hint = did_you_mean(found, _PARSERS)
                raise ConfigError(f"{file.line_of(found)}: unknown key {found!r}{hint}; known: {', '.join(_PARSERS)}")
        if key in file.table:
            return _PARSERS[key](file.table[key], file.line_of(key))
    return None


@dataclass(frozen=True)
class _File:
    """A configuration file, and the table in it that speaks of convcore: at ``place``, a path of keys."""

    path: Path
    text: str
    place: tuple[str, ...]
    table: dict[str, Any]

    def line_of(self, key: str) -> str:
        """Say where a key of the table stands."""
        return f"{self.path}{_line_of((*self.place, key), self.text)}"


def _files() -> Iterator[_File]:
    """Yield the files that speak of convcore, nearest first: one of the project, then the user's."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory is deleted: it is in no project
        folders: tuple[Path, ...] = ()
    else:
        folders = (here, *here.parents)
    own = ((folder / name, place) for folder in folders for name, place in _PROJECT_FILES.items())
    yield from itertools.islice(filter(None, itertools.starmap(_read, own)), 1)
    import platformdirs

    user = _read(Path(platformdirs.user_config_dir("convcore")) / "config.toml")
    if user is not None:
        yield user


def _read(path: Path, place: tuple[str, ...] = ()) -> _File | None:
    """Read a file; None if it does not exist or says nothing of convcore."""
    if not os.path.isfile(path):
        return None
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        table: Any = _parse(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: is not UTF-8: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}, line {_line_of_error(text, error)}: is not TOML: {error}") from None
    for depth, key in enumerate(place):
        table = table.get(key)
        if table is None:
            return None
        if not isinstance(table, dict):
            where = _line_of(place[: depth + 1], text)
            raise ConfigError(f"{path}{where}: `{'.'.join(place[: depth + 1])}` must be a table, got {table!r}")
    return _File(path, text, place, table)


def _parse(text: str) -> dict[str, Any]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table: dict[str, Any] = toml.loads(text)
    return table


def _line_of(keys: tuple[str, ...], text: str) -> str:
    """Return ", line 3" where a path of keys gets its value: up to there the text is TOML that lacks it."""
    lines = text.split("\n")
    for number in range(len(lines), 0, -1):
        mentioned = keys[-1] in lines[number - 1] or "\\" in lines[number - 1]
        if mentioned and _lacks("\n".join(lines[: number - 1]), keys):
            return f", line {number}"
    return ""


def _lacks(text: str, keys: tuple[str, ...]) -> bool:
    try:
        table: Any = _parse(text + "\n")
    except ValueError:  # the text ends within a value
        return False
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return True
        table = table[key]
    return False


def _line_of_error(text: str, error: Exception) -> int:
    """Return the line of an error in TOML: as it says, or the first up to which the text has that error."""
    if said := re.search(r"at line (\d+)", str(error)):
        return int(said[1])
    lines = text.rstrip("\n").split("\n")
    for number in range(1, len(lines)):
        try:
            _parse("\n".join(lines[:number]) + "\n")
        except (ValueError, RecursionError) as found:
            if str(found) == str(error):
                return number
    return len(lines)
