"""Code written for MXNet Gluon, with only its import lines changed."""

import importlib
import sys

import numpy as np
import pytest

from convcore.adapters.gluon import autograd, nd, nn, random


def corr2d(X, K):
    """Cross-correlate by definition, an element at a time."""
    h, w = K.shape
    Y = nd.zeros((X.shape[0] - h + 1, X.shape[1] - w + 1))
    for i in range(Y.shape[0]):
        for j in range(Y.shape[1]):
            Y[i, j] = (X[i : i + h, j : j + w] * K).sum()
    return Y


class Conv2D(nn.Block):
    """The layer of the lesson, with parameters of its own."""

    def __init__(self, kernel_size, **kwargs):
        super().__init__(**kwargs)
        self.weight = self.params.get("weight", shape=kernel_size)
        self.bias = self.params.get("bias", shape=(1,))

    def forward(self, x):
        return corr2d(x, self.weight.data()) + self.bias.data()


def image():
    X = nd.ones((6, 8))
    X[:, 2:6] = 0
    return X


def test_correlation_prints_as_mxnet_prints():
    X = nd.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    K = nd.array([[0, 1], [2, 3]])
    assert str(corr2d(X, K)) == "\n[[19. 25.]\n [37. 43.]]\n<NDArray 2x2 @cpu(0)>"
    assert repr(K.sum()) == "\n[6.]\n<NDArray 1 @cpu(0)>"


def test_edges():
    Y = corr2d(image(), nd.array([[1, -1]])).asnumpy()
    np.testing.assert_array_equal(Y, np.tile(np.float32([0, 1, 0, 0, 0, -1, 0]), (6, 1)))


@pytest.mark.parametrize("seed", range(20))
def test_ten_steps_learn_the_kernel(seed):
    random.seed(seed)
    X = image()
    Y = corr2d(X, nd.array([[1, -1]])).reshape((1, 1, 6, 7))
    X = X.reshape((1, 1, 6, 8))
    conv2d = nn.Conv2D(1, kernel_size=(1, 2))
    conv2d.initialize()
    losses = []
    for _ in range(10):
        with autograd.record():
            Y_hat = conv2d(X)
            loss = (Y_hat - Y) ** 2
        loss.backward()
        conv2d.weight.data()[:] -= 3e-2 * conv2d.weight.grad()
        losses.append(loss.mean().asscalar())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01
    np.testing.assert_allclose(conv2d.weight.data().reshape((1, 2)).asnumpy(), [[1, -1]], atol=0.1)


def test_the_loop_has_the_gradients_of_the_engine():
    """Item assignment is recorded: the layer by definition learns what the layer of the engine learns."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((5, 6), np.float32), rng.standard_normal((4, 4), np.float32)
    ours, library = Conv2D((2, 3)), nn.Conv2D(1, kernel_size=(2, 3))
    ours.initialize()
    library.initialize()
    library(nd.array(x).reshape((1, 1, 5, 6)))
    library.weight.data()[:] = ours.weight.data().reshape((1, 1, 2, 3))
    library.bias.data()[:] = ours.bias.data()
    with autograd.record():
        first = ours(nd.array(x)) * nd.array(g)
        second = library(nd.array(x).reshape(1, 1, 5, 6)) * nd.array(g)
    np.testing.assert_allclose(first.asnumpy(), second.asnumpy()[0, 0], rtol=1e-5, atol=1e-6)
    first.backward()
    second.backward()
    for name in ("weight", "bias"):
        grads = [layer.params.get(name).grad().asnumpy().ravel() for layer in (ours, library)]
        np.testing.assert_allclose(*grads, rtol=1e-5)


def test_weights_start_as_gluon_starts_them():
    """Uniform(0.07), also for a parameter of one's own that is called bias; zeros for the layer's bias."""
    layer = nn.Conv2D(64, kernel_size=3, in_channels=8)
    block = Conv2D((40, 40))
    for net in (layer, block):
        net.initialize()
    for weight in (layer.weight, block.weight):
        values = weight.data().asnumpy()
        assert values.dtype == np.float32
        assert 0.06 < np.abs(values).max() <= np.float32(0.07)
        assert values.std() == pytest.approx(0.07 / 3**0.5, rel=0.05)
    assert not layer.bias.data().asnumpy().any()
    assert block.bias.data().asnumpy().any()


def test_seeds():
    def draw(seed):
        random.seed(seed)
        layer = nn.Conv2D(2, kernel_size=3, in_channels=1)
        layer.initialize()
        return layer.weight.data().asnumpy()

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_blocks_inside_a_block_are_initialized():
    class Net(nn.Block):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2D(4, kernel_size=3, padding=1, groups=2), nn.Conv2D(3, 1, use_bias=False)

        def forward(self, x):
            return self.second(self.first(x))

    net = Net()
    net.initialize()
    assert net(nd.ones((2, 6, 5, 5))).shape == (2, 3, 5, 5)
    assert net.first.weight.shape == (4, 3, 3, 3)
    assert net.second.weight.shape == (3, 4, 1, 1)
    assert list(net.second.params) == ["weight"]


def test_each_backward_overwrites_the_gradient():
    x = nd.array([1, 2, 3])
    assert x.grad is None
    x.attach_grad()
    assert not x.grad.asnumpy().any()
    for factor in (2, 5):
        with autograd.record():
            y = x * x * factor
        y.backward()  # of three elements: their sum
        np.testing.assert_array_equal(x.grad.asnumpy(), 2 * factor * x.asnumpy())


def test_only_what_is_inside_record_is_recorded():
    x = nd.array([1, 2, 3])
    x.attach_grad()
    outside = x * 2
    with autograd.record():
        y = x * outside  # a constant, 2 x
    y.backward()
    np.testing.assert_array_equal(x.grad.asnumpy(), [2, 4, 6])


def test_slices_are_views_outside_of_record():
    x = nd.zeros((2, 3))
    row = x[1]
    row[:] = nd.array([1, 2, 3])
    row -= 1
    x[0, 1] = 7
    x[0, 2] = x[1, 2] * 3
    np.testing.assert_array_equal(x.asnumpy(), [[0, 7, 6], [0, 1, 2]])


def test_arithmetic_stays_float32():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 2, (2, 3)).astype(np.float32), rng.uniform(1, 2, (1, 3)).astype(np.float32)
    X, Y = nd.array(x), nd.array(y)
    pairs = [(X + Y, x + y), (X - 0.1, x - np.float32(0.1)), (0.1 - X, np.float32(0.1) - x), (X * Y, x * y)]
    pairs += [(3e-2 * X, np.float32(3e-2) * x), (X / Y, x / y), (2 / X, 2 / x), (X**2, x**2), (-X, -x)]
    pairs += [(X.sum(axis=0), x.sum(0)), (X.mean(axis=1, keepdims=True), x.mean(1, keepdims=True))]
    for ours, expected in pairs:
        assert ours.asnumpy().dtype == np.float32
        np.testing.assert_allclose(ours.asnumpy(), expected, rtol=1e-6)
    for change in ("+=", "-=", "*=", "/="):
        names = {"X": nd.array(x), "Y": Y}
        same = names["X"]
        exec(f"X {change} Y", names)
        assert names["X"] is same
        np.testing.assert_allclose(same.asnumpy(), eval(f"x {change[0]} y"), rtol=1e-6)


def test_shapes():
    X = nd.array(np.arange(24)).reshape((2, 3, 4))
    assert X.reshape((0, -1)).shape == X.reshape(2, 12).shape == (2, 12)
    assert X.sum().shape == X[0, 0, 0].shape == (1,)
    assert X.mean().asscalar() == 11.5
    assert len(X) == 2
    copy = X.asnumpy()
    copy[:] = 0
    assert X[1, 2, 3].asscalar() == 23
    assert nd.array(X).shape == nd.ones((2, 3, 4)).shape


def test_updating_is_possible_after_recording_without_backward():
    x = nd.ones((2,))
    with autograd.record():
        y = x * 2
    x[:] = 5
    assert y.asnumpy().tolist() == [2, 2]
    assert x.asnumpy().tolist() == [5, 5]


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda: nd.ones((2, 2)).asscalar(),
            ValueError,
            "asscalar: the array must have one element, got shape (2, 2)",
        ),
        (
            lambda: (nd.ones((2, 2)) * 2).backward(),
            RuntimeError,
            "backward: nothing was recorded of this array; compute it inside `with autograd.record():`",
        ),
        (
            lambda: Conv2D((1, 2)).weight.data(),
            RuntimeError,
            "Parameter 'weight' has no value yet: call initialize()",
        ),
        (
            lambda: nn.Conv2D(1, 2)(nd.ones((1, 1, 4, 4))),
            RuntimeError,
            "Parameter 'weight' has no value yet: call initialize()",
        ),
        (
            lambda: initialized(nn.Conv2D(1, 2)).weight.data(),
            RuntimeError,
            "Parameter 'weight' has no value yet: call the layer, or give in_channels",
        ),
        (
            lambda: initialized(nn.Conv2D(1, 2, in_channels=3))(nd.ones((1, 1, 4, 4))),
            ValueError,
            "conv2d: `weight` must have in_channels/groups=1 as its second axis, "
            "got weight (1, 3, 2, 2), in_channels=1, groups=1",
        ),
        (
            lambda: initialized(nn.Conv2D(1, 2))(nd.ones((4, 4))),
            ValueError,
            "conv2d: `x` must have 4 dimensions, 4 axes, got shape (4, 4)",
        ),
        (
            lambda: nn.Block().params.get("weight"),
            ValueError,
            "params.get: parameter 'weight' is new and needs a shape",
        ),
        (lambda: nn.Block()(1), NotImplementedError, "Block needs a method `forward`"),
        (
            lambda: nn.Conv2D(1, (1, 2, 3)),
            ValueError,
            "Conv2D: `kernel_size` must be an int or a pair, got (1, 2, 3)",
        ),
    ],
    ids=["asscalar", "backward", "block", "layer", "deferred", "channels", "axes", "params", "forward", "kernel"],
)
def test_bad_input(act, error, message):
    with pytest.raises(error) as caught:
        act()
    assert str(caught.value) == message


def initialized(layer):
    layer.initialize()
    return layer


def test_a_second_initialize_keeps_the_values():
    layer = initialized(nn.Conv2D(1, 2, in_channels=1))
    before = layer.weight.data().asnumpy()
    with pytest.warns(UserWarning, match="keeps its value; force_reinit=True draws a new one"):
        layer.initialize()
    assert np.array_equal(layer.weight.data().asnumpy(), before)
    layer.initialize(force_reinit=True)
    assert not np.array_equal(layer.weight.data().asnumpy(), before)


def test_without_mygrad_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mygrad", None)
    for name in [name for name in sys.modules if name.startswith(("convcore.adapters.gluon", "convcore.adapters.my"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("convcore.adapters.gluon")
    assert str(caught.value) == (
        "convcore needs mygrad for this, which is not installed: pip install 'convcore[mygrad]'"
    )
