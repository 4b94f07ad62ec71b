"""What the OpenCL backend can do, and why not; pyopencl is imported at the first question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convcore.spi import Backend, Device, NoDevice, Plan, Problem
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
            chosen = devices.choose(self.device)
        except NoDevice as error:
            return str(error)
        found = [(index, found) for index, found in enumerate(devices.all_devices())]
        return [describe(index, device) for index, device in sorted(found, key=lambda item: item[1] != chosen)]

    def supports(self, problem: Problem) -> bool | str:
        return True

    def plan(self, problem: Problem) -> Plan:
        """Choose family, tile and workspace; nothing is compiled before the plan is called."""
        from convcore_opencl import device as devices
        from convcore_opencl.execute import OpenCLPlan

        return OpenCLPlan(problem, plans.recipe(problem), devices.choose(self.device))


def describe(index: int, device: Any) -> Device:
    """Put a pyopencl device into the core's words."""
    from convcore_opencl.device import kind

    detail = {
        "platform": device.platform.name.strip(),
        "driver": device.driver_version,
        "compute_units": device.max_compute_units,
        "memory_bytes": device.global_mem_size,
    }
    return Device(index, device.name.strip(), kind(device), detail)
