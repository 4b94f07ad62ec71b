"""How a backend behaves: the same every time, in threads, after a fork, in a pool, and without stopping others."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from convcore.problem import Op, Problem
from convcore.testing import processes, public, record
from convcore.testing.engine import Engine, bits
from convcore.testing.exceptions import conduct_exception
from convcore.testing.problems import ALL_OPS, CASES, make_problem, random_operands, seed_of

_LONG = 0.08  # seconds


@pytest.mark.parametrize("op", ALL_OPS)
def test_deterministic(convcore_engine: Engine, op: Op) -> None:
    """The same operands give the same bits, also from several threads at once; results do not share memory."""
    problem = make_problem(op, images=3, channels=(8, 16), size=(17, 19), padding=((1, 1), (1, 1)))
    if convcore_engine.refusal(problem):
        return
    plan, drawn = convcore_engine.plan(problem), random_operands(problem)
    first = convcore_engine.compute(problem, *drawn)
    expected = first.tobytes()
    second = plan(*drawn)
    assert second.tobytes() == expected, f"not deterministic: {op} gives other bits when called again"
    assert not np.may_share_memory(first, second), f"two results of {op} share memory"
    plan(*random_operands(problem, seed=1))
    assert first.tobytes() == expected, f"a later call of {op} changed an earlier result"
    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(plan, *drawn) for _ in range(12)]]
    assert all(result.tobytes() == expected for result in results), (
        f"not deterministic: {op} gives other bits when called from several threads at once"
    )


def test_number_of_threads(convcore_engine: Engine) -> None:
    """The bits do not depend on how many threads there are, unless the spec has an exception for that."""
    one, three = (processes.run(processes.digests, convcore_engine.asked_as, threads=threads) for threads in (1, 3))
    if one == three:
        return
    different = {digest.split()[0] for digest, other in zip(one, three, strict=True) if digest != other}
    exception = conduct_exception(convcore_engine.spec, "threads")
    assert exception, f"not deterministic: other bits with 3 threads than with 1, in {', '.join(sorted(different))}"
    record.current().exceptions[exception] += 1


def test_many_threads(convcore_engine: Engine, convcore_profile: str) -> None:
    """Many threads compute different problems through convcore's functions at once, all rightly."""
    names = [name for name in CASES if "cropped" not in name and "transposed" not in name]
    chosen = [name for name in names[:: 7 if convcore_profile == "full" else 29] if _accepts(convcore_engine, name)]
    drawn = {name: random_operands(CASES[name], seed_of(name)) for name in chosen}

    def compute(name: str) -> bytes:
        problem, operands = CASES[name], drawn[name]
        if problem.op == "grad_input":
            operands = (*operands[:2], None)
        return bits(np.asarray(public.call(problem, operands, convcore_engine.name)))

    alone = {name: compute(name) for name in chosen}
    start = threading.Barrier(8)

    def work(offset: int) -> list[str]:
        start.wait()
        turned = chosen[offset:] + chosen[:offset]
        return [name for name in turned if compute(name) != alone[name]]

    with ThreadPoolExecutor(8) as pool:
        wrong = set(itertools.chain(*pool.map(work, range(0, 8 * 5, 5))))
    assert not wrong, f"not safe in threads: other results when 8 threads compute at once: {', '.join(sorted(wrong))}"


def _accepts(engine: Engine, name: str) -> bool:
    return not engine.refusal(CASES[name])


@pytest.mark.parametrize("op", ALL_OPS)
def test_gil(convcore_engine: Engine, op: Op) -> None:
    """While a long call runs, another Python thread makes progress."""
    if convcore_engine.refusal(_sized(op, 12)):
        return
    plan, drawn = _long_call(convcore_engine, op)
    stopped = []
    for _ in range(8):
        duration, longest = _watched(convcore_engine, plan, drawn)
        stopped.append((longest / duration, longest, duration))
        if longest < duration / 2:
            return
    _, longest, duration = min(stopped)
    raise AssertionError(
        f"holds the GIL: in calls of {op} that took {duration:.2f} s, another Python thread stood still "
        f"for {longest:.2f} s"
    )


def _sized(op: Op, size: int) -> Problem:
    return make_problem(op, images=1, channels=(128, 128), size=(size, size), bias=False)


def _long_call(engine: Engine, op: Op) -> tuple[Any, Any]:
    """Return a plan and operands for which it takes a while."""
    for size in (12, 24, 48, 96, 192, 384):
        problem = _sized(op, size)
        plan, drawn = engine.plan(problem), random_operands(problem)
        durations = []
        for _ in range(3):
            start = time.perf_counter()
            plan(*drawn)
            durations.append(time.perf_counter() - start)
        if min(durations) > _LONG / 4:
            break
    return plan, drawn


def _watched(engine: Engine, plan: Any, drawn: Any) -> tuple[float, float]:
    """Return how long the calls of a while took, and for how long of it another thread did not get to run.

    Between two calls Python does not switch threads: only the calls themselves can let the other one run.
    """
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    watcher = threading.Thread(target=tick)
    watcher.start()
    while not ticks:
        time.sleep(0.001)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        start = time.perf_counter()
        while time.perf_counter() < start + _LONG:
            plan(*drawn)
        engine.backend.synchronize()
        end = time.perf_counter()
    finally:
        sys.setswitchinterval(interval)
        done.set()
        watcher.join()
    times = [start, *(moment for moment in ticks if start < moment < end), end]
    return end - start, max(np.diff(times))


def test_fork(convcore_engine: Engine) -> None:
    """A backend that was in use works in a forked child and in its parent; the spec may have an exception for that."""
    if not hasattr(os, "fork"):
        return
    found = processes.run(processes.forked, convcore_engine.asked_as)
    assert found["after"] == found["before"], "after a fork, the parent's results are others"
    child = found["child"]
    refused = child.get("refused")
    exception = conduct_exception(convcore_engine.spec, "fork")
    if refused and exception:
        record.current().exceptions[exception] += 1
        return
    assert not refused, f"refuses to work after fork(), which is no exception of its spec: {refused}"
    assert child, f"does not survive fork(): a forked child gave no answer, {found['ended']}"
    assert "error" not in child, f"does not survive fork(): {child['error']}"
    assert _same(convcore_engine, child["digests"], found["before"]), (
        "does not survive fork(): a forked child computes something else"
    )


@pytest.mark.parametrize("used_before", [False, True], ids=["default-method", "spawn-after-use"])
def test_process_pool(convcore_engine: Engine, used_before: bool) -> None:
    """The workers of a process pool compute what one process computes."""
    found = processes.run(processes.pooled, convcore_engine.asked_as, used_before)
    for worker in found["workers"]:
        assert _same(convcore_engine, worker, found["here"]), "a worker of a process pool computes something else"


def _same(engine: Engine, digests: list[str], others: list[str]) -> bool:
    """Whether two processes, which may have different numbers of threads, have found what they should."""
    return digests == others or bool(conduct_exception(engine.spec, "threads"))
