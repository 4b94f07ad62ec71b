"""What the adapters share: their public functions, made from a library's three differentiable primitives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from convcore import normalise

if TYPE_CHECKING:
    from typing_extensions import Unpack

Array = Any
Shape = tuple[int, ...]


class Geometry(TypedDict, total=False):
    """The keywords of :func:`convcore.conv2d`, without ``out``: what is recorded must not be overwritten."""

    stride: Any
    padding: Any
    dilation: Any
    groups: int
    boundary: str
    fill_value: complex
    layout: str
    accuracy: str | None
    tune: str | None
    backend: Any


class Functions(NamedTuple):
    """The public functions of an adapter."""

    conv2d: Callable[..., Array]
    conv2d_grad_input: Callable[..., Array]
    conv2d_grad_weight: Callable[..., Array]
    corr2d: Callable[..., Array]


def functions(
    forward: Callable[[Array, Array, Array | None, Geometry], Array],
    grad_input: Callable[[Array, Array, Shape, Geometry], Array],
    grad_weight: Callable[[Array, Array, Shape, Geometry], Array],
    arrays: tuple[type, ...],
    check: Callable[[str, str, Array], None] = lambda fn, name, array: None,
) -> Functions:
    """Return the public functions over three primitives, which are differentiable in every array.

    ``arrays`` are the types of the library's arrays, and ``check`` raises for an array that cannot be.
    """

    def checked(fn: str, operands: dict[str, Array], geometry: Geometry, but: tuple[str, ...] = ()) -> Geometry:
        for name in geometry:
            normalise.word(fn, "keyword", name, [known for known in Geometry.__annotations__ if known not in but])
        for name, array in operands.items():
            if not isinstance(array, arrays):
                expected = " or ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in arrays)
                raise TypeError(f"{fn}: `{name}` must be a {expected}, got a {type(array).__name__}")
            check(fn, name, array)
        return geometry

    def conv2d(x: Array, weight: Array, bias: Array | None = None, **geometry: Unpack[Geometry]) -> Array:
        """Return :func:`convcore.conv2d`, differentiable in ``x``, ``weight`` and ``bias``.

        Parameters, result and errors are those of :func:`convcore.conv2d`, without ``out``.
        """
        operands = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
        checked("conv2d", operands, geometry)
        normalise.check_ndim("conv2d", "x", x, 4)
        normalise.check_ndim("conv2d", "weight", weight, 4)
        return forward(x, weight, bias, geometry)

    def conv2d_grad_input(grad_out: Array, weight: Array, input_shape: Shape, **geometry: Unpack[Geometry]) -> Array:
        """Return :func:`convcore.conv2d_grad_input`, differentiable in ``grad_out`` and ``weight``.

        Parameters, result and errors are those of :func:`convcore.conv2d_grad_input`, without ``out``.
        """
        checked("conv2d_grad_input", {"grad_out": grad_out, "weight": weight}, geometry)
        return grad_input(grad_out, weight, tuple(input_shape), geometry)

    def conv2d_grad_weight(x: Array, grad_out: Array, weight_shape: Shape, **geometry: Unpack[Geometry]) -> Array:
        """Return :func:`convcore.conv2d_grad_weight`, differentiable in ``x`` and ``grad_out``.

        Parameters, result and errors are those of :func:`convcore.conv2d_grad_weight`, without ``out``.
        """
        checked("conv2d_grad_weight", {"x": x, "grad_out": grad_out}, geometry)
        return grad_weight(x, grad_out, tuple(weight_shape), geometry)

    def corr2d(x: Array, k: Array, **geometry: Unpack[Geometry]) -> Array:
        """Return :func:`convcore.corr2d`, differentiable in ``x`` and ``k``.

        Parameters, result and errors are those of :func:`convcore.corr2d`.
        """
        checked("corr2d", {"x": x, "k": k}, geometry, but=("groups", "layout"))
        images, weight = normalise.as_images("corr2d", x, k)
        y = forward(images, weight, None, geometry)
        return y.reshape((*x.shape[:-2], *y.shape[-2:]))

    return Functions(conv2d, conv2d_grad_input, conv2d_grad_weight, corr2d)


def linear(geometry: Geometry) -> Geometry:
    """Return the geometry of a correlation's linear part: nothing stands in the padding."""
    return {**geometry, "fill_value": 0.0}


def pixels(geometry: Geometry) -> tuple[int, int, int]:
    """Return the axes over which the gradient of the bias is a sum."""
    return (0, 1, 2) if geometry.get("layout") == "NHWC" else (0, 2, 3)


@contextmanager
def needs(library: str) -> Iterator[None]:
    """Say which extra to install if ``library`` is missing; one that is there but broken speaks for itself."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        sentence = f"convcore needs {library} for this, which is not installed: pip install 'convcore[{library}]'"
        raise ModuleNotFoundError(sentence, name=library) from None
