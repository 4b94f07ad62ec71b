"""Devices, and the context and queue that serve each of them in this process.

A forked child gets contexts of its own.  PoCL cannot give it any: its worker threads stay
behind in the parent, and whatever a child asks of it waits for ever.  So a child whose parent
had started PoCL is told so instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyopencl as cl
from pyopencl.tools import ImmediateAllocator, MemoryPool

from convcore.spi import Device, NoDevice, Problem, find_device
from convcore_opencl import probe, program
from convcore_opencl.plans import Traits, tables

DEVICE_VARIABLE = "CONVCORE_OPENCL_DEVICE"
#: Which PoCL reads when it is asked for its devices first.
AFFINITY_VARIABLE = "POCL_AFFINITY"
_POCL = "Portable Computing Language"
_KINDS = {cl.device_type.GPU: "gpu", cl.device_type.ACCELERATOR: "accelerator", cl.device_type.CPU: "cpu"}
_PREFERENCE = tuple(_KINDS.values())


@dataclass(frozen=True)
class Runtime:
    """What it takes to run something on one device: made once per process, shared by its threads.

    ``pool`` keeps memory that was given back, because fresh pages cost more than many a layer.  What is given back may
    be used again before commands that use it are over, which is right in the one queue, where commands are in order.
    """

    device: cl.Device
    context: cl.Context
    queue: cl.CommandQueue
    pool: MemoryPool
    unified: bool

    @cached_property
    def alignment(self) -> int:
        """Bytes at a multiple of which the device uses the host's memory where it is, and does not copy it first.

        PoCL uses it anywhere, other CPU drivers at what they call the alignment of addresses, GPUs a page.
        """
        if self.device.platform.name == _POCL:
            return 1
        return self.device.mem_base_addr_align // 8 if kind(self.device) == "cpu" else 4096

    def shares(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether the device can read and write an array where it lies."""
        return self.unified and array.__array_interface__["data"][0] % self.alignment == 0

    @cached_property
    def up(self) -> cl.CommandQueue:
        """A queue for copies to the device, beside what is computed."""
        return cl.CommandQueue(self.context, properties=self.queue.properties)

    @cached_property
    def down(self) -> cl.CommandQueue:
        """A queue for copies from the device."""
        return cl.CommandQueue(self.context, properties=self.queue.properties)

    @cached_property
    def pinned(self) -> Pinned:
        """Host memory for these copies."""
        return Pinned(self.queue)

    @property
    def queues(self) -> tuple[cl.CommandQueue, ...]:
        """All that something may be under way in."""
        return (self.queue,) if self.unified else (self.queue, self.up, self.down)


class Pinned:
    """Host memory that the driver keeps in place, so that copies need no other on their way; kept for the next call."""

    #: Blocks that are kept.
    MOST = 8

    def __init__(self, queue: cl.CommandQueue) -> None:
        self._queue = queue
        self._free: list[tuple[cl.Buffer, np.ndarray[Any, Any]]] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, size: int) -> Iterator[np.ndarray[Any, Any]]:
        """Lend at least ``size`` bytes, until all that uses them is over."""
        with self._lock:
            fitting = [block for block in self._free if size <= block[0].size <= 2 * size]
            block = min(fitting, key=lambda block: block[0].size, default=None)
            if block is not None:
                self._free = [other for other in self._free if other is not block]
        block = block or self._made(size)
        yield block[1]
        with self._lock:  # not after an error, with which the device may be lost
            self._free = [*self._free, block][-self.MOST :]

    def _made(self, size: int) -> tuple[cl.Buffer, np.ndarray[Any, Any]]:
        buffer = cl.Buffer(self._queue.context, cl.mem_flags.READ_WRITE | cl.mem_flags.ALLOC_HOST_PTR, size)
        how = cl.map_flags.READ | cl.map_flags.WRITE
        array, _ = cl.enqueue_map_buffer(self._queue, buffer, how, 0, (size,), np.uint8)
        return buffer, array


@dataclass
class _Process:
    """What this process knows of OpenCL; a forked child starts a new one."""

    pocl_left_behind: bool = False  # it was started by a parent of this process
    devices: list[cl.Device] | None = None
    runtimes: dict[cl.Device, Runtime] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


_process = _Process()


def _start_anew() -> None:
    global _process
    started = _process.pocl_left_behind or any(d.platform.name == _POCL for d in _process.devices or ())
    _process = _Process(pocl_left_behind=started)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


@lru_cache
def kind(device: cl.Device) -> str:
    """Return "gpu", "accelerator" or "cpu"."""
    return next((name for flag, name in _KINDS.items() if device.type & flag), "accelerator")


def traits(device: cl.Device, problem: Problem) -> Traits:
    """Return what choosing needs to know of a device for a problem; probes only for what matters to it.

    What the shipped tables say of the device is in it, unless the problem's ``tune`` is "off".
    """
    return _traits(device, problem.result_dtype == np.float16, problem.accuracy == "fast", problem.tune != "off")


@lru_cache
def _traits(device: cl.Device, half: bool, fast: bool, tabled: bool) -> Traits:
    found = described(device)
    if device.native_vector_width_float >= 16 and _works(device, "wide registers"):
        found = replace(found, vector_bytes=64)
    if half:
        found = replace(found, float16=_works(device, "float16"))
    if fast and "nvidia" in device.vendor.lower() and _works(device, "tensor cores"):
        found = replace(found, tensor_cores="nvidia")
    return replace(found, **tables.lookup(found).traits) if tabled else found


@lru_cache
def _works(device: cl.Device, word: str) -> bool:
    return probe.works(device, all_devices().index(device), word)


@lru_cache
def described(device: cl.Device) -> Traits:
    """Return what a device says of itself."""
    return Traits(
        device.name.strip(),
        kind(device),
        "cl_khr_fp64" in device.extensions.split(),
        device.global_mem_size,
        device.max_mem_alloc_size,
        device.max_compute_units,
        local_memory=device.local_mem_size,
        largest_group=device.max_work_group_size,
        vendor=device.vendor.strip(),
        platform=device.platform.name.strip(),
        unified=bool(device.host_unified_memory),
    )


@lru_cache
def fingerprint(device: cl.Device) -> str:
    """Return what tells a device, its driver and our kernels from others."""
    driver = device.platform.version.strip(), device.driver_version.strip()
    return " / ".join((device.name.strip(), *driver, f"kernels {program.sources()}"))


def listed() -> list[Device]:
    """Return all devices in the core's words."""
    return [_described(index, device) for index, device in enumerate(all_devices())]


@lru_cache
def _described(index: int, device: cl.Device) -> Device:
    detail = {
        "platform": device.platform.name.strip(),
        "driver": device.driver_version,
        "compute_units": device.max_compute_units,
        "memory_bytes": device.global_mem_size,
    }
    return Device(index, device.name.strip(), kind(device), detail)


def all_devices() -> list[cl.Device]:
    """List every device of every platform, in the drivers' order; what follows "opencl:" counts along it.

    Raises
    ------
    NoDevice
        If there is none.
    """
    process = _process
    with process.lock:
        if process.devices is None:
            process.devices = _enumerate()
        return process.devices


def _enumerate() -> list[cl.Device]:
    _keep_threads_apart()
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        raise NoDevice(f"no OpenCL driver is installed ({error})") from error
    devices = [device for platform in platforms for device in _devices_of(platform)]
    if not devices:
        names = ", ".join(platform.name for platform in platforms) or "none"
        raise NoDevice(f"no OpenCL driver offers a device (drivers: {names})")
    return devices


def _keep_threads_apart() -> None:
    """Have PoCL keep each of its threads on a core of its own, unless the user says otherwise.

    Linux often wakes two of them on one core, where short kernels are over before one is moved, after twice the time.
    PoCL counts cores from 0, so this is for processes that may use all of them.
    """
    may_use = getattr(os, "sched_getaffinity", lambda _: set())(0)
    if may_use == set(range(os.cpu_count() or 1)):
        os.environ.setdefault(AFFINITY_VARIABLE, "1")


def _devices_of(platform: cl.Platform) -> list[cl.Device]:
    try:
        return list(platform.get_devices())
    except cl.Error:  # a driver without its hardware says DEVICE_NOT_FOUND
        return []


def choose(wanted: str = "") -> cl.Device:
    """Return the device a user means.

    Parameters
    ----------
    wanted : str
        An index into :func:`all_devices`, or a part of the name of a device or of its
        platform; if empty, the variable ``CONVCORE_OPENCL_DEVICE`` says it, then
        ``PYOPENCL_CTX`` in PyOpenCL's own way, then a GPU comes before an accelerator,
        and that before a CPU.

    Raises
    ------
    NoDevice
        If no device fits or several do, naming them, or if the one that does was lost in a fork.
    """
    device = _wanted(wanted, all_devices())
    _check_alive(device)
    return device


def _check_alive(device: cl.Device) -> None:
    if _process.pocl_left_behind and device.platform.name == _POCL:
        raise NoDevice(
            "PoCL was in use when this process was forked, and its threads do not survive that; "
            "start worker processes with the 'spawn' method, or use OpenCL in them only"
        )


def _wanted(wanted: str, devices: list[cl.Device]) -> cl.Device:
    if wanted:
        return devices[find_device(listed(), wanted, "opencl").index]
    if os.environ.get(DEVICE_VARIABLE):
        try:
            return devices[find_device(listed(), os.environ[DEVICE_VARIABLE], "opencl").index]
        except NoDevice as error:
            raise NoDevice(f"{DEVICE_VARIABLE}: {error}") from None
    if os.environ.get("PYOPENCL_CTX"):
        return _by_pyopencl()
    return min(devices, key=lambda device: _PREFERENCE.index(kind(device)))


def fits(wanted: str) -> bool:
    """Whether there is one device that a user may mean by an index or name."""
    try:
        find_device(listed(), wanted, "opencl")
    except NoDevice:
        return False
    return True


def _by_pyopencl() -> cl.Device:
    try:
        return cl.choose_devices(interactive=False)[0]
    except Exception as error:
        raise NoDevice(f"PYOPENCL_CTX={os.environ['PYOPENCL_CTX']!r} names no device: {error}") from error


def runtime(device: cl.Device) -> Runtime:
    """Return this process's context and queue for a device, making them the first time.

    Raises
    ------
    NoDevice
        If the device was lost in a fork.
    """
    _check_alive(device)
    process = _process
    with process.lock:
        if device not in process.runtimes:
            context = cl.Context([device])
            process.runtimes[device] = _runtime(device, cl.CommandQueue(context))
        return process.runtimes[device]


def measuring(device: cl.Device) -> Runtime:
    """Return a runtime in the same context whose queues note when commands begin and end."""
    context = runtime(device).context
    return _runtime(device, cl.CommandQueue(context, properties=cl.command_queue_properties.PROFILING_ENABLE))


def _runtime(device: cl.Device, queue: cl.CommandQueue) -> Runtime:
    pool = MemoryPool(ImmediateAllocator(queue))
    return Runtime(device, queue.context, queue, pool, described(device).unified)


def forget(context: cl.Context) -> None:
    """Forget a runtime whose device was lost; the next question makes another."""
    process = _process
    with process.lock:
        process.runtimes = {device: each for device, each in process.runtimes.items() if each.context != context}


def runtime_of(queue: cl.CommandQueue) -> Runtime | None:
    """Return the runtime whose own queue this is, None for a queue of somebody else."""
    runtime = _process.runtimes.get(queue.device)
    return runtime if runtime is not None and runtime.queue == queue else None
