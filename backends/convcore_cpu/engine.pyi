from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convcore.spi import Plan, Problem
from convcore_cpu.program import Program

@dataclass(frozen=True)
class MicroKernel:
    name: str
    dtype: str
    algorithm: str
    isa: str
    rows: int
    columns: int
    lanes: int
    multiply: float = 0.5

MICRO_KERNELS: dict[str, tuple[MicroKernel, ...]]
ISAS: tuple[str, ...]
MAX_BAND_BYTES: int
MAX_TILES_PER_TASK: int
MAX_PIXELS_PER_TASK: int
MAX_PHASES_PER_TASK: int
MAX_REST: int
MAX_REST_ROWS: int

class CPUPlan(Plan):
    def __init__(
        self,
        problem: Problem,
        program: Program,
        prepacked: Callable[[], Program | None] | None = None,
        details: Callable[[], str] | None = None,
    ) -> None: ...
    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None: ...
