"""``convcore doctor``: what is not ready, why, where it failed, and what to do about it."""

from __future__ import annotations

import platform

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

import convcore
from convcore import config
from convcore.errors import ConfigError
from convcore.registry import BackendInfo

console = Console(highlight=False, soft_wrap=True)

STATE_STYLES = {"ready": "green", "no device": "yellow", "broken": "red"}


def doctor() -> None:
    """Say, for each backend, what to install or fix; exit with status 1 if any of them is not ready."""
    console.print(f"Python {platform.python_version()}, NumPy {np.__version__}, convcore {convcore.__version__}")
    found = convcore.backends()
    well = [_setting_is_usable(), *(_is_ready(info) for info in found)]
    raise typer.Exit(not all(well))


def _setting_is_usable() -> bool:
    try:
        setting = config.current()
    except ConfigError as error:
        console.print(f"[red]backend setting: unusable[/]\n  why: {escape(str(error))}")
        return False
    console.print(f"backend setting: {setting} (from {escape(setting.source)})")
    return True


def _is_ready(info: BackendInfo) -> bool:
    console.print(f"[{STATE_STYLES[info.state]}]{escape(info.name)}: {info.state}[/]")
    for device in info.devices:
        console.print(f"  {device.index}: {escape(device.name)}")
        if "model" in device.detail:
            console.print(f"     its model of what is fast: {escape(device.detail['model'])}")
    if info.reason:
        console.print(f"  why: {escape(info.reason)}")
        for line in info.traceback.splitlines():
            console.print(f"  | {escape(line)}")
        console.print(f"  to do: {escape(info.install_hint or _remedy(info))}")
    return info.state == "ready"


def _remedy(info: BackendInfo) -> str:
    return f"reinstall or uninstall {info.distribution or f'what provides {info.name}'}"
