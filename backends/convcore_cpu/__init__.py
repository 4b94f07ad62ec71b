"""The CPU engine: SIMD micro-kernels in C, OpenMP threads, chosen at run time for the processor it runs on.

How a problem becomes work::

    backend.py       CPUBackend.plan(problem); fourier.py where transforms of tiles are cheaper than a program;
                     machine.py: which processor this is; calibration.py: its rates, for the model
    plans.py           chooses the algorithm -> Program: steps, their sizes and offset tables
    direction.py         what tells forward from grad_input, for the algorithms of both:
    correlate.py           by outer products, panels.py by panels, channels.py with lanes of channels
    grad_weight.py       of grad_weight
    winograd.py          of 3x3 kernels; winograd_grad_weight.py of their grad_weight
    sliding.py, dots.py  of all three where groups have few channels; strips.py where they have one
    pool.py              of the maximum over windows and its gradient
    layout.py              where operands lie, what is packed, the workspace
    geometry.py            the offset of every tap; tiles.py the micro-kernel that takes the fewest cycles
    engine.pyx         binds the program to C structures; owns memory and the way to and from Python
    team.c               threads, who share the tasks of a stage
    kernels/             tasks of the steps (pack.h, correlate.h, accumulate.h, ...) call
                         micro-kernels (panel.h, outer.h, ...), one row of table.h each, compiled for each ISA
"""

from __future__ import annotations

from convcore.spi import OPS, POOL_OPS, BackendSpec, hookimpl


@hookimpl
def convcore_backends() -> list[BackendSpec]:
    """List the one backend of this package, without importing it."""
    return [
        BackendSpec(
            name="cpu",
            factory="convcore_cpu.backend:CPUBackend",
            version="0.1.0",
            summary="SIMD micro-kernels on all cores (SSE2, AVX2, AVX-512, NEON)",
            install_hint="reinstall convcore where a C compiler with OpenMP is at hand",
            ops=(*OPS, *POOL_OPS),
            dtypes=(
                "float32",
                "float64",
                "complex64",
                "complex128",
                *(f"int{bits}" for bits in (8, 16, 32, 64)),
                *(f"uint{bits}" for bits in (8, 16, 32)),
            ),
            layouts=("NCHW", "NHWC"),
            boundaries=("constant", "reflect", "edge", "wrap", "symmetric"),
        )
    ]
