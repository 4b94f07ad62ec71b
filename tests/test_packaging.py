"""What is installed with the package, and how little importing it costs."""

import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import pytest

import convcore

HEAVY = ("matplotlib", "platformdirs", "pyopencl", "pytest", "rich", "scipy", "skimage", "torch", "typer")


@pytest.mark.parametrize("module", ["convcore", "convcore.cli", "convcore_cpu", "convcore_numpy", "convcore_opencl"])
def test_importing_is_light(module):
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_entry_points():
    ours = {(point.group, point.name): point.value for point in distribution("convcore").entry_points}
    assert ours == {
        ("console_scripts", "convcore"): "convcore.cli:main",
        ("convcore", "cpu"): "convcore_cpu",
        ("convcore", "numpy"): "convcore_numpy",
        ("convcore", "opencl"): "convcore_opencl",
        ("pytest11", "convcore.testing.plugin"): "convcore.testing.plugin",
    }


def test_the_version_is_written_the_same_twice():
    assert convcore.__version__ == distribution("convcore").version


def test_the_package_says_that_it_is_typed():
    assert files(convcore).joinpath("py.typed").is_file()


def test_an_sdist_builds_a_wheel_with_everything_it_needs_and_no_sources_in_c(tmp_path):
    root = Path(__file__).parent.parent
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, root]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    suffixes = {Path(name).suffix for name in names if ".dist-info" not in name}
    assert suffixes <= {".py", ".pyi", ".typed", ".cl", ".json", ".so"}
    sources = [path.relative_to(root) for path in (root / "convcore").rglob("*.py")]
    sources += [path.relative_to(root / "backends") for path in (root / "backends").rglob("*.py")]
    assert {path.as_posix() for path in sources} <= set(names)
    kernels = {path.name for path in (root / "backends" / "convcore_opencl" / "kernels").glob("*.cl")}
    assert kernels == {Path(name).name for name in names if name.endswith(".cl")}
