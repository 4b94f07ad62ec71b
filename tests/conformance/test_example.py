"""The third-party backend of ``examples/``: it installs, convcore finds it, and it passes the kit."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "convcore_example"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python in an environment that has the example's distribution installed."""
    source, site = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source)
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        site,
        source,
    ]
    subprocess.run([sys.executable, *install], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=source.parent, env=environment
        )

    return run


def test_it_is_found(python):
    code = (
        "import convcore; [e] = [b for b in convcore.backends() if b.name == 'example']; print(e.state, e.distribution)"
    )
    result = python("-c", code)
    assert result.stdout == "ready convcore-example\n", result.stderr


def test_it_passes_the_kit(python):
    kit = ("--pyargs", "convcore.testing", "--convcore-backend", "example")
    result = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *kit)
    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout


def test_it_refuses_in_words(python):
    code = "import numpy as np, convcore; a = np.ones((2, 2, 3, 3)); convcore.conv2d_grad_bias(a, backend='example')"
    result = python("-c", code)
    assert "UnsupportedProblem: " in result.stderr
    assert "example: op grad_bias is not supported, only forward" in result.stderr


def test_it_is_shorter_than_forty_lines():
    source = (EXAMPLE / "convcore_example.py").read_text()
    code = ast.unparse(ast.parse(source))
    assert len([line for line in code.splitlines() if line.strip()]) < 40
