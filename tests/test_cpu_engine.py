"""What is the CPU engine's own: its table of micro-kernels, its threads, its variables, its short cut past the core."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from convcore_bench.problem_set import load
from convcore_cpu import calibration, plans
from convcore_cpu.backend import CPUBackend
from convcore_cpu.channels import _whole_pieces
from convcore_cpu.engine import ISAS, MAX_REST, MICRO_KERNELS, CPUPlan
from convcore_cpu.machine import fingerprint, processor
from convcore_cpu.plans import ALGORITHMS, candidates, make_program, programs
from convcore_cpu.program import BUILT_IN
from convcore_cpu.winograd import FORMS
from threadpoolctl import threadpool_limits

import convcore
from convcore import select
from convcore.problem import BOUNDARIES, OPS
from convcore.registry import registry
from convcore.spi import Packed, Plan
from convcore.testing.problems import GEOMETRIES, make_problem, random_operands
from convcore.testing.tolerance import assert_within
from convcore.tuning import choices

DTYPES = {"f32": "float32", "f64": "float64", "i64": "int16"}
ROWS = [row for rows in MICRO_KERNELS.values() for row in rows]
#: Pixels and channels below, at and above the size of tiles; every kind of plane.
TILED = (
    "plain", "same", "1x1", "1x1-strided", "dilation-stride", "many-channels", "depthwise-multiplier", "width-49",
    "one-pixel", "many-images",
)  # fmt: skip


#: Lines and columns below, at and above the size of tiles and of pieces; every kind of patch; lines stored in turns.
SLID = {name: GEOMETRIES[name] for name in ("plain", "stride-2", "depthwise-multiplier", "one-pixel")} | {
    "narrow": {"images": 1, "channels": (2, 2), "groups": 2, "size": (7, 7), "padding": ((1, 1), (1, 1))},
    "5x5-stride-2": {"images": 1, "channels": (1, 1), "size": (15, 21), "kernel": (5, 5), "stride": (2, 2)},
    "9x3-dilation-2": {"images": 1, "channels": (1, 1), "size": (24, 20), "kernel": (9, 3), "dilation": (2, 2)},
    "pieces": {"images": 1, "channels": (1, 1), "size": (9, 530), "padding": ((1, 1), (1, 1))},
}

#: Images narrower, as wide and wider than strips and than half of them, and as high as several pieces.
STRIPPED = ((1, 1), (7, 7), (8, 9), (5, 33), (40, 16), (15, 17), (9, 4), (100, 6))

#: Where the rows of an algorithm run: operations, and the names of the algorithms.
ALONE = {
    "outer": (("forward", "direct"), ("grad_input", "direct")),
    "panel": (
        ("forward", "panels"),
        ("grad_input", "panels"),
        ("forward", "channels"),
        ("grad_input", "channels"),
        ("grad_weight", "direct"),
    ),
}

WINOGRAD_OPS = ("forward", "grad_input", "grad_weight")


def missing(isa):
    return pytest.mark.skipif(isa not in ISAS, reason=f"this processor has no {isa}")


def available(row):
    return pytest.param(row, marks=missing(row.isa), id=row.name)


def all_rows():
    return [row for isa in ISAS for row in MICRO_KERNELS[isa]]


def in_python(code, **variables):
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class TestMicroKernels:
    @pytest.mark.parametrize("row", [available(row) for row in ROWS if row.algorithm in ALONE])
    def test_computes_alone(self, row):
        helpers = {"collect", "band", "turn", "outer", "interleave"} - {row.algorithm}
        others = [other for other in all_rows() if other.algorithm in helpers]
        for name, (op, algorithm) in product(TILED, ALONE[row.algorithm]):
            if algorithm == "channels" and row.dtype == "i64":
                continue
            arguments = GEOMETRIES[name] | {"dtypes": (DTYPES[row.dtype],) * 2}
            problem = make_problem(op, **arguments, algorithm=algorithm)
            program = make_program(problem, [row, *others])
            assert program.kernel == row.name
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("row", [available(row) for row in ROWS if row.algorithm == "collect"])
    def test_collects_alone(self, row):
        others = [other for other in all_rows() if other.algorithm == "panel"]
        for name, op in product(TILED, ("forward", "grad_input")):
            arguments = GEOMETRIES[name] | {"dtypes": (DTYPES[row.dtype],) * 2}
            problem = make_problem(op, **arguments, algorithm="panels")
            operands = random_operands(problem)
            program = make_program(problem, [row, *others])
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("row", [available(row) for row in ROWS if row.algorithm == "band"])
    def test_fills_bands_alone(self, row):
        others = [other for other in all_rows() if other.algorithm in ("panel", "turn", "outer")]
        for name, op, boundary in product(TILED, ("forward", "grad_input"), ("constant", "reflect")):
            arguments = GEOMETRIES[name] | {"dtypes": (DTYPES[row.dtype],) * 2, "boundary": boundary}
            problem = make_problem(op, **arguments, algorithm="channels")
            operands = random_operands(problem)
            program = make_program(problem, [row, *others])
            assert program.each[0][0].fill == row.name
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("row", [available(row) for row in ROWS if row.algorithm == "dot"])
    def test_sums_bands_alone(self, row):
        dtypes = ("int64" if row.dtype == "i64" else DTYPES[row.dtype],) * 2
        for name, boundary in product(TILED, BOUNDARIES):
            problem = make_problem(
                "grad_weight", **GEOMETRIES[name] | {"dtypes": dtypes, "boundary": boundary, "algorithm": "dot"}
            )
            program = make_program(problem, [row])
            assert program.kernel == row.name
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("row", [available(row) for row in ROWS if row.algorithm == "sliding"])
    def test_slides_alone(self, row):
        dtypes = ("int64" if row.dtype == "i64" else DTYPES[row.dtype],) * 2
        others = [other for other in all_rows() if other.algorithm != "sliding"]
        for name, op, boundary in product(SLID, ("forward", "grad_input", "grad_weight"), ("constant", "reflect")):
            arguments = SLID[name] | {"dtypes": dtypes, "boundary": boundary, "algorithm": "sliding"}
            if op == "grad_weight":
                if name == "pieces":
                    continue  # its grad_out is too wide for the bands of some rows
                arguments |= {"channels": (2, 4), "groups": 2}
            problem = make_problem(op, **arguments)
            program = make_program(problem, [row, *others])
            assert program.kernel == row.name
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("row", [available(row) for row in ROWS if row.algorithm in ("strip", "weigh")])
    def test_strips_compute_alone(self, row):
        outer = [other for other in all_rows() if other.algorithm == "outer"]
        last = row.rows - 1
        for op, stride, size, padding in product(
            ("grad_weight",) if row.algorithm == "weigh" else ("forward", "grad_input"), (1, 2), STRIPPED,
            (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((last, row.rows), (row.rows, last)), ((0, 1), (3, 2))),
        ):  # fmt: skip
            if any(pixels + sum(around) < row.rows for pixels, around in zip(size, padding, strict=True)):
                continue
            problem = make_problem(
                op, images=2, channels=(9, 9 if op == "grad_input" else 18), groups=9, size=size, padding=padding,
                kernel=(row.rows,) * 2, stride=(stride,) * 2, dtypes=(DTYPES[row.dtype],) * 2, algorithm="strips",
            )  # fmt: skip
            program = make_program(problem, [row, *outer])
            assert program.kernel == row.name
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_winograd_transforms_compute_with_the_products_of_their_isa(self, op, m, dtype, isa):
        for name in ("plain", "same", "width-49", "many-images", "many-channels"):
            for layout in ("NCHW", "NHWC"):
                arguments = GEOMETRIES[name] | {"kernel": (3, 3), "dtypes": (dtype,) * 2, "layout": layout}
                problem = make_problem(op, **arguments, algorithm=f"winograd{m}")
                operands = random_operands(problem)
                result = CPUPlan(problem, make_program(problem, MICRO_KERNELS[isa]))(*operands)
                assert_within(result, problem, *operands, algorithm=problem.algorithm)

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("m", [2, 4])
    def test_every_form_computes_with_the_products_of_their_isa(self, m, dtype, isa, monkeypatch):
        for form, op in product(FORMS[m], ("forward", "grad_input")):
            monkeypatch.setitem(FORMS, m, (form,))
            for kernel, stride in product(((5, 4), (1, 7), (6, 1)), ((1, 1), (2, 3))):
                if op == "grad_input" and stride != (1, 1):
                    continue
                for images, channels, size in ((2, (5, 20), (17, 19)), (1, (2, 3), (9, 150)), (1, (70, 70), (8, 7))):
                    problem = make_problem(
                        op, images=images, channels=channels, size=size, kernel=kernel, stride=stride,
                        padding=((2, 1), (0, 2)), dtypes=(dtype,) * 2, algorithm=f"winograd{m}", accuracy="fast",
                    )  # fmt: skip
                    operands = random_operands(problem)
                    result = CPUPlan(problem, make_program(problem, MICRO_KERNELS[isa]))(*operands)
                    assert_within(result, problem, *operands, algorithm=problem.algorithm)

    def test_names_say_what_the_rows_are(self):
        for row in ROWS:
            assert row.name == f"{row.dtype}_{row.algorithm}_{row.rows}x{row.columns}__{row.isa}"

    def test_every_isa_covers_every_dtype_and_algorithm(self):
        wanted = {
            (dtype, algorithm)
            for dtype in DTYPES
            for algorithm in ("outer", "panel", "collect", "inner", "interleave", "dot", "sliding")
        }
        forms = {form.taps for forms in FORMS.values() for form in forms} | {1}
        kinds = ["turn", "band", *(f"winograd_{kind}" for kind in ("points", "kernel", "grad", "taps"))]
        kinds += [f"winograd_{kind}{taps}" for kind in ("pixels", "weight", "result", "output") for taps in forms]
        wanted |= {(dtype, kind) for dtype in ("f32", "f64") for kind in kinds}
        for isa, rows in MICRO_KERNELS.items():
            # Strips want loads of some lanes only.
            strips = set() if isa == "baseline" else set(product(("f32", "f64"), ("strip", "weigh")))
            assert {(row.dtype, row.algorithm) for row in rows} == wanted | strips


class TestPrograms:
    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_batches_of_packed_images_leave_no_image_out(self, op, boundary, monkeypatch):
        monkeypatch.setattr("convcore_cpu.layout.BATCH_BYTES", 8192)
        monkeypatch.setattr("convcore_cpu.grad_weight.WHOLE_BATCH_BYTES", 0)
        problem = make_problem(
            op,
            images=7,
            channels=(3, 5),
            size=(12, 13),
            padding=((1, 1), (1, 1)),
            boundary=boundary,
            algorithm="direct",
        )
        program = make_program(problem, all_rows())
        assert 1 <= program.images_per_batch < 7
        operands = random_operands(problem)
        assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    def test_grad_weight_of_one_large_image_is_summed_in_parts(self):
        for algorithm in ("direct", "dot"):
            problem = make_problem(
                "grad_weight", images=1, channels=(1, 2), size=(19, 90), padding=((1, 1), (1, 1)), algorithm=algorithm
            )
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, make_program(problem, all_rows()))(*operands), problem, *operands)

    @pytest.mark.parametrize(
        "geometry",
        [
            {"channels": (20, 40), "kernel": (1, 1)},  # lanes of x
            {"channels": (40, 20), "kernel": (1, 1)},  # lanes of grad_out
            {"channels": (6, 8), "groups": 2, "padding": ((1, 1), (2, 0))},
            {"channels": (3, 5), "dtypes": ("complex64",) * 2},
            {"channels": (20, 40), "kernel": (1, 1), "dtypes": ("float64",) * 2},
        ],
    )
    def test_grad_weight_reads_panels_too_large_for_a_cache_once_for_all_rows(self, geometry, monkeypatch):
        monkeypatch.setattr("convcore_cpu.grad_weight.PANEL_BYTES", 20_000)
        problem = make_problem("grad_weight", images=3, size=(23, 21), algorithm="direct", **geometry)
        program = make_program(problem, all_rows())
        (accumulate,) = program.each[-1]
        assert (accumulate.sizes["parts"], accumulate.sizes["row_tasks"]) == (16, 1)
        operands = random_operands(problem)
        assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize("size", [(5, 1), (7, 1), (6, 2), (5, 3)])
    @pytest.mark.parametrize("stride", [(2, 2), (3, 2), (4, 2), (2, 3)])
    def test_narrow_results_have_fewer_gathers_than_a_stride_has_columns(self, size, stride):
        problem = make_problem(
            "grad_input", images=2, channels=(3, 3), groups=3, size=size, stride=stride, padding=((1, 1), (1, 1)),
            algorithm="sliding",
        )  # fmt: skip
        operands = random_operands(problem)
        room = np.full(2 * np.prod(problem.result_shape), 7, np.float32)
        out, after = np.split(room, 2)
        out = out.reshape(problem.result_shape)
        CPUPlan(problem, make_program(problem, all_rows()))(*operands, out=out)
        assert_within(out, problem, *operands)
        assert (after == 7).all()

    @pytest.mark.parametrize("name", ["plain", "1x1"])
    def test_an_operand_that_needs_no_padding_is_not_copied(self, name):
        problem = make_problem("forward", **GEOMETRIES[name] | {"size": (9, 64)})
        assert make_program(problem, all_rows()).workspace_bytes == 0

    def test_an_unknown_algorithm_is_refused_with_those_it_has(self):
        problem = make_problem("grad_bias", algorithm="winograd")
        assert CPUBackend().supports(problem) == "it has no algorithm 'winograd' for grad_bias; it has 'direct'"

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight", "grad_bias", "max_pool", "max_pool_grad"])
    @pytest.mark.parametrize("algorithm", [None, "direct", "fft"])
    def test_an_unknown_dtype_is_refused_by_name(self, op, algorithm):
        problem = make_problem(op, dtypes=("float16",) * 2, algorithm=algorithm)
        assert CPUBackend().supports(problem) == "it does not know float16"

    def test_the_dot_algorithm_refuses_complex_numbers(self):
        problem = make_problem("grad_weight", dtypes=("complex64",) * 2, algorithm="dot")
        assert CPUBackend().supports(problem) == "its algorithm 'dot' does not know complex numbers"

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    def test_a_workspace_limit_is_kept_by_smaller_batches(self, op):
        problem = make_problem(
            op, images=7, channels=(3, 5), size=(12, 13), padding=((1, 1), (1, 1)), algorithm="direct"
        )
        wanted = make_program(problem, all_rows())
        limited = replace(problem, workspace_limit=wanted.workspace_bytes - 1)
        program = make_program(limited, all_rows())
        assert program.workspace_bytes <= limited.workspace_limit
        operands = random_operands(problem)
        assert_within(CPUPlan(limited, program)(*operands), problem, *operands, algorithm=program.algorithm)

    def test_a_workspace_limit_is_kept_or_refused(self):
        problem = make_problem("forward", images=1, padding=((1, 1), (1, 1)), algorithm="direct")
        needed = make_program(problem, all_rows()).workspace_bytes
        assert CPUBackend().supports(replace(problem, workspace_limit=needed)) is True
        assert CPUBackend().supports(replace(problem, workspace_limit=needed - 1)) == (
            f"it needs {needed} bytes of workspace, workspace_limit is {needed - 1}"
        )

    @pytest.mark.parametrize("channels", [(301, 40), (602, 6000)])
    def test_rows_that_lie_side_by_side_are_packed_in_blocks(self, channels):
        """Blocks that no row fills, more of them than a task packs, and lines of a block for more than one task."""
        problem = make_problem(
            "grad_input", images=1, channels=channels, groups=channels[1] // 3000 or 1, size=(12, 12), kernel=(1, 1),
            algorithm="panels",
        )  # fmt: skip
        program = make_program(problem, all_rows())
        (step,) = (step for stage in program.before for step in stage)
        assert step.sizes["column_phases"] > step.sizes["phases_per_task"] > 1
        assert step.sizes["has_room"] == (step.sizes["line_blocks"] == 1) == (channels[1] == 40)
        operands = random_operands(problem)
        assert_within(CPUPlan(problem, program)(*operands), problem, *operands)


class TestPlanning:
    """Planning is counted, not timed: events of Python's profiler, twice as many as it takes at most."""

    @pytest.mark.parametrize(
        ("op", "arguments", "most"),
        [
            ("forward", {"channels": (64, 64), "size": (56, 56), "padding": ((1, 1), (1, 1))}, 4000),
            ("forward", {"channels": (1, 64), "size": (572, 572)}, 6500),
            ("grad_input", {"channels": (3, 768), "size": (224, 224), "kernel": (16, 16), "stride": (16, 16)}, 50_000),
        ],
        ids=["dense", "large image", "large stride"],
    )
    def test_takes_no_more_calls_than_a_choice_needs(self, op, arguments, most):
        problem, events = make_problem(op, images=1, **arguments), 0

        def count(frame, event, argument):
            nonlocal events
            events += event in ("call", "c_call")

        make_program(problem, all_rows(), 2)
        sys.setprofile(count)
        try:
            make_program(problem, all_rows(), 2)
        finally:
            sys.setprofile(None)
        assert events < most


class TestMemory:
    """No call takes much more memory than its arrays, and a limit chooses another program or is answered in words."""

    @staticmethod
    def fair(problem):
        return max(64e6, 2 * problem.bytes)

    @pytest.mark.parametrize("images", [1, 16])
    def test_no_layer_of_the_networks_takes_more_than_is_fair(self, images):
        for layer in load("networks").values():
            for op in ("forward", "grad_input", "grad_weight"):
                problem = make_problem(
                    op,
                    images=images,
                    channels=(layer.input_shape[1], layer.weight_shape[0]),
                    size=layer.input_shape[2:],
                    kernel=layer.weight_shape[2:],
                    stride=layer.stride,
                    padding=layer.padding,
                    dilation=layer.dilation,
                    groups=layer.groups,
                )
                program = make_program(problem, all_rows(), 2)
                assert program.memory_bytes <= self.fair(problem), (layer.id, op, program.algorithm)

    def test_what_takes_more_makes_way_for_another_program(self, monkeypatch):
        problem = make_problem("forward", images=1, channels=(64, 64), size=(28, 28), padding=((1, 1), (1, 1)))
        own = make_program(problem, all_rows())
        monkeypatch.setattr(type(problem), "bytes", 0)
        monkeypatch.setattr("convcore_cpu.plans.FAIR_BYTES", own.memory_bytes - 1)
        other = make_program(problem, all_rows())
        assert other.memory_bytes < own.memory_bytes
        monkeypatch.setattr("convcore_cpu.plans.FAIR_BYTES", 0)
        smallest = make_program(problem, all_rows())
        assert smallest.memory_bytes <= other.memory_bytes

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    @pytest.mark.parametrize(
        "arguments",
        [
            {"channels": (48, 32), "size": (20, 20), "padding": ((1, 1), (1, 1))},
            {"channels": (32, 48), "size": (15, 17), "stride": (2, 2), "padding": ((2, 1), (0, 1))},
            {"channels": (40, 24), "size": (14, 14), "kernel": (5, 5), "layout": "NHWC"},
            {"channels": (16, 16), "size": (12, 12), "padding": ((1, 1), (1, 1)), "boundary": "reflect"},
            {"channels": (64, 64), "size": (9, 9), "kernel": (1, 1)},
        ],
        ids=lambda arguments: f"{arguments.get('kernel', (3, 3))}-{arguments.get('layout', 'NCHW')}",
    )
    def test_the_least_is_named_and_is_enough(self, op, arguments):
        problem, backend = make_problem(op, images=3, **arguments), CPUBackend()
        answer = backend.supports(replace(problem, workspace_limit=0))
        least = 0
        if answer is not True:
            said = re.fullmatch(r"it needs (\d+) bytes of workspace, workspace_limit is 0", answer)
            least = int(said[1])
            assert backend.supports(replace(problem, workspace_limit=least - 1)) is not True
        limited = replace(problem, workspace_limit=least)
        plan, operands = backend.plan(limited), random_operands(limited)
        assert plan.workspace_bytes <= least
        assert_within(plan(*operands), limited, *operands, algorithm=plan.algorithm)


class TestLastPixels:
    """Up to four pixels past the last whole vector are left over by tiles (``kernels/rest.h``)."""

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("rest", range(1, MAX_REST + 2))
    @pytest.mark.parametrize(
        ("op", "stride", "groups", "dtype"),
        [
            ("forward", 1, 1, "f32"), ("forward", 2, 2, "f64"), ("forward", 1, 1, "i64"),
            ("grad_input", 1, 2, "f32"), ("grad_input", 2, 1, "f32"), ("grad_input", 3, 1, "f64"),
        ],
    )  # fmt: skip
    def test_they_are_those_of_the_formula(self, op, stride, groups, dtype, rest, isa):
        rows = [row for row in all_rows() if row.isa in list(MICRO_KERNELS)[: list(MICRO_KERNELS).index(isa) + 1]]
        lanes = max(row.lanes for row in rows if row.dtype == dtype)
        low = [row for row in rows if row.algorithm != "outer" or row.rows <= 2]
        for usable, pixels, bias in (
            (rows, lanes + rest, False),
            (rows, 6 * lanes + rest, op == "forward"),
            (low, 6 * lanes + rest, False),
            (rows, rest, False),  # and no others
            (low, rest, op == "forward"),
        ):
            problem = make_problem(
                op,
                channels=(70 * groups, 150 * groups),
                size=(1, stride * (pixels - 1) + 1),
                kernel=(1, 1),
                stride=(stride, stride),
                groups=groups,
                bias=bias,
                dtypes=(DTYPES[dtype],) * 2,
                algorithm="direct",
            )
            program = make_program(problem, usable)
            steps = [step for stage in program.each for step in stage]
            # More are as well a vector of narrow ones.
            if usable is rows and lanes >= 8 and 0 < pixels % lanes <= lanes // 4:
                assert any(step.task.startswith("rest") or step.sizes.get("a_image") for step in steps)
            operands = random_operands(problem)
            out = np.full(problem.result_shape, -1 if dtype == "i64" else np.nan, problem.result_dtype)
            assert_within(CPUPlan(problem, program)(*operands, out=out), problem, *operands)

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_all_of_a_small_image_are_those_of_the_formula(self, op, stride, isa):
        for (kernel, padding), groups, size in product(
            ((1, 0), (3, 1), (5, 3)), (1, 3), ((1, 1), (1, 2), (2, 2), (1, 4))
        ):
            problem = make_problem(
                op, channels=(6, 9) if groups == 1 else (3, 6), size=size, kernel=(kernel, kernel), groups=groups,
                stride=(stride, stride), padding=((padding, padding),) * 2, algorithm="direct",
            )  # fmt: skip
            operands = random_operands(problem)
            out = np.full(problem.result_shape, np.nan, problem.result_dtype)
            assert_within(
                CPUPlan(problem, make_program(problem, MICRO_KERNELS[isa]))(*operands, out=out), problem, *operands
            )

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("width", range(1, 38, 3))
    def test_pixels_in_turns_are_those_of_the_formula(self, width, isa):
        for kernel, padding in (((1, 1), 0), ((2, 2), 0), ((3, 3), 1), ((2, 5), 1)):
            problem = make_problem(
                "grad_input",
                channels=(5, 4),
                size=(6, width + 4),
                kernel=kernel,
                stride=(2, 2),
                padding=((padding, padding),) * 2,
                bias=False,
                algorithm="direct",
            )
            program = make_program(problem, [row for row in all_rows() if row.isa == isa or row.algorithm == "collect"])
            assert any(step.sizes.get("interleaved") == 2 for stage in program.each for step in stage)
            operands = random_operands(problem)
            out = np.full(problem.result_shape, np.nan, np.float32)
            assert_within(CPUPlan(problem, program)(*operands, out=out), problem, *operands)


class TestOwnWeights:
    """Where one piece has all pixels, a task packs what it needs of the weight for itself."""

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(
        ("op", "arguments"),
        [
            ("forward", {"channels": (300, 100), "size": (9, 7), "padding": ((1, 1), (1, 0))}),
            ("forward", {"channels": (700, 100), "size": (7, 7), "kernel": (1, 1), "layout": "NHWC"}),
            ("forward", {"channels": (30, 66), "groups": 3, "size": (15, 9), "stride": (2, 2), "boundary": "reflect"}),
            ("grad_input", {"channels": (100, 300), "size": (9, 7), "padding": ((1, 1), (1, 0))}),
            ("grad_input", {"channels": (100, 700), "size": (7, 7), "kernel": (1, 1)}),
            ("grad_input", {"channels": (90, 33), "size": (13, 11), "stride": (2, 2), "padding": ((1, 1), (1, 1))}),
            ("grad_input", {"channels": (66, 30), "groups": 3, "size": (15, 9), "dilation": (2, 1)}),
            ("grad_input", {"channels": (40, 20), "size": (20, 19), "kernel": (6, 6), "stride": (3, 2)}),
        ],
        ids=["3x3", "1x1", "groups", "turned", "in rows", "phases", "turned groups", "more taps than are turned"],
    )
    def test_it_is_the_formula(self, op, arguments, dtype, isa, monkeypatch):
        def cheapest(*arguments):
            return min(_whole_pieces(*arguments), key=lambda way: way[0])

        monkeypatch.setattr("convcore_cpu.channels._cheapest", cheapest)  # whatever else would be cheaper
        problem = make_problem(op, images=1, **arguments, algorithm="channels", dtypes=(dtype,) * 2)
        operands = random_operands(problem)
        programs = [make_program(problem, MICRO_KERNELS[isa], threads) for threads in (1, 2, 5)]
        assert all(step.sizes["packs"] for program in programs for step in program.each[0])
        assert not any(program.on_stack for program in programs)
        results = [CPUPlan(problem, program)(*operands) for program in programs]
        assert_within(results[0], problem, *operands)
        assert len({result.tobytes() for result in results}) == 1

    def test_several_images_share_a_packed_weight(self):
        problem = make_problem("forward", images=3, channels=(64, 64), size=(7, 7), algorithm="channels")
        program = make_program(problem, all_rows())
        assert program.before[0]
        assert not program.each[0][0].sizes["packs"]


class TestNoWorkspace:
    """Dense layers keep to any limit, even 0, by pieces that fit on the stack."""

    DENSE = (("forward", "channels"), ("grad_input", "channels"), ("grad_weight", "dot"))

    @pytest.mark.parametrize("limit", [0, 1 << 20])
    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    def test_dense_layers_keep_to_any_limit(self, op, limit):
        layers = [layer for layer in load("networks").values() if layer.id.startswith(("resnet50/", "vgg16/"))]
        arguments = [
            {
                "channels": (layer.input_shape[1], layer.weight_shape[0]),
                "size": layer.input_shape[2:],
                "kernel": layer.weight_shape[2:],
                "stride": layer.stride,
                "padding": layer.padding,
            }
            for layer in layers
        ]
        arguments.append({"channels": (64, 64), "size": (2048, 2048), "padding": ((1, 1), (1, 1))})
        assert len(arguments) > 20
        for layer in arguments:
            program = make_program(make_problem(op, images=1, **layer, workspace_limit=limit), all_rows(), 2)
            assert program.memory_bytes <= limit

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize(("op", "algorithm"), DENSE)
    def test_pieces_on_the_stack_compute_everything(self, op, algorithm, isa):
        rows, layouts = MICRO_KERNELS[isa], ("NCHW", "NHWC") if op == "forward" else ("NCHW",)
        boundaries = ("constant",) if op == "grad_input" else ("constant", "reflect")
        for name, boundary, layout, dtype in product(TILED, boundaries, layouts, ("float32", "float64")):
            arguments = GEOMETRIES[name] | {"boundary": boundary, "layout": layout, "dtypes": (dtype,) * 2}
            problem = make_problem(op, **arguments, algorithm=algorithm, workspace_limit=0)
            program = make_program(problem, rows)
            assert program.memory_bytes == 0
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    @pytest.mark.parametrize(("op", "algorithm"), DENSE)
    def test_channels_and_panels_are_shared_out(self, op, algorithm):
        """More channels than a piece takes at a time, and a last share of fewer; the same bits on any thread."""
        geometry = {"images": 2, "channels": (75, 43), "size": (13, 17), "padding": ((1, 1), (1, 1))}
        problem = make_problem(op, **geometry, algorithm=algorithm, workspace_limit=0)
        operands, results = random_operands(problem), []
        for threads in (1, 3):
            program = make_program(problem, all_rows(), threads)
            assert program.memory_bytes == 0
            assert program.on_stack
            results.append(CPUPlan(problem, program)(*operands))
        assert_within(results[0], problem, *operands)
        assert results[0].tobytes() == results[1].tobytes()

    def test_what_is_not_finite_goes_where_the_formula_sends_it(self):
        problem = make_problem("grad_input", channels=(40, 48), size=(9, 9), padding=((2, 2), (2, 2)), bias=False)
        grad_out, weight, _ = random_operands(problem)
        weight[7, 5, 1, 2] = np.inf
        wanted = CPUPlan(problem, make_program(replace(problem, algorithm="direct"), all_rows()))(grad_out, weight)
        limited = replace(problem, algorithm="channels", workspace_limit=0)
        found = CPUPlan(limited, make_program(limited, all_rows()))(grad_out, weight)
        assert np.isinf(wanted).any()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much memory a process has had")
    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    def test_the_memory_taken_is_as_little_as_promised(self, op):
        grown = in_python(f"""
import resource
import numpy as np
from convcore_cpu.backend import CPUBackend
from convcore.testing.problems import make_problem
layer = dict(images=1, channels=(64, 64), padding=((1, 1), (1, 1)), bias=False, workspace_limit=0)
small, large = (make_problem({op!r}, **layer, size=size) for size in ((16, 16), (360, 360)))
for problem in (small, large):
    plan = CPUBackend().plan(problem)
    assert plan.workspace_bytes == 0
    operands = [np.ones(shape, np.float32) for shape in problem.operand_shapes]
    out = np.ones(problem.result_shape, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan(*operands, out=out)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown)
""")
        # A padded copy of x, or one of grad_out, would be 33 MB; what grows are tables and the interpreter.
        assert int(grown) <= 3000

    def test_explain_says_so(self):
        x, weight = np.ones((1, 64, 20, 20), np.float32), np.ones((64, 64, 3, 3), np.float32)
        said = convcore.explain("conv2d", x, weight, padding=1, workspace_limit=0, backend="cpu")
        assert (said.algorithm, said.workspace_bytes) == ("channels", 0)
        assert "in pieces that fit on the stack" in said.notes
        assert re.search(r"winograd4: .*; its \d+ bytes of workspace are too many", said.details)


class TestSliding:
    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    @pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (5, 4), (9, 2)])
    def test_large_images_are_cut_into_pieces_whose_bands_fit(self, op, kernel):
        for dtype, (height, width) in product(("float32", "float64"), ((400, 200), (37, 2100), (256, 520))):
            padding = tuple((size // 2, size // 2) for size in kernel)
            problem = make_problem(
                op, images=1, channels=(1, 1), size=(height, width), kernel=kernel, padding=padding, dtypes=(dtype,) * 2
            )
            if op == "grad_weight":
                program = make_program(problem, all_rows())
            else:
                program = make_program(replace(problem, algorithm="sliding"), all_rows())
                (step,) = program.each[0]
                lines, columns = step.tables["pieces"][:, 2:].T
                assert (lines * columns).sum() == np.prod(problem.result_shape[2:])
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands)

    def test_a_half_of_the_pieces_is_about_a_half_of_the_pixels(self):
        """Threads take pieces that follow each other, and those that need no band are much the larger."""
        problem = make_problem(
            "forward", images=1, channels=(1, 1), size=(2048, 2048), kernel=(7, 7), padding=((3, 3), (3, 3))
        )
        program = make_program(replace(problem, algorithm="sliding"), all_rows())
        pixels = program.each[0][0].tables["pieces"][:, 2:].prod(axis=1)
        assert 0.4 < pixels[: len(pixels) // 2].sum() / pixels.sum() < 0.6

    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_it_runs_where_groups_have_one_channel(self, op):
        for groups in (32, 1):
            problem = make_problem(
                op, images=1, channels=(32, 32), groups=groups, size=(56, 56), kernel=(9, 9), padding=((4, 4), (4, 4))
            )
            assert (CPUBackend().plan(problem).algorithm == "sliding") == (groups == 32)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"layout": "NHWC"}, "its algorithm 'sliding' wants NCHW"),
            (
                {"dtypes": ("int16", "int16")},
                "its algorithm 'sliding' knows neither complex numbers nor integers of less than 64 bits",
            ),
            (
                {"channels": (4096, 1), "kernel": (5, 5)},
                "its algorithm 'sliding' knows groups of at most 16 channels",
            ),
        ],
    )
    def test_named_it_runs_or_is_refused(self, change, reason):
        assert CPUBackend().supports(make_problem("forward", **change, algorithm="sliding")) == reason


class TestStrips:
    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("kernel", [3, 5])
    def test_they_run_where_groups_have_one_channel(self, op, stride, kernel):
        problem = make_problem(
            op, images=1, channels=(32, 32), groups=32, size=(28, 28), kernel=(kernel, kernel),
            stride=(stride, stride), padding=((1, 1), (1, 1)),
        )  # fmt: skip
        if ISAS[-1] == "avx512":
            assert CPUBackend().plan(problem).algorithm == "strips"

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("position", [0, 1])
    @pytest.mark.parametrize("value", [np.inf, np.nan])
    @pytest.mark.parametrize("width", [6, 21])
    @pytest.mark.parametrize("place", [(-1, ..., -1), (-1, -1, ..., -1)], ids=["all-planes", "one-plane"])
    def test_what_is_not_finite_goes_where_the_formula_says(self, op, stride, position, value, width, place):
        problem = make_problem(
            op, images=2, channels=(8, 8), groups=8, size=(9, width), stride=(stride, stride), padding=((1, 1), (2, 2))
        )
        operands = list(random_operands(problem))
        operands[position] = operands[position].copy()
        operands[position][place] = value
        expected = registry().backend("numpy").plan(problem)(*operands)
        strips = replace(problem, algorithm="strips")
        if CPUBackend().supports(strips) is True:
            found = CPUBackend().plan(strips)(*operands)
            for is_so in (np.isnan, np.isposinf, np.isneginf):
                np.testing.assert_array_equal(is_so(found), is_so(expected))

    @pytest.mark.parametrize(
        ("op", "change", "reason"),
        [
            ("forward", {"layout": "NHWC"}, "its algorithm 'strips' wants NCHW"),
            ("forward", {"dtypes": ("int64",) * 2}, "its algorithm 'strips' is for float32 and float64"),
            ("forward", {"groups": 4}, "its algorithm 'strips' knows groups of one channel only"),
            (
                "forward",
                {"stride": (2, 1)},
                "its algorithm 'strips' knows strides of 1 or 2 both ways, and no dilation",
            ),
            ("forward", {"boundary": "reflect"}, "its algorithm 'strips' knows no boundary but zeros"),
            ("grad_weight", {"fill_value": 2}, "its algorithm 'strips' knows no boundary but zeros"),
            ("forward", {"kernel": (4, 4)}, "its algorithm 'strips' has no micro-kernel for this kernel"),
            (
                "grad_input",
                {"channels": (8, 16)},
                "its algorithm 'strips' knows grad_input of one channel of grad_out in a group only",
            ),
            (
                "grad_weight",
                {"channels": (4, 4), "groups": 4},
                "its algorithm 'strips' wants 8 groups for grad_weight",
            ),
            ("grad_weight", {"images": 0}, "its algorithm 'strips' has no image to sum over"),
        ],
    )
    def test_named_they_run_or_are_refused(self, op, change, reason):
        arguments = {"channels": (8, 8), "groups": 8, "padding": ((1, 1), (1, 1)), "algorithm": "strips"} | change
        if "avx2" in ISAS:
            assert CPUBackend().supports(make_problem(op, **arguments)) == reason


class TestWinograd:
    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_it_runs_where_it_is_cheapest_and_the_accuracy_allows_it(self, op):
        problem = make_problem(op, images=1, channels=(64, 64), size=(56, 56), padding=((1, 1), (1, 1)))
        for accuracy, algorithm in {"strict": "winograd2", "standard": "winograd4", "fast": "winograd4"}.items():
            assert CPUBackend().plan(replace(problem, accuracy=accuracy)).algorithm == algorithm
        assert not CPUBackend().plan(make_problem(op)).algorithm.startswith("winograd")

    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_the_name_without_a_size_means_the_best_that_is_allowed(self, op):
        arguments = {"images": 1, "channels": (64, 64), "size": (56, 56)}
        for accuracy, tile in {"strict": "F(2x2, 3x3)", "standard": "F(4x4, 3x3)"}.items():
            plan = CPUBackend().plan(make_problem(op, **arguments, algorithm="winograd", accuracy=accuracy))
            assert plan.algorithm == "winograd"
            assert tile in plan.notes

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"kernel": (1, 1)}, "its Winograd algorithm knows no 1x1 kernels"),
            ({"kernel": (12, 11), "size": (20, 20)}, "its Winograd algorithm knows kernels of at most 128 taps"),
            ({"channels": (4, 4), "groups": 2}, "its Winograd algorithm knows one group only"),
            ({"dtypes": ("int16", "int16")}, "its Winograd algorithm knows float32 and float64 only"),
            ({"dtypes": ("complex64",) * 2}, "its Winograd algorithm knows float32 and float64 only"),
            ({"accuracy": "strict"}, "its algorithm 'winograd4' errs more than accuracy 'strict' allows"),
        ],
    )
    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_a_named_one_runs_or_is_refused(self, op, change, reason):
        assert CPUBackend().supports(make_problem(op, **change, algorithm="winograd4")) == reason

    @pytest.mark.parametrize(
        ("op", "stride", "dilation", "reason"),
        [
            ("forward", (2, 1), (2, 1), "a dilation with stride 1, and not of grad_weight"),
            ("grad_weight", (1, 1), (2, 1), "a dilation with stride 1, and not of grad_weight"),
            ("grad_input", (1, 1), (5, 8), "dilations of at most 36 phases, lines times columns"),
        ],
    )
    def test_a_dilation_is_refused_where_it_is_not_known(self, op, stride, dilation, reason):
        problem = make_problem(op, dilation=dilation, stride=stride, size=(30, 30), algorithm="winograd4")
        assert CPUBackend().supports(problem) == f"its Winograd algorithm knows {reason}"

    @pytest.mark.parametrize("isa", [pytest.param(isa, marks=missing(isa)) for isa in MICRO_KERNELS])
    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_each_phase_of_a_dilation_is_a_correlation_without(self, op, m, isa):
        for kernel, dilation, size, layout in (
            ((3, 3), (2, 2), (28, 28), "NCHW"), ((3, 3), (3, 1), (17, 40), "NCHW"), ((3, 1), (2, 9), (9, 5), "NCHW"),
            ((2, 5), (4, 3), (21, 30), "NHWC"), ((3, 3), (6, 5), (4, 3), "NCHW"),
        ):  # fmt: skip
            padding = tuple((taps // 2 * step, taps // 2 * step) for taps, step in zip(kernel, dilation, strict=True))
            problem = make_problem(
                op, channels=(5, 18), size=size, kernel=kernel, dilation=dilation, padding=padding, layout=layout,
                algorithm=f"winograd{m}", accuracy="fast",
            )  # fmt: skip
            operands = random_operands(problem)
            out = np.full(problem.result_shape, np.nan, problem.result_dtype)
            result = CPUPlan(problem, make_program(problem, MICRO_KERNELS[isa]))(*operands, out=out)
            assert_within(result, problem, *operands, algorithm=problem.algorithm)

    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_bands_of_tiles_and_batches_leave_none_out(self, op, m, monkeypatch):
        monkeypatch.setattr("convcore_cpu.layout.BATCH_BYTES", 1 << 18)
        monkeypatch.setattr("convcore_cpu.winograd.POINT_BYTES", 1 << 16)
        kernels = ((3, 3),) if op == "grad_weight" else ((3, 3), (4, 5), (1, 7))
        for kernel, (images, size) in product(kernels, ((7, (13, 12)), (6, (13, 12)), (2, (50, 61)))):
            problem = make_problem(
                op, images=images, channels=(5, 6), size=size, kernel=kernel, algorithm=f"winograd{m}", accuracy="fast"
            )
            operands = random_operands(problem)
            result = CPUPlan(problem, make_program(problem, all_rows()))(*operands)
            assert_within(result, problem, *operands, algorithm=problem.algorithm)

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_many_tiles_go_block_by_block(self, op, m, layout):
        for images, size in ((1, (14, 1501)), (3, (75, 61)), (2, (41, 277))):
            problem = make_problem(
                op, images=images, channels=(5, 9), size=size, padding=((1, 2), (0, 1)), layout=layout,
                algorithm=f"winograd{m}",
            )  # fmt: skip
            program = make_program(problem, all_rows())
            assert [step.task for stage in program.each for step in stage] == ["blocks_f32"]
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands, algorithm=problem.algorithm)

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_sums_of_few_tiles_stay_on_the_core(self, dtype, m, layout):
        for images, channels, size in ((1, (5, 9), (3, 4)), (3, (21, 50), (7, 18)), (1, (9, 70), (19, 13))):
            problem = make_problem(
                "grad_weight", images=images, channels=channels, size=size, padding=((1, 2), (0, 1)), layout=layout,
                algorithm=f"winograd{m}", dtypes=(dtype, dtype),
            )  # fmt: skip
            program = make_program(problem, all_rows())
            assert program.each[-1][0].task.startswith("products")
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands, algorithm=problem.algorithm)

    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_a_large_weight_is_transformed_some_rows_at_a_time(self, op, monkeypatch):
        monkeypatch.setattr("convcore_cpu.winograd.ROW_BYTES", 1 << 15)
        for channels, kernel, pad in (((37, 70), (3, 3), 0), ((20, 20), (5, 7), 2)):
            problem = make_problem(
                op, channels=channels, size=(9, 9), kernel=kernel, padding=((pad,) * 2,) * 2, algorithm="winograd4"
            )
            program = make_program(problem, all_rows())
            assert len(program.each) > 2
            operands = random_operands(problem)
            assert_within(CPUPlan(problem, program)(*operands), problem, *operands, algorithm="winograd4")

    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_a_kernel_of_several_pieces_may_be_packed(self, op):
        problem = make_problem(
            op, images=1, channels=(192, 160), size=(3, 17), kernel=(1, 7), padding=((0, 0), (3, 3)),
            algorithm="winograd4",
        )  # fmt: skip
        first, weight, *rest = random_operands(problem)
        plan = CPUBackend().plan(problem)
        packed = plan.pack(weight)
        assert packed.prepared is not None
        assert_within(plan(first, packed, *rest), problem, first, weight, *rest, algorithm="winograd4")

    @pytest.mark.parametrize(
        ("accuracy", "kernel", "stride", "algorithm"),
        [
            ("strict", (1, 7), 1, "winograd2"),
            ("standard", (1, 7), 1, "winograd4"),
            ("standard", (3, 3), 2, "winograd2"),
            ("fast", (3, 3), 2, "winograd4"),
            ("standard", (7, 7), 2, "winograd4"),
        ],
    )
    def test_forms_that_err_too_much_are_refused(self, accuracy, kernel, stride, algorithm):
        """Of two sizes the larger that runs is meant."""
        problem = make_problem("forward", size=(20, 20), kernel=kernel, stride=(stride,) * 2, accuracy=accuracy)
        larger = CPUBackend().supports(replace(problem, algorithm="winograd4"))
        assert (larger is True) == (algorithm == "winograd4")
        assert CPUBackend().supports(replace(problem, algorithm=algorithm)) is True

    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_a_large_weight_meets_no_image(self, op):
        problem = make_problem(op, images=0, channels=(256, 256), size=(9, 9))
        first, second, *rest = random_operands(problem)
        plan = CPUBackend().plan(problem)
        assert_within(plan(first, second, *rest), problem, first, second, *rest)
        if op != "grad_weight":
            assert plan(first, plan.pack(second), *rest).shape == problem.result_shape

    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_an_outlier_disturbs_no_more_than_its_tiles(self, op, m):
        problem = make_problem(op, channels=(32, 32), size=(23, 24), padding=((1, 1), (1, 1)), algorithm=f"winograd{m}")
        operands = random_operands(problem)
        operands[0][:, :, ::7, ::9] *= 1e4
        assert_within(CPUBackend().plan(problem)(*operands), problem, *operands, algorithm=problem.algorithm)

    @pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("victim", [0, 1])
    @pytest.mark.parametrize("op", WINOGRAD_OPS)
    def test_what_is_not_finite_goes_where_the_formula_sends_it(self, op, victim, special):
        kernels = ((3, 3),) if op == "grad_weight" else ((3, 3), (1, 5), (7, 4))
        for algorithm, kernel in product(("winograd2", "winograd4"), kernels):
            problem = make_problem(
                op, channels=(6, 7), size=(11, 12), kernel=kernel, padding=((1, 1), (2, 0)), algorithm=algorithm,
                accuracy="fast",
            )  # fmt: skip
            operands = random_operands(problem)
            operands[victim][0, 1, 0, -1] = special
            assert_within(CPUBackend().plan(problem)(*operands), problem, *operands)


class TestNotANumber:
    def test_padding_is_never_multiplied_by_an_infinite_weight(self):
        for name, boundary in product(("plain", "stride-2", "dilation-stride", "groups-odd"), BOUNDARIES):
            problem = make_problem("grad_input", **GEOMETRIES[name], boundary=boundary)
            grad_out, weight, bias = random_operands(problem)
            weight[:, :, 0, -1] = np.inf
            result = CPUBackend().plan(problem)(grad_out, weight, bias)
            assert np.isfinite(result).any()
            assert_within(result, problem, grad_out, weight, bias)

    @pytest.mark.parametrize("algorithm", ["direct", "dot"])
    def test_pixels_no_output_saw_stay_out_of_grad_weight(self, algorithm):
        problem = make_problem("grad_weight", size=(9, 20), kernel=(2, 3), stride=(1, 4), algorithm=algorithm)
        x, grad_out, _ = random_operands(problem)
        x[:, :, :, 3::4] = np.nan
        x[0, 0, 0, -1] = np.inf
        assert_within(CPUBackend().plan(problem)(x, grad_out), problem, x, grad_out)


LARGE = {
    "images": 2, "channels": (12, 20), "size": (60, 61), "padding": ((1, 1), (1, 1)), "bias": False,
}  # fmt: skip


class TestThreads:
    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight", "grad_bias"])
    @pytest.mark.parametrize("algorithm", sorted({name for op in OPS for name in candidates(op)}))
    def test_any_number_of_threads_gives_the_same_bits(self, op, algorithm):
        problem = make_problem(op, **LARGE, algorithm=algorithm)
        if CPUBackend().supports(problem) is not True:
            return
        operands = random_operands(problem)
        results = [
            CPUPlan(problem, make_program(problem, all_rows(), threads))(*operands).tobytes()
            for threads in (1, 2, 3, 7)
        ]
        assert len(set(results)) == 1

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
    @pytest.mark.parametrize("algorithm", sorted({name for op in OPS for name in candidates(op)}))
    def test_a_short_last_batch_leaves_tasks_without_pixels(self, op, algorithm, monkeypatch):
        """Ten images at a time of thirteen: most tasks of the second batch have nothing to do."""
        problem = make_problem(op, **LARGE | {"images": 13, "size": (18, 19)}, algorithm=algorithm)
        if CPUBackend().supports(problem) is not True:
            return
        whole = make_program(problem, all_rows(), 2)
        monkeypatch.setattr("convcore_cpu.layout.BATCH_BYTES", whole.workspace_bytes * 10 // 13)
        program = make_program(problem, all_rows(), 2)
        operands = random_operands(problem)
        assert_within(CPUPlan(problem, program)(*operands), problem, *operands, algorithm=algorithm)

    def test_threadpoolctl_limits_them(self):
        problem = make_problem("forward", **LARGE)
        operands = random_operands(problem)
        plan = CPUBackend().plan(problem)
        with threadpool_limits(1):
            alone = plan(*operands)
        np.testing.assert_array_equal(alone, plan(*operands))

    def test_calls_from_many_python_threads(self):
        problem = make_problem("grad_weight", **LARGE)
        operands = random_operands(problem)
        plan = CPUBackend().plan(problem)
        expected = plan(*operands)
        with ThreadPoolExecutor(8) as pool:
            for result in pool.map(lambda _: plan(*operands), range(40)):
                np.testing.assert_array_equal(result, expected)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_child_does_not_wait_for_threads_it_does_not_have(self):
        code = """
import os, warnings
warnings.simplefilter("ignore")
from convcore.testing.problems import make_problem, random_operands
from convcore_cpu.backend import CPUBackend
problem = make_problem("forward", images=2, channels=(12, 20), size=(60, 61), bias=False)
operands, plan = random_operands(problem), CPUBackend().plan(problem)
expected = plan(*operands)
child = os.fork()
if child == 0:
    os._exit(0 if (plan(*operands) == expected).all() else 1)
print(os.waitpid(child, 0)[1])
"""
        assert in_python(code, OMP_NUM_THREADS="2") == "0"

    def test_a_forked_child_has_threads_of_its_own(self):
        code = """
import os, threading, warnings
from dataclasses import replace
warnings.simplefilter("ignore")
from convcore.testing.problems import make_problem, random_operands
from convcore_cpu.backend import CPUBackend
problem = make_problem("forward", images=2, channels=(12, 20), size=(60, 61), bias=False)
# Direct needs no scratch memory of each thread, so there may be more of them than cores.
operands, plan = random_operands(problem), CPUBackend().plan(replace(problem, algorithm="direct"))
threads = lambda: len(os.listdir("/proc/self/task")) - threading.active_count()
before = threads()
plan(*operands)
child = os.fork()
if child == 0:
    plan(*operands)
    os._exit(threads() - before)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), threads() - before)
"""
        if not os.path.isdir("/proc/self/task"):
            pytest.skip("this system does not list a process's threads in /proc")
        assert in_python(code, OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="1") == "2 2"

    def test_arithmetic_of_the_caller_stays_as_it_was(self):
        problem = make_problem("forward", **LARGE)
        CPUBackend().plan(problem)(*random_operands(problem))
        assert np.float32(1e-40) * np.float32(0.5) > 0


class TestVariables:
    @pytest.mark.parametrize("isa", list(MICRO_KERNELS))
    def test_an_isa_is_forced(self, isa, monkeypatch):
        monkeypatch.setenv("CONVCORE_CPU_ISA", isa)
        problem = make_problem("forward", images=1, channels=(64, 64), size=(20, 20))
        if isa in ISAS:
            plan = CPUBackend().plan(problem)
            kernel = plan.notes.split(",")[0]
            assert kernel.split("__")[1] in ISAS[: ISAS.index(isa) + 1]
            operands = random_operands(problem)
            assert_within(plan(*operands), problem, *operands)
        else:
            with pytest.raises(ValueError, match=rf"CONVCORE_CPU_ISA='{isa}': this processor has only"):
                CPUBackend().plan(problem)

    def test_an_unknown_isa_is_named(self, monkeypatch):
        monkeypatch.setenv("CONVCORE_CPU_ISA", "sse9")
        with pytest.raises(ValueError, match=r"^CONVCORE_CPU_ISA='sse9': expected one of baseline"):
            CPUBackend().plan(make_problem())

    @pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "1_0", " 2"])
    def test_a_number_of_threads_is_read_strictly(self, text, monkeypatch):
        monkeypatch.setenv("CONVCORE_NUM_THREADS", text)
        with pytest.raises(ValueError, match=r"^CONVCORE_NUM_THREADS=") as error:
            CPUBackend().plan(make_problem())
        assert str(error.value) == f"CONVCORE_NUM_THREADS={text!r}: expected a whole number of at least 1"

    def test_a_number_of_threads_is_a_limit(self, monkeypatch):
        monkeypatch.setenv("CONVCORE_NUM_THREADS", "3")
        assert "at most 3 thread(s)" in CPUBackend().plan(make_problem("forward", **LARGE)).notes


class TestShortCut:
    """A plan called with arrays that need no care does not go through the core; any other does."""

    @pytest.fixture
    def plan(self):
        return CPUBackend().plan(make_problem("forward", size=(6, 8), kernel=(1, 2)))

    @pytest.fixture
    def calls_of_the_core(self, monkeypatch):
        calls = []
        through_core = Plan.__call__
        monkeypatch.setattr(Plan, "__call__", lambda *arguments: (calls.append(1), through_core(*arguments))[1])
        return calls

    def test_it_is_taken(self, plan, calls_of_the_core):
        operands = random_operands(plan.problem)
        assert_within(plan(*operands), plan.problem, *operands)
        assert not calls_of_the_core

    @pytest.mark.parametrize(
        "change",
        list(
            {
                "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
                "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
                "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
                "subclass": lambda a: a.view(np.recarray),
                "fortran": np.asfortranarray,
            }.items()
        ),
        ids=lambda item: item[0],
    )
    def test_it_is_not_taken(self, plan, calls_of_the_core, change):
        operands = random_operands(plan.problem)
        result = plan(change[1](operands[0]), *operands[1:])
        assert calls_of_the_core
        assert_within(result, plan.problem, *operands)

    def test_wrong_arrays_are_the_cores_to_refuse(self, plan):
        x, weight, bias = random_operands(plan.problem)
        with pytest.raises(ValueError, match=r"`x` must have shape \(2, 3, 6, 8\) for this plan, got \(2, 3, 6, 7\)"):
            plan(np.ascontiguousarray(x[..., 1:]), weight, bias)
        with pytest.raises(TypeError, match="`weight` must have dtype float32 for this plan, got float64"):
            plan(x, weight.astype(np.float64), bias)
        with pytest.raises(TypeError, match="this plan was made with a bias"):
            plan(x, weight)

    def test_out_is_written_through_the_core(self, plan, calls_of_the_core):
        operands = random_operands(plan.problem)
        out = np.empty(plan.problem.result_shape, np.float32)
        assert plan(*operands, out=out) is out
        assert calls_of_the_core
        assert_within(out, plan.problem, *operands)


def test_no_memory_for_the_workspace_leaves_out_as_it_was():
    far = 1 << 24
    problem = make_problem(
        "forward", images=1, channels=(1, 1), kernel=(2, 2), dilation=(far, far), padding=((0, far), (0, far))
    )
    problem = replace(problem, output_shape=(1, 1, 1, 1), bias=False)
    operands = random_operands(problem)
    out = np.full((1, 1, 1, 1), 7, np.float32)
    with pytest.raises(MemoryError, match=r"^convcore_cpu: no memory for a workspace of [0-9]+ bytes"):
        CPUBackend().plan(problem)(*operands[:2], out=out)
    assert out == 7


class TestFourier:
    """Overlap-save transforms of large kernels."""

    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_tiles_and_groups_and_padding_leave_nothing_out(self, op, dtype, monkeypatch):
        monkeypatch.setattr("convcore_cpu.fourier.MOST_POINTS", 40)
        cases = (
            {"channels": (1, 1), "size": (50, 61), "kernel": (9, 11), "padding": ((4, 4), (5, 5))},
            {"channels": (4, 6), "groups": 2, "size": (23, 70), "kernel": (6, 5), "padding": ((0, 3), (7, 1))},
            {"channels": (2, 3), "size": (9, 8), "kernel": (9, 8), "fill_value": -1.5, "padding": ((2, 1), (3, 0))},
        )
        for arguments, bias in product(cases, (False, True)):
            if op == "grad_input":
                arguments = {name: value for name, value in arguments.items() if name != "fill_value"}
            problem = make_problem(
                op, images=2, **arguments, dtypes=(dtype,) * 2, bias=bias, algorithm="fft", accuracy="fast"
            )
            operands = random_operands(problem)
            plan = CPUBackend().plan(problem)
            assert plan.algorithm == "fft"
            assert_within(plan(*operands), problem, *operands, algorithm="fft")

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_a_tile_is_padded_by_its_boundary(self, boundary):
        problem = make_problem(
            "forward", channels=(1, 2), size=(20, 31), kernel=(7, 9), padding=((3, 3), (4, 4)), boundary=boundary,
            algorithm="fft",
        )  # fmt: skip
        operands = random_operands(problem)
        assert_within(CPUBackend().plan(problem)(*operands), problem, *operands, algorithm="fft")

    def test_it_runs_where_it_is_cheaper_and_the_accuracy_allows_it(self):
        arguments = {"images": 1, "channels": (1, 1), "size": (2048, 2048), "bias": False}
        for kernel, accuracy, wanted in (
            (127, "standard", True),
            (127, "fast", True),
            (127, "strict", False),
            (7, "fast", False),
        ):
            padding = ((kernel // 2,) * 2,) * 2
            problem = make_problem("forward", **arguments, kernel=(kernel, kernel), padding=padding, accuracy=accuracy)
            assert (CPUBackend().plan(problem).algorithm == "fft") is wanted

    @pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("victim", [0, 1])
    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    def test_what_is_not_finite_goes_where_the_formula_sends_it(self, op, victim, special):
        problem = make_problem(op, channels=(1, 1), size=(30, 30), kernel=(9, 9), algorithm="fft")
        operands = random_operands(problem)
        operands[victim][0, 0, 1, 2] = special
        assert_within(CPUBackend().plan(problem)(*operands), problem, *operands)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"op": "grad_weight"}, "its algorithm 'fft' knows forward and grad_input only"),
            ({"layout": "NHWC"}, "its algorithm 'fft' wants NCHW"),
            ({"stride": (2, 1)}, "its algorithm 'fft' knows stride 1 and dilation 1 only"),
            ({"dtypes": ("int16", "int16")}, "its algorithm 'fft' knows float32 and float64 only"),
            ({"accuracy": "strict"}, "its algorithm 'fft' errs more than accuracy 'strict' allows"),
            ({"dtypes": ("float64",) * 2}, "its algorithm 'fft' errs more than accuracy 'standard' allows"),
            (
                {"op": "grad_input", "boundary": "wrap"},
                "its algorithm 'fft' knows grad_input under the boundary 'constant' only",
            ),
        ],
    )
    def test_a_named_one_runs_or_is_refused(self, change, reason):
        assert CPUBackend().supports(make_problem(**{"op": "forward"} | change, algorithm="fft")) == reason


class TestPacking:
    @pytest.fixture(autouse=True)
    def always_worth_it(self, monkeypatch):
        """Whatever the model says of this machine."""
        monkeypatch.setattr(plans, "WORTH_PACKING", 1.0)

    @pytest.mark.parametrize("op", ["forward", "grad_input"])
    @pytest.mark.parametrize("accuracy", ["strict", "standard"])
    def test_a_packed_weight_gives_the_result_within_the_bound(self, op, accuracy):
        prepared = []
        for channels, size, kernel in (((512, 200), 7, 3), ((256, 256), 14, 3), ((700, 300), 9, 1), ((20, 30), 12, 3)):
            padding = ((kernel // 2,) * 2,) * 2
            problem = make_problem(
                op, images=1, channels=channels, size=(size, size), kernel=(kernel,) * 2, padding=padding,
                accuracy=accuracy,
            )  # fmt: skip
            first, weight, *rest = random_operands(problem)
            plan = CPUBackend().plan(problem)
            packed = plan.pack(weight)
            prepared.append(packed.prepared is not None)
            algorithm = "winograd4" if accuracy == "standard" and kernel == 3 else "winograd2"
            assert_within(plan(first, packed, *rest), problem, first, weight, *rest, algorithm=algorithm)
            out = np.empty(problem.result_shape, np.float32)
            assert plan(first, packed, *rest, out=out) is out
            assert_within(out, problem, first, weight, *rest, algorithm=algorithm)
        assert any(prepared)

    def test_what_is_packed_is_a_copy_for_one_plan(self):
        problem = make_problem(
            "forward", images=1, channels=(256, 256), size=(7, 7), padding=((1, 1), (1, 1)), bias=False
        )
        x, weight = random_operands(problem)[:2]
        plan = CPUBackend().plan(problem)
        packed = plan.pack(weight)
        expected = plan(x, packed)
        weight[:] = 0
        assert np.array_equal(plan(x, packed), expected)
        with pytest.raises(ValueError, match=r"^conv2d: `weight` was packed by another plan$"):
            CPUBackend().plan(problem)(x, packed)
        with pytest.raises(TypeError, match=r"^conv2d_grad_weight: a plan of grad_weight takes no weight to pack$"):
            CPUBackend().plan(make_problem("grad_weight")).pack(weight)

    def test_infinite_pixels_are_computed_from_the_weight_itself(self):
        problem = make_problem(
            "forward", images=1, channels=(256, 256), size=(14, 14), padding=((1, 1), (1, 1)), bias=False
        )
        x, weight = random_operands(problem)[:2]
        x[0, 3, 5, 5] = np.inf
        plan = CPUBackend().plan(problem)
        assert np.array_equal(plan(x, plan.pack(weight)), plan(x, weight), equal_nan=True)

    def test_threads_that_pack_first_at_the_same_time_all_get_a_packed_weight(self):
        """One thread packs while another has decided how to, and is laying it out."""
        problem = make_problem("forward", images=1, channels=(256, 256), size=(7, 7), padding=((1, 1), (1, 1)))
        plan = CPUBackend().plan(problem)
        x, weight, bias = random_operands(problem)
        program, laying_out, go_on = plan.prepacked(), threading.Event(), threading.Event()

        class Slow:
            def __getattr__(self, name):
                laying_out.set()
                assert go_on.wait(60)
                return getattr(program, name)

        programs = iter([Slow(), program])
        plan.prepacked = lambda: next(programs)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(plan.prepare, weight)
            assert laying_out.wait(60)
            fast = plan.prepare(weight)
            go_on.set()
        results = [plan(x, Packed(plan, weight, prepared), bias) for prepared in (slow.result(), fast)]
        assert fast is not None
        assert np.array_equal(*results)


class TestChoices:
    """What ``tune="measure"`` is given to measure, and what ``explain()`` says of it."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    PROBLEMS = (
        make_problem("forward", images=1, channels=(64, 64), size=(28, 28), padding=((1, 1), (1, 1))),
        make_problem("grad_input", images=1, channels=(48, 32), size=(20, 20), padding=((1, 1), (1, 1))),
        make_problem("grad_weight", images=2, channels=(64, 32), size=(14, 14), padding=((1, 1), (1, 1))),
        make_problem("forward", images=1, channels=(1, 1), size=(130, 130), kernel=(63, 63)),
        make_problem("grad_weight", images=2, channels=(8, 8), groups=8, size=(30, 30), kernel=(5, 5)),
    )

    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.op)
    def test_each_computes_the_problem_the_own_choice_first(self, problem):
        backend, operands = CPUBackend(), random_operands(problem)
        candidates = backend.candidates(problem)
        assert next(iter(candidates)) == backend.plan(problem).algorithm
        assert len(candidates) > 1
        for name, parameters in json.loads(json.dumps(candidates)).items():
            plan = backend.plan_with(problem, parameters)
            assert (plan.algorithm, plan.problem) == (name, problem)
            assert_within(plan(*operands), problem, *operands, algorithm=name)

    def test_none_where_there_is_nothing_to_choose(self):
        for problem in (replace(self.PROBLEMS[0], algorithm="direct"), make_problem("grad_bias")):
            assert CPUBackend().candidates(problem) == {}

    def test_hopeless_ones_and_those_that_need_too_much_memory_are_left_out(self):
        problem = self.PROBLEMS[0]
        found = convcore.explain(problem.op, *problem.operand_shapes, padding=1, backend="cpu").details
        milliseconds = {name: float(ms) for name, ms in re.findall(r"^  (\w+): ([\d.]+) ms", found, re.M)}
        least = min(milliseconds.values())
        assert max(milliseconds.values()) > 4 * least
        assert set(CPUBackend().candidates(problem)) == {n for n, ms in milliseconds.items() if ms <= 4 * least}
        limit = CPUBackend().plan(replace(problem, algorithm="panels")).workspace_bytes
        limited = CPUBackend().candidates(replace(problem, workspace_limit=limit))
        assert "winograd4" not in limited
        assert "panels" in limited

    @pytest.mark.parametrize(
        ("change", "parameters", "reason"),
        [
            ({}, {"algorithm": "magic"}, "cpu: it has no algorithm 'magic' for forward; "),
            ({}, {"algorithm": 3}, "cpu: parameters must be an algorithm, got {'algorithm': 3}"),
            ({}, {"tile": 3}, "cpu: parameters must be an algorithm, got {'tile': 3}"),
            ({"accuracy": "strict"}, {"algorithm": "winograd4"}, "cpu: its algorithm 'winograd4' errs more than "),
            ({"workspace_limit": 0}, {"algorithm": "winograd4"}, "cpu: it needs "),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change, parameters, reason):
        with pytest.raises(convcore.UnsupportedProblem, match=f"^{re.escape(reason)}"):
            CPUBackend().plan_with(replace(self.PROBLEMS[0], **change), parameters)

    def test_they_belong_to_this_processor_and_engine_but_to_any_number_of_threads(self, monkeypatch):
        backend = registry().backend("cpu")
        found = backend.fingerprint()
        assert processor() in found
        monkeypatch.setenv("CONVCORE_NUM_THREADS", "1")
        assert backend.fingerprint() == found
        monkeypatch.setenv("CONVCORE_CPU_ISA", "baseline")
        assert backend.fingerprint() != found
        monkeypatch.delenv("CONVCORE_CPU_ISA")
        monkeypatch.setattr("convcore_cpu.machine._build", lambda: "another")
        assert backend.fingerprint() != found

    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.op)
    def test_explain_has_the_models_number_of_every_algorithm(self, problem):
        details = CPUBackend().plan(problem).details()
        said = dict(re.findall(r"^  (\w+): (.+)$", details, re.M))
        fft = {"fft"} if problem.op == "forward" or problem.op == "grad_input" else set()
        assert set(said) == {*ALGORITHMS[problem.op], *fft} - {"winograd"}
        milliseconds = [float(ms) for ms in re.findall(r": ([\d.]+) ms, .+$", details, re.M)]
        assert milliseconds == sorted(milliseconds)
        chosen = next(name for name, of in said.items() if "; not chosen " not in of)
        assert chosen == CPUBackend().plan(problem).algorithm


class TestMeasuring:
    """``tune="measure"`` on this engine: what is stored, who obeys it, and that its bits stay the same."""

    ARGUMENTS = ((1, 32, 14, 14), (32, 32, 3, 3))

    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("CONVCORE_TUNE", raising=False)
        monkeypatch.setattr("convcore.tuning.search.EFFORT", 0.02)
        select.cache.clear()
        yield tmp_path / "convcore" / "tuning.json"
        select.cache.clear()

    def plan(self, **keywords):
        select.cache.clear()
        return convcore.plan("forward", *self.ARGUMENTS, **{"backend": "cpu", "padding": 1, **keywords})

    def store(self, algorithm):
        entry = choices.Entry(algorithm, {"algorithm": algorithm}, 1.0, 2.0)
        choices.store("cpu", registry().backend("cpu"), self.plan(tune="off").problem, entry)

    def test_the_winner_is_one_of_the_candidates_and_is_used_from_then_on(self, file):
        measured = self.plan(tune="measure")
        (key,) = json.loads(file.read_text())["entries"]
        assert measured.algorithm in registry().backend("cpu").candidates(measured.problem)
        assert f"by {file}: {measured.algorithm}, measured " in measured.notes
        for part in ("cpu", processor(), "forward", "x1x32x14x14", "w32x32x3x3", "padding1x1x1x1"):
            assert part in key
        before = file.read_bytes()
        assert {self.plan(tune=tune).algorithm for tune in ("cached", "measure")} == {measured.algorithm}
        assert file.read_bytes() == before

    def test_what_is_stored_is_obeyed_for_this_problem_and_this_machine_only(self, file, monkeypatch):
        own = self.plan(tune="off").algorithm
        self.store("panels")
        assert own != "panels"
        assert [self.plan(tune=tune).algorithm for tune in ("off", "heuristic", "cached")] == [own, own, "panels"]
        assert self.plan(padding=0).algorithm != "panels"
        assert self.plan(accuracy="strict").algorithm != "panels"
        monkeypatch.setenv("CONVCORE_CPU_ISA", "baseline")
        assert self.plan().algorithm == self.plan(tune="off").algorithm != "panels"

    def test_what_does_not_fit_any_more_is_passed_over(self, file):
        self.store("magic")
        assert "says magic, which does not fit: cpu: it has no algorithm 'magic'" in self.plan().notes

    @pytest.mark.parametrize("algorithm", ["winograd2", "panels"])
    def test_a_measured_choice_gives_the_same_bits_everywhere(self, file, algorithm):
        """In every call, from many threads, in other processes with other numbers of threads, in a forked child."""
        self.store(algorithm)
        plan = self.plan()
        assert plan.algorithm == algorithm
        x, w = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in self.ARGUMENTS)
        bits = plan(x, w).tobytes()
        with ThreadPoolExecutor(4) as pool:
            results = pool.map(lambda _: convcore.conv2d(x, w, padding=1, backend="cpu"), range(20))
            assert {result.tobytes() for result in results} == {bits}
        code = (
            "import hashlib, numpy as np, os, convcore\n"
            f"x, w = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in {self.ARGUMENTS})\n"
            "def told():\n"
            "    plan = convcore.plan('forward', x, w, padding=1, backend='cpu')\n"
            "    return f'{plan.algorithm} {hashlib.sha256(plan(x, w)).hexdigest()}'\n"
            "print(told(), flush=True)\n"
            "if hasattr(os, 'fork'):\n"
            "    if not os.fork():\n"
            "        print(told(), flush=True)\n"
            "        os._exit(0)\n"
            "    os.wait()\n"
        )
        told = [line for count in ("1", "2", "3") for line in in_python(code, CONVCORE_NUM_THREADS=count).splitlines()]
        assert set(told) == {f"{algorithm} {hashlib.sha256(bits).hexdigest()}"}


class TestCalibration:
    """The model's rates: measured when a choice is, kept, and obeyed by every process; nothing where no file can be."""

    PROBLEM = TestChoices.PROBLEMS[0]

    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        calibration._read.cache_clear()
        yield tmp_path / "convcore" / "cpu.json"
        calibration._read.cache_clear()

    def details(self, tune="cached"):
        return CPUBackend().plan(replace(self.PROBLEM, tune=tune)).details().splitlines()[0]

    def write(self, file, **rates):
        content = {"schema": 1, "rates": {fingerprint(ISAS[-1]): rates}}
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))

    def test_it_is_measured_with_the_first_choice_and_not_again(self, file, monkeypatch):
        built_in = "model, on one core, at 3.4e+09 cycles/s and 1.6e+10 bytes/s, built in:"
        assert self.details() == self.details("measure") == built_in
        assert not file.exists()
        assert CPUBackend().candidates(replace(self.PROBLEM, tune="off"))
        assert not file.exists()
        assert CPUBackend().candidates(self.PROBLEM)
        kept = file.read_bytes()
        (rates,) = json.loads(kept)["rates"].values()
        assert all(0.2 < rates[name] / getattr(BUILT_IN, name) < 5 for name in ("cycles", "bytes", "transforms"))
        monkeypatch.setattr(calibration, "measured", None)
        assert CPUBackend().candidates(self.PROBLEM)
        assert file.read_bytes() == kept
        assert self.details().endswith("measured here:")
        assert self.details("off") == self.details("heuristic") == built_in
        assert "measured here" in CPUBackend().probe()[0].detail["model"]

    def test_noise_changes_nothing(self, monkeypatch):
        for noise in (0.93, 1.0, 1.08):
            reference = calibration._REFERENCE.flops / calibration.ARITHMETIC[ISAS[-1]]
            reference *= MICRO_KERNELS[ISAS[-1]][0].multiply / calibration.MULTIPLY
            copy, size = 2 * calibration.COPIED / calibration.COPY, calibration.TRANSFORMED**2
            seconds = iter([reference * noise, copy * noise, size * np.log2(size) / calibration.TRANSFORM * noise])
            monkeypatch.setattr(calibration, "_least", lambda work, seconds=seconds: next(seconds))
            assert calibration.measured(ISAS[-1], all_rows()) == replace(BUILT_IN, source="measured here")

    def test_the_rates_decide(self, file):
        """Where moving bytes takes forever the program that moves the fewest runs; the same in another process."""
        problem = make_problem("forward", images=1, channels=(64, 64), size=(28, 28), padding=((1, 1), (1, 1)))
        own = CPUBackend().plan(problem)
        found = {name: answer for name, answer in programs(problem, all_rows()).items() if not isinstance(answer, str)}
        fewest = min(found, key=lambda name: (found[name].cost.bytes, found[name].cost.cycles))
        most_cycles = max(found, key=lambda name: found[name].cost.cycles)
        assert found[most_cycles].cost.cycles > found[own.algorithm].cost.cycles
        self.write(file, cycles=BUILT_IN.cycles * 16, bytes=BUILT_IN.bytes / 16, transforms=1.0, source="a test")
        plan = CPUBackend().plan(problem)
        assert plan.algorithm == fewest
        code = (
            "from convcore_cpu.backend import CPUBackend\n"
            "from convcore.testing.problems import make_problem\n"
            "problem = make_problem('forward', images=1, channels=(64, 64), size=(28, 28), padding=((1, 1), (1, 1)))\n"
            "plan = CPUBackend().plan(problem)\n"
            "print(plan.notes, plan.details())\n"
        )
        assert in_python(code) == f"{plan.notes} {plan.details()}"

    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            b"[" * 100_000,
            b"3",
            b'{"schema": 2, "rates": {}}',
            b'{"schema": 1, "rates": {"a": 3}}',
            b'{"schema": 1, "rates": {"a": {"cycles": 1e9}}}',
            b'{"schema": 1, "rates": {"a": {"cycles": 1, "bytes": 16e9}}}',
            b'{"schema": 1, "rates": {"a": {"cycles": "x", "bytes": 16e9}}}',
            b"\xff",
        ],
    )
    def test_a_corrupt_file_is_ignored_with_one_warning_and_written_anew(self, file, content):
        file.parent.mkdir()
        file.write_bytes(content)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert self.details().endswith("built in:")
            assert self.details().endswith("built in:")
            assert CPUBackend().candidates(self.PROBLEM)
        (warning,) = told
        assert str(warning.message).startswith(f"{file} holds no rates of convcore's CPU engine and is ignored (")
        assert self.details().endswith("measured here:")

    def test_where_no_file_can_be_the_rates_stay_built_in(self, file):
        file.parent.write_text("not a folder")
        assert CPUBackend().candidates(self.PROBLEM)
        assert self.details().endswith("built in:")
