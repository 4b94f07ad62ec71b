"""The pytest plugin of the conformance kit: which backends it runs on, and what becomes a verdict.

``--convcore-backend NAME`` (repeatable, or a comma list) names the backends; without it they are the built-in ones
that are installed and have a device.  A backend that is named there, by ``convcore_backend = "name"`` in a test module,
or in the variable ``CONVCORE_REQUIRE_BACKENDS`` (a comma list) fails when it has no device.  A skipped test of the
kit has failed, and so has a run in which nothing was computed.  Nothing is imported until a test asks for a backend or
the variable is set.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from convcore.testing.engine import Engine
    from convcore.testing.report import Verdict

REQUIRE_VARIABLE = "CONVCORE_REQUIRE_BACKENDS"
PROFILES = ("quick", "full")
_OPTION = "--convcore-backend"
_PROPERTY = "convcore"
_collected = pytest.StashKey[Counter[str]]()
_absent = pytest.StashKey[dict[str, str]]()
_expected = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("convcore", "convcore's conformance kit")
    group.addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="NAME",
        help='a backend to test: its name, "name:device" or "package:object" (repeatable, or a comma list; default: '
        "the built-in ones)",
    )
    group.addoption(
        "--convcore-profile", choices=PROFILES, default="full", help="how much of everything is tried (default: full)"
    )
    group.addoption("--convcore-report", metavar="FILE", help="write the verdicts as JSON")
    group.addoption(
        "--convcore-expected", metavar="FILE", help="a TOML file: [expected-failures] with a reason for each test id"
    )
    group.addoption("--convcore-table", action="store_true", help="print the verdicts as tables, and remember them")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to start when a required backend is not installed, or when the expected failures cannot be read."""
    config.stash[_collected], config.stash[_absent], config.stash[_expected] = Counter(), {}, {}
    if path := config.getoption("--convcore-expected"):
        config.stash[_expected] = _read_expected(Path(path))
    config.pluginmanager.register(Verdicts(config), "convcore-verdicts")
    if not _required():
        return
    from convcore.registry import registry

    known = {**registry().specs, **registry().broken}
    for name in _required():
        if name.partition(":")[0] not in known:
            raise pytest.UsageError(f"{REQUIRE_VARIABLE} names {name!r}; installed: {', '.join(known)}")


# ---------------------------------------------------------------- which backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses ``convcore_backend`` once per backend."""
    if "convcore_backend" not in metafunc.fixturenames:
        return
    own = getattr(metafunc.module, "convcore_backend", None)
    names = _split(own) if own else _named(metafunc.config) or _present(metafunc.config)
    metafunc.parametrize("convcore_backend", names, ids=names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def convcore_backend(request: pytest.FixtureRequest) -> str:
    """Name the backend under test, as it was asked for; it is there and has a device."""
    from convcore.registry import registry
    from convcore.testing.engine import resolve

    name = resolve(request.param)
    registry().check_name(name, _OPTION)
    registry().devices(name)
    return str(request.param)


@pytest.fixture(scope="session")
def convcore_engine(convcore_backend: str) -> Engine:
    """Hand out the backend under test."""
    from convcore.testing.engine import Engine, resolve

    return Engine(resolve(convcore_backend), convcore_backend)


@pytest.fixture(scope="session")
def convcore_profile(request: pytest.FixtureRequest) -> str:
    """Say how much is to be tried: "quick" or "full"."""
    return str(request.config.getoption("--convcore-profile"))


def _named(config: pytest.Config) -> list[str]:
    return [name for value in config.getoption(_OPTION) for name in _split(value)]


def _required() -> list[str]:
    return _split(os.environ.get(REQUIRE_VARIABLE, ""))


def _present(config: pytest.Config) -> list[str]:
    """Return the built-in backends that have a device or are broken, and all that are required."""
    from convcore.errors import BrokenBackend, NoDevice
    from convcore.registry import BUILTIN_ORDER, registry

    known = {**registry().specs, **registry().broken}
    names = []
    for name in dict.fromkeys([name for name in BUILTIN_ORDER if name in known] + _required()):
        try:
            if name not in _required():
                registry().devices(name)
        except NoDevice as error:
            config.stash[_absent][name] = str(error)
            continue
        except (BrokenBackend, KeyError):
            pass  # a test shall say so
        names.append(name)
    return names


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


# ---------------------------------------------------------------- which tests


def pytest_itemcollected(item: pytest.Item) -> None:
    """Count the tests of the kit before anybody deselects some."""
    if backend := _backend_of(item):
        item.config.stash[_collected][backend] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Mark the expected failures; each must be the id of a test."""
    expected = config.stash[_expected]
    for item in items:
        if item.name in expected and _backend_of(item):
            item.add_marker(pytest.mark.xfail(reason=expected[item.name], strict=True))
    unknown = set(expected) - {item.name for item in items if _backend_of(item)}
    if unknown:
        raise pytest.UsageError(f"expected failures that are no test of this run: {', '.join(sorted(unknown))}")


def _read_expected(path: Path) -> dict[str, str]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{path}: cannot be read as TOML: {error}") from None
    table = content.get("expected-failures")
    if not isinstance(table, dict) or set(content) != {"expected-failures"}:
        raise pytest.UsageError(f"{path} must have one table, [expected-failures], got {', '.join(content) or 'none'}")
    for test, reason in table.items():
        if not isinstance(reason, str) or not reason.strip():
            raise pytest.UsageError(f"{path}: expected failure {test!r} needs a reason, got {reason!r}")
    return dict(table)


def _backend_of(item: pytest.Item) -> str:
    """Return the backend a test of the kit is about; nothing for other tests."""
    if "convcore_engine" not in getattr(item, "fixturenames", ()):
        return ""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("convcore_backend", "")) if callspec else ""


# ---------------------------------------------------------------- what becomes of them


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start a record for each test of the kit."""
    if _backend_of(item):
        from convcore.testing import record

        record.start()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skip as a failure, and send what was recorded along with the report, also from another process."""
    report = yield
    backend = _backend_of(item)
    if not backend:
        return report
    expected = item.config.stash[_expected].get(item.name, "")
    if report.skipped and not (hasattr(report, "wasxfail") and expected):
        report.outcome, report.longrepr = "failed", f"a skipped test of the kit has failed: {report.longrepr}"
        vars(report).pop("wasxfail", None)
    if call.when == "call" or not report.passed:
        from convcore.testing import record

        function = getattr(item, "originalname", item.name)
        report.user_properties.append(
            (
                _PROPERTY,
                {
                    "backend": backend,
                    "test": function,
                    "name": item.name,
                    "op": item.callspec.params.get("op", "-"),  # type: ignore[attr-defined]  # it has a backend
                    "message": _message(report),
                    "expected": expected,
                    "collected": item.config.stash[_collected][backend],
                    "record": record.current().to_json(),
                },
            )
        )
        record.start()
    return report


def _message(report: pytest.TestReport) -> str:
    """Return the sentence of an exception, without the way to it."""
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)


class Verdicts:
    """Puts the reports together; with pytest-xdist, in the process that has started the others."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.verdicts: dict[str, Verdict] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what came with a report."""
        for key, payload in report.user_properties:
            if key == _PROPERTY:
                self._add(report, payload)  # type: ignore[arg-type]  # a dict survives the way between processes

    def _add(self, report: pytest.TestReport, payload: dict[str, Any]) -> None:
        from convcore.testing.record import Record
        from convcore.testing.report import Outcome, Verdict

        backend = payload["backend"]
        profile = self.config.getoption("--convcore-profile")
        verdict = self.verdicts.setdefault(backend, Verdict(backend, profile))
        outcome = "failed" if report.failed else "expected failure" if payload["expected"] else "passed"
        verdict.add(Outcome(payload["test"], payload["name"], payload["op"], outcome, payload["message"]))
        verdict.record.merge(Record.from_json(payload["record"]))
        verdict.collected = max(verdict.collected, payload["collected"])
        if payload["expected"]:
            verdict.expected[payload["name"]] = payload["expected"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Make a run fail that computed nothing, and write the report."""
        if hasattr(self.config, "workerinput") or not self.verdicts:
            return
        from convcore.testing import report, suite

        for verdict in self.verdicts.values():
            ran = {outcome.test for outcome in verdict.outcomes.values()}
            verdict.missing = {name for name in dir(suite) if name.startswith("test_")} - ran
        if any(verdict.word == "nothing computed" for verdict in self.verdicts.values()):
            session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)
        if path := self.config.getoption("--convcore-report"):
            report.write(Path(path), list(self.verdicts.values()))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print each verdict in a line, or as a table."""
        for name, reason in self.config.stash[_absent].items():
            terminalreporter.write_line(f"convcore: {name} was not tested: {reason}")
        if not self.verdicts:
            return
        from convcore.testing import report, verdicts

        terminalreporter.section("convcore conformance")
        for verdict in self.verdicts.values():
            if self.config.getoption("--convcore-table"):
                entry = verdict.to_json()
                width = max(terminalreporter._tw.fullwidth, 120)
                terminalreporter.write(report.table(entry, width, terminalreporter.hasmarkup))
                if not verdict.unfinished:
                    verdicts.remember(entry)
            terminalreporter.write_line(verdict.sentence())
