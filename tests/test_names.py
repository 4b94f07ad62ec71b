"""Every row of docs/names.md: a call of another library's, and the call of ours that gives the same numbers."""

import os
import re
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp())

import cv2
import jax
import keras
import numpy as np
import pytest
import torch
from scipy import ndimage, signal

import convcore
from convcore.adapters import gluon

PAGE = (Path(__file__).parent.parent / "docs" / "names.md").read_text()
ROWS = [
    pytest.param(section, *re.findall(r"`([^`]+)`", f"{theirs} {ours}"), id=f"{section}: {name}")
    for section, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for name, theirs, ours in re.findall(r"^\| (.+?) \| (`.+?`) \| (`.+?`) \|$", text, re.MULTILINE)
]


def arrays():
    """Draw what the page names."""
    rng = np.random.default_rng(5)
    shapes = {
        "x": (2, 4, 9, 8),
        "w": (6, 4, 3, 3),
        "wg": (6, 2, 3, 3),
        "wt": (4, 6, 3, 3),
        "b": (6,),
        "g": (2, 6, 7, 6),
    }
    shapes |= {"image": (9, 8), "k": (3, 3), "even": (2, 4), "k1": (3,)}
    drawn = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return drawn | {"nhwc": np.ascontiguousarray(drawn["x"].transpose(0, 2, 3, 1))}


# ---------------------------------------------------------------- MXNet, by its documentation


def convolution(
    data, weight, bias=None, *, kernel, num_filter, stride=(1, 1), pad=(0, 0), dilate=(1, 1), num_group=1, no_bias=False
):
    """out[n, k, i, j] = bias[k] + the sum over the channels of k's group and the kernel, one output after the other."""
    n, channels, *size = data.shape
    padded = np.zeros((n, channels, size[0] + 2 * pad[0], size[1] + 2 * pad[1]))
    padded[:, :, pad[0] : pad[0] + size[0], pad[1] : pad[1] + size[1]] = data
    rows, columns = ((size[a] + 2 * pad[a] - dilate[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1))
    out = np.zeros((n, num_filter, rows, columns))
    for k, i, j in np.ndindex(num_filter, rows, columns):
        first = k // (num_filter // num_group) * (channels // num_group)
        for c, r, s in np.ndindex(channels // num_group, *kernel):
            pixel = padded[:, first + c, i * stride[0] + r * dilate[0], j * stride[1] + s * dilate[1]]
            out[:, k, i, j] += pixel * weight[k, c, r, s]
    return out if no_bias else out + bias[:, None, None]


def deconvolution(data, weight, *, kernel, num_filter, stride, pad, adj):
    """Every input pixel adds the kernel, times itself, to the output; then pad is cut off; adj is room at the end."""
    n, channels, *size = data.shape
    whole = [(size[a] - 1) * stride[a] + kernel[a] + adj[a] for a in (0, 1)]
    out = np.zeros((n, num_filter, *whole))
    for c, k, i, j, r, s in np.ndindex(channels, num_filter, *size, *kernel):
        out[:, k, i * stride[0] + r, j * stride[1] + s] += data[:, c, i, j] * weight[c, k, r, s]
    return out[:, :, pad[0] : whole[0] - pad[0], pad[1] : whole[1] - pad[1]]


class GluonConv2D:
    """``nn.Conv2D`` by the formula, without a weight of its own."""

    def __init__(
        self,
        channels,
        kernel_size,
        strides=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        use_bias=True,
        in_channels=0,
    ):
        pairs = [(v, v) if isinstance(v, int) else v for v in (kernel_size, strides, padding, dilation)]
        self.keywords = dict(zip(("kernel", "stride", "pad", "dilate"), pairs, strict=True))
        self.keywords |= {"num_filter": channels, "num_group": groups, "no_bias": not use_bias}

    def __call__(self, x, weight, bias=None):
        return convolution(x, weight, bias, **self.keywords)


# ---------------------------------------------------------------- both sides of a row


class Namespace:
    def __init__(self, **names):
        vars(self).update(names)


GLUON = {
    "nn": Namespace(Conv2D=GluonConv2D),
    "nd": Namespace(Convolution=convolution, Deconvolution=deconvolution),
}
SECTIONS = {
    "PyTorch": ({"torch": torch, "F": torch.nn.functional}, torch.from_numpy),
    "JAX": ({"jax": jax, "lax": jax.lax}, jax.numpy.asarray),
    "Keras": ({"keras": keras}, lambda array: array.astype(np.float32)),
    "MXNet Gluon": (GLUON, np.asarray),
    "SciPy": ({"signal": signal}, np.asarray),
    "scipy.ndimage": ({"ndimage": ndimage}, np.asarray),
    "OpenCV": ({"cv2": cv2, "np": np}, np.asarray),
}


@pytest.fixture(autouse=True)
def float64_in_jax():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def layer_of_theirs(layer, x, parameters):
    """Give another library's layer our parameters, and return what it makes of ``x``."""
    if isinstance(layer, keras.Layer):
        weight, *bias = parameters.values()
        layer.build(x.shape)
        order = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
        layer.set_weights([weight.transpose(order), *bias])
        return layer(x)
    if isinstance(layer, torch.nn.Module):
        layer.double().load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
        return layer(torch.from_numpy(x))
    return layer(x, *parameters.values())


@pytest.mark.parametrize(("section", "theirs", "ours"), ROWS)
def test_row(section, theirs, ours):
    library, convert = SECTIONS[section]
    given = arrays()
    if section == "Keras":
        given = {name: convert(array) for name, array in given.items()}
    result = eval(ours, {"convcore": convcore, "np": np, **given})
    expected = eval(theirs, {**library, **{name: convert(array) for name, array in given.items()}})
    if isinstance(result, convcore.Conv2D):
        layer, x = result, given["nhwc" if result.layout == "NHWC" else "x"]
        layer(x)
        for parameter in layer.parameters().values():
            parameter.data()[:] = np.random.default_rng(6).standard_normal(parameter.shape)
        expected = layer_of_theirs(expected, x, layer.state_dict())
        result = layer(x)
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert result.dtype == expected.dtype == given["x"].dtype
    np.testing.assert_allclose(result, expected, rtol=0, atol=256 * np.finfo(result.dtype).eps)


@pytest.mark.parametrize(
    "theirs", [row.values[1] for row in ROWS if row.values[0] == "MXNet Gluon" and row.values[1].startswith("nn.")]
)
def test_the_gluon_adapter_runs_the_left_side_too(theirs):
    x = arrays()["x"]
    layer = eval(theirs, {"nn": gluon.nn})
    layer.initialize()
    y = layer(gluon.nd.array(x)).asnumpy()
    parameters = [parameter.data().asnumpy() for parameter in layer.params.values()]
    np.testing.assert_allclose(y, eval(theirs, GLUON)(x, *parameters), rtol=1e-4, atol=1e-6)


def test_every_line_of_a_table_is_a_row():
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    heads = sum(line == "| name | theirs | ours |" for line in lines)
    assert heads == len(SECTIONS) == 7
    assert len(lines) == len(ROWS) + 2 * heads
    assert len({row.id for row in ROWS}) == len(ROWS)
