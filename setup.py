"""The extensions, and the folders that are installed under a name of their own; the rest stands in pyproject.toml."""

import os
from glob import glob

from Cython.Build import cythonize
from pybind11.setup_helpers import ParallelCompile
from setuptools import Extension, find_packages, setup

CPU = "backends/convcore_cpu"
# Whoever gives a level of optimisation in CFLAGS means it.
OPTIMISE = [] if "-O" in os.environ.get("CFLAGS", "") else ["-O3"]
# The files of an extension at once, on all cores: the micro-kernels of an instruction set take a minute.
ParallelCompile().install()

setup(
    packages=[
        *find_packages(include=["convcore*"]),
        *find_packages("backends"),
        "convcore_bench",
        "convcore_bench.peers",
    ],
    package_dir={
        **{name: "backends/" + name.replace(".", "/") for name in find_packages("backends")},
        "convcore_bench": "bench",
    },
    ext_modules=cythonize(
        [
            Extension(
                "convcore_cpu.engine",
                [f"{CPU}/engine.pyx", f"{CPU}/memory.c", f"{CPU}/team.c", *sorted(glob(f"{CPU}/kernels/*.c"))],
                include_dirs=[CPU],
                depends=glob(f"{CPU}/**/*.h", recursive=True),
                extra_compile_args=[*OPTIMISE, "-fopenmp"],
                extra_link_args=["-fopenmp"],
            ),
            Extension("convcore_bench.peaks", ["bench/peaks.pyx"], extra_compile_args=OPTIMISE),
        ],
        include_path=["backends"],
    ),
)
