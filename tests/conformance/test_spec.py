"""The specification and the tests that hold it stay together."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec.md").read_text()
RULES = re.split(r"^(\d+)\. ", SPEC, flags=re.MULTILINE)[1:]


def test_rules_are_numbered_without_gaps():
    assert [int(number) for number in RULES[::2]] == list(range(1, len(RULES) // 2 + 1))


def test_every_rule_names_tests_that_exist():
    folders = ROOT / "convcore" / "testing", ROOT / "tests"
    sources = [source for folder in folders for source in folder.rglob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)", source.read_text())}
    for number, text in zip(RULES[::2], RULES[1::2], strict=True):
        named = set(re.findall(r"`(test_\w+)`", text))
        assert named, f"rule {number} names no test"
        assert named <= defined, f"rule {number} names tests that do not exist: {named - defined}"
