"""What the planner hands to the engine: a program of steps."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

# Numbers of the buffers, as in kernels/steps.h.
FIRST, SECOND, BIAS, OUT, WORKSPACE = range(5)


@dataclass(frozen=True)
class Rates:
    """What one core does in a second: the model's cycles, and bytes moved besides; see ``calibration.py``.

    ``transforms`` is how many times as fast Fourier transforms are as ``fourier.py`` says.
    """

    cycles: float
    bytes: float
    transforms: float = 1.0
    source: str = "built in"

    def __str__(self) -> str:
        return f"{self.cycles:.3g} cycles/s and {self.bytes:.3g} bytes/s, {self.source}"


#: Those of the machine that the constants of the model were fitted on.
BUILT_IN = Rates(3.4e9, 16e9)


class UnsupportedError(Exception):
    """Why no program can be made of a problem, in words."""


@dataclass(frozen=True)
class Step:
    """Tasks that may run in any order: the Python side of a structure of ``kernels/steps.h``."""

    task: str
    tasks: int
    sizes: dict[str, int]
    per_image: bool = True
    kernel: str = ""
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    transform: str = ""
    parts: tuple[Step, ...] = ()
    band: dict[str, int] = field(default_factory=dict)
    fill: str = ""
    turn: str = ""
    second: str = ""  # transform, of the other axis


Stages = tuple[tuple[Step, ...], ...]


@dataclass(frozen=True)
class Cost:
    """What a program asks of the machine: cycles of arithmetic on one core, and bytes moved besides."""

    cycles: float
    bytes: float
    rates: Rates = BUILT_IN

    @property
    def seconds(self) -> float:
        """On one core; only good for comparing programs of one problem."""
        return self.cycles / self.rates.cycles + self.bytes / self.rates.bytes


@dataclass(frozen=True)
class Program:
    """What ``engine.Engine`` runs: ``before`` once, ``each`` for every batch of images, ``after`` once.

    When a NaN was seen, ``exact`` follows ``each``, or without one ``instead`` follows all.  The steps of a stage are
    independent of each other.  ``threads`` is an upper limit, None if there is none; with ``scratch_bytes``, what each
    thread needs besides the workspace, there is one.  ``packing`` makes of the weight, once for
    many calls, what the other stages read as SECOND; ``instead`` reads the weight itself.  ``on_stack``: it was
    laid out for want of workspace.
    """

    algorithm: str
    kernel: str
    threads: int | None
    images_per_batch: int
    image_bytes: tuple[int, int, int]
    workspace_bytes: int
    cost: Cost
    scratch_bytes: int = 0
    before: Stages = ()
    each: Stages = ()
    after: Stages = ()
    exact: Stages = ()
    instead: Program | None = None
    packing: Stages = ()
    packed_bytes: int = 0
    on_stack: bool = False

    @property
    def memory_bytes(self) -> int:
        """The workspace of all threads."""
        return self.workspace_bytes + self.scratch_bytes * (self.threads or 0)

    @property
    def notes(self) -> str:
        """For ``explain()``."""
        threads = "all threads" if self.threads is None else f"at most {self.threads} thread(s)"
        cost = self.cost
        work = f"{cost.cycles:.3g} cycles and {cost.bytes:.3g} bytes, {cost.seconds * 1e3:.3g} ms on one core"
        where = ", in pieces that fit on the stack" if self.on_stack else ""
        images = f"{self.images_per_batch} image(s) at a time{where}"
        return f"{self.kernel or 'no micro-kernel'}, {threads}, {images}; {work}"


#: How a program is laid out: what it costs at least comes first, and only if that may be the cheapest, the program.
Draft = Generator[Cost, None, Program]


def finished(draft: Draft) -> Program:
    """Return the program of a draft."""
    while True:
        try:
            next(draft)
        except StopIteration as end:
            program: Program = end.value
            return program
