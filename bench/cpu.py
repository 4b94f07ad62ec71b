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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from convcore_bench import sections
from convcore_bench.driver import ALLOCATORS
from convcore_bench.problem_set import Layer, load
from convcore_bench.rounds import interleave, medians

RESULTS = Path(__file__).parent / "results"
DIRECTIONS = ("forward", "grad_input", "grad_weight")
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
        records += in_child(mode)
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
    options.json = options.json or RESULTS / ("cpu-quick.json" if options.quick else "cpu.json")
    return options


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the records as JSON, a line each."""
    lines = ",\n".join(json.dumps(record) for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"machine": {json.dumps(machine())},\n"records": [\n{lines}\n]}}\n')


def in_child(mode: str) -> list[dict[str, Any]]:
    """Run this program again under an allocator mode and return its records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        environment = os.environ | {"GLIBC_TUNABLES": ALLOCATORS[mode], "OMP_NUM_THREADS": str(os.cpu_count())}
        subprocess.run([sys.executable, *sys.argv, "--child", str(path)], env=environment, check=True)
        return [record | {"allocator": mode} for record in json.loads(path.read_text())]


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
    import convcore

    shape = (batch, *layer.input_shape[1:])
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape, np.float32), rng.standard_normal(layer.weight_shape, np.float32)
    grad = rng.standard_normal(convcore.output_shape(shape, weight.shape, **layer.geometry), np.float32)
    keywords = layer.geometry | {"accuracy": options.accuracy, "backend": "cpu"}
    ours = {
        "forward": lambda: convcore.conv2d(x, weight, **keywords),
        "grad_input": lambda: convcore.conv2d_grad_input(grad, weight, shape, **keywords),
        "grad_weight": lambda: convcore.conv2d_grad_weight(x, grad, weight.shape, **keywords),
    }[direction]
    candidates = {"convcore": ours, **torch_candidates(x, weight, grad, layer, direction)}
    times = interleave(candidates, budget=options.budget)
    median = medians(times)
    best = min(value for name, value in median.items() if name != "convcore")
    operands = {"forward": (x, weight), "grad_input": (grad, weight, shape), "grad_weight": (x, grad, weight.shape)}
    found = convcore.explain(direction, *operands[direction], **keywords)
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
        "gflops": round(found.problem.flops / median["convcore"] * 1e-9, 1),
        "milliseconds": {name: round(1e3 * value, 4) for name, value in median.items()},
        "ratio": round(best / median["convcore"], 3),
    }


def torch_candidates(x: Any, weight: Any, grad: Any, layer: Layer, direction: str) -> dict[str, Callable[[], Any]]:
    """Return the same work for PyTorch, with tensors of either layout; uneven padding is added beforehand."""
    import torch

    (top, bottom), (left, right) = layer.padding
    padding = (top, left)
    if (top, left) != (bottom, right):
        x, padding = np.pad(x, ((0, 0), (0, 0), *layer.padding)), (0, 0)
    stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    wanted = [direction == "grad_input", direction == "grad_weight", False]
    result = {}
    for name, layout in (("torch NCHW", torch.contiguous_format), ("torch NHWC", torch.channels_last)):
        tx, tw, tg = (torch.from_numpy(array).contiguous(memory_format=layout) for array in (x, weight, grad))
        if direction == "forward":
            result[name] = lambda tx=tx, tw=tw: torch.nn.functional.conv2d(
                tx, tw, None, stride, padding, dilation, groups
            )
        else:
            result[name] = lambda tx=tx, tw=tw, tg=tg: torch.ops.aten.convolution_backward(
                tg, tx, tw, None, stride, padding, dilation, False, (0, 0), groups, wanted
            )
    return result


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def print_table(records: list[dict[str, Any]], mode: str, batch: str) -> None:
    """Print every layer below 1, then the geometric means."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    slow = Table(title=f"slower than PyTorch: batch {batch}, allocator {mode}")
    for column in ("layer", "direction", "algorithm", "convcore ms", "PyTorch ms", "ratio"):
        slow.add_column(column, justify="left" if column in ("layer", "direction", "algorithm") else "right")
    for record in sorted(records, key=lambda record: record["ratio"]):
        if record["ratio"] < 1:
            ms = record["milliseconds"]
            best = min(value for name, value in ms.items() if name != "convcore")
            numbers = (f"{ms['convcore']:.3f}", f"{best:.3f}", f"{record['ratio']:.2f}")
            slow.add_row(record["layer"], record["direction"], record["algorithm"], *numbers)
    means = Table(title=f"geometric mean of PyTorch / convcore: batch {batch}, allocator {mode}")
    means.add_column("layers")
    means.add_column("wanted", justify="right")
    for direction in DIRECTIONS:
        means.add_column(direction, justify="right")
    for name, (belongs, wanted) in GROUPS.items():
        cells = []
        for direction in DIRECTIONS:
            ratios = [r["ratio"] for r in records if r["direction"] == direction and belongs(r)]
            cells.append(f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "-")
        means.add_row(name, f"{wanted:.1f}", *cells)
    worst = [min((r["ratio"] for r in records if r["direction"] == d), default=math.nan) for d in DIRECTIONS]
    means.add_row("worst layer", "0.85", *(f"{ratio:.2f}" for ratio in worst))
    console.print(slow)
    console.print(means)


def machine() -> dict[str, Any]:
    """Say on what it was measured."""
    import torch

    import convcore

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
