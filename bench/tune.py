"""``convcore tune``: measures what a backend may choose among, problem by problem, and keeps the winners."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer


def tune(
    backend: Annotated[str, typer.Option(help="Whose choices are measured.")] = "opencl",
    device: Annotated[str, typer.Option(help="Its index or part of its name; see convcore doctor.")] = "",
    problems: Annotated[
        str, typer.Option(help='Sets, networks, FILE.json or "n1 c64 h56 w56 k64 r3 s3 p1", separated by commas.')
    ] = "resnet50",
    direction: Annotated[
        str, typer.Option(help="forward, grad_input, grad_weight.")
    ] = "forward,grad_input,grad_weight",
    batch: Annotated[str, typer.Option(help="Images; a problem's own n stands unless it is named here.")] = "",
    dtype: Annotated[str, typer.Option(help="NumPy's name: float32, float64, float16.")] = "float32",
    accuracy: Annotated[str, typer.Option(help="The policy: strict, standard, fast.")] = "standard",
    strategy: Annotated[
        str, typer.Option(help="Kernel Tuner's: brute_force tries everything; greedy_ils, simulated_annealing, …")
    ] = "brute_force",
    evaluations: Annotated[int | None, typer.Option(min=1, help="Candidates tried for a problem, at most.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Time for a problem, at most.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what the file already has.")] = False,
) -> None:
    """Measure which algorithm and tile is fastest for each problem, and keep it in a file that plans read.

    A candidate must compute the problem rightly to win.  Ends with status 1 if for some problem none did.
    """
    importlib.import_module("kernel_tuner")  # what is missing is said now
    from convcore_bench import kerneltuner
    from rich.console import Console

    from convcore.registry import registry
    from convcore.tuning import choices

    kerneltuner.known(strategy)
    registry().check_name(backend, "--backend")
    name, where = _device(backend, registry().devices(backend), device)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{name} on {where}")
    visit = partial(kerneltuner.by_strategy, strategy=strategy, evaluations=evaluations, seconds=seconds)
    cases = list(_cases(registry().backend(name), problems, direction, batch, dtype, accuracy))
    won = _tune(console, name, cases, visit, evaluations, again)
    console.print(f"choices: {choices.users().path}")
    raise typer.Exit(0 if won else 1)


def _device(backend: str, devices: Sequence[Any], wanted: str) -> tuple[str, str]:
    """Return the backend's name with the index of the device that is meant, and what that is called."""
    from convcore.spi import NoDevice, find_device

    if not wanted:
        return backend, devices[0].name
    try:
        found = find_device(devices, wanted, backend)
    except NoDevice as error:
        raise ValueError(f"--device: {error}") from None
    return f"{backend}:{found.index}", found.name


def _cases(
    backend: Any, problems: str, direction: str, batch: str, dtype: str, accuracy: str
) -> Iterator[tuple[str, Any]]:
    """Yield a name and a problem for everything that is to be measured, each bucket once."""
    import numpy as np
    from convcore_bench.case import DIRECTIONS, Case
    from convcore_bench.command import numbers, words
    from convcore_bench.problem_set import choose

    from convcore.problem import ACCURACIES

    directions, (policy,) = words("--direction", direction, DIRECTIONS), words("--accuracy", accuracy, ACCURACIES)
    seen = set()
    for images in numbers("--batch", batch) or [0]:
        for layer in choose(problems):
            for which in directions:
                case = Case(layer, images or layer.input_shape[0], which, dtype=np.dtype(dtype).name)
                problem = replace(case.problem, accuracy=policy)
                if backend.bucket(problem) not in seen:
                    seen.add(backend.bucket(problem))
                    yield f"{layer.id} {which}", problem


def _tune(
    console: Any, name: str, cases: list[tuple[str, Any]], visit: Any, evaluations: int | None, again: bool
) -> bool:
    """Measure every problem; return whether each that has candidates has a winner."""
    from convcore.registry import registry
    from convcore.tuning import choices
    from convcore.tuning.search import Attempt, tuned

    backend, well = registry().backend(name), True
    offered = [(label, problem, *_candidates(backend, problem)) for label, problem in cases]
    most = {label: min(count, evaluations or count) for label, _, count, _ in offered}
    with _progress(console, sum(most.values())) as (bar, task):
        for label, problem, count, reason in offered:
            if not count:
                console.print(f"{label}: {reason}")
                continue
            done = bar.tasks[0].completed + most[label]
            entry = None if again else choices.known(name, backend, problem)

            def tell(attempt: Attempt, label: str = label) -> None:
                bar.update(task, advance=1, description=f"{label}: {attempt.candidate}")
                if attempt.failure:
                    console.print(f"{label}: [yellow]{attempt.candidate} is out[/]: ", end="")
                    console.print(attempt.failure, markup=False)

            if entry is None:
                entry = tuned(name, backend, problem, visit, tell)
            well &= entry is not None
            console.print(f"{label}: {entry or '[red]none of the candidates is right[/]'}")
            bar.update(task, completed=done)
    return well


def _candidates(backend: Any, problem: Any) -> tuple[int, str]:
    """Return how many candidates may be measured, or why none."""
    supported = backend.supports(problem)
    if supported is not True:
        return 0, str(supported)
    count = len(backend.candidates(problem))
    return (count, "") if count > 1 else (0, "there is nothing to choose")


@contextlib.contextmanager
def _progress(console: Any, total: int) -> Iterator[tuple[Any, Any]]:
    """Show how far it is and how long it will take, below what is printed."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task("starting", total=total)
