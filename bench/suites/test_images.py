"""One grey image and one kernel: convcore beside OpenCV, SciPy, ndimage and PyTorch."""

import pytest
from convcore_bench.problem_set import load

#: Flops that take simple loops, or the unfolded image of the NumPy backend, too long.
SLOW = 2e8
IMAGES = load("images")


@pytest.mark.parametrize("layer", IMAGES.values(), ids=list(IMAGES))
def test_image(time_it, case_of, peer, layer):
    case = case_of(layer, 1, "forward")
    if peer.name in ("numpy", "scipy-direct") and case.flops > SLOW:
        pytest.skip(f"{peer.name} takes minutes for {case.flops:.1g} flops")
    time_it(peer, case)
