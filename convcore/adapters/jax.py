"""convcore in JAX: works under ``jit``, ``vmap`` and ``grad``, as often as you like.

The plan is made while JAX traces, so arguments are complained about there, and the backend is the one chosen there.
The engines run on the host, in a callback.
"""

from functools import partial
from typing import Any

import numpy as np

from convcore import api
from convcore.adapters.common import functions, linear, needs, pixels

with needs("jax"):
    import jax


def call(op: str, arrays: Any, shape: Any, geometry: Any) -> Any:
    """Return the result of ``op``, computed on the host by the plan for arrays of these shapes and dtypes."""
    alike = [None if array is None else np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in arrays]
    plan = api.plan(op, *alike, *shape, **geometry)
    result = jax.ShapeDtypeStruct(plan.problem.result_shape, plan.problem.result_dtype)
    return jax.pure_callback(
        lambda *host: plan(*(None if array is None else np.asarray(array) for array in host)),
        result,
        *arrays,
        vmap_method="sequential",
    )


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _forward(x: Any, w: Any, b: Any, geometry: Any) -> Any:
    return call("conv2d", (x, w, b), (), geometry)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _grad_input(g: Any, w: Any, shape: Any, geometry: Any) -> Any:
    return call("conv2d_grad_input", (g, w), (shape,), geometry)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _grad_weight(x: Any, g: Any, shape: Any, geometry: Any) -> Any:
    return call("conv2d_grad_weight", (x, g), (shape,), geometry)


_forward.defvjp(
    lambda x, w, b, geometry: (_forward(x, w, b, geometry), (x, w, b)),
    lambda geometry, saved, h: (
        _grad_input(h, saved[1], saved[0].shape, geometry),
        _grad_weight(saved[0], h, saved[1].shape, geometry),
        None if saved[2] is None else h.sum(pixels(geometry)),
    ),
)
_grad_input.defvjp(
    lambda g, w, shape, geometry: (_grad_input(g, w, shape, geometry), (g, w)),
    lambda shape, geometry, saved, h: (
        _forward(h, saved[1], None, linear(geometry)),
        _grad_weight(h, saved[0], saved[1].shape, linear(geometry)),
    ),
)
_grad_weight.defvjp(
    lambda x, g, shape, geometry: (_grad_weight(x, g, shape, geometry), (x, g)),
    lambda shape, geometry, saved, h: (
        _grad_input(saved[1], h, saved[0].shape, geometry),
        _forward(saved[0], h, None, geometry),
    ),
)
conv2d, conv2d_grad_input, conv2d_grad_weight, corr2d = functions(
    _forward, _grad_input, _grad_weight, arrays=(jax.Array, np.ndarray)
)
