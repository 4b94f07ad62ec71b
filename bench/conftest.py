"""What every suite shares: contenders by name, cases, the check before the clock, and what is said of a time."""

import os

import pytest
from convcore_bench import machine, results
from convcore_bench.case import DIRECTIONS, Case
from convcore_bench.host import judged
from convcore_bench.peers import Refused, everybody
from convcore_bench.problem_set import choose

THREADS = machine.cores()
#: Work that takes longer (seconds) is timed in three rounds, and not at all beyond the second.
LONG, LONGEST = 0.5, 5.0

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CONVCORE_NUM_THREADS"):
    os.environ.setdefault(pool, str(THREADS))


def pytest_addoption(parser):
    group = parser.getgroup("convcore benchmarks")
    group.addoption("--bench-backends", default="", help="names as for `convcore bench`; all that can share a process")
    group.addoption(
        "--bench-problems",
        default="resnet50/conv1,resnet50/layer1.0.conv2,resnet50/layer4.0.conv1,mobilenet_v2/features.1.conv.0.0",
        help="names as for `convcore bench --problems`",
    )
    group.addoption("--bench-batch", default="1,16,64")
    group.addoption("--bench-dtype", default="float32,float64")


def pytest_generate_tests(metafunc):
    option = metafunc.config.getoption
    values = {
        "peer": lambda: _peers(option("--bench-backends")),
        "layer": lambda: choose(option("--bench-problems")),
        "direction": lambda: DIRECTIONS,
        "batch": lambda: list(map(int, option("--bench-batch").split(","))),
        "dtype": lambda: option("--bench-dtype").split(","),
    }
    # Contenders vary fastest: what they share is made once.
    for name in ("layer", "batch", "dtype", "direction", "peer"):
        if name in metafunc.fixturenames and not _given(metafunc, name):
            ids = [getattr(value, "name", getattr(value, "id", str(value))) for value in values[name]()]
            metafunc.parametrize(name, values[name](), ids=ids)


def _given(metafunc, name):
    return any(name in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))


def _peers(names):
    from convcore_bench.peers import choose as chosen

    return chosen(names) if names else everybody()


def ready(peer):
    """Skip, with the reason, a contender that is not there or must not share this process."""
    if peer.alone:
        pytest.skip(f"{peer.name} needs a process of its own: convcore bench --backends cpu,{peer.name}")
    reason = peer.missing()
    if reason:
        pytest.skip(f"{peer.name}: {reason}")
    return peer


_last = [None]


def shared(case):
    """Return the same object for the same case, so that operands and the oracle's answers are made once."""
    if _last[0] != case:
        _last[0] = case
    return _last[0]


@pytest.fixture(scope="session")
def peaks():
    """What this machine does at most."""
    return machine.peaks(THREADS)


@pytest.fixture(scope="session")
def about():
    """This machine, the versions and the commit."""
    found = machine.describe()
    return {name: found[name] for name in ("processor", "versions", "commit")}


@pytest.fixture
def time_it(benchmark, peaks, about):
    """Return a function that checks a contender's answer to a case, times it, and says what the time means."""

    def time_it(peer, case):
        case = shared(case)
        try:
            work = ready(peer).prepare(case)
        except Refused as reason:
            pytest.skip(f"{peer.name}: {reason}")
        benchmark.group = f"{case.layer.id} {case.direction}, batch {case.batch}, {case.dtype}"
        first = benchmark._timer()
        answer = work.run()
        first = benchmark._timer() - first
        verdicts = judged(case, work, answer)
        if first > LONGEST:
            pytest.skip(f"{peer.name}: right, but not timed, for a call takes {first:.0f} s")
        once = benchmark._timer()
        work.run()
        once = benchmark._timer() - once
        if once > LONG:
            benchmark.pedantic(work.run, rounds=3)
        else:
            benchmark(work.run)
        if not benchmark.stats:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.median
        benchmark.extra_info |= about | {
            "source": case.layer.source,
            "gflops": case.flops / seconds * 1e-9,
            "gbytes": case.bytes / seconds * 1e-9,
            "of_multiply_add_peak": case.flops / seconds * 1e-9 / peaks[case.dtype],
            "of_copy_peak": case.bytes / seconds * 1e-9 / peaks["memory"],
            "error": max(verdict.error for verdict in verdicts),
            "algorithm": work.algorithm,
            "threads": case.threads,
            "driver": peer.versions(),
            **work.detail,
        }

    return time_it


@pytest.fixture
def case_of():
    """Return a function that makes cases with this machine's threads."""
    return lambda layer, batch, direction, dtype="float32": Case(layer, batch, direction, dtype, threads=THREADS)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["convcore"] = machine.describe()


def pytest_benchmark_compare_machine_info(config, benchmarksession, machine_info, compared_benchmark):
    """Refuse where pytest-benchmark would only warn."""
    other = compared_benchmark["machine_info"].get("convcore", {"fingerprint": "unknown"})
    try:
        results.same_machine({"machine": machine_info["convcore"]}, {"machine": other}, "the stored benchmark")
    except results.OtherMachine as refusal:
        pytest.exit(str(refusal), returncode=2)
