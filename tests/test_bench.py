"""The benchmarks' own machinery: what is checked, how ratios are judged, what is refused, and the command."""

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from convcore_bench import machine, problem_set, readme, results, rounds
from convcore_bench.case import DIRECTIONS, STEP, Case, WrongAnswer, check, oracle
from convcore_bench.driver import TWIN, Crashed, Effort, Field, Host, compare, judge
from convcore_bench.host import Contenders, judged
from convcore_bench.machine import Watch, peaks
from convcore_bench.peaks import multiply_add
from convcore_bench.peers import Peer, Refused, Work, choose, everybody
from convcore_cpu.engine import ISAS

from convcore.cli import main
from convcore.testing import oracle as kit
from convcore.testing.tolerance import allowed_error

TEXTS = ("n2 c3 h7 w6 k4 r3 s2 p1", "n2 c4 h9 k6 r3 p1x0 stride2 groups2", "c2 h8 k2 r2 dilation2 groups2 p2", "h5 r1")


def small(text="n2 c3 h6 k4 r3 p1", direction="forward", dtype="float32"):
    layer = problem_set.parse(text)
    return Case(layer, layer.input_shape[0], direction, dtype)


def answer_of(case):
    return np.concatenate([value for _, value, _ in oracle(case)]).astype(case.dtype)


# ---------------------------------------------------------------- problems


def test_a_problem_on_one_line():
    layer = problem_set.parse("n2 c6 h9 w8 k4 r3 s1 p1x0 stride2 dilation1x2 groups2")
    assert (layer.input_shape, layer.weight_shape, layer.groups) == ((2, 6, 9, 8), (4, 3, 3, 1), 2)
    assert layer.geometry == {"stride": (2, 2), "padding": ((1, 1), (0, 0)), "dilation": (1, 2), "groups": 2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("c3 k4 r3", "problem 'c3 k4 r3' needs h and r"),
        ("c3 h8 r3 x5", "'x5' is none of n, c, h, w, k, r, s, groups, p, stride, dilation with a number"),
        ("c3 h8 r3 groups2", "groups must divide c and k"),
    ],
)
def test_a_problem_that_is_none(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        problem_set.parse(text)


def test_problems_are_chosen_by_set_network_id_file_and_line(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{"id": "mine/first", "source": "made up", "problem": "c2 h5 k3 r3"}]')
    assert [layer.id for layer in problem_set.choose(f"{path},h5 r1")] == ["mine/first", "h5 r1"]
    resnet = problem_set.choose("resnet50")
    assert resnet
    assert all(layer.id.startswith("resnet50/") for layer in resnet)
    assert [layer.id for layer in problem_set.choose("resnet50/conv1")] == ["resnet50/conv1"]
    assert len(problem_set.choose("networks")) == len({layer.key for layer in problem_set.load().values()})
    with pytest.raises(ValueError, match="'resnet51' is no set"):
        problem_set.choose("resnet51")


@pytest.mark.parametrize("name", problem_set.sets())
def test_every_problem_of_a_set_fits_together_and_has_a_source(name):
    for layer in problem_set.load(name).values():
        assert min(Case(layer, 1, "forward").output_shape) > 0
        assert layer.source


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_oracle_is_that_of_the_conformance_kit(text, direction):
    case = small(text, direction)
    x, weight, grad_out = case.operands
    operands = {"forward": (x, weight), "grad_input": (grad_out, weight), "grad_weight": (x, grad_out)}[direction]
    expected = kit.reference(case.problem, *operands).astype(np.float64)
    scale = kit.reference(case.problem, *map(np.abs, operands)).astype(np.float64)
    for part, value, magnitude in oracle(case):
        np.testing.assert_allclose(value, expected[part], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(magnitude, scale[part], rtol=1e-12)
    worst = np.max(np.abs(answer_of(case) - expected) / allowed_error(case.problem, *operands))
    assert check(case, answer_of(case)).of_allowed == pytest.approx(float(worst), rel=0.01)


def test_the_oracle_of_a_large_kernel_is_that_of_the_conformance_kit():
    case = small("h21 w19 r11 s9 p4x6")
    x, weight, _ = case.operands
    ((_, value, scale),) = oracle(case)
    np.testing.assert_allclose(value, kit.reference(case.problem, x, weight).astype(np.float64), rtol=0, atol=1e-12)
    expected = kit.reference(case.problem, np.abs(x), np.abs(weight)).astype(np.float64)
    np.testing.assert_allclose(scale, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_wrong_element_is_found(direction):
    case = small(direction=direction)
    answer = answer_of(case)
    assert check(case, answer).error < 1e-7
    answer.flat[-1] += 1e-4
    with pytest.raises(WrongAnswer, match="errs by"):
        check(case, answer)
    answer.flat[-1] = np.nan
    with pytest.raises(WrongAnswer, match="inf times the allowed"):
        check(case, answer)
    with pytest.raises(WrongAnswer, match="it is float64"):
        check(case, answer.astype(np.float64))


def test_answers_too_large_to_keep_are_the_same(monkeypatch):
    kept = [value for _, value, _ in small().answers()]
    monkeypatch.setattr("convcore_bench.case.KEPT", 0)
    for mine, other in zip(kept, small().answers(), strict=True):
        assert np.array_equal(mine, other[1])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["cpu", "numpy", "torch-nchw", "torch-nhwc"])
def test_peers_answer_right(name, text):
    (peer,) = choose(name)
    if reason := peer.missing():
        pytest.skip(f"{name}: {reason}")
    for direction in (*DIRECTIONS, STEP):
        case = small(text, direction)
        work = peer.prepare(case)
        assert all(verdict.of_allowed <= 1 for verdict in judged(case, work, work.run()))


@pytest.mark.parametrize("name", ["opencv", "scipy-direct", "scipy-fft", "ndimage"])
def test_filters_answer_right_and_refuse_what_they_cannot(name):
    (peer,) = choose(name)
    if reason := peer.missing():
        pytest.skip(f"{name}: {reason}")
    case = small("h40 w33 r15 s5 p7x2")
    work = peer.prepare(case)
    judged(case, work, work.run())
    with pytest.raises(Refused, match="one image of one channel"):
        peer.prepare(small())
    with pytest.raises(Refused, match="no gradients"):
        peer.prepare(small("h9 r3 p1", "grad_input"))


class Liar(Peer):
    """Says zero."""

    name = "liar"

    def missing(self):
        return ""

    def versions(self):
        return {}

    def prepare_one(self, case):
        return Work(lambda: np.zeros(case.output_shape, np.float32), np.asarray)


def test_a_wrong_answer_is_never_timed():
    contenders = Contenders()
    contenders.peers["liar"] = Liar()
    reply = contenders.prepare("liar", small().to_json())
    assert "errs by" in reply["wrong"]
    assert contenders.samplers == {}


def test_every_peer_has_a_name_of_its_own_and_unknown_ones_are_named():
    names = [peer.name for peer in everybody()]
    assert len(set(names)) == len(names)
    assert [peer.name for peer in choose("torch")] == ["torch-nchw", "torch-nhwc"]
    assert [peer.name for peer in choose("opencl:1")] == ["opencl:1"]
    with pytest.raises(ValueError, match="nobody is called 'torhc'"):
        choose("torhc")


# ---------------------------------------------------------------- rounds and ratios


def noisy(seed, level, count=11, noise=0.05):
    draw = random.Random(seed)
    return [level * draw.lognormvariate(0, noise) for _ in range(count)]


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        ratio = rounds.paired_ratio(noisy(seed, 1.5), noisy(seed + 1000, 1.0))
        assert ratio.low <= ratio.value <= ratio.high
        held += ratio.low <= 1.5 <= ratio.high
    assert held >= 180


def test_a_drift_of_the_machine_does_not_touch_a_paired_ratio():
    drift = [1 + number for number in range(11)]
    ratio = rounds.paired_ratio([1.2 * slow for slow in drift], drift)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.2, 1.2, 1.2))
    assert ratio.decided


def test_rounds_give_everyone_a_turn_in_changing_order():
    order = []
    samplers = {name: lambda calls, name=name: order.append(name) or 1e-3 * calls for name in "abc"}
    times = rounds.play(samplers, dict.fromkeys("abc", 1e-3), rounds=20, budget=60)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abc", 20)
    turns = ["".join(order[start : start + 3]) for start in range(0, 60, 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) > 3


def test_a_disturbed_round_is_played_again():
    answers = iter([True, False, True, True, False, False])
    samples = iter(range(1, 100))
    samplers = {"a": lambda calls: float(next(samples))}
    times = rounds.play(samplers, {"a": 1e-3}, rounds=3, least=3, disturbed=lambda: next(answers))
    assert times == {"a": [2.0, 5.0, 6.0]}


def test_what_others_take_of_the_cores_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        ours, others = Watch([busy.pid]), Watch([])
        time.sleep(0.5)
        if not (alone := others.share()):
            pytest.skip("this system does not say what processes take")
        assert ours.share() < alone
    finally:
        busy.kill()
        busy.wait()


def ready_for(*names):
    return {name: {"seconds": 1e-3, "error": 0.0, "algorithm": "direct"} for name in names}


def test_nobody_wins_by_less_than_the_noise():
    case = small()
    steady = {"a": [1.0] * 7, TWIN: [1.0] * 7}
    assert judge(case, ready_for("a", "b"), steady | {"b": [1.1] * 7})["winner"] == "a"
    restless = {"a": [1.0] * 7, TWIN: [1.2] * 7}
    assert judge(case, ready_for("a", "b"), restless | {"b": [1.1] * 7})["winner"] is None
    assert judge(case, ready_for("a", "b"), steady | {"b": [0.9, 1.1, 0.9, 1.1, 0.9, 1.1, 1.0]})["winner"] is None


def test_unstable_times_are_marked():
    found = judge(small(), ready_for("a"), {"a": [1.0, 1.3, 0.8, 1.0, 1.4, 0.7, 1.0], TWIN: [1.0] * 7})
    assert found["contenders"]["a"]["unstable"]
    found = judge(small(), ready_for("a"), {"a": [1.0] * 7, TWIN: [1.0] * 7})
    assert not found["contenders"]["a"]["unstable"]


def test_a_process_that_dies_is_said_and_the_others_go_on():
    with Field(choose("cpu,numpy"), 1, "default", isolate=True) as contenders:
        contenders.hosts["cpu"].process.kill()
        record = compare(contenders, small(), Effort(rounds=5, budget=0.1))
        assert "its process ended with status -9" in record["out"]["cpu"]["failed"]
        assert list(record["contenders"]) == ["numpy"]
        record = compare(contenders, small(), Effort(rounds=5, budget=0.1))
        assert list(record["contenders"]) == ["cpu", "numpy"]
        assert {len(mine["rounds"]) for mine in record["contenders"].values()} == {5}


def test_threads_and_allocator_are_those_of_the_field():
    host = Host(1, "pooled")
    try:
        host.ask("about", peer="cpu")
        environment = Path(f"/proc/{host.process.pid}/environ").read_text()
        assert "CONVCORE_NUM_THREADS=1" in environment
        assert "mmap_threshold=4294967296" in environment
        assert len(os.sched_getaffinity(host.process.pid)) == 1
    except FileNotFoundError:
        pytest.skip("this system shows no environment of a process")
    finally:
        host.process.kill()
        host.process.wait()
        with pytest.raises(Crashed, match="status -9: in silence"):
            host.ask("about", peer="cpu")
        host.close()


@pytest.mark.parametrize("isa", ISAS)
def test_the_loop_of_multiply_adds_counts_what_it_does(isa):
    lanes = {"baseline": 4, "avx2": 8, "avx512": 16}[isa]
    assert multiply_add(isa, "float32", 1000) == 2 * multiply_add(isa, "float64", 1000) == 1000 * 12 * 2 * lanes
    with pytest.raises(ValueError, match="no loop of multiply-adds for isa 'avx2' and dtype 'int8'"):
        multiply_add("avx2", "int8", 1)


def test_every_peak_is_measured():
    found = peaks(2, seconds=0.01)
    assert set(found) == {"float32", "float64", "memory", "cache"}
    assert min(found.values()) > 0


# ---------------------------------------------------------------- stored results


def stored(fingerprint="a", processor="one", peak=1.0, commit="first", versions=()):
    machine = {"fingerprint": fingerprint, "processor": processor, "commit": commit, "versions": dict(versions)}
    return {"machine": machine, "peaks": {"2": {"float32": peak}}, "peers": {}, "records": []}


def record_of(layer, milliseconds):
    about = dict.fromkeys(results.KEY, 1) | {"layer": layer}
    return about | {"contenders": {"cpu": {"milliseconds": milliseconds}}}


def test_results_are_written_read_and_merged(tmp_path):
    path = tmp_path / "results.json"
    older = stored(versions={"jax": "1", "numpy": "1"}) | {"records": [record_of("a", 1), record_of("b", 2)]}
    results.write(path, older)
    assert results.read(path) == older
    newer = stored(peak=0.5, commit="second", versions={"numpy": "2"})
    newer |= {"records": [record_of("b", 3), record_of("c", 4)]}
    merged = results.merge(results.read(path), newer, path)
    assert merged["peaks"] == {"2": {"float32": 1.0}}
    assert [record["contenders"]["cpu"]["milliseconds"] for record in merged["records"]] == [1, 3, 4]
    assert [record["commit"] for record in merged["records"]] == ["first", "second", "second"]
    assert results.commits(merged) == ["first", "second"]
    assert merged["machine"]["versions"] == {"jax": "1", "numpy": "2"}
    again = results.merge(merged, stored(commit="third") | {"records": [record_of("c", 5)]}, path)
    assert [record["commit"] for record in again["records"]] == ["first", "second", "third"]


def test_the_commit_is_dirty_by_what_a_run_does_not_write(monkeypatch, tmp_path):
    for name in ("bench/machine.py", "bench/results/a.json", "code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    (tmp_path / "bench" / "results" / "a.json").write_text("2")
    assert len(machine._commit()) == 12
    (tmp_path / "code.py").write_text("2")
    assert machine._commit().endswith("-dirty")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "other.py"))
    assert machine._commit() == ""


def test_results_of_another_machine_are_refused(tmp_path):
    with pytest.raises(
        results.OtherMachine, match="times of two machines are not compared: processor 'two', here 'one'"
    ):
        results.merge(stored("b", "two"), stored(), tmp_path / "results.json")


def test_a_file_that_holds_no_results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"machine": 3}')
    with pytest.raises(ValueError, match="holds no results of `convcore bench`"):
        results.read(path)


def test_the_readme_says_what_the_results_say():
    assert readme.outdated() == []


def test_the_readme_takes_the_better_layout():
    record = {"contenders": {"cpu": {}, "torch-nchw": {}}, "ratios": {"torch-nchw": [3.0], "torch-nhwc": [2.0]}}
    assert readme.best(record, ("torch-nchw", "torch-nhwc")) == 2.0
    assert readme.best(record, ("opencv",)) is None
    assert readme.best(record | {"contenders": {"opencl": {}}}, ("torch-nchw",)) is None


# ---------------------------------------------------------------- the command


class Page(HTMLParser):
    """Collects what a page loads, and checks that its tags are closed."""

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.titles = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in ("meta", "circle", "line", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("circle", "line", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Run the command once on small problems; return its folder."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--backends", "cpu,numpy,scipy-fft", "--quick", "--budget", "0.05", "--batch", "1,2"]
    files = ["--json", str(folder / "results.json"), "--html", str(folder / "report.html")]
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments, "--problems", "c4 h9 k4 r3 p1,h12 r5 p2", *files])
    assert stop.value.code == 0
    return folder


def test_the_command_measures_every_case(measured):
    found = results.read(measured / "results.json")
    assert len(found["records"]) == 4
    for record in found["records"]:
        assert {"cpu", "numpy"} <= record["contenders"].keys()
        for mine in record["contenders"].values():
            assert mine["of_allowed"] <= 1
            assert mine["gflops"] > 0
            assert len(mine["rounds"]) >= 5
        low, value, high = (record["ratios"]["numpy"][i] for i in (1, 0, 2))
        assert 0 < low <= value <= high
    reasons = [record["out"].get("scipy-fft", {}).get("refused") for record in found["records"]]
    assert "it takes one image of one channel" in reasons
    assert found["peaks"]
    assert found["peers"]["cpu"]["convcore"]


def test_the_report_needs_nothing_else_and_shows_everything(measured):
    text = (measured / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert "url(" not in text
    assert "@import" not in text
    for title in ("Roofline", "Error beside speed", "Scaling", "Layer by layer", "How the speed-ups are distributed"):
        assert title in page.titles
    assert text.count("<circle") > 8
    assert "prefers-color-scheme: dark" in text


def test_stored_results_are_shown_compared_and_guarded(measured, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    path = measured / "results.json"
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--from", str(path), "--against", str(path)])
    assert stop.value.code == 0
    assert "1.00" in capsys.readouterr().out
    other = json.loads(path.read_text())
    other["machine"] |= {"fingerprint": "another", "processor": "another"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--quick", "--against", str(tmp_path / "other.json")])
    assert stop.value.code == 2
    assert "was measured on another machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--direction", "backward"], "--direction must be of forward, grad_input, grad_weight, step, got 'backward'"),
        (["--threads", "two"], "--threads must be whole numbers of at least 1, separated by commas, got 'two'"),
        (["--backends", "cpuu"], "--backends: nobody is called 'cpuu'"),
        (["--from", "nowhere.json"], "nowhere.json holds no results of `convcore bench`"),
    ],
)
def test_what_is_wrong_is_one_sentence(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--problems", "h5 r1", *arguments])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_a_case_survives_the_way_to_another_process():
    case = small("n2 c4 h9 k6 r3 p1x0 stride2 groups2", "grad_weight", "float64")
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == dataclasses.replace(case)
