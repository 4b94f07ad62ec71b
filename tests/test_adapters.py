"""The adapters: values, gradients, and gradients of gradients, by each library's own checker where it has one."""

import importlib
import sys

import autograd
import autograd.numpy as anp
import jax
import mygrad
import numpy as np
import pytest
import torch
from autograd.test_util import check_grads as check_autograd
from jax.test_util import check_grads as check_jax

import convcore
from convcore.adapters import autograd as for_autograd
from convcore.adapters import jax as for_jax
from convcore.adapters import mygrad as for_mygrad
from convcore.adapters import torch as for_torch

ADAPTERS = {
    "autograd": (for_autograd, np.asarray),
    "jax": (for_jax, jax.numpy.asarray),
    "mygrad": (for_mygrad, mygrad.tensor),
    "torch": (for_torch, torch.from_numpy),
}
GEOMETRIES = [
    {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "fill_value": 1.5},
    {"padding": "same", "dilation": (1, 2), "groups": 2, "boundary": "reflect"},
    {"padding": [1, 2], "stride": 2, "boundary": "wrap", "layout": "NHWC"},
]
OTHER_GEOMETRIES = [
    {},
    {"padding": 2, "boundary": "edge", "tune": "off", "backend": "numpy"},
    {"padding": "full", "boundary": "symmetric", "groups": 4, "accuracy": "strict", "backend": ["cpu", "numpy"]},
]


@pytest.fixture(autouse=True)
def float64_in_jax():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=GEOMETRIES, ids=str)
def geometry(request):
    return request.param


def operands(geometry, dtype=np.float64):
    """Draw x, weight and bias."""
    rng = np.random.default_rng(7)
    shapes = (2, 4, 5, 4), (4, 4 // geometry.get("groups", 1), 2, 3), (4,)
    if geometry.get("layout") == "NHWC":
        shapes = (2, 5, 4, 4), *shapes[1:]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    return arrays if np.dtype(dtype).kind == "f" else [array + 1j * rng.permuted(array) for array in arrays]


def functions_of(adapter, geometry, y_shape):
    """Return the three primitives as functions of arrays alone, with arrays of the right shapes for each."""
    x, w, b = operands(geometry)
    g = np.random.default_rng(8).standard_normal(y_shape)
    return [
        (lambda x, w, b: adapter.conv2d(x, w, b, **geometry), (x, w, b)),
        (lambda g, w: adapter.conv2d_grad_input(g, w, x.shape, **geometry), (g, w)),
        (lambda x, g: adapter.conv2d_grad_weight(x, g, w.shape, **geometry), (x, g)),
    ]


def y_shape(geometry):
    return convcore.conv2d(*operands(geometry), **geometry).shape


# ---------------------------------------------------------------- every library


@pytest.mark.parametrize("geometry", GEOMETRIES + OTHER_GEOMETRIES, ids=str)
@pytest.mark.parametrize("library", ADAPTERS)
def test_values_are_those_of_the_core(library, geometry):
    adapter, array = ADAPTERS[library]
    shape = y_shape(geometry)
    for (function, arrays), (core, _) in zip(
        functions_of(adapter, geometry, shape), functions_of(convcore, geometry, shape), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(function(*map(array, arrays))), core(*arrays))


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("library", ADAPTERS)
def test_corr2d(library, leading):
    adapter, array = ADAPTERS[library]
    rng = np.random.default_rng(1)
    x, k = rng.standard_normal((*leading, 6, 8)), rng.standard_normal((1, 2))
    y = adapter.corr2d(array(x), array(k), stride=(1, 2), padding=1, boundary="edge")
    np.testing.assert_array_equal(np.asarray(y), convcore.corr2d(x, k, stride=(1, 2), padding=1, boundary="edge"))


@pytest.mark.parametrize("library", ADAPTERS)
def test_the_edge_kernel_is_learned_in_ten_steps(library):
    adapter, array = ADAPTERS[library]
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    edges = convcore.corr2d(image, np.array([[1.0, -1.0]]))
    k = np.zeros((1, 2))
    for _ in range(10):
        k = k - 0.03 * slope(library, lambda k: ((adapter.corr2d(array(image), k) - array(edges)) ** 2).sum(), array(k))
    np.testing.assert_allclose(k, [[1, -1]], atol=0.1)


def slope(library, loss, k):
    """Return the gradient of a scalar function, as its library gives it."""
    if library in ("autograd", "jax"):
        return np.asarray(sys.modules[library].grad(loss)(k))
    if library == "torch":
        return torch.autograd.grad(loss(k.requires_grad_()), k)[0].numpy()
    loss(k).backward()
    return k.grad


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda adapter, array: adapter.conv2d(array(np.ones((1, 3, 5, 5))), array(np.ones((2, 2, 3, 3)))),
            ValueError,
            "conv2d: `weight` must have in_channels/groups=3 as its second axis, "
            "got weight (2, 2, 3, 3), in_channels=3, groups=1",
        ),
        (
            lambda adapter, array: adapter.conv2d(array(np.ones((5, 5))), array(np.ones((2, 2, 3, 3)))),
            ValueError,
            "conv2d: `x` must have 4 dimensions, 4 axes, got shape (5, 5)",
        ),
        (
            lambda adapter, array: adapter.conv2d(
                array(np.ones((1, 1, 5, 5), np.float32)), array(np.ones((1, 1, 3, 3)))
            ),
            TypeError,
            "conv2d: `weight` must have the dtype of `x`, got x float32, weight float64; convert one with .astype()",
        ),
        (
            lambda adapter, array: adapter.corr2d(array(np.ones((5, 5))), array(np.ones((2, 2))), groups=1),
            ValueError,
            "corr2d: `keyword` must be one of stride, padding, dilation, boundary, fill_value, accuracy, tune, "
            "backend, got 'groups'",
        ),
        (
            lambda adapter, array: adapter.conv2d(
                array(np.ones((1, 1, 5, 5))), array(np.ones((1, 1, 3, 3))), out=np.ones((1, 1, 3, 3))
            ),
            ValueError,
            "conv2d: `keyword` must be one of stride, padding, dilation, groups, boundary, fill_value, layout, "
            "accuracy, tune, backend, got 'out'; did you mean 'layout'?",
        ),
        (
            lambda adapter, array: adapter.conv2d(
                array(np.ones((1, 1, 5, 5))), array(np.ones((1, 1, 3, 3))), backend="cup"
            ),
            convcore.UnknownBackend,
            "unknown backend 'cup' (from call argument); did you mean 'cpu'?; installed: cpu, numpy, opencl",
        ),
    ],
    ids=["shape", "axes", "dtype", "groups", "out", "backend"],
)
@pytest.mark.parametrize("library", ADAPTERS)
def test_complaints_are_those_of_the_core(library, call, error, message):
    with pytest.raises(error) as caught:
        call(*ADAPTERS[library])
    assert str(caught.value).splitlines()[0] == message


@pytest.mark.parametrize("library", ADAPTERS)
def test_what_is_no_array_is_refused(library):
    with pytest.raises(TypeError) as caught:
        ADAPTERS[library][0].corr2d([[1.0, 2.0]], [[1.0, -1.0]])
    assert str(caught.value).startswith("corr2d: `x` must be a ")
    assert str(caught.value).endswith(", got a list")


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_missing_library_is_one_sentence(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"convcore.adapters.{library}")
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"convcore.adapters.{library}")
    assert str(caught.value) == (
        f"convcore needs {library} for this, which is not installed: pip install 'convcore[{library}]'"
    )


def test_a_broken_library_speaks_for_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, "mygrad.operation_base", None)
    monkeypatch.delitem(sys.modules, "convcore.adapters.mygrad")
    with pytest.raises(ModuleNotFoundError, match=r"import of mygrad\.operation_base halted"):
        importlib.import_module("convcore.adapters.mygrad")


# ---------------------------------------------------------------- autograd


@pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["real", "complex"])
def test_autograd_both_modes_to_the_second_order(geometry, dtype):
    arrays = operands(geometry, dtype)
    check_autograd(lambda x, w, b: for_autograd.conv2d(x, w, b, **geometry), (0, 1, 2), modes=["fwd", "rev"])(*arrays)


def test_autograd_of_the_gradients(geometry):
    for function, arrays in functions_of(for_autograd, geometry, y_shape(geometry))[1:]:
        check_autograd(function, (0, 1), modes=["fwd", "rev"])(*arrays)


def test_autograd_hessian_of_the_lesson():
    """The Hessian of the summed squared error has the eigenvalues 12 and 60."""
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    hessian = autograd.hessian(lambda k: anp.sum(for_autograd.corr2d(image, k) ** 2))(np.ones((1, 2)))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian.reshape(2, 2)), [12, 60])


# ---------------------------------------------------------------- mygrad


def test_mygrad_against_differences(geometry):
    """Gradients of all three primitives: those of the last two are gradients of gradients."""
    for function, arrays in functions_of(for_mygrad, geometry, y_shape(geometry)):
        tensors = [mygrad.tensor(array) for array in arrays]
        y = function(*tensors)
        g = np.random.default_rng(9).standard_normal(y.shape)
        (y * g).sum().backward()
        for i, tensor in enumerate(tensors):
            change = np.random.default_rng(i).standard_normal(tensor.shape)
            moved = [function(*arrays[:i], arrays[i] + step, *arrays[i + 1 :]).data for step in (change, -change)]
            # The function is linear in each array, so a central difference has no error but rounding.
            expected = ((moved[0] - moved[1]) / 2 * g).sum()
            assert (tensor.grad * change).sum() == pytest.approx(expected, rel=1e-10)


# ---------------------------------------------------------------- PyTorch


def tensors(arrays):
    return [torch.from_numpy(array).requires_grad_() for array in arrays]


def test_torch_gradcheck(geometry):
    arrays = tensors(operands(geometry))
    assert torch.autograd.gradcheck(lambda *args: for_torch.conv2d(*args, **geometry), arrays, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *args: for_torch.conv2d(*args, **geometry), arrays, fast_mode=True)


def test_torch_gradcheck_of_the_gradients(geometry):
    for function, arrays in functions_of(for_torch, geometry, y_shape(geometry))[1:]:
        assert torch.autograd.gradcheck(function, tensors(arrays), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, tensors(arrays), fast_mode=True)


def test_torch_gradcheck_of_complex_numbers():
    arrays = tensors(operands({}, np.complex128))
    function = lambda *args: for_torch.conv2d(*args, padding=1, fill_value=1j)  # noqa: E731
    assert torch.autograd.gradcheck(function, arrays, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arrays, fast_mode=True)


def test_torch_opcheck():
    geometry = {"stride": [2, 1], "padding": [1, 0, 2, 1], "dilation": [1, 2], "groups": 2, "boundary": "edge"}
    geometry |= {"fill_value": 0.0, "layout": "NCHW", "accuracy": None, "tune": None, "backend": "cpu"}
    x, w, b = tensors(operands(geometry))
    ops = torch.ops.convcore
    y = ops.conv2d(x, w, b, **geometry).detach().requires_grad_()
    torch.library.opcheck(ops.conv2d.default, (x, w, b), geometry)
    torch.library.opcheck(ops.conv2d_grad_input.default, (y, w, x.shape), geometry)
    torch.library.opcheck(ops.conv2d_grad_weight.default, (x, y, w.shape), geometry)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile(geometry, dynamic):
    """The whole step is one graph, backward too; aot_eager is torch.compile without its generator of C++."""

    def loss(x, w, b):
        return (for_torch.conv2d(x, w, b, **geometry).relu() ** 2).sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    x, w, b = tensors(operands(geometry))
    wider = torch.cat([x, x], 1 if geometry.get("layout") == "NHWC" else 2).detach().requires_grad_()
    for images in (x, wider):
        expected = torch.autograd.grad(loss(images, w, b), (images, w, b))
        for ours, theirs in zip(torch.autograd.grad(compiled(images, w, b), (images, w, b)), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what inductor itself imports
def test_torch_compile_with_its_own_backend(tmp_path, monkeypatch):
    """Nothing but our operators is in the graph, so inductor needs no compiler of C++."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    compiled = torch.compile(lambda x, w, b: for_torch.conv2d(x, w, b, **GEOMETRIES[0]), fullgraph=True)
    arrays = tensors(operands({}))
    y, expected = compiled(*arrays), for_torch.conv2d(*arrays, **GEOMETRIES[0])
    assert torch.equal(y, expected)
    g = torch.ones_like(y)
    for ours, theirs in zip(torch.autograd.grad(y, arrays, g), torch.autograd.grad(expected, arrays, g), strict=True):
        assert torch.equal(ours, theirs)


def test_torch_copies_nothing(monkeypatch):
    seen = []
    run = convcore.operands.run_on_host

    def spy(plan, first, second, bias, out):
        y = run(plan, first, second, bias, out)
        seen.extend([first, second, bias, y])
        return y

    monkeypatch.setattr(convcore.operands, "run_on_host", spy)
    x, w, b = (torch.from_numpy(array) for array in operands({}))
    y = for_torch.conv2d(x, w, b, backend="numpy")
    assert [array.ctypes.data for array in seen] == [tensor.data_ptr() for tensor in (x, w, b, y)]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.ones(5, 5, dtype=torch.bfloat16),
            "corr2d: `x` must have a dtype that NumPy has, got torch.bfloat16; convert it with .float()",
        ),
        (
            torch.ones(5, 5, device="meta"),
            "corr2d: `x` must be a CPU tensor, got device meta; move it with .cpu()",
        ),
    ],
    ids=["bfloat16", "device"],
)
def test_torch_refuses_what_numpy_cannot_see(tensor, message):
    with pytest.raises(TypeError) as caught:
        for_torch.corr2d(tensor, torch.ones(2, 2))
    assert str(caught.value) == message


# ---------------------------------------------------------------- JAX


def test_jax_to_the_second_order(geometry):
    check_jax(jax.jit(lambda *args: for_jax.conv2d(*args, **geometry)), operands(geometry), order=2, modes=["rev"])


def test_jax_of_the_gradients(geometry):
    for function, arrays in functions_of(for_jax, geometry, y_shape(geometry))[1:]:
        check_jax(jax.jit(function), arrays, order=2, modes=["rev"])


def test_jax_vmap_of_grad_of_jit():
    """Gradients of every image by itself, and for every kernel by itself."""
    x, w, b = operands({})
    xs, ws = np.stack([x, x + 1, -x]), np.stack([w, 2 * w, w - 1])
    gradient = jax.grad(jax.jit(lambda x, w: (for_jax.conv2d(x, w, b, stride=2) ** 2).sum()), argnums=(0, 1))
    for axes in ((0, None), (None, 0), (0, 0)):
        arrays = [many if axis == 0 else one for axis, many, one in zip(axes, (xs, ws), (x, w), strict=True)]
        together = jax.vmap(gradient, axes)(*arrays)
        for i in range(3):
            alone = gradient(*(array[i] if axis == 0 else array for axis, array in zip(axes, arrays, strict=True)))
            for ours, expected in zip(together, alone, strict=True):
                np.testing.assert_allclose(ours[i], expected, rtol=1e-12)


def test_jax_chooses_the_backend_while_tracing():
    """A callback runs in a thread of JAX's, where a ``with convcore.use()`` of the caller is not seen."""
    half = jax.ShapeDtypeStruct((4, 4), np.float16)
    with convcore.use("cpu"), pytest.raises(convcore.UnsupportedProblem, match="float16"):
        jax.eval_shape(for_jax.corr2d, half, half)
    with convcore.use("numpy"):
        assert jax.eval_shape(for_jax.corr2d, half, half).dtype == np.float16
