"""The verdict on a backend: put together from the tests' records, as JSON and as a table."""

from __future__ import annotations

import io
import json
import platform
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import convcore
from convcore.errors import ConvcoreError
from convcore.registry import registry
from convcore.spi import find_device
from convcore.testing.engine import resolve
from convcore.testing.problems import ALL_OPS
from convcore.testing.record import Record
from convcore.testing.verdicts import digest

SCHEMA = "convcore-conformance-report"
SCHEMA_VERSION = 1
_ALL = "-"  # stands in the place of an operation for tests that are about none


@dataclass
class Outcome:
    """How one test went."""

    test: str
    name: str
    op: str
    outcome: str
    message: str = ""


@dataclass
class Verdict:
    """Everything the kit knows of one backend after a run.

    Attributes
    ----------
    asked_as : str
        The name the user gave.
    profile : str
        "quick" or "full".
    outcomes : list of Outcome
        One for each test: "passed", "failed" or "expected failure".
    record : Record
    missing : set of str
        Tests of the kit that did not run at all.
    """

    asked_as: str
    profile: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    collected: int = 0
    missing: set[str] = field(default_factory=set)
    expected: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Take in a test; a failure at its end counts as one of the test."""
        if outcome.name not in self.outcomes or outcome.outcome == "failed":
            self.outcomes[outcome.name] = outcome

    @property
    def tests(self) -> Counter[str]:
        """How many tests passed, failed, and failed as expected."""
        return Counter(outcome.outcome for outcome in self.outcomes.values())

    @property
    def unfinished(self) -> str:
        """Why this run cannot be a verdict, or nothing."""
        if self.missing:
            some, more = sorted(self.missing)[:3], ", …" * (len(self.missing) > 3)
            return f"{len(self.missing)} tests of the kit did not run: {', '.join(some)}{more}"
        if len(self.outcomes) < self.collected:
            return f"only {len(self.outcomes)} of {self.collected} tests ran"
        return ""

    @property
    def word(self) -> str:
        """The verdict: "passes", "fails", "nothing computed" or "incomplete"."""
        if not self.record.problems["computed"]:
            return "nothing computed"
        if self.tests["failed"]:
            return "fails"
        return "incomplete" if self.unfinished else "passes"

    def sentence(self) -> str:
        """Say all of it in one line."""
        problems, tests = self.record.problems, self.tests
        parts = [
            f"{tests['passed']} tests passed, {tests['failed']} failed, {tests['expected failure']} failed as expected",
            f"{problems['computed']} problems computed, {problems['refused']} refused and verified, "
            f"{problems['excepted']} refused by {len(self.record.exceptions)} exceptions",
        ]
        return f"{self.asked_as} ({self.profile}): {self.word}: {'; '.join(parts)}" + (
            f"; {self.unfinished}" if self.word == "incomplete" else ""
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry of this backend in a report."""
        record = self.record
        return {
            **_identity(self.asked_as),
            "asked_as": self.asked_as,
            "profile": self.profile,
            "verdict": self.word,
            "unfinished": self.unfinished,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "tests": {key: self.tests[key] for key in ("passed", "failed", "expected failure")},
            "problems": {key: record.problems[key] for key in record.answers},
            "capabilities": self._capabilities(),
            "errors": [
                {"op": op, "dtype": dtype, "bound": w.bound, "ulp": w.ulp, "algorithm": w.algorithm, "worst": w.problem}
                for (op, dtype), w in sorted(record.worst.items())
            ],
            "exceptions": self._exceptions(),
            "expected_failures": [{"test": test, "reason": reason} for test, reason in sorted(self.expected.items())],
            "failures": [
                {"test": o.name, "op": o.op, "message": o.message}
                for o in self.outcomes.values()
                if o.outcome == "failed"
            ],
        }

    def _capabilities(self) -> list[dict[str, Any]]:
        """List what was found of each capability and operation, those of problems and those of whole tests."""
        rows = []
        answers = self.record.answers
        for capability, op in sorted(set().union(*answers.values())):
            counts = {answer: answers[answer][capability, op] for answer in answers}
            bound = self.record.bounds.get((capability, op))
            rows.append({"capability": capability, "op": op, **counts, "worst_bound": bound})
        tests: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for outcome in self.outcomes.values():
            tests[outcome.test.removeprefix("test_").replace("_", " "), outcome.op][outcome.outcome] += 1
        for (test, op), found in sorted(tests.items()):
            counts = {"computed": found["passed"], "refused": 0, "excepted": 0}
            failed = found["failed"] + found["expected failure"]
            rows.append({"capability": f"test {test}", "op": op, **counts, "failed": failed, "worst_bound": None})
        return rows

    def _exceptions(self) -> list[dict[str, Any]]:
        try:
            reasons = registry().specs[resolve(self.asked_as).partition(":")[0]].exceptions
        except (ConvcoreError, KeyError):
            return []
        return [{"exception": e, "reason": r, "problems": self.record.exceptions[e]} for e, r in reasons.items()]


def document(verdicts: list[Verdict]) -> dict[str, Any]:
    """Return a whole report; ``report.schema.json`` beside this file describes it."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "kit": {"version": convcore.__version__, "digest": digest("convcore")},
        "versions": _versions(),
        "backends": [verdict.to_json() for verdict in verdicts],
    }


def _versions() -> dict[str, str]:
    """Return the versions of what a verdict rests on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        **{name: metadata.version(name) for name in ("pytest", "hypothesis")},
    }


def write(path: Path, verdicts: list[Verdict]) -> None:
    """Write a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(verdicts), indent=1) + "\n", encoding="utf-8")


def table(entry: dict[str, Any], width: int = 120, colour: bool = False) -> str:
    """Draw one backend's entry of a report as tables for people."""
    from rich.console import Console
    from rich.table import Table

    out = Console(file=io.StringIO(), width=width, force_terminal=colour, highlight=False, soft_wrap=False)
    style = {"passes": "green"}.get(entry["verdict"], "red")
    device = entry["device"]
    out.print(f"[bold]{entry['name']}[/] {entry['version']} on {device['name']} {device['driver']}".rstrip())
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    out.print(f"files {entry['digest'][:16]}; convcore {convcore.__version__}, {versions}", markup=False)
    grid = Table(
        "capability", *ALL_OPS, "worst error", title="passed / refused and verified / failed", title_justify="left"
    )
    rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in entry["capabilities"]:
        rows[row["capability"]][row["op"]] = row
    for capability, by_op in sorted(rows.items(), key=lambda item: (item[0].startswith("test "), item[0])):
        bounds = [row["worst_bound"] for row in by_op.values() if row["worst_bound"] is not None]
        whole = by_op.pop(_ALL, None)
        cells = [_cell(by_op.get(op)) for op in ALL_OPS]
        if whole:
            cells[0] = _cell(whole)
        grid.add_row(capability, *cells, f"{max(bounds):.2f}" if bounds else "")
    out.print(grid)
    errors = Table("op", "dtype", "bounds", "ULP", "algorithm", title="worst error", title_justify="left")
    for row in entry["errors"]:
        errors.add_row(row["op"], row["dtype"], f"{row['bound']:.3f}", f"{row['ulp']:.3g}", row["algorithm"])
    out.print(errors)
    for row in entry["exceptions"]:
        out.print(f"exception {row['exception']!r}, {row['problems']} problems: {row['reason']}", markup=False)
    for row in entry["expected_failures"]:
        out.print(f"expected to fail: {row['test']}: {row['reason']}", markup=False)
    for row in entry["failures"]:
        out.print(f"failed: {row['test']}: {row['message']}", markup=False, style="red")
    out.print(f"[{style}]{entry['verdict']}[/]" + (f": {entry['unfinished']}" if entry["unfinished"] else ""))
    return str(out.file.getvalue())  # type: ignore[attr-defined]  # it is the StringIO of above


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"{row['computed']} / {row['refused'] + row['excepted']} / {row['failed']}"
    return f"[red]{text}[/]" if row["failed"] else text


def _identity(asked_as: str) -> dict[str, Any]:
    """Say which backend that is: name, version, where it is from, its files' digest, its device."""
    blank = {"name": asked_as, "version": "", "distribution": "", "digest": ""}
    device = {"name": "", "kind": "", "driver": "", "detail": {}}
    try:
        name = resolve(asked_as)
        spec = registry().specs[name.partition(":")[0]]
        blank = {
            "name": name,
            "version": spec.version,
            "distribution": registry().distributions.get(spec.name, ""),
            "digest": digest(spec.factory),
        }
        found = registry().devices(name)
        base, _, wanted = name.partition(":")
        used = find_device(found, wanted, base) if wanted else found[0]
        detail = {key: str(value) for key, value in used.detail.items()}
        device = {"name": used.name, "kind": used.kind, "driver": detail.get("driver", ""), "detail": detail}
    except (ConvcoreError, KeyError) as error:
        device["name"] = f"none: {error}"
    return {**blank, "device": device}
