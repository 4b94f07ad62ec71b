"""A stranger's backend: docs/write-a-backend.md is examples/convcore-torch, letter for letter."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "convcore-torch"
PAGE = (ROOT / "docs" / "write-a-backend.md").read_text()
FILES = dict(re.findall(r"`convcore-torch/(\S+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def test_the_page_is_the_example():
    paths = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")]
    assert {path.relative_to(EXAMPLE).as_posix(): path.read_text() for path in paths} == FILES


def test_it_has_fewer_than_sixty_lines_of_code():
    code = [ast.unparse(ast.parse(text)) for name, text in FILES.items() if name.endswith(".py")]
    assert len([line for text in code for line in text.splitlines() if line.strip()]) < 60
