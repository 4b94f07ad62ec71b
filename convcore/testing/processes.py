"""What the kit asks of a backend in other processes: after a fork, in a pool, with other numbers of threads, for long.

:func:`run` starts a fresh interpreter that calls one of the functions below and hands back what it returns.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from convcore.errors import ConvcoreError
from convcore.problem import HOST_ARRAY, Problem
from convcore.testing.engine import Engine, resolve
from convcore.testing.problems import GEOMETRIES, make_problem, random_operands, sibling
from convcore.testing.tolerance import assert_within

#: Seconds that another process may take, counted while this one runs: a pause of both does not count.
PATIENCE = 120.0
_TICK = 0.02
_START = """
import sys
sys.path[:] = {path!r}
from convcore.testing.processes import main
main()
"""
_THREAD_VARIABLES = ("CONVCORE_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run(task: Callable[..., Any], *arguments: Any, threads: int | None = None, patience: float = PATIENCE) -> Any:
    """Call a function of this module in a fresh interpreter.

    Parameters
    ----------
    task : callable
        A function of this module; arguments and result go through JSON.
    *arguments
    threads : int, optional
        The most threads that OpenMP, BLAS and convcore may use there.
    patience : float
        Seconds.

    Raises
    ------
    AssertionError
        If it crashes, or takes too long.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    command = [sys.executable, "-c", _START.format(path=sys.path), task.__name__, json.dumps(arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        for _ in _ticks(patience):
            try:
                out, err = process.communicate(timeout=_TICK)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            process.kill()
            raise AssertionError(f"a process that was to compute {task.__name__} has not finished in {patience} s")
    assert process.returncode == 0, (
        f"a process that was to compute {task.__name__} has ended with {_end(process)}: {err}"
    )
    return json.loads(out.splitlines()[-1])


def main() -> None:
    """Call what the command line names, and print what it returns."""
    task, arguments = sys.argv[1:]
    print(json.dumps(globals()[task](*json.loads(arguments))), flush=True)


def _end(process: subprocess.Popen[str]) -> str:
    code = process.returncode
    return f"status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _ticks(seconds: float) -> Iterator[int]:
    return iter(range(int(seconds / _TICK)))


# ---------------------------------------------------------------- the tasks


def digests(asked_as: str) -> list[str]:
    """Return a digest of the bits of each of some results, which are right."""
    engine, found = Engine(resolve(asked_as), asked_as), []
    for problem in everyday(engine):
        operands = random_operands(problem)
        result = engine.compute(problem, *operands)
        assert_within(result, problem, *operands, algorithm=engine.plan(problem).algorithm)
        found.append(f"{problem.op} {hashlib.sha256(result.tobytes()).hexdigest()}")
    return found


def everyday(engine: Engine) -> Iterator[Problem]:
    """Yield problems a backend accepts, large enough for several threads."""
    large: dict[str, Any] = {"images": 3, "channels": (8, 16), "size": (34, 35), "padding": ((1, 1), (1, 1))}
    for arguments in (large, GEOMETRIES["stride-2"]):
        for op in engine.spec.ops:
            problem = sibling(make_problem(**arguments), op)  # type: ignore[arg-type]  # a spec's ops are strings
            if not engine.refusal(problem):
                yield problem


def forked(asked_as: str) -> dict[str, Any]:
    """Compute, fork, and compute again on both sides."""
    before = digests(asked_as)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _answer(writer, asked_as)
    os.close(writer)
    status = None
    for _ in _ticks(PATIENCE / 4):
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = code
            break
        time.sleep(_TICK)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    return {
        "before": before,
        "after": digests(asked_as),
        "child": pickle.loads(answer) if answer else {},
        "ended": "it did not finish" if status is None else f"it ended with status {status}",
    }


def _answer(writer: int, asked_as: str) -> None:
    """Compute in a forked child, and leave it without what is left to do at exit."""
    try:
        answer: dict[str, Any] = {"digests": digests(asked_as)}
    except ConvcoreError as error:
        answer = {"refused": str(error)}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(writer, pickle.dumps(answer))
    os._exit(0)


def pooled(asked_as: str, used_before: bool) -> dict[str, Any]:
    """Compute in the workers of a process pool: spawned ones after use here, those of the default method before it."""
    here = digests(asked_as) if used_before else []
    context = multiprocessing.get_context("spawn" if used_before else None)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        workers = list(pool.map(digests, [asked_as] * 3))
    return {"here": here or digests(asked_as), "workers": workers}


def growth(asked_as: str, op: str, arrays: str, calls: int, rounds: int) -> dict[str, list[int]]:
    """Compute a small problem again and again; return memory in bytes, and Python's blocks of it, after each round.

    Nothing is returned if the backend refuses the problem.
    """
    engine = Engine(resolve(asked_as), asked_as)
    problem = sibling(make_problem(channels=(4, 4), size=(16, 16), padding=((1, 1), (1, 1)), arrays=arrays), op)  # type: ignore[arg-type]
    if engine.refusal(problem):
        return {"memory": [], "blocks": []}
    drawn = random_operands(problem)
    if arrays != HOST_ARRAY:
        drawn = tuple(None if operand is None else engine.backend.to_device(operand) for operand in drawn)  # type: ignore[assignment]
    call = functools.partial(engine.plan(problem), *drawn)
    memory, blocks = [], []
    for _ in range(rounds + 1):
        for _ in range(calls):
            call()
        engine.backend.synchronize()
        gc.collect()
        memory.append(_resident())
        blocks.append(sys.getallocatedblocks())
    return {"memory": memory, "blocks": blocks}


def _resident() -> int:
    """Return the bytes of this process that lie in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
