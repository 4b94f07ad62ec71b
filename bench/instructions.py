"""Counted instructions: the same on a busy machine as on a quiet one, so a margin of 3 % guards them.

    python -m convcore_bench.instructions            compare with the stored counts
    python -m convcore_bench.instructions --record   store those of this compiler and this Python

valgrind's callgrind runs one child process; between its sections the child calls ``getppid``, where callgrind writes
down what it has counted since.  Micro-kernels are those of AVX2 (valgrind knows no AVX-512), one thread, each on a
problem of its own; what counts is the whole call of a plan.  The dispatch path is counted on the 6 by 8 image.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

STORE = Path(__file__).parent / "counts.json"
#: How much more a count may be: stored for the same compiler or Python; for another Python.
MARGIN, OTHER_PYTHON = 0.03, 0.5
ISA = "avx2"
CALLS = 100
Counts = dict[str, dict[str, int]]

KERNELS, DISPATCH = "kernels", "dispatch"


def builds() -> dict[str, str]:
    """Return what the counts of each kind depend on: the compiler of the engine; Python and NumPy."""
    from convcore_cpu import engine

    said = re.search(rb"(GCC|clang)(?:: \([^)]*\)| version) (\d+\.\d+\.\d+)", Path(engine.__file__).read_bytes())
    compiler = f"{said[1].decode().lower()} {said[2].decode()}" if said else "unknown compiler"
    return {
        KERNELS: f"{compiler}, {platform.machine()}",
        DISPATCH: f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()}), "
        f"NumPy {np.__version__}",
    }


def why_not() -> str:
    """Return why nothing can be counted here; empty when it can."""
    from convcore_cpu.engine import ISAS

    if not shutil.which("valgrind"):
        return "valgrind is not installed (Debian: apt install valgrind)"
    return "" if ISA in ISAS else f"this processor has no {ISA}, whose micro-kernels are the ones counted"


def count() -> Counts:
    """Run the sections under callgrind and return the instructions of each.

    Raises
    ------
    RuntimeError
        With valgrind's last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        valgrind = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
        child = [sys.executable, "-m", "convcore_bench.instructions", "--child", f"{folder}/sections"]
        one = dict.fromkeys(("CONVCORE_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = os.environ | one | {"PYTHONHASHSEED": "0", "CONVCORE_BACKEND": "cpu", "CONVCORE_CPU_ISA": ISA}
        ended = subprocess.run(valgrind + child, env=environment, capture_output=True, text=True)
        if ended.returncode:
            last = "; ".join(ended.stderr.strip().splitlines()[-3:])
            raise RuntimeError(f"callgrind ended with status {ended.returncode}: {last}")
        sections = json.loads(Path(folder, "sections").read_text())
        # The first dump is of everything before the first section.
        dumps = [Path(f"{out}.{number + 2}").read_text() for number in range(len(sections))]
    found: Counts = {KERNELS: {}, DISPATCH: {}}
    for (kind, name, calls), dump in zip(sections, dumps, strict=True):
        found[kind][name] = int(re.search(r"^summary: (\d+)", dump, re.MULTILINE)[1]) // calls
    return found


def sections() -> Iterator[tuple[str, str, int, Callable[[], object]]]:
    """Yield (kind, name, calls, what is called) for each section."""
    import convcore

    for name, plan, operands in _plans():
        yield KERNELS, name, 1, lambda plan=plan, operands=operands: plan(*operands)
    image = np.ones((6, 8), np.float32)
    x, weight = image[None, None], np.array([[[[1, -1]]]], np.float32)
    y = convcore.conv2d(x, weight)
    plan = convcore.plan("conv2d", x, weight)
    layer = convcore.Conv2D(1, (1, 2), use_bias=False, in_channels=1)
    layer.initialize(seed=0)
    calls = {
        "conv2d": lambda: convcore.conv2d(x, weight),
        "corr2d": lambda: convcore.corr2d(image, weight[0, 0]),
        "conv2d_grad_input": lambda: convcore.conv2d_grad_input(y, weight, x.shape),
        "conv2d_grad_weight": lambda: convcore.conv2d_grad_weight(x, y, weight.shape),
        "plan": lambda: plan(x, weight),
        "Conv2D": lambda: layer(x),
    }
    for name, call in calls.items():
        yield DISPATCH, name, CALLS, call


def _plans() -> Iterator[tuple[str, Any, Any]]:
    """Yield a plan that runs each micro-kernel of a dtype people use; some that work together are counted so, too."""
    from convcore_cpu.engine import MICRO_KERNELS, CPUPlan
    from convcore_cpu.plans import make_program

    from convcore.testing.problems import make_problem, random_operands

    dtypes = {"f32": "float32", "f64": "float64"}
    one_channel = {"images": 1, "channels": (1, 1), "size": (160, 192), "kernel": (5, 5), "padding": ((2, 2), (2, 2))}
    # Of one channel each, by a kernel as large as that of the row.
    groups = {"images": 1, "channels": (8, 8), "groups": 8, "size": (48, 56)}
    layer = {"images": 1, "channels": (16, 24), "size": (16, 20), "kernel": (3, 3), "padding": ((1, 1), (1, 1))}
    # With few channels on the other side it is copying that takes a good part of the instructions.
    few = layer | {"channels": (32, 4), "size": (48, 64), "kernel": (1, 1)}
    runs = {
        "outer": ("forward", "direct", layer),
        "panel": ("forward", "panels", layer),
        "collect": ("forward", "panels", few),
        "band": ("forward", "channels", few),
        "inner": ("forward", "direct", few | {"channels": (32, 96), "size": (7, 7), "padding": ((0, 0), (0, 0))}),
        "interleave": ("grad_input", "direct", few | {"stride": (2, 2)}),
        "turn": ("grad_weight", "direct", few | {"channels": (1, 32), "kernel": (3, 3)}),
        "dot": ("grad_weight", "dot", one_channel),
        "sliding": ("forward", "sliding", one_channel),
        "strip": ("forward", "strips", groups),
        "weigh": ("grad_weight", "strips", groups),
    }
    rows = MICRO_KERNELS[ISA]
    # One of each kind, so that the model has nothing to choose.
    firsts = list({(row.dtype, row.algorithm): row for row in reversed(rows)}.values())
    for row in rows:
        if row.algorithm not in runs or row.dtype not in dtypes:
            continue
        op, algorithm, geometry = runs[row.algorithm]
        if geometry is groups:
            geometry = groups | {"kernel": (row.rows, row.rows), "padding": ((row.rows // 2,) * 2,) * 2}
        problem = make_problem(op, **geometry, dtypes=(dtypes[row.dtype],) * 2, algorithm=algorithm)
        beside_outer = row.algorithm in ("inner", "interleave")
        unused = {row.algorithm, "dot"} | (set() if beside_outer else {"outer"})
        others = [other for other in firsts if other.algorithm not in unused]
        yield row.name, CPUPlan(problem, make_program(problem, [row, *others], 1)), random_operands(problem)
    together = [
        *(("f32", op, f"winograd{m}", rows) for op in ("forward", "grad_input", "grad_weight") for m in (2, 4)),
        *((dtype, op, "channels", firsts) for dtype in dtypes for op in ("forward", "grad_input")),
    ]
    for dtype, op, algorithm, usable in together:
        problem = make_problem(op, **layer, dtypes=(dtypes[dtype],) * 2, algorithm=algorithm)
        program = make_program(problem, usable, 1)
        yield f"{dtype}_{op}_{algorithm}__{ISA}", CPUPlan(problem, program), random_operands(problem)


def _child(path: Path) -> None:
    """Call every section once it is warm; this process is what callgrind counts."""
    found = list(sections())
    for _, _, _, call in found:
        call()
        call()
    gc.collect()
    gc.disable()
    boundary = os.getppid
    boundary()
    for _, _, calls, call in found:
        for _ in range(calls):
            call()
        boundary()
    path.write_text(json.dumps([(kind, name, calls) for kind, name, calls, _ in found]))


def compare(found: dict[str, int], stored: dict[str, int], margin: float = MARGIN) -> dict[str, list[str]]:
    """Sort what was counted by what is to be said of it.

    Returns
    -------
    dict of lists of str
        "more": beyond the margin; "fewer": so much less that the stored count no longer guards; "unknown": not stored;
        "gone": stored, and no longer there.
    """
    said: dict[str, list[str]] = {"more": [], "fewer": [], "unknown": [], "gone": sorted(stored.keys() - found.keys())}
    for name, instructions in found.items():
        before = stored.get(name)
        if before is None:
            said["unknown"].append(name)
        elif abs(instructions / before - 1) > margin:
            kind = "more" if instructions > before else "fewer"
            said[kind].append(
                f"{name}: {instructions} instructions, stored {before} ({instructions / before - 1:+.1%})"
            )
    return said


def read() -> dict[str, dict[str, dict[str, int]]]:
    """Return the stored counts: of each kind, by compiler or by Python."""
    return json.loads(STORE.read_text()) if STORE.exists() else {KERNELS: {}, DISPATCH: {}}


def record() -> None:
    """Store the counts of this compiler and of this Python."""
    stored, found = read(), count()
    for kind, build in builds().items():
        stored[kind][build] = found[kind]
    STORE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Record, or compare and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="store the counts of this compiler and this Python")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _child(Path(options.child))
    if reason := why_not():
        raise SystemExit(f"nothing is counted: {reason}")
    if options.record:
        record()
        print(f"stored in {STORE} for {'; '.join(builds().values())}")
        return None
    found, stored, more = count(), read(), False
    for kind, build in builds().items():
        print(f"{kind}, {build}: {'compared' if build in stored[kind] else 'nothing stored'}")
        for sort, names in compare(found[kind], stored[kind].get(build, {})).items():
            more |= sort == "more" and bool(names)
            print(*(f"  {sort}: {name}" for name in names), sep="\n", end="\n" if names else "")
    raise SystemExit(int(more))


if __name__ == "__main__":
    main()
