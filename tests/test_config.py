"""Configuration files: what is right in them is obeyed, what is wrong is one sentence with file and line."""

import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import convcore
from convcore import config

ONE_NAME = "`backend` must be a name or a list of names, got "
NOT_TOML = "is not TOML: "  # what follows differs between versions of Python
SOME = "; known: backend, tune"
WORDS = "`tune` must be one of off, heuristic, cached, measure, tune, got "

# What the file holds, the line that is to blame, and what is said of it.
WRONG = {
    "no value": (b"backend = ", 1, NOT_TOML),
    "no quotes": (b"# ours\n\nbackend = cpu\n", 3, NOT_TOML),
    "unclosed text": (b'x = 1\nbackend = "cpu\n', 2, NOT_TOML),
    "unclosed list": (b'backend = ["cpu",\n\n\n', 1, NOT_TOML),
    "written twice": (b'backend = "cpu"\nbackend = "numpy"\n', 2, NOT_TOML),
    "no TOML at all": (b"\n<backend>cpu</backend>\n", 2, NOT_TOML),
    "control character": (b'backend = "c\x00pu"\n', 1, NOT_TOML),
    "Latin-1": (b'# M\xfcller\nbackend = "cpu"\n', 1, "is not UTF-8: invalid start byte"),
    "UTF-16": ("\nbackend = 1".encode("utf-16"), 1, "is not UTF-8: invalid start byte"),
    "endless number": (b"\nbackend = " + b"9" * 5000, 2, NOT_TOML),
    "unknown key": (b"\nbackends = 'cpu'", 2, f"unknown key 'backends'; did you mean 'backend'?{SOME}"),
    "unknown table": (b"backend = 'cpu'\n[gpu]\nx = 1\n", 2, f"unknown key 'gpu'{SOME}"),
    "unknown key in disguise": (b'\n"back\\u0065n" = 1', 2, f"unknown key 'backen'; did you mean 'backend'?{SOME}"),
    "number": (b"# backend\nbackend = 3", 2, f"{ONE_NAME}3"),
    "truth": (b"backend = true", 1, f"{ONE_NAME}True"),
    "date": (b"backend = 2026-01-01", 1, f"{ONE_NAME}datetime.date(2026, 1, 1)"),
    "empty list": (b"backend = []", 1, f"{ONE_NAME}[]"),
    "list of numbers": (b"\n\nbackend = [\n  1,\n  2,\n]\n", 3, f"{ONE_NAME}[1, 2]"),
    "list in a list": (b'backend = ["cpu", ["numpy"]]', 1, f"{ONE_NAME}['cpu', ['numpy']]"),
    "table": (b'\n[backend]\nname = "cpu"\n', 2, ONE_NAME + "{'name': 'cpu'}"),
    "empty": (b'backend = ""', 1, "`backend` must not hold an empty name, got ''"),
    "comma at the end": (b"backend = 'cpu,'", 1, "`backend` must not hold an empty name, got 'cpu,'"),
    "unknown word": (b"tune = 'measured'", 1, f"{WORDS}'measured'; did you mean 'measure'?"),
    "tuning as truth": (b"backend = 'cpu'\ntune = false", 2, f"{WORDS}False"),
    "auto and more": (b"backend = ['auto', 'cpu']", 1, "'auto' stands alone, got ['auto', 'cpu']"),
}


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, tmp_path):
    """No setting from outside, and none left behind."""
    monkeypatch.delenv(config.VARIABLE, raising=False)
    monkeypatch.delenv(config.TUNE_VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    config.reload()
    yield
    config.reload()


def error_of(file, content, error=convcore.ConfigError):
    """Return what is said when the file holds ``content``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    config.reload()
    with pytest.raises(error) as caught:
        config.tuning() if b"tune" in content else config.current()
    assert caught.value.__cause__ is None
    return str(caught.value)


def user_file(tmp_path):
    return tmp_path / "home" / "convcore" / "config.toml"


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("place", ["project", "user"])
def test_wrong_content_is_one_sentence_with_file_and_line(tmp_path, place, wrong):
    content, line, said = WRONG[wrong]
    file = tmp_path / "work" / "convcore.toml" if place == "project" else user_file(tmp_path)
    message = error_of(file, content)
    assert message.startswith(f"{file}, line {line}: {said}")
    assert "\n" not in message


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        (["[project]", "name = 'backend'", "", "[tool.convcore]", "# backend", "backend = 3"], 6, f"{ONE_NAME}3"),
        (["[tool]", "convcore = { backend = 3 }"], 2, f"{ONE_NAME}3"),
        (["[tool]", "other.backend = 1", "convcore.backend = 3"], 3, f"{ONE_NAME}3"),
        (["tool.convcore.backend = [", "  'backend',", "  3,", "]"], 1, f"{ONE_NAME}['backend', 3]"),
        (["x = '''", "[tool.convcore]", "backend = 3", "'''", "[tool.convcore]", "backend = 4"], 6, f"{ONE_NAME}4"),
        (["tool = 3"], 1, "`tool` must be a table, got 3"),
        (["[tool]", "convcore = 'cpu'"], 2, "`tool.convcore` must be a table, got 'cpu'"),
        (["", "[[tool.convcore]]", "backend = 'cpu'"], 2, "`tool.convcore` must be a table, got [{'backend': 'cpu'}]"),
        (["[tool.convcore]", "layout = 'NHWC'"], 2, f"unknown key 'layout'{SOME}"),
        (["[tool.convcore", "backend = 'cpu'"], 1, NOT_TOML),
    ],
)
def test_wrong_content_of_pyproject(tmp_path, lines, line, said, newline):
    file = tmp_path / "work" / "pyproject.toml"
    assert error_of(file, newline.join(lines).encode()).startswith(f"{file}, line {line}: {said}")


@pytest.mark.parametrize("depth", [2000, 200_000])
def test_what_is_nested_too_deep(tmp_path, depth):
    file = tmp_path / "work" / "convcore.toml"
    message = error_of(file, b"\n\nbackend = " + b"[" * depth + b"]" * depth)
    assert message.startswith(f"{file}, line 3: ")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    file = tmp_path / "work" / "convcore.toml"

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(file), "read_bytes", refuse)
    file.touch()
    with pytest.raises(convcore.ConfigError) as caught:
        config.current()
    assert str(caught.value) == f"{file}: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("Numpy", convcore.UnknownBackend, "unknown backend 'Numpy' (from {}); did you mean 'numpy'?; installed: "),
        ("c\\npu", convcore.UnknownBackend, "unknown backend 'c\\npu' (from {}); did you mean 'cpu'?; installed: "),
        ("numpy:7", convcore.NoDevice, "backend 'numpy' has no device '7', there are: 0 (host) (from {})"),
    ],
)
def test_a_name_that_cannot_be_used_is_traced_to_its_line(tmp_path, name, error, said):
    file = tmp_path / "work" / "convcore.toml"
    file.write_text(f'\n# which\nbackend = "{name}"\n')
    config.reload()
    with pytest.raises(error) as caught:
        convcore.explain("forward", (1, 1, 4, 4), (1, 1, 2, 2)).chosen or convcore.plan(
            "forward", (1, 1, 4, 4), (1, 1, 2, 2)
        )
    assert str(caught.value).startswith(said.format(f"{file}, line 3"))


@pytest.mark.parametrize(
    "content", [b"", b"\n# nothing\n", b"\xef\xbb\xbfbackend = 'numpy'", b"'backend' = [ 'numpy' ]"]
)
def test_right_content(tmp_path, content):
    (tmp_path / "work" / "convcore.toml").write_bytes(content)
    assert convcore.get_backend() == ("numpy" if b"numpy" in content else "cpu,opencl,numpy")


def test_a_folder_of_that_name_is_no_file(tmp_path):
    (tmp_path / "work" / "convcore.toml").mkdir()
    assert convcore.get_backend() == "cpu,opencl,numpy"


def test_an_argument_needs_no_file(tmp_path):
    (tmp_path / "work" / "convcore.toml").write_text("backend = 3")
    assert config.current("numpy").names == ("numpy",)


def test_a_working_directory_that_is_deleted(tmp_path):
    os.rmdir(tmp_path / "work")
    assert convcore.get_backend() == "cpu,opencl,numpy"


_TOML = st.recursive(
    st.sampled_from(
        ["cpu", "3", '"cpu"', "''", "nan", "true", '"a\\nb"', "1979-05-27", '"""', "[", "{", "}", "é", "\x7f"]
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
)
_LINES = st.sampled_from(
    ["backend", '"backend"', "backend.x", "tool.convcore", "x", "", "[backend]", "[[backend]]", "#"]
)


@settings(
    max_examples=300, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.lists(st.tuples(_LINES, st.sampled_from([" = ", "", "=", "\n"]), _TOML).map("".join)).map("\n".join))
@example(content="backend = '''\n\n")
def test_any_content_is_a_setting_or_one_sentence(tmp_path, content):
    """Whatever stands in the file: a setting, or a ConfigError that names a line the file has."""
    file = tmp_path / "work" / "convcore.toml"
    file.write_text(content, encoding="utf-8", newline="")
    config.reload()
    try:
        said = str(config.current())
    except convcore.ConfigError as error:
        said = str(error)
    line = re.match(rf"{re.escape(str(file))}, line (\d+): .+\Z", said)
    assert 1 <= int(line[1]) <= content.count("\n") + 1 if line else re.fullmatch(r"[^/ ]+", said), said


class TestTune:
    def in_force(self, **keywords):
        found = convcore.explain("forward", (1, 1, 4, 4), (1, 1, 2, 2), backend="numpy", **keywords)
        assert found.to_dict()["problem"]["tune"] == found.problem.tune
        assert found.to_dict()["tune_source"] == found.tune_source
        assert f"\ntune: {found.problem.tune} (from {found.tune_source})\n" in str(found)
        return found.problem.tune, found.tune_source

    def test_precedence(self, tmp_path, monkeypatch):
        assert self.in_force() == ("cached", "default")
        user, project = user_file(tmp_path), tmp_path / "work" / "pyproject.toml"
        user.parent.mkdir(parents=True)
        user.write_text("backend = 'cpu'\ntune = 'heuristic'")
        config.reload()
        assert self.in_force() == ("heuristic", f"{user}, line 2")
        project.write_text("[tool.convcore]\ntune = 'off'")
        config.reload()
        assert self.in_force() == ("off", f"{project}, line 2")
        assert convcore.get_backend() == "cpu"
        monkeypatch.setenv(config.TUNE_VARIABLE, "tune")
        assert self.in_force() == ("measure", "CONVCORE_TUNE")
        assert self.in_force(tune="cached") == ("cached", "call argument")
        assert self.in_force(tune=None) == ("measure", "CONVCORE_TUNE")

    @pytest.mark.parametrize("word", ["off", "heuristic", "cached", "measure", "tune"])
    def test_words(self, word):
        assert self.in_force(tune=word)[0] == {"tune": "measure"}.get(word, word)

    def test_a_wrong_word_in_the_variable(self, monkeypatch):
        monkeypatch.setenv(config.TUNE_VARIABLE, "auto")
        with pytest.raises(convcore.ConfigError) as caught:
            convcore.plan("forward", (1, 1, 4, 4), (1, 1, 2, 2))
        assert str(caught.value) == f"CONVCORE_TUNE: {WORDS}'auto'"

    def test_a_wrong_word_in_a_call(self):
        said = f"conv2d: {WORDS}'caches'; did you mean 'cached'?"
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            convcore.conv2d(np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 2, 2)), tune="caches")


class TestVariables:
    def test_backend(self, monkeypatch):
        monkeypatch.setenv("CONVCORE_BACKEND", "cpu,,")
        with pytest.raises(convcore.ConfigError) as caught:
            config.current()
        assert str(caught.value) == "CONVCORE_BACKEND: `backend` must not hold an empty name, got 'cpu,,'"

    @pytest.mark.parametrize(("text", "value"), [("1", True), ("Off", False), (" yes ", True), ("0", False)])
    def test_booleans(self, text, value):
        assert config.parse_bool("CONVCORE_X", text) is value

    def test_booleans_are_strict(self):
        with pytest.raises(convcore.ConfigError) as caught:
            config.parse_bool("CONVCORE_X", "maybe")
        assert str(caught.value) == "CONVCORE_X must be one of 1, true, yes, on, 0, false, no, off, got 'maybe'"
