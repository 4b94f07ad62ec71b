"""What the OpenCL backend can do, and why not; pyopencl is imported at the first question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from convcore.spi import Backend, Device, NoDevice, Plan, Problem, UnsupportedProblem
from convcore_opencl import plans


class OpenCLBackend(Backend):
    """One OpenCL device; ``device`` is an index or a part of a name, or empty for the default."""

    def probe(self) -> Sequence[Device] | str:
        """List every device of every platform, the one in use first, or say why there is none."""
        try:
            from convcore_opencl import device as devices
        except ImportError as error:
            return f"pyopencl cannot be imported: {error}"
        try:
            there = devices.listed()
        except NoDevice as error:
            return str(error)
        if self.device and not devices.fits(self.device):
            return there  # the core says that none of them is meant
        try:
            chosen = devices.choose(self.device)
        except NoDevice as error:
            return str(error)
        first = devices.all_devices().index(chosen)
        return sorted(there, key=lambda device: device.index != first)

    def supports(self, problem: Problem) -> bool | str:
        """Return True, or which limit of the device or of the kernels stands against the problem."""
        from convcore_opencl import device as devices

        return plans.refusal(problem, devices.traits(devices.choose(self.device), problem)) or True

    def plan(self, problem: Problem) -> Plan:
        """Choose family, tile and workspace; nothing is compiled before the plan is called."""
        return self._plan(problem, plans.recipe if problem.tune == "off" else plans.by_tables)

    def _plan(self, problem: Problem, choose: Callable[[Problem, plans.Traits], plans.Recipe]) -> Plan:
        from convcore_opencl import device as devices
        from convcore_opencl.divided import DividedPlan
        from convcore_opencl.execute import OpenCLPlan

        device = devices.choose(self.device)
        traits = devices.traits(device, problem)
        division = plans.division(problem, traits)
        if division is None:
            return OpenCLPlan(problem, choose(problem, traits), device)
        return DividedPlan(problem, division, partial(choose, device=traits), device)

    def candidates(self, problem: Problem) -> Mapping[str, Mapping[str, Any]]:
        """Name families and tiles that may do well; none for problems that are soon done by the direct kernels."""
        from convcore_opencl import device as devices

        return plans.candidates(problem, devices.traits(devices.choose(self.device), problem))

    def plan_with(self, problem: Problem, parameters: Mapping[str, Any]) -> Plan:
        """Make the plan with a family and a tile that were measured."""

        def choose(problem: Problem, device: plans.Traits) -> plans.Recipe:
            return plans.recipe(*plans.tuned(problem, device, parameters))

        try:
            return self._plan(problem, choose)
        except (TypeError, ValueError) as error:
            raise UnsupportedProblem(str(error)) from None

    def fingerprint(self) -> str:
        """Name the device, its driver's version and a hash of the kernels."""
        from convcore_opencl import device as devices

        return devices.fingerprint(devices.choose(self.device))

    def may_abort(self) -> bool:
        """Whether the compiler is one of those for processors, which end the process where they fail."""
        from convcore_opencl import device as devices

        return devices.kind(devices.choose(self.device)) == "cpu"

    def to_device(self, array: np.ndarray[Any, Any]) -> Any:
        """Copy a NumPy array to the device, as a ``pyopencl.array.Array`` in the device's own queue.

        Its memory is from a pool, as is that of results: as pyopencl's documentation of memory pools has it, keep an
        array that you use in another queue until that is finished.
        """
        import pyopencl.array as cla

        from convcore_opencl.failures import noticing_loss

        runtime = self._runtime()
        with noticing_loss("to_device", runtime.queue):
            return cla.to_device(runtime.queue, np.ascontiguousarray(array), allocator=runtime.pool)

    def from_device(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy a ``pyopencl.array.Array`` to a NumPy array, when all that writes it is done."""
        from convcore_opencl.failures import noticing_loss

        queue = array.queue or self._runtime().queue
        with noticing_loss("from_device", queue):
            return np.asarray(array.get(queue=queue))

    def synchronize(self) -> None:
        """Wait until the device's own queue is empty."""
        from convcore_opencl.failures import noticing_loss

        queue = self._runtime().queue
        with noticing_loss("synchronize", queue):
            queue.finish()

    def _runtime(self) -> Any:
        from convcore_opencl import device as devices

        return devices.runtime(devices.choose(self.device))
