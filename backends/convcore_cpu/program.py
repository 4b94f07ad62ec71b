"""What the planner hands to the engine: a program of steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Numbers of the buffers, as in kernels/steps.h.
FIRST, SECOND, BIAS, OUT, WORKSPACE = range(5)


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


Stages = tuple[tuple[Step, ...], ...]


@dataclass(frozen=True)
class Program:
    """What ``engine.Engine`` runs: ``before`` once, ``each`` for every batch of images, ``after`` once.

    ``exact`` follows ``each`` when a NaN was seen.  The steps of a stage are independent of each other.  ``threads``
    is an upper limit, None if there is none.
    """

    algorithm: str
    kernel: str
    threads: int | None
    images_per_batch: int
    image_bytes: tuple[int, int, int]
    workspace_bytes: int
    before: Stages = ()
    each: Stages = ()
    after: Stages = ()
    exact: Stages = ()

    @property
    def notes(self) -> str:
        """For ``explain()``."""
        threads = "all threads" if self.threads is None else f"at most {self.threads} thread(s)"
        return f"{self.kernel or 'no micro-kernel'}, {threads}, {self.images_per_batch} image(s) at a time"
