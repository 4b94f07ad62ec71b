"""What a backend says of itself, and that it keeps to it: spec, devices, refusals, named algorithms, workspace."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from convcore.problem import ACCURACIES, BOUNDARIES, FEATURES, HOST_ARRAY, LAYOUTS, POOL_OPS, Op
from convcore.spi import Device, UnsupportedProblem
from convcore.testing import public
from convcore.testing.engine import Engine
from convcore.testing.exceptions import check_exceptions
from convcore.testing.problems import ALL_OPS, DTYPES, GEOMETRIES, make_problem, random_operands

_KNOWN: dict[str, tuple[str, ...]] = {
    "ops": ALL_OPS,
    "dtypes": DTYPES,
    "layouts": LAYOUTS,
    "boundaries": BOUNDARIES,
    "features": FEATURES,
}
_CORE: dict[str, tuple[str, ...]] = {
    "ops": ("forward",),
    "dtypes": ("float32",),
    "layouts": ("NCHW",),
    "boundaries": ("constant",),
    "features": ("padding", "stride", "bias"),
    "array_types": (HOST_ARRAY,),
}


def test_spec(convcore_engine: Engine) -> None:
    """The spec declares the core profile, in words convcore knows, and a reason for each exception."""
    spec = convcore_engine.spec
    for field, known in _KNOWN.items():
        unknown = set(getattr(spec, field)) - set(known)
        assert not unknown, f"the spec's {field} has unknown words: {', '.join(sorted(unknown))}"
    for field, core in _CORE.items():
        missing = set(core) - set(getattr(spec, field))
        assert not missing, f"the core profile is not declared: the spec's {field} lacks {', '.join(sorted(missing))}"
    assert spec.device_kinds, "the spec declares no device_kinds"
    check_exceptions(spec)


def test_probe(convcore_engine: Engine) -> None:
    """Probing lists devices."""
    devices = convcore_engine.backend.probe()
    assert not isinstance(devices, str)
    assert devices, "probe() must list a device, or say in words why there is none"
    assert all(isinstance(device, Device) for device in devices), f"probe() must list Device, got {devices!r}"


@pytest.mark.parametrize("op", ALL_OPS)
def test_every_capability(convcore_engine: Engine, convcore_profile: str, op: Op) -> None:
    """An op is computed in every dtype, layout and under every boundary that is declared, and refused in all others.

    In "quick", every pair of these is tried; in "full", all three together.
    """
    padded: dict[str, Any] = {"images": 1, "size": (4, 5), "kernel": (1, 2), "padding": ((1, 0), (0, 1))}
    dtypes = [dtype for dtype in DTYPES if op not in POOL_OPS or np.dtype(dtype).kind == "f"]
    boundaries = BOUNDARIES if op in ("forward", "grad_input", "grad_weight") else BOUNDARIES[:1]
    for i, dtype in enumerate(dtypes):
        for j, boundary in enumerate(boundaries):
            both = LAYOUTS if convcore_profile == "full" or len(boundaries) == 1 else (LAYOUTS[(i + j) % 2],)
            for layout in both:
                problem = make_problem(op, **padded, dtypes=(dtype, dtype), layout=layout, boundary=boundary)
                convcore_engine.verify(problem, random_operands(problem))


@pytest.mark.parametrize("op", ALL_OPS)
def test_runs_itself(convcore_engine: Engine, op: Op) -> None:
    """A backend that was named runs, or convcore's functions raise; no other backend runs in its place."""
    for arguments in ({"size": (5, 13)}, {"channels": (4, 4), "groups": 2, "stride": (2, 2)}):
        problem = make_problem(op, **arguments, bias=False)  # type: ignore[arg-type]  # the dicts differ in their types
        operands = random_operands(problem)
        refused = bool(convcore_engine.refusal(problem))
        with convcore_engine.spying():
            try:
                result = public.call(problem, operands, convcore_engine.name)
            except UnsupportedProblem:
                assert refused, f"refuses through convcore's functions what it accepts: {problem}"
                continue
        assert not refused, f"computes through convcore's functions what it refuses: {problem}"
        convcore_engine.expect(problem, operands, np.asarray(result))


@pytest.mark.parametrize("op", ALL_OPS)
def test_named_algorithm(convcore_engine: Engine, op: Op) -> None:
    """A named algorithm runs or is refused; it is never replaced."""
    problem = make_problem(op)
    if not convcore_engine.verify(problem, random_operands(problem)):
        return
    algorithm = convcore_engine.plan(problem).algorithm
    named = dataclasses.replace(problem, algorithm=algorithm)
    assert convcore_engine.verify(named, random_operands(named)), f"refuses its own algorithm {algorithm!r}"
    assert convcore_engine.plan(named).algorithm == algorithm, f"replaced the named algorithm {algorithm!r}"
    unknown = dataclasses.replace(problem, algorithm="no-such-algorithm")
    assert convcore_engine.refusal(unknown), "accepts an algorithm that does not exist"


@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize("op", ALL_OPS)
def test_accuracy(convcore_engine: Engine, op: Op, accuracy: str) -> None:
    """Every policy of accuracy is accepted; what it allows stays within the bound of the algorithm that runs."""
    large: dict[str, Any] = {"images": 1, "channels": (32, 32), "size": (14, 14), "padding": ((1, 1), (1, 1))}
    for arguments in (large, GEOMETRIES["stride-2"]):
        problem = make_problem(op, **arguments, accuracy=accuracy)
        convcore_engine.verify(problem, random_operands(problem))


@pytest.mark.parametrize("limit", [0, 4096, 2**40])
@pytest.mark.parametrize("op", ALL_OPS)
def test_workspace_limit(convcore_engine: Engine, op: Op, limit: int) -> None:
    """A plan keeps to ``workspace_limit``, or the problem is refused."""
    for geometry in ("same", "stride-2", "depthwise"):
        problem = make_problem(op, **GEOMETRIES[geometry], workspace_limit=limit)
        if convcore_engine.verify(problem, random_operands(problem)):
            used = convcore_engine.plan(problem).workspace_bytes
            assert used <= limit, f"uses {used} bytes of workspace where {limit} are allowed"
