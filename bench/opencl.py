"""Time the OpenCL engine on one device, beside the CPU engine and PyTorch CUDA, and write what was measured as JSON.

    python bench/opencl.py [--device NAME] [--quick] [--only TEXT] [--batch 1,16] [--json FILE]

Ratio = time of the peer / time of the OpenCL engine: above 1, OpenCL is faster.  OpenCL's arrays, and CUDA's, are on
the device before the clock starts and stay there, and every call ends when its queue is empty; the CPU engine takes and
gives NumPy arrays.  Rounds are interleaved; times are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from convcore_bench.case import DIRECTIONS, Case
from convcore_bench.cpu import chosen
from convcore_bench.peers.pytorch import TorchPeer
from convcore_bench.problem_set import Layer
from convcore_bench.results import FOLDER
from convcore_bench.rounds import interleave, medians

import convcore
from convcore.registry import registry
from convcore.spi import Backend, Device

#: The geometric mean of the ratio asked for, by peer.
WANTED = {"cpu": 0.5, "torch CUDA": 0.8}


def main() -> None:
    """Measure, print the tables and write the records."""
    options = parse()
    backend = registry().backend(f"opencl:{options.device}" if options.device else "opencl")
    devices = backend.probe()
    if isinstance(devices, str):
        raise SystemExit(f"no OpenCL device: {devices}")
    records = list(measure(backend, options))
    device = devices[0]
    print_table(records, device)
    path = Path(options.json) if options.json else FOLDER / f"{slug(device)}.json"
    path.parent.mkdir(exist_ok=True)
    about = {"device": device.name, "kind": device.kind, **device.detail, "convcore": convcore.__version__}
    path.write_text(json.dumps({"device": about, "records": records}, indent=1) + "\n")
    print(f"Measured: {device.name} by {device.detail['platform']}, and no other device; written to {path}")


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="", help="index or part of a name, as after 'opencl:'")
    parser.add_argument("--quick", action="store_true", help="a few layers, batch 1")
    parser.add_argument("--json", help="write the records to this file instead of bench/results/<device>.json")
    parser.add_argument("--only", default="", help="layers whose id holds this text")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--direction", default=",".join(DIRECTIONS))
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of rounds for a layer and direction")
    options = parser.parse_args()
    if options.quick:
        options.batch = "1"
    return options


def slug(device: Device) -> str:
    """Return a file name for a device and its driver."""
    return re.sub(r"[^a-z0-9]+", "-", f"{device.detail['platform']} {device.name}".lower()).strip("-")


def measure(backend: Backend, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a record for every layer, batch and direction."""
    for batch in map(int, options.batch.split(",")):
        for layer in chosen(options):
            for direction in options.direction.split(","):
                yield compare(backend, layer, batch, direction, options)


def compare(backend: Backend, layer: Layer, batch: int, direction: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time one direction of one layer on the device and on its peers."""
    case = Case(layer, batch, direction, threads=os.cpu_count() or 1)
    first, second, *shape = case.arguments(*case.operands)
    on_device = backend.to_device(first), backend.to_device(second)
    name = f"opencl:{options.device}" if options.device else "opencl"
    plan = convcore.plan(direction, *on_device, *shape, backend=name, **layer.geometry)
    host = convcore.plan(direction, first, second, *shape, backend="cpu", **layer.geometry)

    def run() -> None:
        plan(*on_device)
        backend.synchronize()

    candidates = {"opencl": run, "cpu": partial(host, first, second)}
    cuda = TorchPeer("nchw", "cuda")
    if not cuda.missing():
        candidates["torch CUDA"] = cuda.prepare(case).run
    median = medians(interleave(candidates, budget=options.budget))
    return {
        "layer": layer.id,
        "batch": batch,
        "direction": direction,
        "algorithm": plan.algorithm,
        "gflops": plan.problem.flops / median["opencl"] * 1e-9,
        "milliseconds": {name: 1e3 * value for name, value in median.items()},
        "ratios": {name: value / median["opencl"] for name, value in median.items() if name != "opencl"},
    }


def print_table(records: list[dict[str, Any]], device: Device) -> None:
    """Print the layers below what is asked for, then the geometric means."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    slow = Table(title=f"below what is asked for: {device.name}")
    for column in ("layer", "batch", "direction", "algorithm", "opencl ms", "GFLOP/s", "peer", "ratio"):
        slow.add_column(column)
    for record in records:
        for peer, ratio in record["ratios"].items():
            if ratio < WANTED[peer]:
                numbers = f"{record['milliseconds']['opencl']:.3f}", f"{record['gflops']:.1f}", peer, f"{ratio:.2f}"
                words = record["layer"], str(record["batch"]), record["direction"], record["algorithm"]
                slow.add_row(*words, *numbers)
    means = Table(title="geometric mean of peer / opencl")
    for column in ("peer", "wanted", "batch", *DIRECTIONS):
        means.add_column(column)
    for peer in records[0]["ratios"]:
        for batch in sorted({record["batch"] for record in records}):
            cells = []
            for direction in DIRECTIONS:
                group = (r for r in records if (r["batch"], r["direction"]) == (batch, direction))
                ratios = [record["ratios"][peer] for record in group]
                cells.append(f"{statistics.geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "-")
            means.add_row(peer, str(WANTED[peer]), str(batch), *cells)
    console.print(slow)
    console.print(means)


if __name__ == "__main__":
    main()
