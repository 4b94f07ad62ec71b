"""The functions people call.  Each one turns its arguments into a Problem, finds the plan, and runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from convcore import calls, config, normalise, select
from convcore.normalise import Geometry, Operand
from convcore.problem import ReceptiveField, Shape4, compose_receptive_field
from convcore.registry import BackendInfo, registry
from convcore.spi import Plan

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = Any

# Stride, padding, dilation, groups, boundary and fill_value of a function that has none.
_PLAIN = (1, 0, 1, 1, "constant", 0.0)

# ---------------------------------------------------------------- the primitives


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    fill_value: complex = 0.0,
    layout: str = "NCHW",
    accuracy: str | None = None,
    tune: str | None = None,
    backend: Any = None,
    out: Array | None = None,
) -> Array:
    """Cross-correlate a batch of images with a weight (the "convolution" of neural networks).

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        float32, float64, complex64, complex128, or any integer up to int64 and uint32.
    weight : array (K, C/groups, R, S)
        Of the dtype of ``x``; integers may mix.
    bias : array (K,), optional
    stride, dilation : int or (int, int)
        Pixels, vertical then horizontal; dilation 1 is dense.
    padding : int, (int, int), ((top, bottom), (left, right)), "valid", "same", "same_lower" or "full"
        Pixels of boundary.  "same" gives ceil(in/stride) outputs with the extra pixel at the
        end, "same_lower" at the start; "full" pads by the kernel's reach on every side.
    groups : int
        Divides the channels into groups that do not see each other.
    boundary : "constant", "reflect", "edge", "wrap" or "symmetric"
        What stands in the padding; the names are those of :func:`numpy.pad`.
    fill_value : number
        The constant of ``boundary="constant"``.
    layout : "NCHW" or "NHWC"
        Memory order of ``x`` and of the result.
    accuracy : "strict", "standard" or "fast", optional
        Which algorithms are allowed; None is "standard".
    tune : "off", "heuristic", "cached" or "measure", optional
        What a backend chooses among its algorithms by: a built-in rule, its model, what was measured here before and
        otherwise its model, or, where nothing was, by measuring now.  "tune" is another word for "measure"; None takes
        the setting in force, "cached" if nobody chose.
    backend : str or list of str, optional
        A backend that must run this, "name:device", a list in order of preference, or "auto".
    out : array, optional
        Takes the result; written completely or not at all.  May not share memory with an input.

    Returns
    -------
    array (N, K, P, Q), or (N, P, Q, K)
        Of the dtype of ``x``; int64 for integers.  It lives where ``x`` lives.

    Raises
    ------
    TypeError, ValueError
        For an argument that cannot be; nothing has been computed then.
    OverflowError
        If integer sums could exceed int64.
    UnknownBackend, BrokenBackend, NoDevice, UnsupportedProblem
        If no backend runs it (``convcore.errors``).
    """
    geometry = (stride, padding, dilation, groups, boundary, fill_value, layout, accuracy, tune)
    return calls.run("conv2d", (x, weight, bias), geometry, (), backend, out)


def conv2d_grad_input(
    grad_out: Array,
    weight: Array,
    input_shape: tuple[int, ...],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    fill_value: complex = 0.0,
    layout: str = "NCHW",
    accuracy: str | None = None,
    tune: str | None = None,
    backend: Any = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of ``sum(conv2d(x, weight) * grad_out)`` with respect to ``x``.

    Parameters
    ----------
    grad_out : array (N, K, P, Q), or (N, P, Q, K)
        The gradient with respect to the result of :func:`conv2d`.
    weight : array (K, C/groups, R, S)
    input_shape : tuple of 4 int
        The shape of ``x`` as it lies in memory.
    stride, padding, dilation, groups, boundary, fill_value, layout, accuracy, tune, backend, out
        As in :func:`conv2d`.

    Returns
    -------
    array of shape ``input_shape``
        The plain transpose: complex weights are not conjugated.

    Raises
    ------
    As :func:`conv2d`.
    """
    geometry = (stride, padding, dilation, groups, boundary, fill_value, layout, accuracy, tune)
    return calls.run("conv2d_grad_input", (grad_out, weight, None), geometry, (input_shape,), backend, out)


def conv2d_grad_weight(
    x: Array,
    grad_out: Array,
    weight_shape: tuple[int, ...],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    fill_value: complex = 0.0,
    layout: str = "NCHW",
    accuracy: str | None = None,
    tune: str | None = None,
    backend: Any = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of ``sum(conv2d(x, weight) * grad_out)`` with respect to ``weight``.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C)
    grad_out : array (N, K, P, Q), or (N, P, Q, K)
    weight_shape : tuple of 4 int
        (K, C/groups, R, S).
    stride, padding, dilation, groups, boundary, fill_value, layout, accuracy, tune, backend, out
        As in :func:`conv2d`.

    Returns
    -------
    array of shape ``weight_shape``

    Raises
    ------
    As :func:`conv2d`.
    """
    geometry = (stride, padding, dilation, groups, boundary, fill_value, layout, accuracy, tune)
    return calls.run("conv2d_grad_weight", (x, grad_out, None), geometry, (weight_shape,), backend, out)


def conv2d_grad_bias(grad_out: Array, *, layout: str = "NCHW", backend: Any = None) -> Array:
    """Return the gradient with respect to the bias: the sum of ``grad_out`` over batch and pixels.

    Parameters
    ----------
    grad_out : array (N, K, P, Q), or (N, P, Q, K)
    layout, backend
        As in :func:`conv2d`.

    Returns
    -------
    array (K,)

    Raises
    ------
    As :func:`conv2d`.
    """
    return calls.run("conv2d_grad_bias", (grad_out, None, None), (*_PLAIN, layout, None), (), backend, None)


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str = "NCHW",
    accuracy: str | None = None,
    tune: str | None = None,
    backend: Any = None,
    out: Array | None = None,
) -> Array:
    """Transposed convolution: :func:`conv2d_grad_input` with an output size of its own.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C)
    weight : array (C, K/groups, R, S)
        Input channels first: the weight of the correlation whose transpose this is.
    bias : array (K,), optional
    stride, dilation, groups, layout, accuracy, tune, backend, out
        As in :func:`conv2d`.
    padding : as in :func:`conv2d`
        Pixels cut from the ends of the whole result; "same" gives in * stride outputs.
    output_padding : int or (int, int)
        Pixels added at the end; smaller than stride or dilation.

    Returns
    -------
    array (N, K, H', W'), or (N, H', W', K)
        H' = (H - 1) * stride - top - bottom + dilation * (R - 1) + 1 + output_padding.

    Raises
    ------
    As :func:`conv2d`.
    """
    geometry = (stride, padding, dilation, groups, "constant", 0.0, layout, accuracy, tune)
    return calls.run("conv_transpose2d", (x, weight, bias), geometry, (output_padding,), backend, out)


# ---------------------------------------------------------------- the maximum over windows


def max_pool2d(
    x: Array,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCHW",
    backend: Any = None,
    out: Array | None = None,
) -> Array:
    """Return the largest pixel of every window, channel by channel.

    The average over windows is a correlation with equal weights: see :class:`convcore.AvgPool2D`.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Of a real floating dtype.
    kernel_size : int or (int, int)
        Size of the window.
    stride : int or (int, int), optional
        Distance between windows; the kernel's size by default.
    padding : as in :func:`conv2d`
        Smaller than the kernel; what stands in it is never the largest.
    ceil_mode : bool
        Whether a last window, which the image does not fill, counts too.  One that would start beyond
        the image does not.
    layout, backend, out
        As in :func:`conv2d`.

    Returns
    -------
    array (N, C, P, Q), or (N, P, Q, C)
        NaN where a window holds a NaN.

    Raises
    ------
    As :func:`conv2d`.
    """
    geometry = (1, padding, 1, 1, "constant", 0.0, layout, None)
    return calls.run("max_pool2d", (x, None, None), geometry, (kernel_size, stride, ceil_mode), backend, out)


def max_pool2d_grad(
    x: Array,
    grad_out: Array,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCHW",
    backend: Any = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of ``sum(max_pool2d(x) * grad_out)`` with respect to ``x``.

    Of equal pixels in a window the first, row by row, takes the gradient.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C)
        The input of :func:`max_pool2d`.
    grad_out : array (N, C, P, Q), or (N, P, Q, C)
    kernel_size, stride, padding, ceil_mode, layout, backend, out
        As in :func:`max_pool2d`.

    Returns
    -------
    array of the shape of ``x``

    Raises
    ------
    As :func:`conv2d`.
    """
    geometry = (1, padding, 1, 1, "constant", 0.0, layout, None)
    extra = (kernel_size, stride, ceil_mode)
    return calls.run("max_pool2d_grad", (x, grad_out, None), geometry, extra, backend, out)


# ---------------------------------------------------------------- single images


def corr2d(
    x: Array,
    k: Array,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    boundary: str = "constant",
    fill_value: complex = 0.0,
    accuracy: str | None = None,
    tune: str | None = None,
    backend: Any = None,
) -> Array:
    """Cross-correlate an image, or every image of a stack, with one two-dimensional kernel.

    Parameters
    ----------
    x : array (H, W), (C, H, W) or (N, C, H, W)
    k : array (R, S)
    stride, padding, dilation, boundary, fill_value, accuracy, tune, backend
        As in :func:`conv2d`; the default is the valid part only.

    Returns
    -------
    array of as many axes as ``x``

    Raises
    ------
    As :func:`conv2d`.
    """
    return _corr2d("corr2d", x, k, stride, padding, dilation, boundary, fill_value, accuracy, tune, backend)


def convolve2d(
    x: Array,
    k: Array,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    boundary: str = "constant",
    fill_value: complex = 0.0,
    accuracy: str | None = None,
    tune: str | None = None,
    backend: Any = None,
) -> Array:
    """Convolve an image, or every image of a stack, with one kernel: :func:`corr2d` with ``k`` flipped on both axes.

    Parameters, result and errors are those of :func:`corr2d`; ``k`` must be on the host to be flipped.
    """
    k = normalise.as_array("convolve2d", "k", k)
    if normalise.is_device_array(k):
        raise TypeError(
            f"convolve2d: `k` must be a NumPy array to be flipped, got {normalise.array_type(k)}; use corr2d"
        )
    return _corr2d(
        "convolve2d", x, np.flip(k), stride, padding, dilation, boundary, fill_value, accuracy, tune, backend
    )


def _corr2d(
    fn: str,
    x: Array,
    k: Array,
    stride: Any,
    padding: Any,
    dilation: Any,
    boundary: str,
    fill_value: complex,
    accuracy: str | None,
    tune: str | None,
    backend: Any,
) -> Array:
    x, k = normalise.as_array(fn, "x", x), normalise.as_array(fn, "k", k)
    images, weight = normalise.as_images(fn, x, k)
    geometry = (stride, padding, dilation, 1, boundary, fill_value, "NCHW", accuracy, tune)
    y = calls.run(fn, (images, weight, None), geometry, (), backend, None)
    return y.reshape((*x.shape[:-2], *y.shape[-2:]))


# ---------------------------------------------------------------- shapes and matrices


def output_shape(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str = "NCHW",
) -> tuple[int, int, int, int]:
    """Return the shape :func:`conv2d` would return, from shapes alone.

    Parameters
    ----------
    input_shape : tuple of 4 int
        (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``.
    weight_shape : tuple of 4 int
        (K, C/groups, R, S).
    stride, padding, dilation, groups, layout
        As in :func:`conv2d`.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d` would.
    """
    return _output_shape(
        "output_shape", input_shape, weight_shape, Geometry(stride, padding, dilation, groups, layout=layout)
    )


def _output_shape(fn: str, input_shape: Any, weight_shape: Any, geometry: Geometry) -> Shape4:
    float32 = np.dtype(np.float32)
    x = Operand("input_shape", normalise.shape4(fn, "input_shape", input_shape), float32)
    weight = Operand("weight_shape", normalise.shape4(fn, "weight_shape", weight_shape), float32)
    problem = normalise.forward(fn, x, weight, None, geometry)
    return problem.in_memory(problem.output_shape)


def receptive_field(layers: Iterable[Any]) -> ReceptiveField:
    """Return what one output element sees of the input through a stack of layers.

    Parameters
    ----------
    layers : iterable
        First layer first; each a :class:`~convcore.Layer`, a kernel size (int or pair), or a mapping
        with ``kernel_size`` and, where they differ from the defaults, ``stride``, ``padding``, ``dilation``.
        A :class:`~convcore.Sequential` counts as its layers, an activation as none.

    Returns
    -------
    ReceptiveField
        size, stride and offset in pixels of the input, vertical then horizontal.

    Raises
    ------
    TypeError, ValueError
        For a layer that cannot be; "same" padding with a stride depends on the input and is refused, and so is
        a layer whose outputs depend on the whole input.
    """
    return compose_receptive_field([_layer_geometry(layer) for layer in _single_layers(layers)])


def _single_layers(layers: Iterable[Any]) -> Iterator[Any]:
    """Yield the layers that look at more than one element."""
    for layer in layers:
        if getattr(layer, "sees_all", False):
            raise ValueError(f"receptive_field: every output of {layer!r} sees the whole input; give the layers before")
        if hasattr(layer, "layers"):
            yield from _single_layers(layer.layers)
        elif not getattr(layer, "elementwise", False):
            yield layer


def _layer_geometry(layer: Any) -> Any:
    fn = "receptive_field"
    if hasattr(layer, "kernel_size"):
        layer = {name: getattr(layer, name) for name in ("kernel_size", "strides", "padding", "dilation")}
    if not isinstance(layer, Mapping):
        layer = {"kernel_size": layer}
    known = ("kernel_size", "stride", "strides", "padding", "dilation")
    for name in layer:
        normalise.word(fn, "layer", name, known)
    if "kernel_size" not in layer:
        raise ValueError(f"{fn}: every layer must have a `kernel_size`, got {dict(layer)!r}")
    kernel = normalise.pair(fn, "kernel_size", layer["kernel_size"], 1)
    stride = normalise.pair(fn, "stride", layer.get("stride", layer.get("strides", 1)), 1)
    dilation = normalise.pair(fn, "dilation", layer.get("dilation", 1), 1)
    padding = layer.get("padding", 0)
    if isinstance(padding, str) and padding.startswith("same") and stride != (1, 1):
        raise ValueError(f"{fn}: `padding` {padding!r} with stride {stride} depends on the input; give pixels")
    # With stride 1 the words do not depend on the size, so any that the kernel fits into will do.
    reach = (dilation[0] * kernel[0], dilation[1] * kernel[1])
    return kernel, stride, normalise.forward_padding(fn, padding, reach, kernel, stride, dilation), dilation


def as_matrix(
    k: Array, input_shape: tuple[int, int], *, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> csr_array:
    """Return the matrix A of a correlation: ``A @ x.ravel() == corr2d(x, k).ravel()``.

    Parameters
    ----------
    k : array (R, S)
    input_shape : (int, int)
        (H, W) of the image.
    stride, padding, dilation
        As in :func:`corr2d`; in the padding stand zeros.

    Returns
    -------
    scipy.sparse.csr_array (P*Q, H*W)
        One row for each element of the result, of the dtype of ``k``; with stride 1 doubly blocked
        Toeplitz.  Its transpose is the gradient.

    Raises
    ------
    TypeError, ValueError
        As :func:`corr2d` would.
    ModuleNotFoundError
        Without SciPy.
    """
    fn = "as_matrix"
    k = normalise.as_array(fn, "k", k)
    normalise.operand(fn, "k", k, ndim=2)
    size = normalise.pair(fn, "input_shape", tuple(input_shape), 1)
    try:
        from scipy.sparse import csr_array
    except ModuleNotFoundError as error:
        sentence = "as_matrix needs scipy, which is not installed: pip install 'convcore[learn]'"
        raise ModuleNotFoundError(sentence, name=error.name) from None
    x, weight = (Operand(name, (1, 1, *shape), k.dtype) for name, shape in (("x", size), ("k", k.shape)))
    problem = normalise.forward(fn, x, weight, None, Geometry(stride, padding, dilation))
    # Where tap r meets position p: i = p*stride + r*dilation - top, for each axis.
    rows, columns = (
        np.add.outer(
            np.arange(problem.output_shape[2 + axis]) * problem.stride[axis] - problem.padding[axis][0],
            np.arange(k.shape[axis]) * problem.dilation[axis],
        )
        for axis in (0, 1)
    )
    i, j = np.broadcast_arrays(rows[:, None, :, None], columns[None, :, None, :])
    inside = (i >= 0) & (i < size[0]) & (j >= 0) & (j < size[1])
    p, q, r, s = np.nonzero(inside)
    places = p * inside.shape[1] + q, i[inside] * size[1] + j[inside]
    return csr_array((k[r, s], places), shape=(inside.shape[0] * inside.shape[1], size[0] * size[1]))


# ---------------------------------------------------------------- choosing a backend


@contextmanager
def use(backend: Any) -> Iterator[None]:
    """Choose a backend inside a ``with`` block, for this thread or task only.

    Raises
    ------
    UnknownBackend, BrokenBackend, ConfigError
        At once, if the name cannot be used.
    """
    token = config.scope.set(_checked(backend, "use()"))
    try:
        yield
    finally:
        config.scope.reset(token)


def set_backend(backend: Any) -> None:
    """Choose a backend for the whole process, threads started later included; None takes it back.

    Raises
    ------
    UnknownBackend, BrokenBackend, ConfigError
        If the name cannot be used; nothing has changed then.
    """
    config.set_process(None if backend is None else _checked(backend, "set_backend()"))


def get_backend() -> str:
    """Return the setting in force here: a name, several joined by commas, or "auto".

    Raises
    ------
    ConfigError
        If the variable or file it would come from cannot be understood.
    """
    return str(config.current())


def backends() -> list[BackendInfo]:
    """Describe every installed backend: name, version, state, devices, dtypes and, if it is not ready, why."""
    return registry().describe()


def _checked(backend: Any, source: str) -> config.Setting:
    setting = config.parse(backend, source)
    select.candidate_names(setting)
    return setting


# ---------------------------------------------------------------- plans


def plan(op: str, *operands: Any, dtype: Any = None, backend: Any = None, **keywords: Any) -> Plan:
    """Return the plan of a call, to be called again and again without any dispatch.

    Parameters
    ----------
    op : str
        The function: "conv2d", "conv2d_grad_input", "conv2d_grad_weight", "conv2d_grad_bias" or
        "conv_transpose2d"; or, for the primitives, "forward", "grad_input", "grad_weight", "grad_bias".
    *operands
        The positional arguments of that function.  Wherever it takes an array, a shape (tuple of int)
        does as well.
    dtype : dtype, optional
        Of operands given as shapes; float32 if not given.
    backend : str or list of str, optional
    **keywords
        The geometry of that function, and ``algorithm`` (a name: it runs, or
        :class:`~convcore.UnsupportedProblem` is raised) and ``workspace_limit`` (bytes).

    Returns
    -------
    Plan
        ``plan(x, weight, bias, out)``; ``.problem``, ``.algorithm``, ``.workspace_bytes``.

    Raises
    ------
    As the function.
    """
    return select.make_plan(calls.problem_of("plan", op, operands, dtype, keywords), config.current(backend))


def explain(
    op: str, *operands: Any, dtype: Any = None, backend: Any = None, run: bool = False, **keywords: Any
) -> select.Explanation:
    """Say which backend and algorithm a call would use, every candidate's reason, and whose setting decides.

    Parameters are those of :func:`plan`.  Nothing is computed, unless ``tune="measure"`` asks for a choice that is
    not stored yet, and a problem that every backend refuses is explained, not raised.

    With ``run=True`` the call is made, twice, with random numbers in arrays of which the shape is given only: what is
    told besides, in ``steps``, is what the second call took, in copies between host and device (bytes, seconds) and in
    kernels.
    """
    tuning = config.tuning(keywords.get("tune"))
    given = dict(keywords)
    problem = calls.problem_of("explain", op, operands, dtype, keywords)
    found = select.explain(problem, config.current(backend), tuning.source)
    if not run or found.chosen is None:
        return found
    return select.with_steps(found, *calls.arrays_of("explain", op, operands, given, problem))
