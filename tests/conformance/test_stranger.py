"""A stranger's backend, written as docs/write-a-backend.md says: installed afresh, found, held to the kit."""

import ast
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "convcore-torch"
PAGE = (ROOT / "docs" / "write-a-backend.md").read_text()
FILES = dict(re.findall(r"`convcore-torch/(\S+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    line.strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory, wheel):
    """Return a function that runs a command in a new environment, outside the tree, beside what the page has one write.

    Only libraries are borrowed from the environment of the tests: convcore is not, it is installed from its wheel.
    """
    work = tmp_path_factory.mktemp("work")
    for name, text in FILES.items():
        path = work / "convcore-torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    fresh = work / "environment"
    venv.create(fresh, with_pip=True)
    (site,) = fresh.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CONVCORE", "PYTHON"))}
    environment |= {
        "PATH": os.pathsep.join([str(fresh / "bin"), os.environ["PATH"]]),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: none
        "PIP_NO_INDEX": "1",
        "COLUMNS": "200",
        "XDG_CACHE_HOME": str(work / "cache"),
        "XDG_DATA_HOME": str(work / "data"),
        "XDG_STATE_HOME": str(work / "state"),
    }

    def run(command):
        return subprocess.run(command, shell=True, capture_output=True, text=True, cwd=work, env=environment)

    run(
        "pip uninstall --quiet --yes setuptools"
    )  # the one that comes with Python may be older than what packages ask for
    result = run(f"pip install --quiet --no-deps --ignore-installed {wheel}")
    assert result.returncode == 0, result.stderr
    return run


def test_the_page_is_the_example():
    files = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text()
        for path in EXAMPLE.rglob("*")
        if path.suffix in (".py", ".toml")
    }
    assert files == FILES


def test_it_has_fewer_than_sixty_lines_of_code():
    code = [ast.unparse(ast.parse(text)) for name, text in FILES.items() if name.endswith(".py")]
    assert len([line for text in code for line in text.splitlines() if line.strip()]) < 60


def test_the_page_from_top_to_bottom(shell):
    """Every command that the page shows succeeds, in its order."""
    assert COMMANDS == ["pip install ./convcore-torch", "convcore backends", "convcore test torch --profile quick"]
    installed, listed, tested = (shell(command) for command in COMMANDS)
    assert installed.returncode == 0, installed.stderr
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"│ torch +│ 0 +│ ready +│ 0: host", listed.stdout), listed.stdout
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr
    assert re.search(r"^torch \(quick\): passes: [1-9]\d* tests passed, 0 failed", tested.stdout, re.MULTILINE)
    assert "skipped" not in tested.stdout
    where = shell('python -c "import convcore, convcore_torch; print(convcore.__file__, convcore_torch.__file__)"')
    assert where.stdout.count(f"{os.sep}environment{os.sep}lib{os.sep}") == 2, where.stdout + where.stderr
    assert re.search(r"│ torch .*passes", shell("convcore backends").stdout)


def test_its_answers_are_its_own(shell):
    """Named, it runs; unnamed, it changes nothing; what its spec leaves out is refused in words."""
    code = (
        "import numpy as np, convcore; a = np.ones((1, 1, 4, 4), 'f4'); w = np.ones((1, 1, 2, 2), 'f4');"
        "print(convcore.explain('conv2d', a, w, backend='torch').algorithm, convcore.explain('conv2d', a, w).chosen);"
        "convcore.conv2d(a, w, padding=1, boundary='wrap', backend='torch')"
    )
    result = shell(f'python -c "{code}"')
    assert result.stdout == "torch cpu\n"
    assert "torch: boundary wrap is not supported, only constant" in result.stderr
