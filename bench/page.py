"""The report: results as one HTML file that needs nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from convcore_bench import charts
from convcore_bench.charts import Chart
from convcore_bench.table import geometric_means, noise_floor

Record = dict[str, Any]
_NONE = '<p class="none">Not in these results: measure with <code>{}</code>.</p>'


def render(results: dict[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    results : dict
        As ``convcore bench --json`` writes them: machine, peaks, peers, records.
    """
    records = [record for record in results["records"] if record["contenders"]]
    colours = {
        name: number
        for number, name in enumerate(dict.fromkeys(name for record in records for name in record["contenders"]))
    }
    sections = [
        ("Summary", _summary(records, colours)),
        ("Roofline", _roofline(records, colours, results["peaks"])),
        ("How the speed-ups are distributed", _distribution(records, colours)),
        ("Error beside speed", _errors(records, colours)),
        ("Scaling", _scaling(records, colours)),
        ("Layer by layer", _layers(records, colours)),
        ("The first call", _first_calls(records, results["peers"], colours)),
        ("Every number", _numbers(records)),
        ("Who did not take part", _absent(results)),
        ("The machine", _machine(results)),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    first = next(iter(colours), "nobody")
    return _PAGE.format(
        light=charts.variables(charts.LIGHT),
        dark=charts.variables(charts.DARK),
        style=charts.STYLE + Path(__file__).with_name("page.css").read_text(),
        processor=escape(results["machine"]["processor"]),
        count=len(records),
        first=escape(first),
        legend=_legend(colours),
        body=body,
    )


def _legend(colours: dict[str, int]) -> str:
    keys = (f'<span class="key c{i % charts.COLOURS}">{escape(name)}</span>' for name, i in colours.items())
    return f'<div class="legend">{"".join(keys)}</div>'


def _summary(records: Sequence[Record], colours: dict[str, int]) -> str:
    means = geometric_means(records)
    if not means:
        return ""
    first = escape(next(iter(colours)))
    tiles = [
        f'<div class="tile c{colours[name] % charts.COLOURS}"><b>{value:.2f}</b> {escape(name)}'
        f"<small>{direction}, {count} problems</small></div>"
        for (name, direction), (value, count) in means.items()
    ]
    floor = noise_floor(records, statistics.median)
    others = max(record["others"] for record in records)
    unstable = sum(mine["unstable"] for record in records for mine in record["contenders"].values())
    total = sum(len(record["contenders"]) for record in records)
    return (
        f"<p>Geometric means of how many times as long each takes as <b>{first}</b>: above 1, {first} is faster. Noise "
        f"floor (A/A): a contender and its twin differ by {floor:.1%} in the median and {noise_floor(records):.1%} at "
        f"most; {unstable} of {total} times are marked unstable; other processes took up to {others:.0%} of the "
        "cores.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _about(record: Record, name: str, text: str) -> str:
    return f"{name}: {record['layer']}, {record['direction']}, batch {record['batch']}, {record['dtype']}: {text}"


def _roofline(records: Sequence[Record], colours: dict[str, int], peaks: dict[str, Any]) -> str:
    shown = []
    for (threads, dtype), group in _by(records, lambda r: (str(r["threads"]), r["dtype"])).items():
        roof = peaks[threads]
        points = [
            (record["flops"] / record["bytes"], mine["gflops"], name, record)
            for record in group
            for name, mine in record["contenders"].items()
        ]
        intensities = [point[0] for point in points]
        low, high = min(0.5, *intensities), max(intensities) * 1.2
        chart = Chart(
            "flops for each byte that must be moved",
            "GFLOP/s (flops of the direct algorithm)",
            (low, high),
            [point[1] for point in points] + [roof[dtype] * 1.6],
        )
        for name in ("memory", "cache"):
            knee = roof[dtype] / roof[name]
            start = max(low, 10**chart.y.low / roof[name])
            chart.line([(start, start * roof[name]), (knee, roof[dtype])])
        chart.line([(roof[dtype] / roof["cache"], roof[dtype]), (high, roof[dtype])])
        chart.note(high, roof[dtype], f"multiply-add peak {roof[dtype]:.0f} GFLOP/s")
        for x, y, name, record in points:
            chart.dot(x, y, colours[name], _about(record, name, f"{y:.1f} GFLOP/s, {y / roof[dtype]:.0%} of peak"))
        caption = (
            f"{dtype}, {threads} threads; copies: memory {roof['memory']:.0f} GB/s, cache {roof['cache']:.0f} GB/s"
        )
        shown.append(_figure(chart.svg(f"Roofline, {caption}"), caption))
    return (
        "<p>Each point is a problem. The dashed lines are what this machine was measured to do: multiply-adds on "
        "registers, copies of large arrays (the lower slope) and of ones that fit the cache. Winograd and FFT need "
        "fewer multiplications than are counted here, and may stand above the roof.</p>" + _figures(shown)
    )


def _distribution(records: Sequence[Record], colours: dict[str, int]) -> str:
    shown = []
    for direction, group in _by(records, lambda r: r["direction"]).items():
        by_name: dict[str, list[tuple[float, Record]]] = {}
        for record in group:
            for name, ratio in record["ratios"].items():
                by_name.setdefault(name, []).append((ratio[0], record))
        if not by_name:
            continue
        values = [ratio for ratios in by_name.values() for ratio, _ in ratios]
        chart = Chart("part of the problems", "times as long", (0, 1), [*values, 1], x_log=False)
        chart.line([(0, 1), (1, 1)])
        for name, ratios in by_name.items():
            ratios.sort(key=lambda item: item[0])
            places = [(number + 0.5) / len(ratios) for number in range(len(ratios))]
            chart.line([(place, ratio) for place, (ratio, _) in zip(places, ratios, strict=True)], colours[name])
            for place, (ratio, record) in zip(places, ratios, strict=True):
                chart.dot(place, ratio, colours[name], _about(record, name, f"{ratio:.2f} times as long"), 2.5)
        shown.append(_figure(chart.svg(f"Distribution, {direction}"), direction))
    return (
        "<p>Problems sorted by ratio: what lies above the dashed line takes longer.</p>" + _figures(shown)
        if shown
        else ""
    )


def _errors(records: Sequence[Record], colours: dict[str, int]) -> str:
    shown = []
    for dtype, group in _by(records, lambda r: r["dtype"]).items():
        points = [
            (mine["gflops"], max(mine["error"], 1e-20), name, record, mine)
            for record in group
            for name, mine in record["contenders"].items()
        ]
        chart = Chart(
            "GFLOP/s", "error (rms, relative)", [p[0] for p in points], [p[1] for p in points], number="{:.0e}".format
        )
        for x, y, name, record, mine in points:
            text = f"error {y:.1e}, worst element {mine['of_allowed']:.2g} of the allowed, {mine['algorithm']}"
            chart.dot(x, y, colours[name], _about(record, name, text))
        shown.append(_figure(chart.svg(f"Error beside speed, {dtype}"), dtype))
    return (
        "<p>Against a float64 answer, before the clock starts; a wrong one is not timed. Fast and low is good.</p>"
        + _figures(shown)
    )


def _scaling(records: Sequence[Record], colours: dict[str, int]) -> str:
    threads = _scaled(
        records, colours, "threads", "threads", lambda r: r["threads"], _without("threads"), relative=True
    )
    batch = _scaled(records, colours, "batch", "images", lambda r: r["batch"], _without("batch"))
    kernels = [r for r in records if r["layer"].startswith("kernel/")]
    kernel = _scaled(
        kernels, colours, "kernel size", "rows of the kernel", lambda r: r["weight_shape"][2], _without("layer")
    )
    parts = [
        threads or _NONE.format("--threads 1,2"),
        batch or _NONE.format("--batch 1,4,16"),
        kernel or _NONE.format("--problems kernels"),
    ]
    return "".join(
        f"<h3>With {what}</h3>{part}"
        for what, part in zip(("threads", "the batch", "the kernel's size"), parts, strict=True)
    )


def _without(name: str) -> Callable[[Record], Any]:
    """Return what must be equal for two records to differ in one thing only."""
    names = [key for key in ("layer", "direction", "batch", "dtype", "accuracy", "threads", "allocator") if key != name]
    return lambda record: tuple(record[key] for key in names)


def _scaled(
    records: Sequence[Record],
    colours: dict[str, int],
    title: str,
    label: str,
    axis: Callable[[Record], int],
    same: Callable[[Record], Any],
    relative: bool = False,
) -> str:
    shown = []
    for direction, group in _by(records, lambda r: r["direction"]).items():
        axes = sorted({axis(record) for record in group})
        series = {name: _series(group, name, axis, same, relative) for name in colours}
        series = {name: points for name, points in series.items() if len(points) > 1}
        if len(axes) < 2 or not series:
            continue
        values = [value for points in series.values() for _, value in points]
        y_label = "speed-up over one" if relative else "GFLOP/s"
        chart = Chart(label, y_label, axes, values, x_log=not relative, y_log=False, x_ticks=axes)
        for name, points in series.items():
            chart.line(points, colours[name])
            for x, y in points:
                chart.dot(x, y, colours[name], f"{name}: {y:.2f} at {x}")
        shown.append(_figure(chart.svg(f"Scaling with {title}, {direction}"), f"{direction}; geometric means"))
    return _figures(shown) if shown else ""


def _series(
    records: Sequence[Record], name: str, axis: Callable[[Record], int], same: Callable[[Record], Any], relative: bool
) -> list[tuple[int, float]]:
    """Return (axis, geometric mean) over the problems that were measured all along the axis."""
    found = _by((r for r in records if name in r["contenders"]), same)
    axes = {axis(record) for group in found.values() for record in group}
    whole = [group for group in found.values() if {axis(record) for record in group} == axes]
    points = []
    for at in sorted(axes):
        values = []
        for group in whole:
            speed = {axis(record): record["contenders"][name]["gflops"] for record in group}
            values.append(speed[at] / speed[min(axes)] if relative else speed[at])
        if values:
            points.append((at, statistics.geometric_mean(values)))
    return points


def _layers(records: Sequence[Record], colours: dict[str, int]) -> str:
    groups = _by(records, lambda r: (r["direction"], r["batch"], r["dtype"], r["threads"], r["allocator"]))
    shown = []
    for number, ((direction, batch, dtype, threads, allocator), group) in enumerate(groups.items()):
        title = f"{direction}, batch {batch}, {dtype}, {threads} threads, allocator {allocator}: {len(group)} problems"
        rows = "".join(_layer(record, colours) for record in group)
        opened = " open" if number == 0 else ""
        shown.append(f'<details{opened}><summary>{title}</summary><div class="layers">{rows}</div></details>')
    return (
        "<p>Speed of each contender beside the fastest of the problem: longer is faster. The thin line is the "
        "interval of 95 %; ★ the winner, where the difference is more than the noise; ~ unstable.</p>" + "".join(shown)
    )


def _layer(record: Record, colours: dict[str, int]) -> str:
    contenders = record["contenders"]
    fastest = min(mine["milliseconds"] for mine in contenders.values())
    first = contenders[next(iter(contenders))]["milliseconds"]
    bars = []
    for name, mine in contenders.items():
        share = 100 * fastest / mine["milliseconds"]
        ratio = record["ratios"].get(name)
        interval = ""
        if ratio:
            high, low = (min(100 * fastest / first / edge, 100) for edge in ratio[1:])
            interval = f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        marks = ("★" if name == record["winner"] else "") + ("~" if mine["unstable"] else "")
        said = f"{_milliseconds(mine['milliseconds'])} {marks}"
        title = _about(record, name, f"{mine['gflops']:.1f} GFLOP/s, error {mine['error']:.1e}, {mine['algorithm']}")
        bars.append(
            f'<div class="bar c{colours[name] % charts.COLOURS}" title="{escape(title)}"><span>{escape(name)}</span>'
            f'<div class="track"><b style="width:{share:.1f}%"></b>{interval}</div><em>{said}</em></div>'
        )
    return f'<div class="layer"><h4>{escape(record["layer"])}</h4>{"".join(bars)}</div>'


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _first_calls(records: Sequence[Record], peers: dict[str, Any], colours: dict[str, int]) -> str:
    rows = []
    for name in colours:
        ratios = [
            (1e3 * mine["first_seconds"], 1e3 * mine["first_seconds"] / mine["milliseconds"])
            for record in records
            if (mine := record["contenders"].get(name)) and "first_seconds" in mine
        ]
        if ratios:
            first, over = (statistics.median(values) for values in zip(*ratios, strict=True))
            imported = peers.get(name, {}).get("import_seconds")
            rows.append((name, f"{imported:.2f}" if imported else "-", f"{first:.1f}", f"{over:.0f}"))
    return (
        "<p>From arrays in NumPy to the first answer: tensors made, the plan or the kernels too. Medians over the "
        "problems; the import is that of a process where NumPy and convcore are loaded already.</p>"
        + _table(("contender", "import, s", "first call, ms", "over a later call"), rows)
        if rows
        else ""
    )


def _numbers(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        for name, mine in record["contenders"].items():
            ratio = record["ratios"].get(name)
            rows.append(
                (
                    record["layer"],
                    record["direction"],
                    record["batch"],
                    record["dtype"],
                    record["threads"],
                    record["allocator"],
                    name,
                    f"{mine['milliseconds']:.3f}",
                    f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]" if ratio else "1",
                    f"{mine['gflops']:.1f}",
                    f"{mine['gbytes']:.2f}",
                    f"{mine['error']:.1e}",
                    f"{mine['of_allowed']:.2g}",
                    mine["algorithm"],
                )
            )
    head = ("problem", "direction", "batch", "dtype", "threads", "allocator", "contender", "ms", "times as long")
    head += ("GFLOP/s", "GB/s", "error", "of allowed", "algorithm")
    return f"<details><summary>{len(rows)} rows</summary>{_table(head, rows)}</details>"


def _absent(results: dict[str, Any]) -> str:
    rows = [(name, "missing", about["missing"]) for name, about in results["peers"].items() if "missing" in about]
    said: dict[tuple[str, str, str], int] = {}
    for record in results["records"]:
        for name, reason in record["out"].items():
            for kind, why in reason.items():
                said[name, kind, why] = said.get((name, kind, why), 0) + 1
    rows += [(name, f"{kind}, {times} problems", why) for (name, kind, why), times in said.items()]
    return _table(("contender", "", "why"), rows) if rows else ""


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    rows = [(name, _plain(value)) for name, value in machine.items()]
    rows += [(name, _plain(about)) for name, about in results["peers"].items() if "missing" not in about]
    return _table(("", ""), rows)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _figures(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def _by(records: Iterable[Record], about: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(about(record), []).append(record)
    return groups


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>convcore bench</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
{style}
</style>
</head>
<body>
<h1>convcore bench</h1>
<p>{count} problems on {processor}. Contenders take turns in shuffled rounds; times are medians; everybody is
compared with {first}.</p>
{legend}
{body}
</body>
</html>
"""
