"""The README's table and plot, from the results in ``results/*.json``: ``make report`` writes them, nobody types them.

python -m convcore_bench.readme [--check]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convcore_bench import charts, results
from convcore_bench.case import DIRECTIONS
from convcore_bench.charts import Chart
from convcore_bench.table import noise_floor

Record = dict[str, Any]
ROOT = Path(__file__).parent.parent
README, PLOT = ROOT / "README.md", ROOT / "docs" / "images" / "bench.svg"
BEGIN, END = "<!-- make report: begin -->", "<!-- make report: end -->"
TITLE = "How many times as long as convcore PyTorch's better layout takes: layers sorted, a line for each direction"
#: Rows: a peer's name for people, and the contenders of whom the fastest counts.
PEERS = {
    "PyTorch, the better layout": ("torch-nchw", "torch-nhwc"),
    "OpenCV": ("opencv",),
    "SciPy, the best way": ("scipy-direct", "scipy-fft", "ndimage"),
    "JAX": ("jax",),
    "the `opencl` backend, arrays resident": ("opencl-resident",),
    "tinygrad on OpenCL": ("tinygrad",),
    "the `numpy` backend": ("numpy",),
}
NETWORKS = {"resnet50": "ResNet-50", "vgg16": "VGG-16", "mobilenet_v2": "MobileNet-V2", "alexnet": "AlexNet"}

OTHERS = {
    "image512": "one image of 512², kernels of 3 to 31",
    "image2048": "one image of 2048², kernels of 3 to 31",
    "kernel": "32 channels, 56², kernels of 1 to 15",
}


def main() -> None:
    """Write README and plot, or say that they are not what the results say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if anything differs")
    if parser.parse_args().check:
        raise SystemExit("\n".join(f"{path} is not what the results say: make report" for path in outdated()) or 0)
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")


def outdated() -> list[Path]:
    """Return the files that are not what the results say."""
    return [path for path, text in made().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def made() -> dict[Path, str]:
    """Return the text of each file that is made."""
    found = stored()
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not found:
        none = "No results are stored. `bench/publish.sh NAME` measures them, `make report` writes them here."
        return {README: f"{before}{BEGIN}\n{none}\n{END}{after}"}
    body = "\n\n".join([f"![{TITLE}](docs/images/{PLOT.name})", *map(_machine, found)])
    return {README: f"{before}{BEGIN}\n{body}\n{END}{after}", PLOT: plot(found)}


def stored() -> list[dict[str, Any]]:
    """Return the results of every machine; other programs' files in the folder are none."""
    found = []
    for path in sorted(results.FOLDER.glob("*.json")):
        try:
            found.append(results.read(path))
        except ValueError:
            continue
    return found


def best(record: Record, names: Iterable[str]) -> float | None:
    """Return how many times as long as the CPU backend the fastest of some contenders takes."""
    if next(iter(record["contenders"]), "") != "cpu":
        return None
    return min((record["ratios"][name][0] for name in names if name in record["ratios"]), default=None)


def _machine(found: dict[str, Any]) -> str:
    machine, records = found["machine"], found["records"]
    devices = "; ".join(f"`{name}` on {', '.join(listed)}" for name, listed in machine["devices"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "convcore")
    peak = found["peaks"][str(machine["cores"])]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['isas'][-1]}, "
        f"{peak['float32']:.0f} GFLOP/s measured peak in float32, {peak['memory']:.0f} GB/s copy.",
        "How many times as long each takes as the `cpu` backend, float32, as many threads as cores: geometric mean "
        "over the distinct layers (how many; the least).",
        "",
        f"| problems | against | batch | allocator | {' | '.join(DIRECTIONS)} |",
        f"|---|---|---|---|{'---|' * len(DIRECTIONS)}",
        *_rows(records),
        "",
        f"Noise: a contender and its own twin differ by {noise_floor(records, statistics.median):.1%} in the median; "
        f"other processes took {statistics.median(r['others'] for r in records if 'others' in r):.1%} of the cores. "
        f"Devices measured: {devices}; nothing else was. Commit {' and '.join(results.commits(found))}; "
        f"Python {machine['python']}, {versions}.",
    ]
    return "\n".join(lines)


def _rows(records: Sequence[Record]) -> Iterable[str]:
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for record in records:
        if record["dtype"] == "float32" and record["threads"] > 1 and record["accuracy"] == "standard":
            kind = record["layer"].partition("/")[0]
            groups.setdefault((kind, record["batch"], record["allocator"]), []).append(record)
    for (kind, batch, allocator), group in groups.items():
        for title, names in PEERS.items():
            cells = [_cell(group, direction, names) for direction in DIRECTIONS]
            if any(cell != "-" for cell in cells):
                name = NETWORKS.get(kind) or OTHERS.get(kind, kind)
                yield f"| {name} | {title} | {batch} | {allocator} | {' | '.join(cells)} |"


def _cell(records: Sequence[Record], direction: str, names: Iterable[str]) -> str:
    ratios = [best(record, names) for record in records if record["direction"] == direction]
    known = [ratio for ratio in ratios if ratio]
    return f"{statistics.geometric_mean(known):.2f} ({len(known)}; {min(known):.2f})" if known else "-"


def plot(found: Sequence[dict[str, Any]]) -> str:
    """Return the distribution of the ratios to PyTorch, over every layer of the networks, one line a direction."""
    names = PEERS["PyTorch, the better layout"]
    lines = {direction: [] for direction in DIRECTIONS}
    for record in (record for each in found for record in each["records"]):
        ratio = best(record, names)
        if ratio and record["direction"] in lines and record["layer"].partition("/")[0] in NETWORKS:
            lines[record["direction"]].append(ratio)
    values = [ratio for ratios in lines.values() for ratio in ratios]
    chart = Chart("part of the layers", "PyTorch's time / convcore's", (0, 1), [*values, 1], x_log=False)
    chart.line([(0, 1), (1, 1)])
    for colour, (direction, ratios) in enumerate(lines.items()):
        places = [(number + 0.5) / len(ratios) for number in range(len(ratios))]
        chart.line(zip(places, sorted(ratios), strict=True), colour)
        chart.key(colour, direction)
    style = (
        f"<style>svg {{ background: var(--ground); {charts.variables(charts.LIGHT)} }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {charts.variables(charts.DARK)} }} }} {charts.STYLE}</style>"
    )
    return chart.svg(TITLE).replace(">", f">{style}", 1) + "\n"


if __name__ == "__main__":
    main()
