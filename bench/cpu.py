"""Compare the CPU engine with PyTorch (oneDNN) on this machine, and write what was measured as JSON.

    python bench/cpu.py [--quick] [--json FILE] [--only TEXT] [--batch 1,16] [--allocator default,pooled]

Ratio = time of the better PyTorch layout / time of convcore: above 1, convcore is faster.  Inputs and results of
convcore are NumPy arrays in NCHW, and everything it does for a call is inside its time.  PyTorch is given its
channels_last tensors ready made.  Rounds are interleaved; times are medians.

glibc returns large blocks to the system and takes page faults to get them back, which decides some rows, for
both sides: "pooled" tells it to keep them.  Each mode is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from convcore_bench import sections
from convcore_bench.case import DIRECTIONS, Case
from convcore_bench.driver import ALLOCATORS
from convcore_bench.machine import peaks
from convcore_bench.problem_set import Layer, load
from convcore_bench.results import FOLDER

import convcore

QUICK = (
    "resnet50/conv1",
    "resnet50/layer1.0.conv2",
    "resnet50/layer2.0.conv2",
    "resnet50/layer4.0.conv1",
    "vgg16/features.24",
    "mobilenet_v2/features.1.conv.0.0",
    "unet/conv1",
    "srcnn_915/row1",
)
#: Rows of the table: what a record must be to count, and the ratio asked of the geometric mean.
GROUPS: dict[str, tuple[Callable[[dict[str, Any]], bool], float]] = {
    "all layers": (lambda r: True, 1.5),
    "3x3 stride 1, C and K >= 32": (lambda r: r["winograd_like"], 1.8),
    "depthwise and grouped": (lambda r: r["groups"] > 1, 1.0),
}


def main() -> None:
    """Measure in one child process for each allocator mode, print the tables and write the records."""
    options = parse()
    if options.child:
        Path(options.child).write_text(json.dumps(list(measure(options))))
        return
    records = []
    for mode in options.allocator.split(","):
        records += sections.in_child(sys.argv, mode)
    for mode in options.allocator.split(","):
        for batch in options.batch.split(","):
            print_table([r for r in records if r["allocator"] == mode and r["batch"] == int(batch)], mode, batch)
    write(Path(options.json), records)
    if not options.only:
        sections.main(["--allocator", options.allocator, *(["--quick"] if options.quick else [])])


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few layers, batch 1")
    parser.add_argument("--json", help="write the records to this file; default bench/results/cpu[-quick].json")
    parser.add_argument("--only", default="", help="layers whose id holds this text")
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--allocator", default=",".join(ALLOCATORS))
    parser.add_argument("--direction", default=",".join(DIRECTIONS))
    parser.add_argument("--accuracy", default="standard")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of rounds for a layer and direction")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.batch = "1"
    options.json = options.json or FOLDER / ("cpu-quick.json" if options.quick else "cpu.json")
    return options


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the records as JSON, a line each."""
    lines = ",\n".join(json.dumps(record) for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"machine": {json.dumps(machine())},\n"records": [\n{lines}\n]}}\n')


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a record for every layer, batch and direction."""
    for batch in map(int, options.batch.split(",")):
        for layer in chosen(options):
            for direction in options.direction.split(","):
                yield compare(layer, batch, direction, options)


def chosen(options: argparse.Namespace) -> Iterable[Layer]:
    """Return the layers to measure, each geometry once."""
    seen: dict[Any, Layer] = {}
    layers = load()
    assert set(QUICK) <= set(layers)
    for name, layer in layers.items():
        if options.only in name and (not options.quick or name in QUICK):
            seen.setdefault(layer.key, layer)
    return seen.values()


def compare(layer: Layer, batch: int, direction: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time one direction of one layer: convcore, and PyTorch in both layouts."""
    case = Case(layer, batch, direction, accuracy=options.accuracy, threads=os.cpu_count() or 1)
    time, ratio = sections.against_torch(case, options.budget)
    keywords = layer.geometry | {"accuracy": options.accuracy, "backend": "cpu"}
    found = convcore.explain(direction, *case.arguments(*case.operands), **keywords)
    return {
        "layer": layer.id,
        "batch": batch,
        "direction": direction,
        "groups": layer.groups,
        "winograd_like": (
            layer.weight_shape[2:] == (3, 3)
            and layer.stride == (1, 1)
            and layer.dilation == (1, 1)
            and layer.groups == 1
            and min(layer.weight_shape[:2]) >= 32
        ),
        "algorithm": found.algorithm,
        "workspace_bytes": found.workspace_bytes,
        "gflops": round(found.problem.flops / time["convcore"] * 1e-9, 1),
        "megabytes": round(found.problem.bytes * 1e-6, 3),
        "milliseconds": {name: round(1e3 * value, 4) for name, value in time.items()},
        "ratio": round(ratio, 3),
    }


def print_table(records: list[dict[str, Any]], mode: str, batch: str) -> None:
    """Print every layer below 1, then the geometric means."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    slow = Table(title=f"slower than PyTorch: batch {batch}, allocator {mode}")
    for column in ("layer", "direction", "algorithm", "convcore ms", "PyTorch ms", "ratio", "why"):
        slow.add_column(column, justify="right" if column in ("convcore ms", "PyTorch ms", "ratio") else "left")
    most = peaks(os.cpu_count() or 1)
    for record in sorted(records, key=lambda record: record["ratio"]):
        if record["ratio"] < 1:
            ms = record["milliseconds"]
            best = min(value for name, value in ms.items() if name != "convcore")
            numbers = (f"{ms['convcore']:.3f}", f"{best:.3f}", f"{record['ratio']:.2f}")
            slow.add_row(record["layer"], record["direction"], record["algorithm"], *numbers, why(record, most))
    means = Table(title=f"geometric mean of PyTorch / convcore: batch {batch}, allocator {mode}")
    means.add_column("layers")
    means.add_column("wanted", justify="right")
    for direction in DIRECTIONS:
        means.add_column(direction, justify="right")
    for name, (belongs, wanted) in GROUPS.items():
        cells = []
        for direction in DIRECTIONS:
            ratios = [r["ratio"] for r in records if r["direction"] == direction and belongs(r)]
            cells.append(f"{statistics.geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "-")
        means.add_row(name, f"{wanted:.1f}", *cells)
    worst = [min((r["ratio"] for r in records if r["direction"] == d), default=math.nan) for d in DIRECTIONS]
    means.add_row("worst layer", "0.85", *(f"{ratio:.2f}" for ratio in worst))
    console.print(slow)
    console.print(means)


def why(record: dict[str, Any], most: dict[str, float]) -> str:
    """Say what keeps a layer below PyTorch: how near each is to what the machine can do, in float32."""
    ms = record["milliseconds"]
    best = min(value for name, value in ms.items() if name != "convcore")
    flops = record["gflops"] * ms["convcore"]
    theirs, ours = (100 * flops / (each * most["float32"]) for each in (best, ms["convcore"]))
    moved = 100 * record["megabytes"] / best / most["memory"]
    if record["algorithm"].startswith(("winograd", "fft")):
        return f"transforms and few multiplications: {ours:.0f} % of the peak as if direct, PyTorch {theirs:.0f} %"
    if moved >= 60:
        return f"memory: PyTorch moves its operands at {moved:.0f} % of a copy's rate"
    if theirs >= 70:
        return f"PyTorch is at {theirs:.0f} % of the peak, convcore at {ours:.0f} %"
    return f"convcore reaches {ours:.0f} % of the peak, PyTorch {theirs:.0f} %"


def machine() -> dict[str, Any]:
    """Say on what it was measured."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "threads": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "convcore": convcore.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


if __name__ == "__main__":
    main()
