"""What becomes a verdict, and what does not: exceptions, expected failures, skips, runs cut short, and the report."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import convcore
from convcore.registry import registry
from convcore.spi import FEATURES
from convcore.testing import planted, verdicts
from convcore.testing.exceptions import check_exceptions

pytest_plugins = "pytester"

SCHEMA = json.loads((Path(planted.__file__).parent / "report.schema.json").read_text())


class NoDilation(planted.Faultless):
    """Declines dilation."""

    def supports(self, problem):
        return super().supports(problem) if problem.dilation == (1, 1) else "dilation must be 1"


NoDilation.spec = replace(planted.Faultless.spec, name="no-dilation", factory=f"{__name__}:NoDilation")


class Declared(NoDilation):
    """Declines dilation, and announces it as an exception."""


Declared.spec = replace(
    NoDilation.spec, name="declared", factory=f"{__name__}:Declared", exceptions={"feature=dilation": "not yet"}
)


class Undeclared(NoDilation):
    """Declares that it has no dilation."""


Undeclared.spec = replace(
    NoDilation.spec,
    name="undeclared",
    factory=f"{__name__}:Undeclared",
    features=tuple(feature for feature in FEATURES if feature != "dilation"),
)


class Selfless(planted.Faultless):
    """Declines what every backend must compute, and announces it as an exception."""

    def supports(self, problem):
        return super().supports(problem) if problem.op != "forward" else "not forward"


Selfless.spec = replace(
    planted.Faultless.spec, name="selfless", factory=f"{__name__}:Selfless", exceptions={"op=forward": "not yet"}
)


@pytest.fixture(autouse=True)
def nobody_stays():
    yield
    for name, plugin in registry().manager.list_name_plugin():
        if plugin is not None and name.startswith((planted.__name__, __name__)):
            registry().remove_plugin(name)


def run_kit(pytester, asked, *arguments):
    options = ("-p", "no:cacheprovider", "--convcore-backend", asked, "--convcore-report", "report.json")
    result = pytester.runpytest_inprocess(*options, *arguments)
    path = pytester.path / "report.json"
    entries = json.loads(path.read_text()) if path.exists() else None
    if entries:
        jsonschema.validate(entries, SCHEMA)
    return result, entries["backends"][0] if entries else None


DILATED = ("--pyargs", "convcore.testing.test_values", "-k", "test_value and (forward-dilation or forward-plain)")


def test_a_refusal_of_what_is_declared_fails(pytester):
    result, entry = run_kit(pytester, f"{__name__}:NoDilation", *DILATED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["E *declares all that this problem needs, but refuses it: dilation must be 1*"])
    assert entry["verdict"] == "fails"
    cases = ("dilation", "dilation-stride", "dilation-shares-stride")
    expected = {f"test_value[{__name__}:NoDilation-forward-{case}]" for case in cases}
    assert {failure["test"] for failure in entry["failures"]} == expected


def test_an_exception_is_counted(pytester):
    result, entry = run_kit(pytester, f"{__name__}:Declared", *DILATED)
    assert result.ret == pytest.ExitCode.OK
    assert entry["exceptions"] == [{"exception": "feature=dilation", "reason": "not yet", "problems": 3}]
    assert entry["problems"]["excepted"] == 3
    (row,) = [row for row in entry["capabilities"] if (row["capability"], row["op"]) == ("dilation", "forward")]
    assert (row["computed"], row["excepted"], row["failed"]) == (0, 3, 0)


def test_what_is_not_declared_is_called_and_refused(pytester):
    result, entry = run_kit(pytester, f"{__name__}:Undeclared", *DILATED)
    assert result.ret == pytest.ExitCode.OK
    assert entry["problems"] == {"computed": 2, "refused": 3, "excepted": 0, "failed": 0}


def test_what_is_not_declared_must_raise(pytester, monkeypatch):
    """A core that let an undeclared problem through would be found out."""
    monkeypatch.setattr("convcore.select.consider", lambda name, problem, setting: convcore.select.Candidate(name, ""))
    result, entry = run_kit(pytester, f"{__name__}:Undeclared", *DILATED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["E *computed what it refuses (feature dilation is not supported, only *"])
    assert entry["problems"]["failed"] == 3


def test_the_core_profile_has_no_exceptions(pytester):
    result, entry = run_kit(pytester, f"{__name__}:Selfless", *DILATED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f"test_value[{__name__}:Selfless-forward-plain]" in {failure["test"] for failure in entry["failures"]}
    assert entry["verdict"] == "nothing computed"


@pytest.mark.parametrize(
    ("exceptions", "sentence"),
    [
        ({"op=forwards": "why"}, "exception 'op=forwards': no op is like 'forwards', there are forward, "),
        ({"op=forward": ""}, "exception 'op=forward' has no reason"),
        ({"colour=red": "why"}, "exception 'colour=red' must be key=value, with a key of op, dtype, "),
    ],
)
def test_an_exception_must_mean_something(exceptions, sentence):
    with pytest.raises(AssertionError) as error:
        check_exceptions(replace(planted.Faultless.spec, exceptions=exceptions))
    assert str(error.value).startswith(sentence)


def test_nothing_computed_fails(pytester):
    arguments = ("--pyargs", "convcore.testing.test_declaration", "-k", "test_probe")
    result, entry = run_kit(pytester, f"{planted.__name__}:Empty", *arguments)
    assert result.parseoutcomes()["passed"] == 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert entry["verdict"] == "nothing computed"


def test_a_part_of_the_kit_is_no_verdict(pytester):
    result, entry = run_kit(pytester, "numpy", *DILATED)
    assert result.ret == pytest.ExitCode.OK
    assert entry["verdict"] == "incomplete"
    assert entry["unfinished"].endswith(
        " tests of the kit did not run: test_accuracy, test_adjoint, test_any_geometry, …"
    )


def test_a_skip_has_failed(pytester):
    pytester.makepyfile("""
        import pytest
        from convcore.testing.suite import test_value

        @pytest.mark.skip(reason="too hard")
        def test_probe(convcore_engine): pass

        @pytest.mark.xfail(reason="who knows")
        def test_spec(convcore_engine): assert False
    """)
    result, entry = run_kit(pytester, "numpy", "-k", "test_probe or test_spec or test_value and forward-plain")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1, errors=1, deselected=result.parseoutcomes()["deselected"])
    assert {failure["test"] for failure in entry["failures"]} == {"test_probe[numpy]", "test_spec[numpy]"}


def expecting(pytester, tests):
    path = pytester.path / "expected.toml"
    path.write_text("[expected-failures]\n" + "".join(f'"{test}" = "{reason}"\n' for test, reason in tests.items()))
    asked = f"{planted.__name__}:Flipped"
    tests = ("--pyargs", "convcore.testing.test_values", "-k", "test_value and (forward-plain or forward-1x1)")
    return asked, run_kit(pytester, asked, *tests, "--convcore-expected", path)


def test_an_expected_failure_needs_its_reason_and_is_counted(pytester):
    asked = f"{planted.__name__}:Flipped"
    known = {f"test_value[{asked}-forward-{case}]": "issue 7" for case in ("plain", "plain-nhwc")}
    _, (result, entry) = expecting(pytester, known)
    assert result.ret == pytest.ExitCode.OK
    assert entry["tests"]["expected failure"] == 2
    assert entry["expected_failures"] == [{"test": test, "reason": "issue 7"} for test in sorted(known)]


def test_an_expected_failure_that_passes_has_failed(pytester):
    asked = f"{planted.__name__}:Flipped"
    known = {f"test_value[{asked}-forward-{case}]": "issue 7" for case in ("plain", "plain-nhwc", "1x1")}
    _, (result, entry) = expecting(pytester, known)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [failure["test"] for failure in entry["failures"]] == [f"test_value[{asked}-forward-1x1]"]


@pytest.mark.parametrize(
    ("tests", "sentence"),
    [
        ({"test_value[numpy-forward-plane]": "issue 7"}, "expected failures that are no test of this run: test_value*"),
        ({"test_value": ""}, "*expected failure 'test_value' needs a reason, got ''"),
    ],
)
def test_an_expected_failure_must_be_a_test_and_have_a_reason(pytester, tests, sentence):
    _, (result, _) = expecting(pytester, tests)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {sentence}"])


def test_pytest_runs_it_from_any_folder(tmp_path):
    kit = ("-p", "convcore.testing.plugin", "--pyargs", "convcore.testing", "--convcore-backend=numpy")
    options = ("-q", "-p", "no:cacheprovider", "-k", "forward-plain", "--convcore-profile=quick")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *kit, *options], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "numpy (quick): incomplete" in result.stdout


class TestCommand:
    """``convcore test``, from another folder, where a configuration of pytest lies that would spoil everything."""

    @pytest.fixture
    def command(self, tmp_path, monkeypatch):
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
        (tmp_path / "mine.py").write_text("from convcore.testing.planted import Liar, Faultless\n")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.chdir(tmp_path)

        def run(*arguments):
            command = [sys.executable, "-c", "from convcore.cli import main; main()", "test", *arguments]
            return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

        return run

    def test_it_runs_the_whole_kit_and_remembers(self, command, tmp_path):
        result = command("numpy", "--profile", "quick", "--report", "out.json")
        assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads((tmp_path / "out.json").read_text())
        jsonschema.validate(report, SCHEMA)
        (entry,) = report["backends"]
        assert (entry["name"], entry["verdict"], entry["unfinished"]) == ("numpy", "passes", "")
        assert {error["op"] for error in entry["errors"]} == set(registry().specs["numpy"].ops)
        assert all(0 <= error["bound"] <= 1 for error in entry["errors"])
        assert "numpy (quick): passes" in result.stdout
        factory = registry().specs["numpy"].factory
        assert verdicts.summary("numpy", factory).startswith("passes (quick, ")
        assert verdicts.summary("numpy", "convcore_cpu.backend:CPUBackend").endswith(", changed since)")

    def test_a_backend_that_fails(self, command):
        result = command("mine:Liar", "--profile", "quick", "-x", "-k", "forward-plain")
        assert result.returncode == 1
        assert "every element is 0" in result.stdout
        assert verdicts.latest("planted-liar") is None

    def test_an_object_that_is_none(self, command):
        result = command("mine:Nobody")
        assert result.returncode == 2
        assert result.stderr == "convcore: mine:Nobody: module 'mine' has no 'Nobody'\n"
