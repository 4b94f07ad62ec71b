"""A device: arrays that are there already, arrays that come and go with each call, and the way alone."""

import numpy as np
import pytest
from convcore_bench.peers import choose
from convcore_bench.peers.backends import RESIDENT
from convcore_bench.problem_set import parse

import convcore
from convcore.registry import registry

DEVICES = [
    info.name
    for info in convcore.backends()
    if info.state == "ready" and len(registry().specs[info.name].array_types) > 1
]
LAYER = parse("n1 c64 h56 k64 r3 p1")

if not DEVICES:
    pytest.skip("no backend with a device is ready: convcore doctor says what is missing", allow_module_level=True)


@pytest.mark.parametrize("where", ["", RESIDENT], ids=["transferred", "resident"])
@pytest.mark.parametrize("backend", DEVICES)
def test_arrays(time_it, case_of, backend, where):
    (peer,) = choose(backend + where)
    time_it(peer, case_of(LAYER, 1, "forward"))


@pytest.mark.benchmark(group="the way to the device and back, 16 MiB")
@pytest.mark.parametrize("backend", DEVICES)
@pytest.mark.parametrize("way", ["there", "back"])
def test_way(benchmark, backend, way):
    device = registry().backend(backend)
    there = np.random.default_rng(0).standard_normal((64, 256, 256), np.float32)
    array = device.to_device(there)
    assert np.array_equal(device.from_device(array), there)

    def move():
        moved = device.to_device(there) if way == "there" else device.from_device(array)
        device.synchronize()
        return moved

    benchmark(move)
    if benchmark.stats:
        benchmark.extra_info["gbytes"] = there.nbytes / benchmark.stats.stats.median * 1e-9
