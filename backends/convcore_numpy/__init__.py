"""The NumPy backend of convcore: short, readable, and always there."""

from __future__ import annotations

import numpy as np

from convcore.spi import OPS, POOL_OPS, BackendSpec, hookimpl

_DTYPES = ("f2", "f4", "f8", "g", "c8", "c16", "i1", "i2", "i4", "i8", "u1", "u2", "u4")


@hookimpl
def convcore_backends() -> list[BackendSpec]:
    """List the one backend of this package."""
    return [
        BackendSpec(
            name="numpy",
            factory="convcore_numpy.backend:NumPyBackend",
            version=np.__version__,
            summary="plain NumPy: every dtype and boundary, one matrix product per kernel tap",
            ops=(*OPS, *POOL_OPS),
            dtypes=tuple(np.dtype(code).name for code in _DTYPES),
            layouts=("NCHW", "NHWC"),
            boundaries=("constant", "reflect", "edge", "wrap", "symmetric"),
        )
    ]
