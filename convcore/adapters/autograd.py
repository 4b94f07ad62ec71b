"""convcore in HIPS autograd: ``grad``, ``jacobian``, ``make_jvp`` and the rest go through these functions."""

import numpy as np

from convcore import api
from convcore.adapters.common import functions, linear, needs, pixels

with needs("autograd"):
    import autograd.numpy as anp
    from autograd.extend import defjvp, defvjp, primitive
    from autograd.numpy.numpy_boxes import ArrayBox

_forward = primitive(lambda x, w, b, geometry: api.conv2d(x, w, b, **geometry))
_grad_input = primitive(lambda g, w, shape, geometry: api.conv2d_grad_input(g, w, shape, **geometry))
_grad_weight = primitive(lambda x, g, shape, geometry: api.conv2d_grad_weight(x, g, shape, **geometry))

# Backwards: each takes what the function takes, and gives the function of the gradient h of its result.
defvjp(
    _forward,
    lambda y, x, w, b, geometry: lambda h: _grad_input(h, w, x.shape, geometry),
    lambda y, x, w, b, geometry: lambda h: _grad_weight(x, h, w.shape, geometry),
    lambda y, x, w, b, geometry: lambda h: anp.sum(h, axis=pixels(geometry)),
)
defvjp(
    _grad_input,
    lambda y, g, w, shape, geometry: lambda h: _forward(h, w, None, linear(geometry)),
    lambda y, g, w, shape, geometry: lambda h: _grad_weight(h, g, w.shape, linear(geometry)),
)
defvjp(
    _grad_weight,
    lambda y, x, g, shape, geometry: lambda h: _grad_input(g, h, x.shape, geometry),
    lambda y, x, g, shape, geometry: lambda h: _forward(x, h, None, geometry),
)

# Forwards: the same functions again, linear in each argument; h is the argument's own change.
defjvp(
    _forward,
    lambda h, y, x, w, b, geometry: _forward(h, w, None, linear(geometry)),
    lambda h, y, x, w, b, geometry: _forward(x, h, None, geometry),
    lambda h, y, x, w, b, geometry: anp.zeros_like(y) + (h if pixels(geometry) == (0, 1, 2) else h[:, None, None]),
)
defjvp(
    _grad_input,
    lambda h, y, g, w, shape, geometry: _grad_input(h, w, shape, geometry),
    lambda h, y, g, w, shape, geometry: _grad_input(g, h, shape, geometry),
)
defjvp(
    _grad_weight,
    lambda h, y, x, g, shape, geometry: _grad_weight(h, g, shape, linear(geometry)),
    lambda h, y, x, g, shape, geometry: _grad_weight(x, h, shape, geometry),
)

conv2d, conv2d_grad_input, conv2d_grad_weight, corr2d = functions(
    _forward, _grad_input, _grad_weight, arrays=(ArrayBox, np.ndarray)
)
