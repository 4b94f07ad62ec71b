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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from convcore_bench.case import STEP, Array, Case
from convcore_bench.driver import ALLOCATORS
from convcore_bench.peers.pytorch import TorchPeer
from convcore_bench.problem_set import Layer, load, parse
from convcore_bench.results import FOLDER
from convcore_bench.rounds import interleave, medians

import convcore
from convcore import select

Record = dict[str, Any]
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
#: Layers whose weight is packed once, and the ratio asked for.
PACKED = {
    "512->512 3x3 7x7": ("c512 h7 k512 r3 p1", 2.0),
    "256->256 3x3 14x14": ("c256 h14 k256 r3 p1", 1.0),
    "64->64 3x3 56x56": ("c64 h56 k64 r3 p1", 1.0),
    "512->512 1x1 28x28": ("c512 h28 k512 r1", 1.0),
    "2048->512 1x1 7x7": ("c2048 h7 k512 r1", 1.0),
}
BOUNDARIES = ("reflect", "edge", "wrap", "symmetric")
#: Layers whose boundary and whose subnormal numbers are timed.
LAYERS = {
    "64->64 3x3 56x56": parse("c64 h56 k64 r3 p1"),
    "depthwise 144 3x3 56x56": parse("c144 h56 k144 r3 p1 groups144"),
    "image 1024x1024 7x7": parse("h1024 r7 p3"),
}
#: Calls whose memory is measured: large images, large batches, large weights.
LARGE = {
    "image 8192x8192 5x5": parse("h8192 r5 p2"),
    "image 4096x4096 31x31": parse("h4096 r31 p15"),
    "depthwise 32 3x3 1024x1024": parse("c32 h1024 k32 r3 p1 groups32"),
    "64->64 3x3 1024x1024": parse("c64 h1024 k64 r3 p1"),
    "3->64 7x7 1024x1024": parse("c3 h1024 k64 r7 p3"),
    "16 images 64->64 3x3 224x224": parse("n16 c64 h224 k64 r3 p1"),
    "512->512 3x3 14x14": parse("c512 h14 k512 r3 p1"),
}
LEAST_MEMORY = 64_000_000


def main(arguments: list[str] | None = None) -> None:
    """Measure in one child process for each allocator mode, print the tables and write the records."""
    options = parse_options(arguments)
    if options.child:
        Path(options.child).write_text(json.dumps(list(measure(options))))
        return
    records = []
    for mode in options.allocator.split(","):
        command = [__file__, "--only", options.only, "--budget", str(options.budget)]
        found = in_child([*command, *(["--quick"] if options.quick else [])], mode)
        print_tables(found, mode)
        records += found
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")


def in_child(command: Sequence[str], mode: str) -> list[Record]:
    """Run a program's ``--child`` under an allocator mode and return its records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        environment = os.environ | {"GLIBC_TUNABLES": ALLOCATORS[mode], "OMP_NUM_THREADS": str(os.cpu_count())}
        subprocess.run([sys.executable, *command, "--child", str(path)], env=environment, check=True)
        return [record | {"allocator": mode} for record in json.loads(path.read_text())]


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows of each section")
    parser.add_argument("--json", default=FOLDER / "cpu-sections.json", help="write the records to this file")
    parser.add_argument("--only", default="", help="sections whose name holds this text")
    parser.add_argument("--allocator", default=",".join(ALLOCATORS))
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
    for name, case in cases(network_layers(FLOAT64_LAYERS[: 3 if options.quick else None]), dtype="float64"):
        time, ratio = against_torch(case, options.budget)
        yield record(f"{name}, {case.direction}", 2.0, time, ratio)


def boundaries(options: argparse.Namespace) -> Iterator[Record]:
    """Compare boundaries of pixels with zeros."""
    others = BOUNDARIES[: 1 if options.quick else 4]
    for name, case in cases(LAYERS):
        calls = {boundary: ours(case, case.operands, boundary=boundary) for boundary in ("constant", *others)}
        time = medians(interleave(calls, budget=options.budget))
        for boundary in others:
            yield record(f"{name}, {case.direction}, {boundary}", 0.0, time, time["constant"] / time[boundary])


def subnormals(options: argparse.Namespace) -> Iterator[Record]:
    """Compare normal numbers with subnormal ones."""
    for name, case in cases(LAYERS):
        small = [array * np.float32(1e-39) for array in case.operands]
        calls = {"normal": ours(case, case.operands), "subnormal": ours(case, small)}
        time = medians(interleave(calls, budget=options.budget))
        yield record(f"{name}, {case.direction}", 0.5, time, time["normal"] / time["subnormal"])


def memory(options: argparse.Namespace) -> Iterator[Record]:
    """Compare the memory a call takes with what it may take; Linux says how much that was."""
    if not Path("/proc/self/clear_refs").exists():
        return
    for name, case in cases(LARGE):
        call = ours(case, case.operands)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
        before = resident("VmHWM")
        result = call()
        # A workspace kept from an earlier call does not show.
        planned = convcore.explain(
            case.direction, *case.arguments(*case.operands), backend="cpu", **case.layer.geometry
        )
        extra = max(resident("VmHWM") - before - result.nbytes, planned.workspace_bytes, 1)
        allowed = max(LEAST_MEMORY, 2 * sum(array.nbytes for array in case.operands))
        yield {
            "row": f"{name}, {case.direction}",
            "wanted": 1.0,
            "bytes": {"extra": extra, "allowed": allowed},
            "ratio": round(min(allowed / extra, 1e3), 3),
        }


def resident(field: str) -> int:
    """Return a field of the process's status, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def strict(options: argparse.Namespace) -> Iterator[Record]:
    """Compare 3x3 layers of at least 32 channels with PyTorch, held to the error of the direct algorithm."""
    for name, case in cases(network_layers(DENSE_LAYERS[: 2 if options.quick else None]), accuracy="strict"):
        time, ratio = against_torch(case, options.budget)
        yield record(f"{name} {case.direction}", 1.2, time, ratio)


def packed(options: argparse.Namespace) -> Iterator[Record]:
    """Compare weights as they are with packed ones."""
    for name, (problem, wanted) in list(PACKED.items())[: 2 if options.quick else None]:
        case = Case(parse(problem), 1, "forward")
        x, weight, _ = case.operands
        plan = convcore.plan("forward", x.shape, weight.shape, backend="cpu", **case.layer.geometry)
        calls = {"as it is": partial(plan, x, weight), "packed": partial(plan, x, plan.pack(weight))}
        time = medians(interleave(calls, budget=options.budget))
        yield record(name, wanted, time, time["as it is"] / time["packed"])


def threads(options: argparse.Namespace) -> Iterator[Record]:
    """Compare one thread with two."""
    for name, case in cases(network_layers(DENSE_LAYERS[: 2 if options.quick else None])):
        calls = {f"{count} thread(s)": limited(count, case) for count in (1, 2)}
        time = medians(interleave(calls, budget=options.budget))
        yield record(f"{name} {case.direction}", 1.7, time, time["1 thread(s)"] / time["2 thread(s)"])


def limited(count: int, case: Case) -> Callable[[], Array]:
    """Return a call of a plan that was made for so many threads."""
    first, second, *shape = case.arguments(*case.operands)
    select.cache.clear()
    os.environ["CONVCORE_NUM_THREADS"] = str(count)
    plan = convcore.plan(case.direction, first, second, *shape, backend="cpu", **case.layer.geometry)
    del os.environ["CONVCORE_NUM_THREADS"]
    return partial(plan, first, second)


def network_layers(names: Sequence[str]) -> dict[str, Layer]:
    """Return layers of published networks."""
    layers = load()
    return {name: layers[name] for name in names}


def cases(layers: Mapping[str, Layer], **about: Any) -> Iterator[tuple[str, Case]]:
    """Yield the name and a case of every layer and direction; those of a layer share their operands."""
    for name, layer in layers.items():
        for case in Case(layer, layer.input_shape[0], STEP, threads=os.cpu_count() or 1, **about).parts:
            yield name, case


def ours(case: Case, operands: Sequence[Array], **keywords: Any) -> Callable[[], Array]:
    """Return the call of the CPU engine, with a case's operands or others in their place."""
    keywords |= case.layer.geometry | {"accuracy": case.accuracy, "backend": "cpu"}
    return partial(case.function, *case.arguments(*operands), **keywords)


def against_torch(case: Case, budget: float) -> tuple[dict[str, float], float]:
    """Return the seconds of convcore and of PyTorch in either layout, and the better layout's over convcore's."""
    torch = {f"torch {layout.upper()}": TorchPeer(layout, "cpu").prepare(case).run for layout in ("nchw", "nhwc")}
    time = medians(interleave({"convcore": ours(case, case.operands), **torch}, budget=budget))
    return time, min(time[layout] for layout in torch) / time["convcore"]


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
