"""Everything the documentation shows is run: Python examples with their output, commands with their exit status."""

import doctest
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import convcore
from convcore.cli import main
from convcore.tuning import choices

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        line.partition("#")[0].strip()
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("convcore ")
    }
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder with the files that the commands name; what is measured is kept there too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choices, "users", lambda: choices.Choices(tmp_path / "tuning.json"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save("photo.png")
    np.save("kernel.npy", np.eye(3))
    Image.open("photo.png").save("before.png")
    Image.open("photo.png").filter(ImageFilter.BLUR).save("after.png")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_print_what_the_page_says(page):
    names = {}
    tests = doctest.DocTestParser().get_doctest(page.read_text(), names, page.name, str(page), 0)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(tests, out=report.append, clear_globs=False)
    assert not report, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_without_output_run(page):
    names = {"np": np, "convcore": convcore}
    names["x"], names["weight"] = np.ones((1, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("command", [command for command in COMMANDS if "convcore test" not in command])
def test_commands_succeed(command):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command)[1:])
    assert stop.value.code == 0


def test_both_tutorials_show_the_same_code():
    english, chinese = (
        re.findall(r"```\w+\n.*?```", (ROOT / "docs" / name).read_text(), re.DOTALL)
        for name in ("tutorial.md", "tutorial.zh.md")
    )
    assert english == chinese


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", re.sub(r"`[^`\n]*`", "", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "reference.md").read_text()
    missing = [name for name in convcore.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []
