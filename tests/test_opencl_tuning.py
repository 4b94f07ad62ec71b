"""The OpenCL backend's tables, candidates and parameters: tested without a device, then on the one there is."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from convcore_opencl import plans
from convcore_opencl.plans import Traits, by_tables, candidates, recipe, tables, tuned

import convcore
from convcore import select
from convcore.registry import registry
from convcore.spi import Problem, UnsupportedProblem
from convcore.testing.tolerance import assert_within
from convcore.tuning import choices, search

FOLDER = Path(__file__).parent.parent / "backends" / "convcore_opencl" / "tuning"
#: What a table may say of a device.
CHOSEN_BY = (
    "families",
    "tiles_per_unit",
    "groups_per_unit",
    "staged_bytes",
    "winograd_pays",
    "start_flops",
    "tile_rates",
)
CPU, GPU = Traits("a processor"), Traits("a card", "gpu", vendor="nobody")
DENSE = Problem("forward", (1, 64, 56, 56), (64, 64, 3, 3), (1, 64, 56, 56), padding=((1, 1), (1, 1)))
DEPTHWISE = Problem("forward", (1, 32, 56, 56), (32, 1, 3, 3), (1, 32, 54, 54), groups=32)
PROBLEMS = [DENSE, replace(DENSE, op="grad_input"), replace(DENSE, op="grad_weight"), DEPTHWISE]


def levels(level):
    yield level
    for key in ("architectures", "devices"):
        for below in level.get(key, {}).values():
            yield from levels(below)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_table_is_what_it_should_be(path):
    """Each level says whom it is for and where it is from; numbers are of the right kind, and no GPU was measured."""
    top = json.loads(path.read_text())
    types = {field.name: type(field.default) for field in fields(Traits)}
    for level in levels(top):
        assert level.keys() <= {"match", "source", "traits", "problems", "architectures", "devices"}
        assert "match" in level or level is top
        assert level["source"].startswith(("measured", "reasoned"))
        assert level.get("match", {}).keys() <= types.keys()
        for name, value in level.get("traits", {}).items():
            assert name in CHOSEN_BY
            assert types[name](value) == value or isinstance(value, (list, dict))
            if name == "families":
                assert set(value) <= set(plans.ALGORITHMS)
        if level.get("problems"):
            assert level["source"].startswith("measured")
            assert path.stem == "pocl", "who has measured another device says so here"
        for entry in level.get("problems", {}).values():
            assert entry.keys() == {"parameters", "gain"}
            assert entry["parameters"]["algorithm"] in plans.ALGORITHMS
            assert entry["gain"] > 1


def test_the_tables_are_in_the_wheel(wheel):
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("convcore_opencl/tuning/")}
    assert packed == {f"convcore_opencl/tuning/{path.name}" for path in FOLDER.glob("*.json")}
    assert len(packed) > 5


@pytest.mark.parametrize(
    ("device", "where"),
    [
        (CPU, "tuning/default.json, cpu"),
        (GPU, "tuning/default.json, gpu"),
        (replace(GPU, name="NVIDIA H200", vendor="NVIDIA Corporation"), "tuning/nvidia.json, Hopper"),
        (replace(GPU, name="NVIDIA H100 PCIe", vendor="NVIDIA Corporation"), "tuning/nvidia.json, Hopper, H100 PCIe"),
        (replace(GPU, name="NVIDIA K80", vendor="NVIDIA Corporation"), "tuning/nvidia.json"),
        (replace(GPU, name="gfx90a:sramecc+", vendor="Advanced Micro Devices, Inc."), "tuning/amd.json, CDNA"),
        (
            replace(GPU, name="Intel(R) UHD Graphics 770", vendor="Intel(R) Corporation"),
            "tuning/intel.json, integrated",
        ),
        (replace(GPU, name="Mali-G78", vendor="ARM"), "tuning/arm.json"),
    ],
)
def test_the_most_particular_table_decides(device, where):
    assert tables.lookup(device).where == where


def test_a_more_particular_level_overrides_a_more_general_one(monkeypatch):
    def level(start_flops, **below):
        return {"match": {"name": ["card*"]}, "source": "reasoned", "traits": {"start_flops": start_flops}, **below}

    device = {"card 1": level(3.0) | {"match": {"name": ["card 1"]}}}
    vendor = level(1.0, architectures={"new": level(2.0, devices=device)})
    files = ("default", level(0.5) | {"match": {}}), ("maker", vendor)
    monkeypatch.setattr(tables, "_files", lambda: files)
    found = {name: tables.lookup.__wrapped__(Traits(name)) for name in ("card 1", "card 2", "other")}
    assert [table.traits["start_flops"] for table in found.values()] == [3.0, 2.0, 0.5]
    assert found["card 1"].where == "tuning/maker.json, new, card 1"


def test_a_device_that_no_table_knows_is_treated_as_without_tables():
    for device in (CPU, GPU):
        tabled = replace(device, **tables.lookup(device).traits)
        for problem in PROBLEMS:
            assert recipe(problem, tabled) == recipe(problem, device)


def test_measured_rates_choose_among_tiles():
    layer = Problem("forward", (1, 96, 112, 112), (24, 96, 1, 1), (1, 24, 112, 112))
    device = replace(CPU, vector_bytes=64, platform="Portable Computing Language")
    tabled = replace(device, **tables.lookup(device).traits)
    assert recipe(layer, device).notes.startswith("tile of 6 rows x 64 columns")
    assert recipe(layer, tabled).notes.startswith("tile of 12 rows x 32 columns")
    assert by_tables(layer, tabled).notes.endswith("; model with the numbers of tuning/pocl.json, AVX-512")


def test_mobile_gpus_keep_tiles_in_registers():
    device = replace(GPU, name="Mali-G78", vendor="ARM")
    tabled = replace(device, **tables.lookup(device).traits)
    strided = replace(DENSE, output_shape=(1, 64, 28, 28), stride=(2, 2))
    assert recipe(strided, tabled).algorithm == "register_tile"
    assert recipe(strided, device).algorithm == "local_tile"


@pytest.mark.parametrize("device", [CPU, replace(CPU, vector_bytes=64), GPU], ids=["avx2", "avx512", "gpu"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=["forward", "grad_input", "grad_weight", "depthwise"])
def test_candidates_begin_with_the_own_choice_and_are_all_different(problem, device):
    found = candidates(problem, device)
    own, *_ = found.values()
    recipes = [recipe(*tuned(problem, device, parameters)).launches for parameters in found.values()]
    assert own["algorithm"] == recipe(problem, device).algorithm
    assert recipes[0] == recipe(problem, device).launches
    assert len(recipes) > 3
    assert all(one != other for index, one in enumerate(recipes) for other in recipes[:index])
    assert json.loads(json.dumps(found)) == found


def test_what_is_soon_done_offers_no_choice():
    assert candidates(Problem("forward", (1, 1, 6, 8), (1, 1, 1, 2), (1, 1, 6, 7)), CPU) == {}
    assert candidates(Problem("grad_bias", (64, 64, 56, 56), (64, 1, 1, 1), (64, 64, 56, 56), groups=64), CPU) == {}


def test_candidates_keep_to_an_algorithm_that_was_named():
    found = candidates(replace(DENSE, algorithm="panel"), CPU)
    assert {parameters["algorithm"] for parameters in found.values()} == {"panel"}


@pytest.mark.parametrize(
    ("problem", "parameters", "reason"),
    [
        (DENSE, {"algorithm": "nothing"}, "there are no parameters"),
        (DENSE, {"algorithm": "panel", "colour": 3}, "there are no parameters"),
        (DENSE, {"algorithm": "panel", "vector_bytes": 64}, "there are no parameters .* for vectors of 32 bytes"),
        (DENSE, {"algorithm": "panel", "tile": [99, 1]}, r"algorithm 'panel' has no tile \[99, 1\]"),
        (DEPTHWISE, {"algorithm": "winograd4"}, "algorithm 'winograd4' computes one group only"),
        (replace(DENSE, accuracy="strict"), {"algorithm": "winograd4"}, "errs more than accuracy 'strict' allows"),
        (replace(DENSE, algorithm="strip"), {"algorithm": "panel"}, "'strip' was asked for, not 'panel'"),
        (replace(DENSE, workspace_limit=0), {"algorithm": "register_tile"}, "the limit is 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_in_words(problem, parameters, reason):
    with pytest.raises(ValueError, match=reason):
        tuned(problem, CPU, parameters)


def test_a_problem_of_a_table_is_computed_as_that_says(monkeypatch):
    entry = {"parameters": {"algorithm": "panel", "tile": [6, 2]}, "gain": 1.5, "where": "tuning/x.json"}
    table = tables.Table("tuning/x.json", "measured", {}, {DENSE.bucket: entry})
    monkeypatch.setattr(tables, "lookup", lambda device: table)
    assert plans.by_tables(DENSE, CPU).notes.endswith("; tuning/x.json: panel 6x2, 1.5 times as fast")
    assert plans.by_tables(DENSE, CPU).launches == recipe(*tuned(DENSE, CPU, entry["parameters"])).launches
    assert next(iter(candidates(DENSE, CPU).items())) == ("panel, as chosen", entry["parameters"])
    named = replace(DENSE, algorithm="strip")
    table.problems[named.bucket] = entry
    found = plans.by_tables(named, CPU)
    assert found.algorithm == "strip"
    assert "a choice that does not fit: algorithm 'strip' was asked for, not 'panel'" in found.notes


# ---------------------------------------------------------------- on a device

SMALL = Problem("forward", (1, 16, 16, 16), (16, 16, 3, 3), (1, 16, 16, 16), padding=((1, 1), (1, 1)))


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """Return the backend, with a cache folder that holds no choices yet."""
    pytest.importorskip("pyopencl")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = registry().backend("opencl")
    if isinstance(backend.probe(), str):
        pytest.skip(backend.probe())
    select.cache.clear()
    yield backend
    select.cache.clear()


def test_every_candidate_computes_the_problem(backend):
    rng = np.random.default_rng(1)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in SMALL.operand_shapes)
    found = backend.candidates(SMALL)
    assert len(found) > 5
    for parameters in list(found.values())[1::12]:
        plan = backend.plan_with(SMALL, parameters)
        assert plan.algorithm == parameters["algorithm"]
        assert_within(plan(x, weight), SMALL, x, weight, algorithm=plan.algorithm)


def test_the_users_file_goes_before_the_tables_and_explain_says_which(backend):
    def explained(**keywords):
        return convcore.explain("forward", *SMALL.operand_shapes, padding=1, backend="opencl", **keywords)

    assert "tuning/" in explained().notes
    assert "tuning/" not in explained(tune="off").notes
    entry = choices.Entry("direct", {"algorithm": "direct"}, 1.0, 2.0, "today")
    choices.store("opencl", backend, SMALL, entry)
    select.cache.clear()
    assert explained().algorithm == "direct"
    path = choices.users().path
    assert explained().notes.endswith(
        f"; by {path}: direct, measured today: 2.00 times as fast as the backend's own choice"
    )
    assert "tuning/" in explained(tune="heuristic").notes
    for key in json.loads(path.read_text())["entries"]:
        assert key == f"opencl | {backend.fingerprint()} | {SMALL.bucket}"
    assert backend.probe()[0].name in backend.fingerprint()
    assert backend.probe()[0].detail["driver"] in backend.fingerprint()


def test_parameters_of_another_version_are_refused(backend):
    with pytest.raises(UnsupportedProblem):
        backend.plan_with(SMALL, {"algorithm": ["panel"]})
    with pytest.raises(UnsupportedProblem):
        backend.plan_with(SMALL, {"tile": "6x4"})


def test_only_compilers_for_processors_may_abort(backend):
    assert backend.may_abort() == (backend.probe()[0].kind == "cpu")


PLANTED = """
import os
from convcore.spi import BackendSpec, hookimpl
from convcore_opencl.backend import OpenCLBackend

@hookimpl
def convcore_backends():
    return [BackendSpec("planted-opencl", __name__ + ":Planted")]

class Planted(OpenCLBackend):
    def candidates(self, problem):
        own, second, *_ = super().candidates(problem).items()
        return dict([own, ("a compiler that aborts", {"algorithm": "abort"}), second])

    def plan_with(self, problem, parameters):
        if parameters["algorithm"] == "abort":
            os.abort()
        return super().plan_with(problem, parameters)
"""


def test_a_compiler_that_aborts_loses_and_the_tuning_goes_on(backend, tmp_path, monkeypatch):
    if not backend.may_abort():
        pytest.skip("the device is no processor: its candidates are measured in this process")
    (tmp_path / "planted_opencl.py").write_text(PLANTED)
    info = tmp_path / "planted_opencl-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-opencl\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[convcore]\nplanted_opencl = planted_opencl\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    registry().add_plugin("planted_opencl", importlib.import_module("planted_opencl"))
    told = []
    try:
        planted = registry().backend("planted-opencl")
        entry = search.tuned("planted-opencl", planted, SMALL, told=told.append)
    finally:
        registry().remove_plugin("planted_opencl")
    assert [attempt.seconds is None for attempt in told] == [False, True, False]
    assert told[1].candidate == "a compiler that aborts"
    assert told[1].failure.startswith("ended its process with SIGABRT")
    assert entry.candidate in (told[0].candidate, told[2].candidate)


class TestFirstCalls:
    """A new shape of a known specialisation builds nothing, and costs little.

    Of this thread's own time: what others do on this machine meanwhile is left out, and so is the arithmetic.
    """

    SHAPES = tuple((16 + i % 3, 20 + i, 21 + 2 * i) for i in range(110))

    def first_and_second(self, backend, shape):
        channels, height, width = shape
        rng = np.random.default_rng(0)
        x = backend.to_device(rng.standard_normal((1, channels, height, width), np.float32))
        weight = backend.to_device(rng.standard_normal((20, channels, 3, 3), np.float32))
        backend.synchronize()
        seconds = []
        for _ in range(2):
            start = time.thread_time()
            convcore.conv2d(x, weight, padding=1, backend="opencl")
            seconds.append(time.thread_time() - start)
            backend.synchronize()
        return seconds

    @pytest.mark.alone
    def test_the_first_call_costs_under_a_millisecond_more_than_the_second(self, backend):
        from convcore_opencl import program

        for shape in self.SHAPES[:10]:  # the specialisations there are
            self.first_and_second(backend, shape)
        built = program.programs.count
        for first in range(10, len(self.SHAPES), 10):  # what others do slows a round, but hardly all of them
            seconds = [self.first_and_second(backend, shape) for shape in self.SHAPES[first : first + 10]]
            more = np.subtract(*np.min(seconds, axis=0))
            if more < 1e-3:
                break
            time.sleep(0.5)
        assert program.programs.count == built
        assert more < 1e-3


class TestBinaries:
    """What is built is kept on disk, here by a driver that has a cache of its own switched to ours."""

    OPTIONS = ("-DFIRST=float", "-DRESULT=float", "-DNHWC=0", "-DBOUNDARY_CONSTANT=1")

    @pytest.fixture
    def build(self, backend, monkeypatch):
        """Return a function that builds a program anew, and says whether from a binary."""
        import pyopencl as cl
        from convcore_opencl import binaries, device, program

        monkeypatch.setattr(binaries, "KEEPERS", ())
        runtime = device.runtime(device.choose())

        def build():
            built = program.build(runtime.context, runtime.device, "sums.cl", self.OPTIONS)
            assert "channel_sum" in built.kernel_names
            return not built.get_info(cl.program_info.SOURCE)

        return build

    def test_a_program_is_built_once_for_all_processes(self, build, tmp_path):
        assert not build()
        (path,) = (tmp_path / "convcore" / "opencl-binaries").iterdir()
        assert build()
        assert path.stat().st_size > 1000

    @pytest.mark.parametrize("damage", [lambda good: good[:-1], lambda good: b"", lambda good: good[:32] + b"x"])
    def test_what_is_damaged_is_built_again(self, build, tmp_path, damage):
        build()
        (path,) = (tmp_path / "convcore" / "opencl-binaries").iterdir()
        good = path.read_bytes()
        path.write_bytes(damage(good))
        assert not build()
        assert path.read_bytes() == good
        assert build()

    def test_a_binary_that_the_driver_does_not_take_is_built_again(self, build, tmp_path):
        build()
        (path,) = (tmp_path / "convcore" / "opencl-binaries").iterdir()
        path.write_bytes(hashlib.sha256(b"nonsense").digest() + b"nonsense")
        assert not build()

    def test_the_oldest_make_room(self, build, tmp_path, monkeypatch):
        from convcore_opencl import binaries

        monkeypatch.setattr(binaries, "MOST", 2)
        folder = tmp_path / "convcore" / "opencl-binaries"
        folder.mkdir(parents=True)
        for age in (3, 2, 1):
            (folder / f"old{age}").write_bytes(b"")
            os.utime(folder / f"old{age}", (100 - age, 100 - age))
        build()
        assert len(list(folder.iterdir())) == 2
        assert (folder / "old1").exists()

    def test_a_folder_that_cannot_be_written_keeps_nothing(self, build, tmp_path):
        (tmp_path / "convcore").write_text("a file")
        assert not build()
        assert not build()

    def test_drivers_with_a_cache_of_their_own_are_left_alone(self, backend):
        from convcore_opencl import binaries, device

        chosen = device.choose()
        assert (binaries.place(chosen, "", ()) is None) == (chosen.platform.name in binaries.KEEPERS)
