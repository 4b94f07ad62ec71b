"""convcore in PyTorch: operators that autograd and ``torch.compile`` understand.

The engines read and write the memory of CPU tensors; nothing is copied that is contiguous.  As everywhere in PyTorch,
gradients with respect to complex tensors are conjugated.
"""

from collections.abc import Callable
from typing import Any

from convcore import api, normalise
from convcore.adapters.common import Geometry, functions, linear, needs, pixels
from convcore.problem import output_size

with needs("torch"):
    import torch

SCHEMA = (
    "*, int[] stride, int[] padding, int[] dilation, int groups, str boundary, Scalar fill_value, str layout, "
    "str? accuracy, str? tune, str? backend"
)

# ---------------------------------------------------------------- the operators


def operator(name: str, operands: str, function: Callable[..., Any]) -> Any:
    """Register a function of NumPy arrays as an operator; its padding is [top, bottom, left, right]."""

    def compute(*values: Any, padding: list[int], **geometry: Any) -> Any:
        sides = tuple(padding[:2]), tuple(padding[2:])
        return torch.from_numpy(function(*map(on_host, values), padding=sides, **geometry))

    schema = f"({operands}, {SCHEMA}) -> Tensor"
    return torch.library.custom_op(f"convcore::{name}", compute, mutates_args=(), device_types="cpu", schema=schema)


def on_host(value: Any) -> Any:
    """Return the array that lies where the tensor lies; a shape, or None, as it is."""
    return value.detach().resolve_conj().resolve_neg().numpy() if isinstance(value, torch.Tensor) else value


_forward = operator("conv2d", "Tensor x, Tensor weight, Tensor? bias", api.conv2d)
_grad_input = operator("conv2d_grad_input", "Tensor grad_out, Tensor weight, SymInt[] shape", api.conv2d_grad_input)
_grad_weight = operator("conv2d_grad_weight", "Tensor x, Tensor grad_out, SymInt[] shape", api.conv2d_grad_weight)


# ---------------------------------------------------------------- their results, without computing them


def result(tensor: Any, shape: Any) -> Any:
    """Return an empty tensor of the dtype of the results."""
    keeps = tensor.is_floating_point() or tensor.is_complex()
    return tensor.new_empty(shape, dtype=tensor.dtype if keeps else torch.int64)


@_forward.register_fake
def _(x: Any, weight: Any, bias: Any, *, stride: Any, padding: Any, dilation: Any, layout: str, **_: Any) -> Any:
    sizes = x.shape[2:] if layout == "NCHW" else x.shape[1:3]
    sides = padding[:2], padding[2:]
    p, q = map(output_size, sizes, weight.shape[2:], stride, sides, dilation)
    n, k = x.shape[0], weight.shape[0]
    return result(x, (n, k, p, q) if layout == "NCHW" else (n, p, q, k))


_grad_input.register_fake(lambda grad_out, weight, shape, **_: result(grad_out, shape))
_grad_weight.register_fake(lambda x, grad_out, shape, **_: result(x, shape))

# ---------------------------------------------------------------- their derivatives


def save(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    """Keep both operands and the geometry, as the derivatives want it: conjugated."""
    ctx.save_for_backward(*inputs[:2])
    ctx.geometry = {**keyword_only_inputs, "fill_value": keyword_only_inputs["fill_value"].conjugate()}


def differentiate(op: Any, *rules: Callable[..., Any]) -> None:
    """Register one rule for each operand: of the result's gradient h, both operands conjugated, and the geometry."""

    def backward(ctx: Any, h: Any) -> Any:
        first, second = (tensor.conj() for tensor in ctx.saved_tensors)
        wanted = zip(rules, ctx.needs_input_grad, strict=True)
        return tuple(rule(h, first, second, ctx.geometry) if needed else None for rule, needed in wanted)

    op.register_autograd(backward, setup_context=save)


differentiate(
    _forward,
    lambda h, x, w, geometry: _grad_input(h, w, x.shape, **geometry),
    lambda h, x, w, geometry: _grad_weight(x, h, w.shape, **geometry),
    lambda h, x, w, geometry: h.sum(pixels(geometry)),
)
differentiate(
    _grad_input,
    lambda h, g, w, geometry: _forward(h, w, None, **linear(geometry)),
    lambda h, g, w, geometry: _grad_weight(h, g, w.shape, **linear(geometry)),
    lambda *_: None,
)
differentiate(
    _grad_weight,
    lambda h, x, g, geometry: _grad_input(g, h, x.shape, **geometry),
    lambda h, x, g, geometry: _forward(x, h, None, **geometry),
    lambda *_: None,
)

# ---------------------------------------------------------------- the public functions


def check(fn: str, name: str, tensor: Any) -> None:
    """Raise TypeError for a tensor that NumPy cannot see."""
    if tensor.device.type != "cpu":
        raise TypeError(f"{fn}: `{name}` must be a CPU tensor, got device {tensor.device}; move it with .cpu()")
    if tensor.dtype == torch.bfloat16:
        raise TypeError(
            f"{fn}: `{name}` must have a dtype that NumPy has, got {tensor.dtype}; convert it with .float()"
        )


def resolved(fn: str, input_shape: Any, weight_shape: Any, geometry: Geometry) -> dict[str, Any]:
    """Return the geometry as the schema has it: every keyword, padding in pixels."""
    layout, backend = geometry.get("layout", "NCHW"), geometry.get("backend")
    size = input_shape[2:] if layout == "NCHW" else input_shape[1:3]
    stride = normalise.pair(fn, "stride", geometry.get("stride", 1), 1)
    dilation = normalise.pair(fn, "dilation", geometry.get("dilation", 1), 1)
    sides = normalise.forward_padding(fn, geometry.get("padding", 0), size, weight_shape[2:], stride, dilation)
    return {
        "stride": stride,
        "padding": [*sides[0], *sides[1]],
        "dilation": dilation,
        "groups": geometry.get("groups", 1),
        "boundary": geometry.get("boundary", "constant"),
        "fill_value": geometry.get("fill_value", 0.0),
        "layout": layout,
        "accuracy": geometry.get("accuracy"),
        "tune": geometry.get("tune"),
        "backend": ",".join(backend) if isinstance(backend, list | tuple) else backend,
    }


conv2d, conv2d_grad_input, conv2d_grad_weight, corr2d = functions(
    lambda x, w, b, geometry: _forward(x, w, b, **resolved("conv2d", x.shape, w.shape, geometry)),
    lambda g, w, shape, geometry: _grad_input(g, w, shape, **resolved("conv2d_grad_input", shape, w.shape, geometry)),
    lambda x, g, shape, geometry: _grad_weight(x, g, shape, **resolved("conv2d_grad_weight", x.shape, shape, geometry)),
    arrays=(torch.Tensor,),
    check=check,
)
