"""What `bench/cpu.py` measures besides the layers of networks: images, float64, memory, packed weights, threads, …

    python bench/sections.py [--quick] [--json FILE] [--only TEXT] [--allocator default,pooled]

Each row has a ratio, above 1 in convcore's favour, and the least that is asked of it:

- images: time of OpenCV's filter2D / ours, one channel, one kernel, NumPy in and out.
- float64: time of the better PyTorch layout / ours.
- boundaries: time with zeros around the image / with its reflection, or another boundary.
- subnormals: time with normal numbers / with nothing but subnormal ones.
- memory: what a call may take beyond its operands and result, the larger of 64 MB and twice the size of those, / what
  it took: the growth of the process's peak of resident memory.
- strict: time of the better PyTorch layout / ours under accuracy="strict", 3x3 layers.
- packed: time with the weight as it is / with one that plan.pack() made ready before.
- threads: time on one thread / on two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from convcore_bench.driver import ALLOCATORS
from convcore_bench.problem_set import load
from convcore_bench.rounds import interleave, medians

Record = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
DIRECTIONS = ("forward", "grad_input", "grad_weight")
FLOAT64_LAYERS = (
    "resnet50/layer1.0.conv1",
    "resnet50/layer1.0.conv2",
    "resnet50/layer1.0.conv3",
    "resnet50/layer2.0.conv2",
    "resnet50/layer3.1.conv2",
    "resnet50/layer4.0.conv1",
    "resnet50/layer4.1.conv2",
    "vgg16/features.24",
)
#: Layers above a millisecond, under "strict" and on one thread and two.
DENSE_LAYERS = (
    "vgg16/features.24",
    "vgg16/features.5",
    "vgg16/features.10",
    "vgg16/features.17",
    "unet/conv6",
    "unet/conv8",
)
#: Input and weight of layers whose weight is packed once, and the ratio asked for.
PACKED = {
    "512->512 3x3 7x7": ((1, 512, 7, 7), (512, 512, 3, 3), 2.0),
    "256->256 3x3 14x14": ((1, 256, 14, 14), (256, 256, 3, 3), 1.0),
    "64->64 3x3 56x56": ((1, 64, 56, 56), (64, 64, 3, 3), 1.0),
    "512->512 1x1 28x28": ((1, 512, 28, 28), (512, 512, 1, 1), 1.0),
    "2048->512 1x1 7x7": ((1, 2048, 7, 7), (512, 2048, 1, 1), 1.0),
}
BOUNDARIES = ("reflect", "edge", "wrap", "symmetric")
#: Input, weight, padding and groups of layers whose boundary and whose subnormal numbers are timed.
LAYERS = {
    "64->64 3x3 56x56": ((1, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    "depthwise 144 3x3 56x56": ((1, 144, 56, 56), (144, 1, 3, 3), 1, 144),
    "image 1024x1024 7x7": ((1, 1, 1024, 1024), (1, 1, 7, 7), 3, 1),
}
#: Calls whose memory is measured: large images, large batches, large weights.
LARGE = {
    "image 8192x8192 5x5": ((1, 1, 8192, 8192), (1, 1, 5, 5), 2, 1),
    "image 4096x4096 31x31": ((1, 1, 4096, 4096), (1, 1, 31, 31), 15, 1),
    "depthwise 32 3x3 1024x1024": ((1, 32, 1024, 1024), (32, 1, 3, 3), 1, 32),
    "64->64 3x3 1024x1024": ((1, 64, 1024, 1024), (64, 64, 3, 3), 1, 1),
    "3->64 7x7 1024x1024": ((1, 3, 1024, 1024), (64, 3, 7, 7), 3, 1),
    "16 images 64->64 3x3 224x224": ((16, 64, 224, 224), (64, 64, 3, 3), 1, 1),
    "512->512 3x3 14x14": ((1, 512, 14, 14), (512, 512, 3, 3), 1, 1),
}
LEAST_MEMORY = 64_000_000


def main(arguments: list[str] | None = None) -> None:
    """Measure in one child process for each allocator mode, print the tables and write the records."""
    options = parse(arguments, ",".join(ALLOCATORS))
    if options.child:
        Path(options.child).write_text(json.dumps(list(measure(options))))
        return
    records = []
    for mode in options.allocator.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.json"
            environment = os.environ | {"GLIBC_TUNABLES": ALLOCATORS[mode], "OMP_NUM_THREADS": str(os.cpu_count())}
            command = [sys.executable, __file__, "--only", options.only, "--budget", str(options.budget)]
            command += ["--child", str(path), *(["--quick"] if options.quick else [])]
            subprocess.run(command, env=environment, check=True)
            found = [record | {"allocator": mode} for record in json.loads(path.read_text())]
        print_tables(found, mode)
        records += found
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")


def parse(arguments: list[str] | None, allocators: str) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows of each section")
    parser.add_argument("--json", default=RESULTS / "cpu-sections.json", help="write the records to this file")
    parser.add_argument("--only", default="", help="sections whose name holds this text")
    parser.add_argument("--allocator", default=allocators)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds of rounds for a row")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Iterator[Record]:
    """Yield a record for every row of the sections asked for."""
    for name, section in SECTIONS.items():
        if options.only in name:
            for record in section(options):
                yield {"section": name, **record}


def record(row: str, wanted: float, milliseconds: Mapping[str, float], ratio: float) -> Record:
    """Return a record; times come in seconds."""
    rounded = {name: round(1e3 * value, 4) for name, value in milliseconds.items()}
    return {"row": row, "wanted": wanted, "milliseconds": rounded, "ratio": round(ratio, 3)}


def images(options: argparse.Namespace) -> Iterator[Record]:
    """Compare one-channel images with OpenCV's filter2D."""
    import cv2

    import convcore

    cv2.setNumThreads(os.cpu_count() or 1)
    rng = np.random.default_rng(0)
    borders = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}
    kernels = (3, 11, 31) if options.quick else (3, 5, 7, 9, 11, 13, 15, 21, 31)
    for size, kernel, boundary in product((512, 2048), kernels, borders):
        image = rng.standard_normal((size, size), np.float32)
        weight = rng.standard_normal((kernel, kernel), np.float32)
        x, w = image[None, None], weight[None, None]
        geometry = {"padding": kernel // 2, "boundary": boundary}
        candidates: dict[str, Callable[[], Any]] = {
            "convcore": partial(convcore.conv2d, x, w, backend="cpu", **geometry),
            "OpenCV": partial(cv2.filter2D, image, -1, weight, borderType=borders[boundary]),
        }
        time = medians(interleave(candidates, budget=options.budget))
        yield record(f"{size}x{size}, {kernel}x{kernel}, {boundary}", 1.0, time, time["OpenCV"] / time["convcore"])


def float64(options: argparse.Namespace) -> Iterator[Record]:
    """Compare dense float64 layers with PyTorch."""
    from convcore_bench.cpu import torch_candidates

    layers, rng = load(), np.random.default_rng(0)
    for name in FLOAT64_LAYERS[:3] if options.quick else FLOAT64_LAYERS:
        layer = layers[name]
        for direction in DIRECTIONS:
            x, weight, grad = operands(layer.input_shape, layer.weight_shape, layer.geometry, np.float64, rng)
            candidates = {
                "convcore": ours(direction, x, weight, grad, layer.geometry),
                **torch_candidates(x, weight, grad, layer, direction),
            }
            time = medians(interleave(candidates, budget=options.budget))
            best = min(value for candidate, value in time.items() if candidate != "convcore")
            yield record(f"{name}, {direction}", 2.0, time, best / time["convcore"])


def boundaries(options: argparse.Namespace) -> Iterator[Record]:
    """Compare boundaries of pixels with zeros."""
    rng = np.random.default_rng(0)
    for (name, (shape, weight_shape, padding, groups)), direction in product(LAYERS.items(), DIRECTIONS):
        geometry = {"padding": padding, "groups": groups}
        arrays = operands(shape, weight_shape, geometry, np.float32, rng)
        candidates = {
            boundary: ours(direction, *arrays, geometry | {"boundary": boundary})
            for boundary in ("constant", *BOUNDARIES[: 1 if options.quick else 4])
        }
        time = medians(interleave(candidates, budget=options.budget))
        for boundary in list(candidates)[1:]:
            yield record(f"{name}, {direction}, {boundary}", 0.0, time, time["constant"] / time[boundary])


def subnormals(options: argparse.Namespace) -> Iterator[Record]:
    """Compare normal numbers with subnormal ones."""
    rng = np.random.default_rng(0)
    for (name, (shape, weight_shape, padding, groups)), direction in product(LAYERS.items(), DIRECTIONS):
        geometry = {"padding": padding, "groups": groups}
        arrays = operands(shape, weight_shape, geometry, np.float32, rng)
        small = [array * np.float32(1e-39) for array in arrays]
        candidates = {
            "normal": ours(direction, *arrays, geometry),
            "subnormal": ours(direction, *small, geometry),
        }
        time = medians(interleave(candidates, budget=options.budget))
        yield record(f"{name}, {direction}", 0.5, time, time["normal"] / time["subnormal"])


def memory(options: argparse.Namespace) -> Iterator[Record]:
    """Compare the memory a call takes with what it may take; Linux says how much that was."""
    if not Path("/proc/self/clear_refs").exists():
        return
    rng = np.random.default_rng(0)
    for name, (shape, weight_shape, padding, groups) in LARGE.items():
        geometry = {"padding": padding, "groups": groups}
        x, weight, grad = operands(shape, weight_shape, geometry, np.float32, rng)
        for direction in DIRECTIONS:
            call = ours(direction, x, weight, grad, geometry)
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
            before = resident("VmHWM")
            result = call()
            # A workspace kept from an earlier call does not show.
            extra = max(resident("VmHWM") - before - result.nbytes, planned(direction, x, weight, grad, geometry), 1)
            allowed = max(LEAST_MEMORY, 2 * (x.nbytes + weight.nbytes + grad.nbytes))
            yield {
                "row": f"{name}, {direction}",
                "wanted": 1.0,
                "bytes": {"extra": extra, "allowed": allowed},
                "ratio": round(min(allowed / extra, 1e3), 3),
            }


def planned(direction: str, x: np.ndarray, weight: np.ndarray, grad: np.ndarray, geometry: Mapping[str, Any]) -> int:
    """Return the workspace that the plan of a call says it has."""
    import convcore

    given = {"forward": (x, weight), "grad_input": (grad, weight, x.shape), "grad_weight": (x, grad, weight.shape)}
    return convcore.explain(direction, *given[direction], backend="cpu", **geometry).workspace_bytes


def resident(field: str) -> int:
    """Return a field of the process's status, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def strict(options: argparse.Namespace) -> Iterator[Record]:
    """Compare 3x3 layers of at least 32 channels with PyTorch, held to the error of the direct algorithm."""
    from convcore_bench.cpu import torch_candidates

    layers, rng = load(), np.random.default_rng(0)
    for name in DENSE_LAYERS[:2] if options.quick else DENSE_LAYERS:
        layer = layers[name]
        for direction in DIRECTIONS:
            x, weight, grad = operands(layer.input_shape, layer.weight_shape, layer.geometry, np.float32, rng)
            candidates = {
                "convcore": ours(direction, x, weight, grad, layer.geometry | {"accuracy": "strict"}),
                **torch_candidates(x, weight, grad, layer, direction),
            }
            time = medians(interleave(candidates, budget=options.budget))
            best = min(value for name, value in time.items() if name != "convcore")
            yield record(f"{name} {direction}", 1.2, time, best / time["convcore"])


def packed(options: argparse.Namespace) -> Iterator[Record]:
    """Compare weights as they are with packed ones."""
    import convcore

    rng = np.random.default_rng(0)
    for name, (shape, weight_shape, wanted) in list(PACKED.items())[: 2 if options.quick else None]:
        padding = weight_shape[2] // 2
        x, weight, _ = operands(shape, weight_shape, {"padding": padding}, np.float32, rng)
        plan = convcore.plan("forward", shape, weight_shape, padding=padding, backend="cpu")
        calls = {"as it is": partial(plan, x, weight), "packed": partial(plan, x, plan.pack(weight))}
        time = medians(interleave(calls, budget=options.budget))
        yield record(name, wanted, time, time["as it is"] / time["packed"])


def threads(options: argparse.Namespace) -> Iterator[Record]:
    """Compare one thread with two."""
    layers, rng = load(), np.random.default_rng(0)
    for name in DENSE_LAYERS[:2] if options.quick else DENSE_LAYERS:
        layer = layers[name]
        for direction in DIRECTIONS:
            x, weight, grad = operands(layer.input_shape, layer.weight_shape, layer.geometry, np.float32, rng)
            calls = {
                f"{count} thread(s)": limited(count, direction, x, weight, grad, layer.geometry) for count in (1, 2)
            }
            time = medians(interleave(calls, budget=options.budget))
            yield record(f"{name} {direction}", 1.7, time, time["1 thread(s)"] / time["2 thread(s)"])


def limited(
    count: int, direction: str, x: np.ndarray, weight: np.ndarray, grad: np.ndarray, geometry: Mapping[str, Any]
) -> Callable[[], np.ndarray]:
    """Return a call of a plan that was made for so many threads."""
    import convcore
    from convcore import select

    arguments = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (x, grad)}[direction]
    more = {"forward": (), "grad_input": (x.shape,), "grad_weight": (weight.shape,)}[direction]
    select.cache.clear()
    os.environ["CONVCORE_NUM_THREADS"] = str(count)
    plan = convcore.plan(direction, *arguments, *more, backend="cpu", **geometry)
    del os.environ["CONVCORE_NUM_THREADS"]
    return partial(plan, *arguments)


def operands(
    shape: tuple[int, ...], weight_shape: tuple[int, ...], geometry: Mapping[str, Any], dtype: Any, rng: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, weight and grad_out, of random numbers."""
    import convcore

    output_shape = convcore.output_shape(shape, weight_shape, **geometry)
    return tuple(rng.standard_normal(size, dtype) for size in (shape, weight_shape, output_shape))


def ours(
    direction: str, x: np.ndarray, weight: np.ndarray, grad: np.ndarray, geometry: Mapping[str, Any]
) -> Callable[[], np.ndarray]:
    """Return a call of one direction of a layer."""
    import convcore

    return {
        "forward": partial(convcore.conv2d, x, weight, backend="cpu", **geometry),
        "grad_input": partial(convcore.conv2d_grad_input, grad, weight, x.shape, backend="cpu", **geometry),
        "grad_weight": partial(convcore.conv2d_grad_weight, x, grad, weight.shape, backend="cpu", **geometry),
    }[direction]


def print_tables(records: list[Record], mode: str) -> None:
    """Print a table for every section."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    for section in dict.fromkeys(record["section"] for record in records):
        table = Table(title=f"{section}: allocator {mode}")
        table.add_column("row")
        table.add_column("measured")
        for column in ("wanted", "ratio"):
            table.add_column(column, justify="right")
        for found in records:
            if found["section"] == section:
                table.add_row(found["row"], measured(found), f"{found['wanted']:.1f}", f"{found['ratio']:.2f}")
        console.print(table)


def measured(found: Record) -> str:
    """Return what a record's ratio was made of, in words."""
    if "bytes" in found:
        return ", ".join(f"{name} {value / 1e6:.0f} MB" for name, value in found["bytes"].items())
    return ", ".join(f"{name} {value:.3f} ms" for name, value in found["milliseconds"].items())


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Record]]] = {
    "images": images,
    "float64": float64,
    "boundaries": boundaries,
    "subnormals": subnormals,
    "memory": memory,
    "strict": strict,
    "packed": packed,
    "threads": threads,
}

if __name__ == "__main__":
    main()
