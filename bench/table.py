"""Results on a terminal: the winner marked, the interval shown, correctness beside speed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from convcore_bench.driver import DISTURBED
from convcore_bench.results import key
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape, render
from rich.table import Table

Record = dict[str, Any]


def show(console: Console, results: dict[str, Any], stored: dict[str, Any] | None = None) -> None:
    """Print a table for every record, the means over them, who did not take part and why, and the noise floor."""
    records = results["records"]
    older = {key(record): record for record in stored["records"]} if stored else {}
    for record in records:
        if record["contenders"]:
            peak = results["peaks"][str(record["threads"])][record["dtype"]]
            console.print(_table(record, peak, older.get(key(record)), bool(stored)))
    if len(records) > 1:
        console.print(_means(records))
    for line in _absent(results):
        console.print(line, highlight=False, soft_wrap=True)
    floor = noise_floor(records)
    if floor is not None:
        others = max(record["others"] for record in records if "others" in record)
        if others > DISTURBED:
            console.print(
                f"[red]Other processes took up to {others:.0%} of the cores[/]: repeat this on a quiet machine.",
                highlight=False,
            )
        middle = noise_floor(records, statistics.median)
        console.print(
            "★ fastest, by more than the noise; [yellow]~[/] unstable; in brackets the interval of 95 %. "
            f"A/A: a contender and its twin differ by {middle:.1%} in the median, {floor:.1%} at most.",
            highlight=False,
            soft_wrap=True,
        )


def noise_floor(records: Sequence[Record], of: Callable[[Iterable[float]], float] = max) -> float | None:
    """Return how far the ratio of a contender to its twin is from 1: the largest over the records, or their median."""
    found = [abs(record["noise"][0] - 1) for record in records if "noise" in record]
    return of(found) if found else None


def geometric_means(records: Sequence[Record]) -> dict[tuple[str, str], tuple[float, int]]:
    """Return, for every other contender and direction, the geometric mean of its ratio, and of how many."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        for name, ratio in record["ratios"].items():
            found.setdefault((name, record["direction"]), []).append(ratio[0])
    return {about: (statistics.geometric_mean(values), len(values)) for about, values in found.items()}


def _table(record: Record, peak: float, older: Record | None, stored: bool) -> Table:
    title = f"{record['layer']}: {record['direction']}, batch {record['batch']}, {record['dtype']}, "
    title += f"{record['threads']} threads, allocator {record['allocator']}"
    table = Table(box=box.SIMPLE_HEAD, title=escape(title), title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("contender", no_wrap=True)
    for name in ("ms", "", "times as long", "GFLOP/s", "of peak", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    if stored:
        table.add_column("stored / now", justify="right", no_wrap=True)
    table.add_column("algorithm", no_wrap=True)
    for name, mine in sorted(record["contenders"].items(), key=lambda item: item[1]["milliseconds"]):
        ratio = record["ratios"].get(name)
        row = [
            escape(name),
            f"{mine['milliseconds']:.3f}",
            ("★" if name == record["winner"] else "") + ("[yellow]~[/]" if mine["unstable"] else ""),
            f"{ratio[0]:.2f} [dim]\\[{ratio[1]:.2f}, {ratio[2]:.2f}][/]" if ratio else "1",
            f"{mine['gflops']:.1f}",
            f"{mine['gflops'] / peak:.0%}",
            f"{mine['error']:.1e}",
        ]
        if stored:
            before = older["contenders"].get(name) if older else None
            row.append(f"{before['milliseconds'] / mine['milliseconds']:.2f}" if before else "-")
        table.add_row(*row, escape(mine["algorithm"]))
    # Where it is narrow, the algorithm is cut, and no number.
    for column in table.columns:
        if column.header != "algorithm":
            column.min_width = max(cell_len(render(cell).plain) for cell in (str(column.header), *column.cells))
    return table


def _means(records: Sequence[Record]) -> Table:
    first = next((next(iter(record["contenders"])) for record in records if record["contenders"]), "")
    means = geometric_means(records)
    directions = list(dict.fromkeys(direction for _, direction in means))
    table = Table(
        box=box.SIMPLE_HEAD, title=f"times as long as {first}: geometric mean (problems)", title_justify="left"
    )
    table.add_column("contender", no_wrap=True)
    for direction in directions:
        table.add_column(direction, justify="right")
    for name in dict.fromkeys(name for name, _ in means):
        cells = [means.get((name, direction)) for direction in directions]
        table.add_row(escape(name), *(f"{cell[0]:.2f} ({cell[1]})" if cell else "-" for cell in cells))
    return table


def _absent(results: dict[str, Any]) -> Iterable[str]:
    for name, about in results["peers"].items():
        if "missing" in about:
            yield f"[yellow]{escape(name)} is missing[/]: {escape(about['missing'])}"
    reasons = Counter(
        (name, *reason.popitem()) for record in results["records"] for name, reason in _copies(record["out"])
    )
    for (name, kind, why), times in reasons.items():
        style = {"wrong": "red", "failed": "yellow"}.get(kind, "dim")
        yield f"[{style}]{escape(name)} {kind}, {times} of {len(results['records'])}[/]: {escape(why)}"


def _copies(out: dict[str, dict[str, str]]) -> Iterable[tuple[str, dict[str, str]]]:
    return ((name, dict(reason)) for name, reason in out.items())
