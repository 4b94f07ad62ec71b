"""One grey image and one kernel: convcore beside OpenCV, SciPy, ndimage and PyTorch."""

import pytest
from convcore_bench.problem_set import load

IMAGES = load("images")


@pytest.mark.parametrize("layer", IMAGES.values(), ids=list(IMAGES))
def test_image(time_it, case_of, peer, layer):
    if peer.name == "scipy-direct" and layer.weight_shape[2] > 15:
        pytest.skip("scipy-direct takes minutes for kernels of more than 15 by 15")
    time_it(peer, case_of(layer, 1, "forward"))
