"""Measured choices: what the file says, what is measured, who may win, and what `convcore tune` does with it."""

import json
import os
import re
import sys
import textwrap
import warnings

import pytest

import convcore
from convcore import calls, select
from convcore.cli import main
from convcore.registry import registry
from convcore.tuning import choices, search

PLANTED = """
    import os, time
    from convcore.spi import Backend, BackendSpec, Plan, UnsupportedProblem, hookimpl

    MADE = []

    @hookimpl
    def convcore_backends():
        return [BackendSpec("planted", __name__ + ":Planted"), BackendSpec("fragile", __name__ + ":Fragile")]

    class Planted(Backend):
        version = "1"

        def plan(self, problem):
            return Work(problem, {"kind": "slow"})

        def candidates(self, problem):
            kinds = "slow", "quick", "wrong", "raising", "hopeless"
            return {kind: {"kind": kind} for kind in kinds} | {"quick again": {"kind": "quick", "tile": [1, 2]}}

        def plan_with(self, problem, parameters):
            if parameters["kind"] == "misfit":
                raise UnsupportedProblem("it is Monday")
            return Work(problem, parameters)

        def fingerprint(self):
            return self.version

    class Fragile(Planted):
        def candidates(self, problem):
            return {kind: {"kind": kind} for kind in ("slow", "aborting", "quick", "hanging", "talking")}

        def may_abort(self):
            return True

    class Work(Plan):
        def __init__(self, problem, parameters):
            super().__init__(problem)
            self.kind, self.calls = parameters["kind"], 0
            self.algorithm = self.kind
            MADE.append(self)

        def run(self, first, second, bias, out):
            self.calls += 1
            if self.kind == "raising":
                raise MemoryError("full")
            if self.kind == "aborting":
                os.abort()
            if self.kind == "hanging":
                time.sleep(60)
            if self.kind == "talking":
                print("hello")
            time.sleep({"hopeless": 0.1, "slow": 0.01}.get(self.kind, 0.001))
            out[...] = first[:, :, :, :1] * second.sum() * (1.1 if self.kind == "wrong" else 1)
"""
ARGUMENTS = (1, 1, 4, 1), (1, 1, 1, 1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return where the user's file will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CONVCORE_TUNE", raising=False)
    monkeypatch.setattr(search, "EFFORT", 0.02)
    return tmp_path / "convcore" / "tuning.json"


@pytest.fixture
def planted(tmp_path, monkeypatch, cache):
    """Return the module of two backends with candidates, installed here and in child processes."""
    (tmp_path / "planted_choices.py").write_text(textwrap.dedent(PLANTED))
    info = tmp_path / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[convcore]\nplanted_choices = planted_choices\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    import planted_choices

    known = registry()
    known.add_plugin("planted_choices", planted_choices)
    yield planted_choices
    known.remove_plugin("planted_choices")
    select.cache.clear()
    del sys.modules["planted_choices"]


def problem(op="forward", operands=ARGUMENTS, **keywords):
    return calls.problem_of("plan", op, operands, None, keywords)


def tuned(name, cache=None):
    """Measure all candidates; return the entry and what became of each."""
    told = []
    entry = search.tuned(name, registry().backend(name), problem(), told=told.append)
    return entry, {attempt.candidate: attempt for attempt in told}


def test_the_fastest_that_is_right_wins(planted, cache):
    entry, attempts = tuned("planted")
    assert entry.candidate in ("quick", "quick again")
    assert entry.instead > 3 * entry.milliseconds
    assert attempts["wrong"].failure.startswith("computes wrongly: 4 of 4 elements are wrong; the worst, at (0, 0, ")
    assert attempts["raising"].failure == "MemoryError: full"
    assert list(attempts) == ["slow", "quick", "wrong", "raising", "hopeless", "quick again"]


def test_a_hopeless_candidate_is_given_up(planted, cache):
    _, attempts = tuned("planted")
    hopeless = [plan for plan in planted.MADE if plan.kind == "hopeless"]
    assert [plan.calls for plan in hopeless] == [2]  # one to see whether it is right
    assert attempts["hopeless"].seconds > 0.09


def test_the_own_choice_stays_where_nothing_is_clearly_faster(planted, cache, monkeypatch):
    monkeypatch.setattr(search, "MARGIN", 1e9)
    entry, _ = tuned("planted")
    assert entry.candidate == "slow"
    assert str(entry).endswith(": the backend's own choice")


def test_candidates_that_end_their_process_are_named_and_the_others_go_on(planted, cache, monkeypatch):
    monkeypatch.setattr("convcore.tuning.child.PATIENCE", 3)
    entry, attempts = tuned("fragile")
    assert entry.candidate in ("quick", "talking")
    assert attempts["aborting"].failure.startswith("ended its process with SIGABRT")
    assert attempts["hanging"].failure == "was not done in 3 seconds"
    assert [name for name, attempt in attempts.items() if attempt.failure] == ["aborting", "hanging"]


def test_the_words_of_tune(planted, cache):
    """Off and heuristic read no file, cached reads and never measures, measure does both, once."""

    def algorithm(tune):
        select.cache.clear()
        return convcore.plan("forward", *ARGUMENTS, backend="planted", tune=tune).algorithm

    assert [algorithm(tune) for tune in ("off", "heuristic", "cached")] == ["slow"] * 3
    assert not cache.exists()
    assert algorithm("measure") == "quick"
    made = len(planted.MADE)
    assert [algorithm(tune) for tune in ("off", "heuristic", "cached", "measure")] == ["slow", "slow", "quick", "quick"]
    assert len(planted.MADE) == made + 4
    registry().backend("planted").version = "2"
    assert algorithm("cached") == "slow"


def test_explain_says_where_a_choice_is_from_and_measures_nothing(planted, cache):
    def notes():
        select.cache.clear()
        return convcore.explain("forward", *ARGUMENTS, backend="planted", tune="measure").notes

    assert "measures" in notes()
    assert not cache.exists()
    tuned("planted")
    assert notes().startswith(f"by {cache}: quick")
    assert "times as fast as the backend's own choice" in notes()


def test_a_choice_that_does_not_fit_is_passed_over(planted, cache):
    name, backend = "planted", registry().backend("planted")
    choices.store(name, backend, problem(), choices.Entry("misfit", {"kind": "misfit"}, 1.0, 2.0))
    plan = convcore.plan("forward", *ARGUMENTS, backend=name)
    assert plan.algorithm == "slow"
    assert plan.notes == f"{cache} says misfit, which does not fit: it is Monday"


ENTRY = {"candidate": "quick", "parameters": {"kind": "quick"}, "milliseconds": 1.0, "instead": 2.0, "measured": "d"}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"3",
        b'{"entries": {}}',
        b'{"schema": 2, "entries": {}}',
        b'{"schema": 1, "entries": []}',
        b'{"schema": 1, "entries": {"a": 3}}',
        b'{"schema": 1, "entries": {"a": {"candidate": "x"}}}',
        json.dumps({"schema": 1, "entries": {"a": ENTRY | {"parameters": []}}}).encode(),
        json.dumps({"schema": 1, "entries": {"a": ENTRY | {"instead": 0.0}}}).encode(),
        json.dumps({"schema": 1, "entries": {"a": ENTRY | {"milliseconds": "1"}}}).encode(),
    ],
)
def test_a_corrupt_or_foreign_file_is_ignored_with_one_warning_and_written_anew(planted, cache, content):
    cache.parent.mkdir()
    cache.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for size in (1, 2, 3):
            assert convcore.plan("forward", (1, 1, size, 1), (1, 1, 1, 1), backend="planted").algorithm == "slow"
    (warning,) = told
    assert str(warning.message).startswith(f"{cache} holds no measured choices of convcore and is ignored (")
    choices.store("planted", registry().backend("planted"), problem(), choices.Entry(**ENTRY))
    assert convcore.plan("forward", *ARGUMENTS, backend="planted").algorithm == "quick"


def test_what_others_wrote_is_kept(planted, cache):
    backend = registry().backend("planted")
    first, others = choices.users(), choices.Choices(cache)
    entry = choices.Entry(**ENTRY)
    first.add("a", entry)
    others.add("b", entry)
    first.add("c", entry)
    assert list(json.loads(cache.read_text())["entries"]) == ["a", "b", "c"]
    assert os.listdir(cache.parent) == [cache.name]
    choices.store("planted", backend, problem(), entry)
    assert convcore.plan("forward", *ARGUMENTS, backend="planted").algorithm == "quick"


def test_a_file_that_cannot_be_written_costs_a_warning(planted, cache):
    cache.parent.write_text("not a folder")
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        plan = convcore.plan("forward", *ARGUMENTS, backend="planted", tune="measure")
    assert plan.algorithm == "quick"


def test_a_bucket_holds_sizes_that_are_near():
    def bucket(*operands, **keywords):
        return problem(operands=operands, **keywords).bucket

    dense = bucket((1, 64, 56, 56), (64, 64, 3, 3))
    assert dense == bucket((1, 60, 50, 60), (70, 60, 3, 3), padding=1)
    assert dense != bucket((1, 64, 28, 56), (64, 64, 3, 3))
    assert dense != bucket((1, 64, 56, 56), (64, 64, 3, 1))
    assert dense != bucket((1, 64, 56, 56), (64, 64, 3, 3), stride=(1, 2))
    assert dense != bucket((1, 64, 56, 56), (64, 64, 3, 3), accuracy="strict")
    assert dense != bucket((1, 64, 56, 56), (64, 64, 3, 3), workspace_limit=0)
    assert dense == bucket((1, 64, 56, 56), (64, 64, 3, 3), tune="off")
    assert bucket((0, 1, 3, 3), (1, 1, 3, 3)).split()[5] == "n0"


class Recorded:
    """Candidates whose times are known, and which of them were asked for."""

    candidates = {"own": {"algorithm": "a"}} | {
        f"{algorithm} {tile}": {"algorithm": algorithm, "tile": [tile, 2]} for algorithm in "ab" for tile in (1, 2, 3)
    }

    def __init__(self):
        self.asked = []

    def attempt(self, candidate):
        self.asked.append(candidate)
        return search.Attempt(candidate, None, "no") if candidate == "b 2" else search.Attempt(candidate, 0.1)


class TestKernelTuner:
    """Kernel Tuner drives the search: its space, its strategies, its budget."""

    @pytest.fixture(autouse=True)
    def driver(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            self.driver = pytest.importorskip("convcore_bench.kerneltuner")

    def test_everything_is_tried_by_brute_force(self):
        recorded = Recorded()
        self.driver.by_strategy(recorded, "brute_force")
        assert sorted(recorded.asked) == sorted(Recorded.candidates)

    def test_each_strategy_asks_for_candidates_within_its_budget(self):
        for strategy in self.driver.STRATEGIES:
            recorded = Recorded()
            self.driver.by_strategy(recorded, strategy, evaluations=4)
            assert 1 <= len(recorded.asked) <= 4, strategy

    def test_no_time_is_no_search(self):
        recorded = Recorded()
        recorded.attempt = lambda candidate: (__import__("time").sleep(0.2), Recorded.attempt(recorded, candidate))[1]
        self.driver.by_strategy(recorded, "brute_force", seconds=0.1)
        assert len(recorded.asked) == 1


class TestCommand:
    """`convcore tune`."""

    def run(self, *arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Kernel Tuner imports
            pytest.importorskip("kernel_tuner")
        with pytest.raises(SystemExit) as stop:
            main(["tune", "--problems", "h4 w1 r1", "--direction", "forward", *arguments])
        return stop.value.code

    def test_writes_what_plans_read_and_names_who_is_out(self, planted, cache, capsys):
        assert self.run("--backend", "planted") == 0
        told = capsys.readouterr().out
        assert "h4 w1 r1 forward: wrong is out: computes wrongly: 4 of 4 elements are wrong" in told
        assert "h4 w1 r1 forward: raising is out: MemoryError: full\n" in told
        assert "h4 w1 r1 forward: quick" in told
        assert f"choices: {cache}\n" in told
        assert convcore.plan("forward", *ARGUMENTS, backend="planted").algorithm == "quick"

    def test_what_is_known_is_measured_again_only_if_asked(self, planted, cache):
        choices.store("planted", registry().backend("planted"), problem(), choices.Entry(**ENTRY))
        assert self.run("--backend", "planted") == 0
        assert not planted.MADE
        assert self.run("--backend", "planted", "--again", "--evaluations", "1") == 0
        assert {plan.kind for plan in planted.MADE} == {"slow"}

    def test_ends_with_1_if_nothing_is_right(self, planted, cache, capsys, monkeypatch):
        only = {kind: {"kind": kind} for kind in ("wrong", "raising")}
        monkeypatch.setattr(planted.Planted, "candidates", lambda self, problem: only)
        assert self.run("--backend", "planted") == 1
        assert "none of the candidates is right" in capsys.readouterr().out
        assert not cache.exists()

    def test_shows_how_long_it_will_take(self, planted, cache, capsys, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "120")
        assert self.run("--backend", "planted") == 0
        assert re.search(r"6/6.*left.*0:00:0\d", capsys.readouterr().out)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--strategy", "luck"], "tune: `strategy` must be one of brute_force, random_sample, "),
            (["--backend", "plantd"], "unknown backend 'plantd' (from --backend); did you mean 'planted'?"),
            (["--device", "tpu"], "--device: backend 'planted' has no device 'tpu', there are: 0 (host)"),
            (["--problems", "resnot"], "--problems: 'resnot' is no set"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, planted, cache, capsys, arguments, sentence):
        assert self.run("--backend", "planted", *arguments) == 2
        assert sentence in capsys.readouterr().err

    def test_a_backend_without_choices_says_so(self, cache, capsys):
        assert self.run("--backend", "numpy") == 0
        assert "there is nothing to choose" in capsys.readouterr().out
