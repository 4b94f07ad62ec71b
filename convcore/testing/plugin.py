"""The pytest plugin: which backends the conformance kit runs on.

``--convcore-backend NAME`` (repeatable, or a comma list) names them; without it they are the
built-in ones that are installed.  A backend that is named there, by a test class, or in the
variable ``CONVCORE_REQUIRE_BACKENDS`` (a comma list) fails when it has no device instead of
being skipped.  Nothing is imported until a test asks for a backend or the
variable is set.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from convcore.testing.engine import Engine

REQUIRE_VARIABLE = "CONVCORE_REQUIRE_BACKENDS"
_OPTION = "--convcore-backend"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the backends."""
    parser.getgroup("convcore").addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="NAME",
        help="the backend under convcore's conformance kit (repeatable, or a comma list; default: the built-in ones)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to start when a required backend is not installed."""
    if not _required():
        return
    from convcore.registry import registry

    known = {**registry().specs, **registry().broken}
    for name in _required():
        if name.partition(":")[0] not in known:
            raise pytest.UsageError(f"{REQUIRE_VARIABLE} names {name!r}; installed: {', '.join(known)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses ``convcore_backend`` once per backend."""
    if "convcore_backend" not in metafunc.fixturenames:
        return
    own = getattr(metafunc.cls, "backend", None)
    named = [own] if own else _named(metafunc.config)
    may_be_absent = [] if named else [name for name in _default() if name not in _required()]
    names = named or _default()
    metafunc.parametrize(
        "convcore_backend", [(name, name in may_be_absent) for name in names], ids=names, indirect=True, scope="session"
    )


@pytest.fixture(scope="session")
def convcore_backend(request: pytest.FixtureRequest) -> str:
    """Name the backend under test, which is there and has a device."""
    from convcore.errors import NoDevice
    from convcore.registry import registry

    name, may_be_absent = request.param
    registry().check_name(name, _OPTION)
    try:
        registry().devices(name)
    except NoDevice as error:
        if not may_be_absent:
            raise
        pytest.skip(str(error))
    return str(name)


@pytest.fixture(scope="session")
def convcore_engine(convcore_backend: str) -> Engine:
    """Hand out the backend under test."""
    from convcore.testing.engine import Engine

    return Engine(convcore_backend)


def _named(config: pytest.Config) -> list[str]:
    return [name for value in config.getoption(_OPTION) for name in _split(value)]


def _required() -> list[str]:
    return _split(os.environ.get(REQUIRE_VARIABLE, ""))


def _default() -> list[str]:
    """Return the built-in backends that are installed, broken ones too, and all that are required."""
    from convcore.registry import BUILTIN_ORDER, registry

    known = {**registry().specs, **registry().broken}
    return list(dict.fromkeys([name for name in BUILTIN_ORDER if name in known] + _required()))


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
