"""What a new process pays: the import, and the first call with its plan, its kernels and its threads."""

import subprocess
import sys

import pytest
from convcore_bench.driver import Host
from convcore_bench.machine import cores
from convcore_bench.problem_set import parse

LAYER = parse("n1 c64 h56 k64 r3 p1")


@pytest.mark.benchmark(group="import in a new interpreter")
@pytest.mark.parametrize("modules", ["numpy", "numpy, convcore", "numpy, torch", "numpy, jax", "numpy, scipy.signal"])
def test_import(benchmark, modules):
    pytest.importorskip(modules.split(", ")[-1])
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", f"import {modules}"],), {"check": True}, rounds=5)


@pytest.mark.benchmark(group="first call in a new process, library imported: 64 channels, 56 by 56, 3 by 3")
def test_first_call(benchmark, case_of, peer):
    hosts = []

    def start():
        host = Host(cores(), "default")
        hosts.append(host)
        missing = host.ask("about", peer=peer.name)["missing"]
        if missing:
            pytest.skip(f"{peer.name}: {missing}")
        host.ask("load", peer=peer.name, case=case_of(LAYER, 1, "forward").to_json())
        return (host,), {}

    def first(host):
        reply = host.ask("first", peer=peer.name)
        if "refused" in reply:
            pytest.skip(f"{peer.name}: {reply['refused']}")

    try:
        benchmark.pedantic(first, setup=start, rounds=3)
    finally:
        for host in hosts:
            host.close()
