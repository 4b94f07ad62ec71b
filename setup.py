"""The extensions; everything else, the package directories too, stands in pyproject.toml."""

from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

CPU = "backends/convcore_cpu"

setup(
    ext_modules=cythonize(
        Extension(
            "convcore_cpu.engine",
            [f"{CPU}/engine.pyx", f"{CPU}/team.c", *sorted(glob(f"{CPU}/kernels/*.c"))],
            include_dirs=[CPU],
            depends=glob(f"{CPU}/**/*.h", recursive=True),
            extra_compile_args=["-O3", "-fopenmp"],
            extra_link_args=["-fopenmp"],
        ),
        include_path=["backends"],
    ),
)
