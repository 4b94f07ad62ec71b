"""What is measured, in which processes: contenders, cases, allocator modes; a record for each.

Contenders share one process; one whose thread pool or OpenMP runtime would disturb the others has a process of its own,
and then the processes take turns.  Each has the same number of threads and the same cores, and the same oracle to pass
before its clock starts.  The first contender enters twice: the ratio to its own twin (A/A) is the noise floor.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from convcore_bench.case import Case
from convcore_bench.machine import Watch
from convcore_bench.peers import Peer
from convcore_bench.rounds import UNSTABLE, medians, paired_ratio, play, spread

#: glibc returns large blocks to the system and takes page faults to get them back; "pooled" tells it to keep them.
ALLOCATORS = {"default": "", "pooled": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=68719476736"}
#: The variables by which thread pools are told their size.
POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "CONVCORE_NUM_THREADS",
    "POCL_MAX_PTHREAD_COUNT",
)
TWIN = "A/A"
#: A round is disturbed when other processes take more than this part of the cores.
DISTURBED = 0.1
# Keeps a process to as many cores as it has threads, where the system can, before any library starts a thread.
_START = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from convcore_bench.host import main
main()
"""


class Crashed(RuntimeError):  # noqa: N818 - said of a process
    """A process of contenders died."""


class Host:
    """One process of contenders; see ``host.py``."""

    def __init__(self, threads: int, allocator: str) -> None:
        environment = os.environ | dict.fromkeys(POOLS, str(threads)) | {"GLIBC_TUNABLES": ALLOCATORS[allocator]}
        self.heard = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(threads)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.heard,
            text=True,
        )

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Send an order and return the reply.

        Raises
        ------
        Crashed
            With the last line that was heard from the process.
        """
        try:
            self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.heard.seek(0)
            last = self.heard.read().decode(errors="replace").strip().splitlines()[-1:]
            raise Crashed(f"its process ended with status {self.process.wait()}: {' '.join(last) or 'in silence'}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # it is dead already
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.heard.close()


@dataclass
class Field:
    """The contenders of one allocator mode and number of threads, each in its process."""

    peers: Sequence[Peer]
    threads: int
    allocator: str
    isolate: bool = False
    hosts: dict[str, Host] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    shared: Host | None = None
    started: list[Host] = field(default_factory=list)

    def __enter__(self) -> Field:
        for peer in self.peers:
            self.admit(peer)
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.started:
            host.close()

    def admit(self, peer: Peer) -> None:
        """Put a peer into a process, if it is there."""
        host = self._host(peer)
        try:
            found = host.ask("about", peer=peer.name)
        except Crashed as crash:
            found = {"missing": str(crash)}
            self.shared = None if host is self.shared else self.shared
        if found["missing"]:
            self.missing[peer.name] = found["missing"]
            return
        self.hosts[peer.name] = host
        self.about[peer.name] = {"import_seconds": found["import_seconds"], **found["versions"]}

    def _host(self, peer: Peer) -> Host:
        if peer.alone or self.isolate:
            return self._start()
        if self.shared is None:
            self.shared = self._start()
        return self.shared

    def _start(self) -> Host:
        self.started.append(Host(self.threads, self.allocator))
        return self.started[-1]

    def ask(self, peer: str, do: str, **order: Any) -> dict[str, Any]:
        """Ask a contender; a crash is an answer, and the processes it took with it are started again."""
        try:
            return self.hosts[peer].ask(do, peer=peer, **order)
        except Crashed as crash:
            self._revive(self.hosts[peer])
            return {"failed": str(crash)}

    def _revive(self, dead: Host) -> None:
        fresh = self._start()
        for name, host in list(self.hosts.items()):
            if host is dead:
                fresh.ask("about", peer=name)
                self.hosts[name] = fresh
        self.shared = fresh if self.shared is dead else self.shared

    def sample(self, peer: str, calls: int) -> float:
        """Take one sample of a contender.

        Raises
        ------
        Crashed
            If it did not return.
        """
        reply = self.ask(peer, "sample", calls=calls)
        if "seconds" not in reply:
            raise Crashed(reply["failed"])
        return reply["seconds"]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds, least : int
        Rounds at most and at least.
    budget : float
        Seconds after which no further round is begun.
    patience : float
        Seconds for which rounds that other processes disturbed are played again, after that they count.
    """

    rounds: int = 11
    least: int = 5
    budget: float = 1.0
    patience: float = 5.0


class Disturbance:
    """Says of each round whether others took too much of the cores, as long as there is patience."""

    def __init__(self, pids: Iterable[int], patience: float) -> None:
        self.watch, self.end = Watch(pids), time.perf_counter() + patience
        self.shares: list[float] = []

    def __call__(self) -> bool:
        share = self.watch.share()
        if share > DISTURBED and time.perf_counter() < self.end:
            return True
        self.shares.append(share)
        return False


def compare(contenders: Field, case: Case, effort: Effort) -> dict[str, Any]:
    """Measure one case and return its record.

    The record holds what the case is, ``contenders`` (times, errors, algorithms), ``ratios`` (to the first contender,
    with intervals), ``noise`` (that of its twin), ``winner`` and who did not take part.
    """
    ready, out = {}, {}
    for name in contenders.hosts:
        reply = contenders.ask(name, "prepare", case=case.to_json())
        (ready if "seconds" in reply else out)[name] = reply
    record = _describe(case) | {"allocator": contenders.allocator, "out": out}
    if not ready:
        return record | {"contenders": {}, "ratios": {}}
    first = next(iter(ready))
    samplers = {name: partial(contenders.sample, name) for name in ready} | {TWIN: partial(contenders.sample, first)}
    once = {name: reply["seconds"] for name, reply in ready.items()} | {TWIN: ready[first]["seconds"]}
    try:
        others = Disturbance([os.getpid(), *(host.process.pid for host in contenders.started)], effort.patience)
        times = play(samplers, once, rounds=effort.rounds, least=effort.least, budget=effort.budget, disturbed=others)
    except Crashed as crash:
        return record | {"contenders": {}, "ratios": {}, "out": out | {"a contender": {"failed": str(crash)}}}
    return record | judge(case, ready, times) | {"others": statistics.median(others.shares)}


def judge(case: Case, ready: dict[str, dict[str, Any]], times: dict[str, list[float]]) -> dict[str, Any]:
    """Turn the rounds of a case into the part of its record that says who won."""
    middle = medians(times)
    first = next(iter(ready))
    ratios = {name: paired_ratio(times[name], times[first]) for name in times if name != first}
    noise = ratios.pop(TWIN)
    fastest = min(ready, key=lambda name: middle[name])
    beaten = [paired_ratio(times[name], times[fastest]) for name in ready if name != fastest]
    floor = max(noise.high, 1 / noise.low)
    return {
        "contenders": {
            name: {
                "milliseconds": middle[name] * 1e3,
                "rounds": [round(value * 1e3, 6) for value in times[name]],
                "gflops": case.flops / middle[name] * 1e-9,
                "gbytes": case.bytes / middle[name] * 1e-9,
                "unstable": spread(times[name]) > UNSTABLE,
                **{key: value for key, value in reply.items() if key != "seconds"},
            }
            for name, reply in ready.items()
        },
        "ratios": {name: [ratio.value, ratio.low, ratio.high] for name, ratio in ratios.items()},
        "noise": [noise.value, noise.low, noise.high],
        # Nobody wins by less than what a contender and its twin differ by.
        "winner": fastest if all(ratio.low > 1 and ratio.value > floor for ratio in beaten) else None,
    }


def _describe(case: Case) -> dict[str, Any]:
    layer = case.layer
    return {
        "layer": layer.id,
        "source": layer.source,
        "multiplicity": layer.multiplicity,
        "direction": case.direction,
        "batch": case.batch,
        "dtype": case.dtype,
        "accuracy": case.accuracy,
        "threads": case.threads,
        "input_shape": case.input_shape,
        "weight_shape": case.weight_shape,
        "output_shape": case.output_shape,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "flops": case.flops,
        "bytes": case.bytes,
    }


def plan_of(
    peers: Sequence[Peer], cases: Sequence[Case], allocators: Sequence[str], effort: Effort, isolate: bool = False
) -> Iterator[tuple[Field, dict[str, Any]]]:
    """Yield, for every allocator mode and case, the field and the record."""
    for allocator in allocators:
        for threads in dict.fromkeys(case.threads for case in cases):
            with Field(peers, threads, allocator, isolate) as contenders:
                for case in cases:
                    if case.threads == threads:
                        yield contenders, compare(contenders, case, effort)
