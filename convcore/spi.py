"""What a backend author imports: everything public to them is here, and nothing else is.

A backend is three things: a hook that lists :class:`BackendSpec`, a :class:`Backend`
that says what it can do, and a :class:`Plan` that does it.  ``examples/`` holds a whole
one in under sixty lines.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pluggy

from convcore.errors import (
    BrokenBackend,
    DeviceLost,
    KernelBuildError,
    NoDevice,
    OutOfDeviceMemory,
    UnknownBackend,
    UnsupportedProblem,
)
from convcore.operands import Packed
from convcore.problem import FEATURES, HOST_ARRAY, OPS, POOL_OPS, Padding, Pair, Problem, Shape4

__all__ = [
    "FEATURES",
    "HOST_ARRAY",
    "OPS",
    "POOL_OPS",
    "Backend",
    "BackendSpec",
    "BrokenBackend",
    "Device",
    "DeviceLost",
    "KernelBuildError",
    "NoDevice",
    "OutOfDeviceMemory",
    "Packed",
    "Padding",
    "Pair",
    "Plan",
    "Problem",
    "Shape4",
    "Step",
    "UnknownBackend",
    "UnsupportedProblem",
    "find_device",
    "hookimpl",
]

#: Marks a function of a plugin module as the implementation of a hook (see ``convcore.hookspecs``).
hookimpl = pluggy.HookimplMarker("convcore")


@dataclass(frozen=True)
class BackendSpec:
    """What a plugin says of a backend before anything of it is imported.

    The core refuses, in words, whatever falls outside these features, so
    :meth:`Backend.supports` only has to speak of finer limits.

    Attributes
    ----------
    name : str
        The name users write; lower case, no colon.
    factory : str
        Where the :class:`Backend` class is: "package.module:Class".
    version, summary, install_hint : str
        For people: the version, one line of what it is, what to install when it has no device.
    dtypes : tuple of str
        NumPy dtype names it computes in.
    ops, layouts, boundaries, device_kinds : tuple of str
        The operations, memory layouts and boundary modes it knows; the kinds of device it uses.
        ``OPS`` are those of a correlation; a backend that pools lists ``(*OPS, *POOL_OPS)``.
    array_types : tuple of str
        Qualified names of the array types it takes and returns.
    features : tuple of str
        What it can do beyond one kernel on the pixels of an image: see :data:`FEATURES`.
    exceptions : mapping of str to str
        What it may decline although all of the above speak for it, and why: "dtype=float64 op=grad_weight" and the
        reason in words.  The conformance kit counts them; ``docs/conformance.md`` has the keys.
    """

    name: str
    factory: str
    version: str = "0"
    summary: str = ""
    install_hint: str = ""
    dtypes: tuple[str, ...] = ("float32", "float64")
    ops: tuple[str, ...] = OPS
    layouts: tuple[str, ...] = ("NCHW",)
    boundaries: tuple[str, ...] = ("constant",)
    device_kinds: tuple[str, ...] = ("cpu",)
    array_types: tuple[str, ...] = (HOST_ARRAY,)
    features: tuple[str, ...] = FEATURES
    exceptions: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Device:
    """A device a backend can run on; "opencl:1" asks for it by ``index``, "opencl:radeon" by a part of its name.

    ``detail`` has what else is known of it; under "platform", its driver's name, by which it may be asked for too.
    """

    index: int
    name: str
    kind: str = "cpu"
    detail: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.index} ({', '.join(self._names())})"

    def _names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.name, self.detail.get("platform"))))


def find_device(devices: Sequence[Device], wanted: str, backend: str) -> Device:
    """Return the one device that a user means.

    Parameters
    ----------
    devices : sequence of Device
        Those there are.
    wanted : str
        What follows the colon in "name:device": digits are an index, all else is the name of a device or of its
        platform, or a part of one of these, in capitals or not.  A whole name goes before parts.
    backend : str
        Whose devices they are, for the error.

    Raises
    ------
    NoDevice
        If none fits or several do, with a list of them.
    """
    word = wanted.casefold()

    def fits(device: Device, part: bool) -> bool:
        names = map(str.casefold, device._names())
        return any(word in name for name in names) if part else word in names

    if wanted.isdecimal():
        found = [device for device in devices if device.index == int(wanted)]
    else:
        found = [one for one in devices if fits(one, part=False)] or [one for one in devices if fits(one, part=True)]
    if len(found) == 1:
        return found[0]
    by_index = sorted(found or devices, key=lambda device: device.index)
    listed = ", ".join(map(str, by_index))
    if found:
        raise NoDevice(f"backend {backend!r} has {len(found)} devices {wanted!r}, take one by its index: {listed}")
    raise NoDevice(f"backend {backend!r} has no device {wanted!r}, there are: {listed}")


@dataclass(frozen=True)
class Step:
    """Part of what a call does, and what that took.

    Attributes
    ----------
    name : str
    seconds : float
        Of all ``count`` of them.
    bytes : int
        That were copied; 0 for a computation.
    count : int
        How often it was done.
    """

    name: str
    seconds: float
    bytes: int = 0
    count: int = 1


class Plan(ABC):
    """How one problem will be computed.  Calling it is the first moment data is touched.

    A backend writes :meth:`run`; the call around it hands over arrays that are exactly what
    the problem says.  A plan may be called from several threads at once.

    Attributes
    ----------
    problem : Problem
    backend : str
        The backend's name, filled in by the core.
    algorithm : str
        The name of the algorithm, as ``algorithm=`` accepts it.
    workspace_bytes : int
        Scratch memory one call uses, in bytes.
    notes : str
        What the choice rests on, for ``explain()``; may be empty.
    """

    backend: str = ""
    algorithm: str = "direct"
    workspace_bytes: int = 0
    notes: str = ""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Compute into ``out``, all of it; raise before the first write, or not at all.

        The operands are those of ``problem.op`` (see :class:`Problem`; ``second`` is None where it
        has one only, ``bias`` is None without one), C-contiguous, aligned, in native byte order and
        of the problem's shapes and dtypes.  ``out`` is too, and overlaps none of them.
        """

    def details(self) -> str:
        """Return what ``explain()`` says besides ``notes``: what the choice was among, by which numbers.

        It is made when somebody asks; it may take several lines, and may be empty.
        """
        return ""

    def run_fresh(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Compute as :meth:`run` does, into an array that nobody has seen: an error may leave it half-written."""
        self.run(first, second, bias, out)

    def measure(self, first: Any, second: Any = None, bias: Any = None) -> tuple[Step, ...]:
        """Compute once, as a call does that needs nothing compiled any more, and say what its steps took."""
        start = time.perf_counter()
        self(first, second, bias)
        return (Step("call", time.perf_counter() - start),)

    def prepare(self, second: Any) -> Any:
        """Return what later calls can read faster than the weight ``second``; None, as here, for nothing."""
        return None

    def pack(self, weight: Any) -> Packed:
        """Make a weight ready for many calls of this plan: ``plan(x, plan.pack(weight))``.

        Raises
        ------
        TypeError, ValueError
            If the plan takes no weight, or not this one.
        """
        from convcore.operands import packed_on_host

        return packed_on_host(self, weight)

    def __call__(self, first: Any, second: Any = None, bias: Any = None, out: Any = None) -> Any:
        """Check the arrays against the problem, compute, and return the result.

        ``second`` may be what :meth:`pack` has made of a weight.

        Raises
        ------
        TypeError, ValueError
            If an array is not of the problem's type, dtype or shape, or ``out`` is unusable.
        OverflowError
            If integers are large enough that int64 might overflow.
        """
        from convcore.operands import run_on_host

        return run_on_host(self, first, second, bias, out)


class Backend(ABC):
    """An engine.  One instance serves one device for the life of the process.

    Parameters
    ----------
    device : str
        What the user wrote after the colon in "name:device"; empty for the default.
    """

    #: Filled in by the registry.
    spec: ClassVar[BackendSpec]

    def __init__(self, device: str = "") -> None:
        self.device = device

    def probe(self) -> Sequence[Device] | str:
        """List the devices, default first, or say in words why there is none.  Never raises."""
        return [Device(0, "host")]

    def supports(self, problem: Problem) -> bool | str:
        """Return True, or the reason in words why this problem is refused.  Cheap: no compilation."""
        return True

    @abstractmethod
    def plan(self, problem: Problem) -> Plan:
        """Choose algorithm, tiles and workspace for a problem that ``supports`` accepted."""

    def candidates(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """Name the sets of parameters that may be measured for a problem, what :meth:`plan` would take first.

        Parameters are plain JSON values; the names are for people.  A backend without choices has none, as here.
        What is measured, and where winners are kept, is the core's business: under ``tune="cached"`` and
        ``"measure"`` it asks :meth:`plan_with` for a problem whose winner is known, and :meth:`plan` for the rest.
        """
        return {}

    def plan_with(self, problem: Problem, parameters: Mapping[str, Any]) -> Plan:
        """Make the plan that one of :meth:`candidates` stands for.

        They may have been measured for another problem of the same :meth:`bucket`.

        Raises
        ------
        UnsupportedProblem
            If they do not fit this problem; :meth:`plan` is asked instead.
        """
        raise UnsupportedProblem(f"{self.spec.name} has no parameters to choose, got {dict(parameters)}")

    def fingerprint(self) -> str:
        """Say what measured choices depend on besides the problem: device, driver, its version, the kernels' hash."""
        return self.spec.version

    def bucket(self, problem: Problem) -> str:
        """Say which problems share a measured choice: those of about the same size, if a backend says nothing else."""
        return problem.bucket

    def may_abort(self) -> bool:
        """Whether a candidate may take its whole process with it, and so must be measured in a child."""
        return False

    def to_device(self, array: np.ndarray[Any, Any]) -> Any:
        """Copy a NumPy array to the device, as one of the spec's ``array_types``."""
        return array

    def from_device(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy a device array to a NumPy array."""
        return np.asarray(array)

    def synchronize(self) -> None:  # noqa: B027 - a host has nothing to wait for
        """Wait until everything asked of the device is done."""
