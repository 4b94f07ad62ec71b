"""The Conv2D layer."""

import contextvars
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import convcore
import convcore.operands
import convcore.training

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True, params=["numpy", "cpu", "opencl"])
def backend(request):
    with convcore.use(request.param):
        yield


def seed_image():
    x = np.ones((1, 1, 6, 8), np.float32)
    x[..., 2:6] = 0
    return x


def test_learns_the_edge_kernel_in_ten_steps():
    x = seed_image()
    target = convcore.corr2d(x, np.array([[1, -1]], np.float32))
    layer = convcore.Conv2D(1, kernel_size=(1, 2), use_bias=False)
    layer.initialize(seed=0)
    losses = []
    for _ in range(10):
        error = layer(x) - target
        losses.append(float((error**2).sum()))
        layer.zero_grad()
        layer.backward(2 * error)
        layer.weight.data()[:] -= 0.03 * layer.weight.grad()
    assert losses == sorted(losses, reverse=True)
    np.testing.assert_allclose(layer.weight.data().ravel(), [1, -1], atol=0.1)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"strides": 2, "padding": "same"},
        {"padding": ((1, 0), (2, 1)), "dilation": (1, 2)},
        {"groups": 2, "use_bias": False},
        {"layout": "NHWC"},
    ],
    ids=str,
)
def test_backward_against_finite_differences(keywords):
    layer = convcore.Conv2D(4, (3, 2), **keywords)
    layer.initialize(seed=1)
    x = RNG.standard_normal((2, 2, 6, 7) if layer.layout == "NCHW" else (2, 6, 7, 2))
    g = RNG.standard_normal(layer(x).shape)
    grad_input = layer.backward(g)
    wanted = [(x, grad_input)] + [(p.data(), p.grad().copy()) for p in layer.parameters().values()]
    for array, grad in wanted:
        for index in [tuple(RNG.integers(size) for size in array.shape) for _ in range(5)]:
            value, step = array[index], 1e-3
            array[index] = value + step
            above = (layer(x) * g).sum()
            array[index] = value - step
            below = (layer(x) * g).sum()
            array[index] = value
            assert grad[index] == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-8)


def test_shape_and_dtype_come_from_the_first_input():
    layer = convcore.Conv2D(6, 3, groups=3)
    layer(np.zeros((1, 9, 5, 5)))
    assert layer.in_channels == 9
    assert layer.weight.shape == (6, 3, 3, 3)
    assert layer.weight.data().dtype == np.float64
    with pytest.raises(ValueError, match="second axis"):
        layer(np.zeros((1, 6, 5, 5)))


def test_seed_makes_the_same_weights():
    layers = [convcore.Conv2D(4, 3, in_channels=2) for _ in range(3)]
    for layer, seed in zip(layers, (5, 5, 6), strict=True):
        layer.initialize(seed)
    first, same, other = (layer.weight.data() for layer in layers)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert abs(first).max() <= 18**-0.5
    assert not layers[0].bias.data().any()


@pytest.mark.parametrize(
    "initializer",
    ["ones", 1, np.ones((4, 2, 3, 3)), lambda rng, shape: np.ones(shape)],
    ids=["name", "number", "array", "function"],
)
def test_initializers(initializer):
    layer = convcore.Conv2D(4, 3, in_channels=2, weight_initializer=initializer)
    assert (layer.weight.data() == 1).all()
    layer.weight.data()[0] = 2
    assert (layer.weight.data()[0] == 2).all()


def test_gradients_add_up_until_zeroed():
    layer = convcore.Conv2D(1, 2)
    y = layer(seed_image())
    layer.backward(np.ones_like(y))
    once = layer.weight.grad().copy()
    layer.backward(np.ones_like(y))
    np.testing.assert_array_equal(layer.weight.grad(), 2 * once)
    layer.zero_grad()
    assert not layer.weight.grad().any()
    assert not layer.bias.grad().any()


def test_failed_backward_changes_no_gradient():
    layer = convcore.Conv2D(1, 2)
    layer(seed_image())
    with pytest.raises(ValueError, match="grad_out"):
        layer.backward(np.ones((1, 1, 2, 2), np.float32))
    assert not layer.weight.grad().any()


def test_state_survives_a_file(tmp_path):
    path = tmp_path / "layer.npz"
    layer = convcore.Conv2D(4, 3, in_channels=2)
    state = layer.state_dict(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["layer.npz"]
    assert sorted(state) == ["bias", "weight"]
    other = convcore.Conv2D(4, 3)
    other.load_state_dict(path)
    assert other.in_channels == 2
    np.testing.assert_array_equal(other.weight.data(), layer.weight.data())
    state["weight"][:] = 0
    assert layer.weight.data().any()
    view = other.weight.data()
    other.load_state_dict(state)
    assert not view.any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("bias"), KeyError, "'Conv2D: a state must hold weight, bias, got weight'"),
        (lambda s: s.update(gain=1), KeyError, "'Conv2D: a state must hold weight, bias, got bias, gain, weight'"),
        (
            lambda s: s.update(bias=np.zeros(5, np.float32)),
            ValueError,
            "Conv2D: `bias` must have shape (4,), got (5,)",
        ),
        (
            lambda s: s.update(weight=s["weight"] * 1j),
            TypeError,
            "Conv2D: `weight` must be castable to float32, got complex64",
        ),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_bad_state_changes_nothing(change, error, message):
    layer = convcore.Conv2D(4, 3, in_channels=2)
    before = layer.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    change(state)
    with pytest.raises(error) as caught:
        layer.load_state_dict(state)
    assert str(caught.value) == message
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


# ---------------------------------------------------------------- inside an autodiff library


def with_autograd(layer, x, wanted):
    import autograd

    from convcore.adapters.autograd import conv2d

    def loss(weight):
        return ((conv2d(x, weight, **layer.geometry) - wanted) ** 2).sum()

    return autograd.grad(loss)(layer.weight.data())


def with_mygrad(layer, x, wanted):
    import mygrad

    from convcore.adapters.mygrad import conv2d

    weight = mygrad.tensor(layer.weight.data())
    ((conv2d(mygrad.tensor(x), weight, **layer.geometry) - wanted) ** 2).sum().backward()
    return weight.grad


def with_torch(layer, x, wanted):
    import torch

    from convcore.adapters.torch import conv2d

    weight = torch.from_numpy(layer.weight.data()).requires_grad_()
    ((conv2d(torch.from_numpy(x), weight, **layer.geometry) - torch.from_numpy(wanted)) ** 2).sum().backward()
    return weight.grad.numpy()


def with_jax(layer, x, wanted):
    import jax

    from convcore.adapters.jax import conv2d

    def loss(weight):
        return ((conv2d(jax.numpy.asarray(x), weight, **layer.geometry) - wanted) ** 2).sum()

    return np.asarray(jax.grad(loss)(jax.numpy.asarray(layer.weight.data())))


@pytest.mark.parametrize("gradient", [with_autograd, with_mygrad, with_torch, with_jax])
def test_learns_inside_each_autodiff_library(gradient, backend):
    x = seed_image()
    wanted = convcore.corr2d(x, np.array([[1, -1]], np.float32))
    layer = convcore.Conv2D(1, kernel_size=(1, 2), use_bias=False, in_channels=1)
    layer.initialize(seed=0)
    for _ in range(10):
        layer.zero_grad()
        layer.backward(2 * (layer(x) - wanted))
        slope = gradient(layer, x, wanted)
        np.testing.assert_allclose(slope, layer.weight.grad(), rtol=1e-4, atol=1e-4)
        layer.weight.data()[:] -= 0.03 * slope
    np.testing.assert_allclose(layer.weight.data().ravel(), [1, -1], atol=0.1)


class TestPredict:
    """A prediction keeps its weight packed where the backend packs any, and sees every change of it."""

    SHAPE = (1, 64, 7, 7)

    @pytest.fixture
    def layer(self):
        layer = convcore.Conv2D(64, 3, padding=1, in_channels=64)
        layer.initialize(seed=2)
        return layer

    @pytest.fixture
    def packs(self, monkeypatch):
        """Return the weights that were packed."""
        packed, pack = [], convcore.operands.packed_on_host

        def counted(plan, weight):
            packed.append(weight.copy())
            return pack(plan, weight)

        monkeypatch.setattr(convcore.operands, "packed_on_host", counted)
        return packed

    def right(self, layer, x):
        weight, bias = (layer.state_dict()[name].astype(np.float64) for name in ("weight", "bias"))
        expected = convcore.conv2d(x.astype(np.float64), weight, bias, backend="numpy", **layer.geometry)
        np.testing.assert_allclose(layer.predict(x), expected, atol=1e-4)

    def test_is_the_call(self, layer):
        x = RNG.standard_normal(self.SHAPE).astype(np.float32)
        np.testing.assert_allclose(layer.predict(x), layer(x), atol=1e-4)

    def test_is_the_same_every_time_and_packs_once(self, layer, packs):
        x = RNG.standard_normal(self.SHAPE).astype(np.float32)
        first = layer.predict(x)
        for _ in range(3):
            assert np.array_equal(layer.predict(x), first)
        assert len(packs) == 1
        assert np.array_equal(pickle.loads(pickle.dumps(layer)).predict(x), first)

    @pytest.mark.parametrize("way", ["data()", "held array", "held view", "load_state_dict", "initialize"])
    def test_sees_a_changed_weight(self, layer, way):
        x = RNG.standard_normal(self.SHAPE).astype(np.float32)
        held = layer.weight.data() if way.startswith("held") else None
        view = held[3:] if way == "held view" else held
        held = None if way == "held view" else held
        self.right(layer, x)
        before = layer.predict(x)
        if way == "data()":
            layer.weight.data()[...] *= 2
        elif way == "load_state_dict":
            layer.load_state_dict({name: array * 2 for name, array in layer.state_dict().items()})
        elif way == "initialize":
            layer.initialize(seed=3)
        else:
            view *= 2
        assert not np.array_equal(layer.predict(x), before)
        self.right(layer, x)

    def test_a_training_step_between_predictions(self, layer):
        x = RNG.standard_normal(self.SHAPE).astype(np.float32)
        optimizer = convcore.training.SGD(layer, lr=0.001)
        for _ in range(3):
            g = np.ones_like(layer(x))
            layer.predict(x + 1)
            layer.zero_grad()
            layer.backward(g)
            weight = layer.state_dict()["weight"]
            expected = convcore.conv2d_grad_weight(x, g, weight.shape, padding=1)
            np.testing.assert_array_equal(layer.weight.grad(), expected)
            optimizer.step()
            self.right(layer, x)

    def test_shapes_in_turns_keep_a_few_packed(self, layer, packs):
        inputs = [RNG.standard_normal((n, *self.SHAPE[1:])).astype(np.float32) for n in (1, 2)]
        for _ in range(3):
            for x in inputs:
                self.right(layer, x)
        assert len(packs) == 2
        for n in range(3, 6):
            layer.predict(np.zeros((n, *self.SHAPE[1:]), np.float32))
        assert len(layer._packed) == 2

    def test_from_many_threads(self, layer):
        inputs = [RNG.standard_normal(self.SHAPE).astype(np.float32) for _ in range(8)]
        expected = [layer.predict(x) for x in inputs]
        layer._packed = {}
        context = contextvars.copy_context()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda x: context.copy().run(layer.predict, x), inputs))
        np.testing.assert_array_equal(results, expected)

    def test_of_every_layer_leaves_backward_to_the_last_call(self):
        network = convcore.Sequential(
            convcore.Conv2D(3, 3), convcore.ReLU(), convcore.AvgPool2D(2), convcore.Sigmoid(), convcore.Dense(4)
        )
        network.initialize(seed=0)
        x, other = RNG.standard_normal((2, 2, 2, 8, 8)).astype(np.float32)
        predicted = network.predict(x)  # the parameters have their shapes from a prediction
        np.testing.assert_allclose(network(x), predicted, atol=1e-5)
        g = RNG.standard_normal(predicted.shape).astype(np.float32)
        expected = network.backward(g)
        network.predict(other)
        np.testing.assert_array_equal(network.backward(g), expected)
