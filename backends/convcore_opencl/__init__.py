"""The OpenCL backend of convcore: any device of any vendor, through PyOpenCL.

    backend.py   what it can do, and why not        plans/      which kernels, tiles and -D options: no data
    execute.py   runs a plan's launches on arrays   device.py   devices, contexts, queues, life after fork
    program.py   builds and caches kernels          probe.py    what drivers do not say, tried in a child process
    binaries.py  keeps what was built on disk       tuning/     choices by device, as shipped
    arrays.py    PyOpenCL arrays in and out         kernels/    the OpenCL C
    host.py      NumPy arrays in and out            divided.py  NumPy arrays piece by piece
    failures.py  what a driver's errors mean

Nothing here imports pyopencl until a device is asked for.
"""

from __future__ import annotations

from convcore.spi import HOST_ARRAY, BackendSpec, hookimpl

_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@hookimpl
def convcore_backends() -> list[BackendSpec]:
    """List the one backend of this package."""
    return [
        BackendSpec(
            name="opencl",
            factory="convcore_opencl.backend:OpenCLBackend",
            version="1",
            summary="OpenCL on any vendor's device: GPUs, and CPUs through PoCL or Intel's runtime",
            install_hint="pip install 'pyopencl[pocl]' brings a CPU driver; a GPU needs its vendor's",
            dtypes=_DTYPES,
            layouts=("NCHW", "NHWC"),
            boundaries=("constant", "reflect", "edge", "wrap", "symmetric"),
            device_kinds=("gpu", "accelerator", "cpu"),
            array_types=(HOST_ARRAY, "pyopencl.array.Array"),
            exceptions={
                "dtype=float64": "a device without cl_khr_fp64 does not compute in float64",
                "conduct=fork": "the threads of PoCL do not survive a fork",
            },
        )
    ]
