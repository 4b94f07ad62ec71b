"""``convcore bench``: reads its options, drives the measurement, prints the table and writes the files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

CONTENDERS = "cpu,torch"
QUICK = (
    "resnet50/conv1,resnet50/layer1.0.conv2,resnet50/layer4.0.conv1,vgg16/features.24,"
    "mobilenet_v2/features.1.conv.0.0,image512/7x7"
)


def bench(
    backends: Annotated[
        str, typer.Option(help="Who is compared, the first one with each other: cpu, opencl:1, torch, opencv, jax, …")
    ] = CONTENDERS,
    problems: Annotated[
        str,
        typer.Option(help='Sets, networks, FILE.json, "n1 c64 h56 w56 k64 r3 s3 p1"; by default resnet50.'),
    ] = "",
    direction: Annotated[str, typer.Option(help="forward, grad_input, grad_weight, step.")] = "forward",
    batch: Annotated[str, typer.Option(help="Images; a problem's own n stands unless it is named here.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, float64.")] = "float32",
    accuracy: Annotated[str, typer.Option(help="convcore's policy: strict, standard, fast.")] = "standard",
    threads: Annotated[str, typer.Option(help="For every contender alike; the cores of this machine by default.")] = "",
    allocator: Annotated[str, typer.Option(help="default, pooled (glibc keeps freed memory), or both.")] = "default",
    quick: Annotated[bool, typer.Option("--quick", help="A few layers and few rounds.")] = False,
    isolate: Annotated[bool, typer.Option("--isolate", help="A process for each contender; they take turns.")] = False,
    budget: Annotated[float, typer.Option(help="Seconds of rounds for a case.")] = 1.0,
    patience: Annotated[
        float, typer.Option(help="Seconds for which rounds that other processes disturb are played again.")
    ] = 5.0,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the records here.")] = None,
    append: Annotated[bool, typer.Option("--append", help="Keep what else is in the --json file.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report here, one page.")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with results stored by --json on this machine.")] = None,
    show: Annotated[Path | None, typer.Option("--from", help="Measure nothing: show results stored by --json.")] = None,
) -> None:
    """Compare backends with each other and with other libraries; every answer is checked before it is timed."""
    from convcore_bench import machine, results, table
    from convcore_bench.driver import Effort
    from rich.console import Console

    console = Console()
    stored = results.read(against) if against else None
    if show:
        found = results.read(show)
    else:
        about = machine.describe()
        if stored:
            results.same_machine({"machine": about}, stored, against)
        older = results.read(as_json) if append and as_json and as_json.exists() else None
        if older:
            results.same_machine({"machine": about}, older, as_json)
        problems = problems or (QUICK if quick else "resnet50")
        cases = list(_cases(problems, direction, batch, dtype, accuracy, threads))

        def keep(found: dict[str, Any]) -> None:
            """Write what there is, so that a run that is cut short leaves what it has measured."""
            if as_json:
                results.write(as_json, results.merge(older, found, as_json) if older else found)

        effort = Effort(budget=budget, patience=patience)
        effort = replace(effort, rounds=7, budget=min(budget, 0.4), patience=min(patience, 1.0)) if quick else effort
        found = _measure(console, about, backends, cases, allocator, effort, isolate, keep)
    table.show(console, found, stored)
    if as_json and not show:
        console.print(f"records: {as_json}", highlight=False, soft_wrap=True)
    if html:
        from convcore_bench import page

        html.write_text(page.render(found), encoding="utf-8")
        console.print(f"report: {html}", highlight=False, soft_wrap=True)
    wrong = sum("wrong" in reason for record in found["records"] for reason in record["out"].values())
    raise typer.Exit(1 if wrong else 0)


def _cases(problems: str, direction: str, batch: str, dtype: str, accuracy: str, threads: str) -> Iterator[Any]:
    from convcore_bench.case import DIRECTIONS, STEP, Case
    from convcore_bench.machine import cores
    from convcore_bench.problem_set import choose

    directions = words("--direction", direction, (*DIRECTIONS, STEP))
    dtypes = words("--dtype", dtype, ("float32", "float64"))
    policies = words("--accuracy", accuracy, ("strict", "standard", "fast"))
    counts = numbers("--threads", threads) or [cores()]
    for images in numbers("--batch", batch) or [0]:
        for layer in choose(problems):
            for which in directions:
                case = Case(layer, images or layer.input_shape[0], which)
                for each, policy, count in ((d, a, t) for d in dtypes for a in policies for t in counts):
                    yield replace(case, dtype=each, accuracy=policy, threads=count)


def words(option: str, text: str, known: Iterable[str]) -> list[str]:
    """Read words separated by commas."""
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if word not in known:
            raise ValueError(f"{option} must be of {', '.join(known)}, got {word!r}")
    return found


def numbers(option: str, text: str) -> list[int]:
    """Read whole numbers separated by commas."""
    try:
        found = [int(word) for word in text.split(",") if word]
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise ValueError(f"{option} must be whole numbers of at least 1, separated by commas, got {text!r}")
    return found


def _measure(
    console: Any,
    about: dict[str, Any],
    backends: str,
    cases: list[Any],
    allocator: str,
    effort: Any,
    isolate: bool,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    from convcore_bench import driver, machine
    from convcore_bench.peers import choose

    modes = list(driver.ALLOCATORS) if allocator == "both" else words("--allocator", allocator, driver.ALLOCATORS)
    peers = choose(backends)
    peaks = {str(count): machine.peaks(count) for count in sorted({case.threads for case in cases})}
    found: dict[str, Any] = {"machine": about, "peaks": peaks, "peers": {}, "records": []}
    with _progress(console, len(cases) * len(modes)) as advance:
        for field, record in driver.plan_of(peers, cases, modes, effort, isolate):
            found["records"].append(record)
            found["peers"] |= field.about | {name: {"missing": reason} for name, reason in field.missing.items()}
            keep(found)
            advance(record["layer"])
    return found


@contextlib.contextmanager
def _progress(console: Any, total: int) -> Iterator[Any]:
    """Show how far it is and how long it will take, on stderr."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description:24.24}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
