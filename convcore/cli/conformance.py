"""The command ``convcore test``: the conformance kit on one backend, in a pytest of its own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from convcore import config, select
from convcore.registry import registry

# The folder one works in comes last, and after convcore: what lies in it must not stand in for installed packages.
_START = """
import os, sys
sys.path.remove("")
import convcore, pytest
sys.path.append(os.getcwd())
sys.exit(pytest.main(sys.argv[1:]))
"""


class Profile(str, Enum):
    """How much of everything is tried."""

    quick = "quick"
    full = "full"


def run_kit(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help='The backend to test: "mine", "mine:1", or "package:object".')
    ],
    profile: Annotated[Profile, typer.Option(help="How much of everything is tried.")] = Profile.full,
    report: Annotated[Path | None, typer.Option(metavar="OUT.json", help="Write the verdict as JSON.")] = None,
    expected: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Tests that are expected to fail, each with its reason.")
    ] = None,
) -> None:
    """Run the conformance kit on one backend; what follows NAME is handed to pytest.

    The exit status is 0 when it passes, 1 when it does not, 2 when the kit could not be run.
    """
    for module in ("pytest", "hypothesis"):
        importlib.import_module(module)
    from convcore.testing.engine import resolve

    sys.path.append(os.getcwd())  # "package:object" may lie in the folder one works in
    for candidate in select.candidate_names(config.parse(resolve(name), "convcore test")):
        registry().devices(candidate)
    options = ["--convcore-backend", name, "--convcore-profile", profile.value, "--convcore-table"]
    options += ["--convcore-report", str(report.absolute())] if report else []
    options += ["--convcore-expected", str(expected.absolute())] if expected else []
    raise typer.Exit(_pytest([*options, *context.args]))


def _pytest(options: list[str]) -> int:
    """Run the kit's tests by the kit's own settings, whatever configuration of pytest lies in this folder."""
    folder = Path(importlib.import_module("convcore.testing").__file__ or "").parent
    kit = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    plugin = ["-p", "convcore.testing.plugin", "--pyargs", "convcore.testing"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    status = subprocess.run([sys.executable, "-c", _START, *kit, *plugin, *options], env=environment).returncode
    return status if status in (0, 2) else 1
