"""Counted instructions of the micro-kernels and of the dispatch path, against those stored in the repository."""

import pytest
from convcore_bench import instructions
from convcore_bench.instructions import DISPATCH, ISA, KERNELS, MARGIN, OTHER_PYTHON
from convcore_cpu.engine import MICRO_KERNELS


@pytest.fixture(scope="module")
def counts():
    if reason := instructions.why_not():
        pytest.skip(reason)
    return instructions.count()


def told(said, build):
    return f"for {build}:\n" + "\n".join(said) + "\nIf it is meant to be so: make counts, and commit bench/counts.json"


def test_every_micro_kernel_of_a_dtype_people_use_is_counted():
    """Those of Winograd are, together; integers are computed by the same code."""
    if ISA not in MICRO_KERNELS:
        pytest.skip(f"there is no {ISA} here, whose micro-kernels are the ones counted")
    rows = {row.name for row in MICRO_KERNELS[ISA] if row.dtype != "i64" and not row.algorithm.startswith("winograd")}
    assert rows <= {name for kind, name, _, _ in instructions.sections() if kind == KERNELS}


def test_micro_kernels_take_no_more_instructions(counts):
    build, stored = instructions.builds()[KERNELS], instructions.read()[KERNELS]
    if build not in stored:
        pytest.skip(
            f"counts are stored for {', '.join(stored) or 'no compiler'}, not for {build}: make counts adds them"
        )
    said = instructions.compare(counts[KERNELS], stored[build], MARGIN)
    wrong = said["more"] + [f"{name}: no count is stored" for name in said["unknown"]]
    assert not wrong, told(wrong, build)


def test_the_dispatch_path_takes_no_more_instructions(counts):
    """Another Python or NumPy counts otherwise: then against the most of those stored, with a wide margin."""
    build, stored = instructions.builds()[DISPATCH], instructions.read()[DISPATCH]
    margin, expected = MARGIN, stored.get(build)
    if expected is None:
        margin = OTHER_PYTHON
        expected = {name: max(each.get(name, 0) for each in stored.values()) for name in counts[DISPATCH]}
    said = instructions.compare(counts[DISPATCH], expected, margin)
    wrong = said["more"] + [f"{name}: no count is stored" for name in said["unknown"]]
    assert not wrong, told(wrong, build)


def test_the_margin_lets_three_percent_pass_and_no_more():
    stored = {"same": 1000, "little": 1000, "more": 1000, "fewer": 1000, "gone": 1000}
    found = {"same": 1000, "little": 1029, "more": 1031, "fewer": 900, "new": 5}
    said = instructions.compare(found, stored)
    assert said == {
        "more": ["more: 1031 instructions, stored 1000 (+3.1%)"],
        "fewer": ["fewer: 900 instructions, stored 1000 (-10.0%)"],
        "unknown": ["new"],
        "gone": ["gone"],
    }
