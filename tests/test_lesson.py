"""The notebook runs, prints what is stored in it, and learns whatever it starts from."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "examples"
LEARN = """
import json
print(json.dumps([[*kernel.asnumpy()[0].tolist(), losses[-1]] for kernel, losses in map(learn, range(1000, 1010))]))
"""


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(FOLDER / "lesson.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(stored):
    """The notebook run anew, with a cell at its end that learns from ten other starts."""
    notebook = nbformat.from_dict(stored)
    notebook.cells = [*notebook.cells, nbformat.v4.new_code_cell(LEARN)]
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()


def outputs(cell):
    """What a cell shows: its text, with the numbers that depend on rounding left out, or the kind of a picture."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        text = output["text"] if "text" in output else data["text/plain"]
        yield "picture" if "image/png" in data else re.sub(r"[ -]*\d+\.\d+(e[+-]\d+)?", " #", text)


def test_it_shows_what_is_stored(stored, executed):
    shown = [list(outputs(cell)) for cell in executed.cells[:-1]]
    assert shown == [list(outputs(cell)) for cell in stored.cells]
    assert sum(map(len, shown)) == 14
    counts = [cell.execution_count for cell in stored.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_the_exact_results(executed):
    text = "".join(output for cell in executed.cells for output in outputs(cell))
    assert "\n[[19. 25.]\n [37. 43.]]\n<NDArray 2x2 @cpu(0)>" in text
    assert text.count(" 0.  1.  0.  0.  0. -1.  0.]") == 6
    assert "receptive field: 7 by 7" in text


def test_ten_other_starts_learn_the_kernel(executed):
    runs = json.loads(executed.cells[-1].outputs[0].text)
    assert len(runs) == 10
    for left, right, loss in runs:
        assert 0.9 < left < 1.1
        assert -1.1 < right < -0.9
        assert 0 < loss < 0.01
