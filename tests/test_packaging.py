"""What is installed with the package, and how little importing it costs."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import pytest

import convcore

ROOT = Path(__file__).parent.parent
HEAVY = ("matplotlib", "platformdirs", "pyopencl", "pytest", "rich", "scipy", "skimage", "torch", "typer")


@pytest.mark.parametrize(
    "module", ["convcore", "convcore.cli", "convcore_bench", "convcore_cpu", "convcore_numpy", "convcore_opencl"]
)
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
        ("convcore.commands", "bench"): "convcore_bench.command:bench",
        ("convcore.commands", "tune"): "convcore_bench.tune:tune",
        ("pytest11", "convcore.testing.plugin"): "convcore.testing.plugin",
    }


def test_the_version_is_written_the_same_twice():
    assert convcore.__version__ == distribution("convcore").version


def test_the_package_says_that_it_is_typed():
    assert files(convcore).joinpath("py.typed").is_file()


def test_the_wheel_has_everything_it_needs_and_no_sources_in_c(wheel):
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    suffixes = {Path(name).suffix for name in names if ".dist-info" not in name}
    assert suffixes <= {".py", ".pyi", ".typed", ".cl", ".css", ".ini", ".json", ".so"}
    sources = [path.relative_to(ROOT) for path in (ROOT / "convcore").rglob("*.py")]
    sources += [path.relative_to(ROOT / "backends") for path in (ROOT / "backends").rglob("*.py")]
    sources += [
        Path("convcore_bench", path.relative_to(ROOT / "bench")) for path in (ROOT / "bench").glob("peers/*.py")
    ]
    assert {path.as_posix() for path in sources} <= set(names)
    assert {"convcore_bench/command.py", "convcore_bench/problems/networks.json"} <= set(names)
    kernels = {path.name for path in (ROOT / "backends" / "convcore_opencl" / "kernels").glob("*.cl")}
    assert kernels == {Path(name).name for name in names if name.endswith(".cl")}


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ("version_info", "is older than Python 3.10: install a later one"),
        (
            "ensurepip",
            "cannot make environments: install its venv and ensurepip modules (Debian: apt install python3-venv)",
        ),
        ("Python.h", "install its development files (Debian: apt install python3-dev)"),
        ("sysconfig; print", "was not found: install it (Debian: apt install gcc libc6-dev)"),
    ],
)
def test_what_a_machine_lacks_is_one_sentence(tmp_path, lacking, sentence):
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh\ncase "$2" in *"{lacking}"*) exit 1;; esac\nexec {sys.executable} "$@"\n""")
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CC"}
    result = subprocess.run([ROOT / ".ci" / "prerequisites", python], capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
