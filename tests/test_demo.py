"""The demo's arithmetic, its console output and its picture."""

import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import convcore
from convcore.cli import demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the demo once: what it printed, and the path of the picture."""
    path = tmp_path_factory.mktemp("demo") / "demo.png"
    console = Console(width=100)
    with console.capture() as capture:
        demo.run(console, path)
    return capture.get(), path


def test_every_ready_backend_is_timed_and_compared(shown):
    text, _ = shown
    ready = [info.name for info in convcore.backends() if info.state == "ready"]
    for name in ready:
        assert len(re.findall(rf"^ +{name} .*\d\.\d\d +\d+\.\d\d", text, re.MULTILINE)) == len(demo.EDGES)
    differences = re.findall(r"largest difference between \w+ and \w+: (\S+)", text)
    assert len(differences) == len(ready) * (len(ready) - 1) // 2
    assert all(float(value) < 1e-5 for value in differences)


def test_the_loss_is_printed_every_second_step_and_falls(shown):
    text, _ = shown
    steps = re.findall(r"step +(\d+), loss +([\d.]+)", text)
    assert [int(step) for step, _ in steps] == [2, 4, 6, 8, 10]
    losses = [float(loss) for _, loss in steps]
    assert losses == sorted(losses, reverse=True)


def test_the_picture_is_where_it_says(shown):
    text, path = shown
    assert text.rstrip().endswith(str(path))
    with Image.open(path) as picture:
        assert picture.size == (1440, 960)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_what_is_left_out_is_said(tmp_path, monkeypatch):
    numpy = next(info for info in convcore.backends() if info.name == "numpy")
    missing = type(numpy)("gpu", "no device", reason="no driver was found", install_hint="pip install a-driver")
    monkeypatch.setattr(convcore, "backends", lambda: [numpy, missing])
    console = Console(width=100)
    with console.capture() as capture:
        demo.run(console, tmp_path / "demo.png")
    assert "gpu was left out (no device): no driver was found; to add it: pip install a-driver" in capture.get()


def test_ten_steps_learn_the_kernel():
    lesson = demo.learn()
    assert len(lesson.losses) == 10
    np.testing.assert_allclose(lesson.learned, lesson.true, atol=0.05)


def test_edges_of_the_black_and_white_image():
    edges = demo.find_edges(demo.black_and_white(), "numpy")
    assert edges.answers["edge"].tolist() == [[0, 1, 0, 0, 0, -1, 0]] * 6
    assert edges.magnitude("[1, -1]").tolist() == [[0, 1, 0, 0, 0, 1, 0]] * 6
    assert edges.magnitude("Sobel pair").tolist() == [[4, 4, 0, 0, 4, 4]] * 4
