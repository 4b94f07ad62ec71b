"""The latest verdict on each backend, kept in the user's state directory; reading one imports nothing heavy."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any


def remember(entry: dict[str, Any]) -> Path:
    """Keep the verdict on a backend, one entry of a report, and return where."""
    path = _path(entry["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry, indent=1), encoding="utf-8")
    return path


def latest(name: str) -> dict[str, Any] | None:
    """Return the latest entry on a backend, or None when there is none that can be read."""
    try:
        entry = json.loads(_path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None


def summary(name: str, factory: str) -> str:
    """Say in a few words what the latest verdict is, and whether the backend has changed since; empty without one."""
    entry = latest(name)
    if entry is None:
        return ""
    changed = "" if entry.get("digest") == digest(factory) else ", changed since"
    return f"{entry.get('verdict')} ({entry.get('profile')}, {str(entry.get('finished'))[:10]}{changed})"


def digest(factory: str) -> str:
    """Return the SHA-256 of the files of the package that "package.module:Class" is in; empty if it cannot be found."""
    package = factory.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(path.relative_to(folder), path) for folder in folders for path in folder.rglob("*")]
    if not folders and spec.origin:
        files = [(Path(Path(spec.origin).name), Path(spec.origin))]
    total = hashlib.sha256()
    for name, path in sorted(files):
        if path.is_file() and "__pycache__" not in name.parts:
            total.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def _path(name: str) -> Path:
    import platformdirs

    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return Path(platformdirs.user_state_dir("convcore")) / "conformance" / f"{safe}.json"
