"""Records on disk: one JSON file for a machine, a record a line, and when two of them may be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
#: What a record is about; a newer record replaces an older one about the same.
KEY = ("layer", "direction", "batch", "dtype", "accuracy", "threads", "allocator")


class OtherMachine(ValueError):  # noqa: N818 - what is wrong with a file
    """Two files were measured on different machines."""


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a record is about."""
    return tuple(record[name] for name in KEY)


def read(path: Path) -> dict[str, Any]:
    """Return a file of results.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        found = json.loads(path.read_text())
        found["machine"]["fingerprint"], found["records"], found["peers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of `convcore bench`: {type(error).__name__}: {error}") from error
    return found


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results, a record a line."""
    head = {name: value for name, value in results.items() if name != "records"}
    lines = ",\n".join(json.dumps(record) for record in results["records"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "records": [\n{lines}\n]}}\n')


def same_machine(mine: dict[str, Any], other: dict[str, Any], path: Path) -> None:
    """Refuse results of another machine.

    Raises
    ------
    OtherMachine
        With what differs.
    """
    from convcore_bench.machine import IDENTITY

    a, b = mine["machine"], other["machine"]
    if a["fingerprint"] != b["fingerprint"]:
        differing = [f"{name} {b.get(name)!r}, here {a.get(name)!r}" for name in IDENTITY if a.get(name) != b.get(name)]
        raise OtherMachine(
            f"{path} was measured on another machine, and times of two machines are not compared: "
            + "; ".join(differing)
        )


def merge(older: dict[str, Any], newer: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the records of both, newer ones instead of older ones about the same; each says of which commit it is.

    Raises
    ------
    OtherMachine
        If they are of different machines.
    """
    same_machine(newer, older, path)
    records = {key(record): record for found in (older, newer) for record in _of_commit(found)}
    versions = older["machine"]["versions"] | newer["machine"]["versions"]
    peaks = {**older["peaks"]}
    for threads, measured in newer["peaks"].items():
        known = peaks.get(threads, measured)
        # What was reached once can be reached.
        peaks[threads] = {name: max(value, known[name]) for name, value in measured.items()}
    return newer | {
        "machine": newer["machine"] | {"versions": versions},
        "peaks": peaks,
        "peers": older["peers"] | newer["peers"],
        "records": list(records.values()),
    }


def _of_commit(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for record in found["records"]:
        yield {"commit": found["machine"]["commit"]} | record


def commits(found: dict[str, Any]) -> list[str]:
    """Return the commits that records are of."""
    return list(dict.fromkeys(record["commit"] for record in _of_commit(found)))
