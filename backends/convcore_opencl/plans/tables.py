"""The tables that are shipped, ``tuning/*.json``: what is known of devices, from the general to the particular.

A file is one vendor's, ``default.json`` everybody's.  On each level, vendor, then architecture, then device, stand

    match          fields of :class:`Traits`, each with the patterns one of which its value must be like
    source         where the level's numbers are from: measured, on what and when; or reasoned, from what
    traits         fields of :class:`Traits` to choose by
    problems       by their buckets, the "parameters" to compute them with, and the "gain" that they brought

and a more particular level overrides a more general one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

from convcore_opencl.plans.recipe import Traits

_BELOW = ("architectures", "devices")


class Table(NamedTuple):
    """What the levels that match a device say; where the last of them stands that has traits, and its source."""

    where: str
    source: str
    traits: Mapping[str, Any]
    problems: Mapping[str, Mapping[str, Any]]


@lru_cache
def lookup(device: Traits) -> Table:
    """Put together what the tables say of a device."""
    files = {name: content for name, content in _files() if name == "default" or _matches(content, device)}
    found = Table("", "", {}, {})
    for name in sorted(files, key=lambda name: name != "default"):
        found = _levels(files[name], device, f"tuning/{name}.json", found)
    return found


def _levels(level: Mapping[str, Any], device: Traits, where: str, so_far: Table) -> Table:
    traits = {key: _hashable(value) for key, value in level.get("traits", {}).items()}
    problems = {bucket: {**entry, "where": where} for bucket, entry in level.get("problems", {}).items()}
    if traits:
        so_far = so_far._replace(where=where, source=level["source"])
    so_far = so_far._replace(traits={**so_far.traits, **traits}, problems={**so_far.problems, **problems})
    for name, below in (pair for key in _BELOW for pair in level.get(key, {}).items()):
        if _matches(below, device):
            so_far = _levels(below, device, f"{where}, {name}", so_far)
    return so_far


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


def _matches(level: Mapping[str, Any], device: Traits) -> bool:
    return all(
        any(fnmatchcase(str(getattr(device, field)).lower(), pattern.lower()) for pattern in patterns)
        for field, patterns in level["match"].items()
    )


@lru_cache
def _files() -> tuple[tuple[str, Any], ...]:
    return tuple(_read())


def _read() -> Iterator[tuple[str, Any]]:
    folder = resources.files("convcore_opencl") / "tuning"
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".json"):
            yield path.name.removesuffix(".json"), json.loads(path.read_text("utf-8"))
