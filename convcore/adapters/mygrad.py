"""convcore in mygrad: tensors in, a tensor out, and its ``.backward()`` goes through these functions.

mygrad keeps no graph of a backward pass, so for a gradient of a gradient the first is written out, with
``conv2d_grad_input`` and ``conv2d_grad_weight``, which are differentiable as well.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convcore import api
from convcore.adapters.common import functions, linear, needs, pixels

with needs("mygrad"):
    from mygrad import Tensor, execute_op
    from mygrad.operation_base import Operation


def primitive(compute: Callable[..., Any], *rules: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors; each rule takes the gradient h of the result, and what the function takes."""

    class Primitive(Operation):
        def __call__(self, *tensors: Any, **settings: Any) -> Any:
            self.variables, self.settings = tensors, settings
            return compute(*(tensor.data for tensor in tensors), **settings)

        def backward_var(self, grad: Any, index: int, **_: Any) -> Any:
            return rules[index](grad, *(tensor.data for tensor in self.variables), **self.settings)

    return lambda *tensors, **settings: execute_op(Primitive, *tensors, op_kwargs=settings)


_forward = primitive(
    lambda x, w, *b, geometry: api.conv2d(x, w, *b, **geometry),
    lambda h, x, w, *b, geometry: api.conv2d_grad_input(h, w, x.shape, **geometry),
    lambda h, x, w, *b, geometry: api.conv2d_grad_weight(x, h, w.shape, **geometry),
    lambda h, x, w, b, geometry: h.sum(axis=pixels(geometry)),
)
_grad_input = primitive(
    lambda g, w, shape, geometry: api.conv2d_grad_input(g, w, shape, **geometry),
    lambda h, g, w, shape, geometry: api.conv2d(h, w, **linear(geometry)),
    lambda h, g, w, shape, geometry: api.conv2d_grad_weight(h, g, w.shape, **linear(geometry)),
)
_grad_weight = primitive(
    lambda x, g, shape, geometry: api.conv2d_grad_weight(x, g, shape, **geometry),
    lambda h, x, g, shape, geometry: api.conv2d_grad_input(g, h, x.shape, **geometry),
    lambda h, x, g, shape, geometry: api.conv2d(x, h, **geometry),
)

conv2d, conv2d_grad_input, conv2d_grad_weight, corr2d = functions(
    lambda x, w, b, geometry: _forward(x, w, *([] if b is None else [b]), geometry=geometry),
    lambda g, w, shape, geometry: _grad_input(g, w, shape=shape, geometry=geometry),
    lambda x, g, shape, geometry: _grad_weight(x, g, shape=shape, geometry=geometry),
    arrays=(Tensor, np.ndarray),
)
