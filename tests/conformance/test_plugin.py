"""Which backends the kit runs on, and that a missing one is never passed over in silence."""

import sys

import pytest

from convcore.registry import registry
from convcore.spi import Backend, BackendSpec, hookimpl

pytest_plugins = "pytester"

KIT = ("-p", "no:cacheprovider", "-q", "-k", "test_probe or forward-plain", "--pyargs", "convcore.testing")


class Absent(Backend):
    def probe(self):
        return "its device is away"

    def plan(self, problem):
        raise AssertionError


class AbsentPlugin:
    @hookimpl
    def convcore_backends(self):
        return [BackendSpec("absent", f"{__name__}:Absent")]


@pytest.fixture
def absent():
    registry().add_plugin("absent", AbsentPlugin())
    yield
    registry().remove_plugin("absent")


@pytest.fixture
def absent_builtin(absent, monkeypatch):
    """Make "absent" one of the backends that run by default."""
    monkeypatch.setattr("convcore.registry.BUILTIN_ORDER", ("numpy", "absent"))


@pytest.fixture(autouse=True)
def nothing_required(monkeypatch):
    monkeypatch.delenv("CONVCORE_REQUIRE_BACKENDS", raising=False)


def test_default_is_every_builtin(pytester):
    result = pytester.runpytest_inprocess(*KIT, "--collect-only")
    for name in ("cpu", "opencl", "numpy"):
        result.stdout.fnmatch_lines([f"*test_probe[[]{name}[]]"])


def test_named_backends_only(pytester):
    result = pytester.runpytest_inprocess(*KIT, "--collect-only", "--convcore-backend", "numpy,cpu")
    assert "opencl" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*test_probe[[]numpy[]]", "*test_probe[[]cpu[]]"])


def test_default_without_device_is_left_out_with_its_reason(pytester, absent_builtin):
    result = pytester.runpytest_inprocess(*KIT)
    assert result.parseoutcomes().keys() == {"passed", "deselected"}
    result.stdout.fnmatch_lines(["convcore: absent was not tested: backend 'absent' has no device: its device is away"])


def test_required_without_device_fails(pytester, absent_builtin, monkeypatch):
    monkeypatch.setenv("CONVCORE_REQUIRE_BACKENDS", "numpy, absent")
    result = pytester.runpytest_inprocess(*KIT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*NoDevice: backend 'absent' has no device: its device is away"])


def test_named_without_device_fails(pytester, absent_builtin):
    result = pytester.runpytest_inprocess(*KIT, "--convcore-backend", "absent")
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_required_but_unknown_is_an_error(pytester, monkeypatch):
    monkeypatch.setenv("CONVCORE_REQUIRE_BACKENDS", "numpy,pocl")
    result = pytester.runpytest_inprocess(*KIT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: CONVCORE_REQUIRE_BACKENDS names 'pocl'; installed: *"])


def test_named_but_unknown_fails(pytester):
    result = pytester.runpytest_inprocess(*KIT, "--convcore-backend", "nunpy")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*unknown backend 'nunpy' (from --convcore-backend); did you mean 'numpy'?*"])


def test_star_import_with_the_name_beside_it(pytester):
    pytester.makepyfile(
        """
        from convcore.testing.suite import *

        convcore_backend = "numpy"
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q", "-k", "test_probe", "--collect-only")
    assert result.stdout.str().count("test_probe") == 1
    result.stdout.fnmatch_lines(["*::test_probe[[]numpy[]]"])


def test_other_projects_are_left_alone(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_theirs():
            heavy = {"hypothesis", "pyopencl", "convcore_cpu", "convcore_numpy", "convcore.testing.engine"}
            assert not heavy & set(sys.modules)
        """
    )
    result = pytester.run(sys.executable, "-m", "pytest", "-q")
    assert result.ret == pytest.ExitCode.OK
