"""Dense layers, activations, and layers in a row."""

import numpy as np
import pytest

import convcore
from convcore import AvgPool2D, Conv2D, Dense, MaxPool2D, ReLU, Sequential, Sigmoid

RNG = np.random.default_rng(11)


def small_network():
    """Return a network that every backend runs, of every kind of layer that has a slope everywhere."""
    return Sequential(
        Conv2D(3, 3, padding=1), Sigmoid(), AvgPool2D(2), Conv2D(4, (2, 3)), Sigmoid(), Dense(5), Sigmoid(), Dense(3)
    )


@pytest.mark.parametrize("backend", ["numpy", "cpu", "opencl"])
def test_backward_of_a_network_against_finite_differences(backend):
    with convcore.use(backend):
        network = small_network()
        network.initialize(seed=2)
        x = RNG.standard_normal((2, 2, 6, 8))
        g = RNG.standard_normal(network(x).shape)
        network.zero_grad()
        wanted = [(x, network.backward(g))]
        wanted += [(p.data(), p.grad().copy()) for p in network.parameters().values()]
        assert len(wanted) == 9
        for array, grad in wanted:
            for index in [tuple(RNG.integers(size) for size in array.shape) for _ in range(4)]:
                value, step = array[index], 1e-4
                array[index] = value + step
                above = (network(x) * g).sum()
                array[index] = value - step
                below = (network(x) * g).sum()
                array[index] = value
                assert grad[index] == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("backend", ["numpy", "cpu", "opencl"])
def test_dense_is_a_matrix_product(backend):
    layer = Dense(5, bias_initializer=2.0, backend=backend)
    x, g = RNG.standard_normal((4, 3, 2)), RNG.standard_normal((4, 5))
    y = layer(x)
    weight = layer.weight.data()[:, :, 0, 0]
    assert weight.shape == (5, 6)
    np.testing.assert_allclose(y, x.reshape(4, 6) @ weight.T + 2, rtol=1e-12)
    np.testing.assert_allclose(layer.backward(g), (g @ weight).reshape(4, 3, 2), rtol=1e-12)
    np.testing.assert_allclose(layer.weight.grad()[:, :, 0, 0], g.T @ x.reshape(4, 6), rtol=1e-12)
    np.testing.assert_allclose(layer.bias.grad(), g.sum(axis=0), rtol=1e-12)


def test_activations():
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4, np.nan])
    relu, sigmoid = ReLU(), Sigmoid()
    np.testing.assert_array_equal(relu(x), [0, 0, 0, 1, 1e4, np.nan])
    assert relu.backward(np.ones(6))[:5].tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(sigmoid(x)[:5], [0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1], atol=1e-15)
    np.testing.assert_allclose(sigmoid.backward(np.full(6, 4.0))[2], 1)


def test_the_summary_counts_what_runs():
    network = small_network()
    shape = (2, 2, 6, 8)
    lines = network.summary(shape).splitlines()
    network(np.zeros(shape))
    weights = sum(parameter.data().size for parameter in network.parameters().values())
    assert lines[0].split() == ["layer", "result", "parameters", "multiply-adds", "sees"]
    assert lines[-1].split() == ["total", f"{weights:,}", f"{network.multiply_adds(shape):,}"]
    convolution = convcore.plan("conv2d", shape, (3, 2, 3, 3), padding=1).problem
    assert f"{convolution.flops // 2:,}" in lines[1]
    assert "(2, 4, 2, 2)" in lines[4]
    assert lines[4].endswith("6 x 8")
    assert lines[-2].endswith("all")
    assert network.output_shape(shape) == (2, 3)


def test_the_receptive_field_of_a_network():
    network = Sequential(Conv2D(1, 3, padding=1), ReLU(), MaxPool2D(2), Sequential(Conv2D(1, 3), Sigmoid()))
    field = convcore.receptive_field([network])
    assert field == convcore.receptive_field([{"kernel_size": 3, "padding": 1}, {"kernel_size": 2, "stride": 2}, 3])
    assert (field.size, field.stride, field.offset) == ((8, 8), (2, 2), (-1, -1))
    assert field.region(0, 1, (20, 20)) == (slice(0, 7), slice(1, 9))
    assert field.region(9, 0, (20, 20)) == (slice(17, 20), slice(0, 7))


def test_a_network_survives_a_file(tmp_path):
    network, other = small_network(), small_network()
    network(np.ones((1, 2, 6, 8)))
    network.state_dict(tmp_path / "network.npz")
    other.load_state_dict(tmp_path / "network.npz")
    x = RNG.standard_normal((3, 2, 6, 8))
    np.testing.assert_array_equal(network(x), other(x))


X = np.zeros((2, 3, 8, 8), np.float32)
WHOLE = Sequential(Conv2D(4, 3, in_channels=3), ReLU(), Dense(5, in_channels=144))
BAD = {
    "channels": (
        lambda: WHOLE(X[:, :2]),
        ValueError,
        "layer 0 of the network, conv2d: `weight` must have in_channels/groups=2 as its second axis, "
        "got weight (4, 3, 3, 3), in_channels=2, groups=1",
    ),
    "values a row": (
        lambda: WHOLE(X[:, :, 1:]),
        ValueError,
        "layer 2 of the network, Dense: `x` must have 144 values a row, got 120, shape (2, 4, 5, 6)",
    ),
    "window": (
        lambda: Sequential(MaxPool2D(9))(X),
        ValueError,
        "layer 0 of the network, max_pool2d: the kernel must fit into the padded input, got kernel (9, 9), "
        "input (8, 8), padding (0, 0)",
    ),
    "average of integers": (
        lambda: AvgPool2D(2)(X.astype(int)),
        TypeError,
        "AvgPool2D: `x` must be floating or complex, got int64",
    ),
    "pool size": (lambda: MaxPool2D(0), ValueError, "MaxPool2D: `pool_size` must be at least 1, got 0"),
    "gradient of an average": (
        lambda: [pool := AvgPool2D(2), pool(X), pool.backward(X)],
        ValueError,
        "AvgPool2D: `grad_out` must have shape (2, 3, 4, 4), got (2, 3, 8, 8)",
    ),
    "gradient of an activation": (
        lambda: [relu := ReLU(), relu(X), relu.backward(X[0])],
        ValueError,
        "ReLU: `grad_out` must have shape (2, 3, 8, 8), got (3, 8, 8)",
    ),
    "gradient of a dense layer": (
        lambda: [dense := Dense(5), dense(X), dense.backward(X)],
        ValueError,
        "Dense: `grad_out` must have shape (2, 5), got (2, 3, 8, 8)",
    ),
    "backward first": (
        lambda: Sequential(Conv2D(3, 3), Sigmoid()).backward(X),
        RuntimeError,
        "layer 1 of the network, Sigmoid: backward needs the input of a call, and the layer has not been called",
    ),
    "no array": (lambda: ReLU()([1, 2]), TypeError, "ReLU: `x` must be floating, got int64"),
    "one axis": (
        lambda: Dense(3)(np.zeros(4)),
        ValueError,
        "Dense: `x` must have at least 2 dimensions, (N, inputs), got shape (4,)",
    ),
    "no layer": (lambda: Sequential(), ValueError, "Sequential: it must have at least one layer"),
    "a class": (lambda: Sequential(ReLU), TypeError, "Sequential: layer 0 must be a Layer, got a ABCMeta"),
    "state of another network": (
        lambda: WHOLE.load_state_dict(
            Sequential(Conv2D(4, 5, in_channels=3), ReLU(), Dense(5, in_channels=64)).state_dict()
        ),
        ValueError,
        "layer 0 of the network, Conv2D: `weight` must have shape (4, 3, 3, 3), got (4, 3, 5, 5)",
    ),
    "state of a longer network": (
        lambda: WHOLE.load_state_dict(WHOLE.state_dict() | {"3.weight": X}),
        KeyError,
        "Sequential: a network of 3 layers has no 3.weight",
    ),
    "field of a dense layer": (
        lambda: convcore.receptive_field(WHOLE.layers),
        ValueError,
        "receptive_field: every output of Dense(5, in_channels=144) sees the whole input; give the layers before",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    call, error, message = BAD[case]
    with convcore.use("numpy"), pytest.raises(error) as caught:
        call()
    assert caught.value.args[0] == message
