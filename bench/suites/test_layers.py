"""Layers of published networks: each direction, and a training step, by every contender."""

from convcore_bench.case import STEP

import convcore


def test_layer(time_it, case_of, peer, layer, batch, dtype, direction):
    time_it(peer, case_of(layer, batch, direction, dtype))


def test_step(time_it, case_of, peer, layer):
    """Forward, grad_input and grad_weight, one after the other."""
    time_it(peer, case_of(layer, 1, STEP))


def test_layer_object(benchmark, case_of, layer):
    """The step of a Conv2D, which adds its gradients up; its answers are those of the functions, checked above."""
    case = case_of(layer, 1, STEP)
    x, weight, grad_out = case.operands
    geometry = {"padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    module = convcore.Conv2D(
        weight.shape[0], weight.shape[2:], layer.stride, in_channels=x.shape[1], use_bias=False, **geometry
    )
    module.initialize(seed=0)
    benchmark.group = f"{layer.id} step, batch 1, float32"

    def step():
        module(x)
        return module.backward(grad_out)

    assert step().shape == x.shape
    benchmark(step)
