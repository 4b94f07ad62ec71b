# ruff: noqa: N818 - the names say what is wrong; they are part of the interface
"""The exceptions of convcore; wrong arguments are plain ``TypeError`` and ``ValueError``."""

from __future__ import annotations


class ConvcoreError(Exception):
    """Base of every error that is convcore's own."""


class UnknownBackend(ConvcoreError, LookupError):
    """No installed plugin provides a backend of that name."""


class BrokenBackend(ConvcoreError, ImportError):
    """A plugin is installed but cannot be used; ``__cause__`` keeps the original exception.

    Attributes
    ----------
    distribution : str
        What pip calls the plugin, where that is known.
    """

    distribution = ""


class NoDevice(ConvcoreError, RuntimeError):
    """The backend is installed, but this machine gives it no device to run on."""


class UnsupportedProblem(ConvcoreError, NotImplementedError):
    """Every candidate backend refused the problem, each with its own reason."""


class ConfigError(ConvcoreError, ValueError):
    """A configuration file or environment variable cannot be understood."""


class KernelBuildError(ConvcoreError, RuntimeError):
    """A device compiler rejected a kernel.

    Attributes
    ----------
    device, options, log : str
        Where it was built, with what, and what the compiler said.
    """

    def __init__(self, message: str, *, device: str, options: str, log: str) -> None:
        super().__init__(message)
        self.device = device
        self.options = options
        self.log = log


class OutOfDeviceMemory(ConvcoreError, MemoryError):
    """A device has no room for what a call needs.

    Attributes
    ----------
    device : str
        Its name.
    needed : int
        Bytes of arrays and workspace of the call.
    memory, largest_buffer : int
        Bytes that the device has in all, and in one buffer at most; others may be using them.
    """

    def __init__(self, message: str, *, device: str, needed: int, memory: int, largest_buffer: int) -> None:
        super().__init__(message)
        self.device = device
        self.needed = needed
        self.memory = memory
        self.largest_buffer = largest_buffer


class DeviceLost(ConvcoreError, RuntimeError):
    """A device went away during a call, and all arrays on it with it; the next call looks for it anew.

    Attributes
    ----------
    device : str
        Its name.
    """

    def __init__(self, message: str, *, device: str) -> None:
        super().__init__(message)
        self.device = device
