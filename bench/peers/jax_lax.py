"""JAX: ``lax.conv_general_dilated`` and its derivatives, compiled by XLA for the CPU or whatever device JAX finds."""

from __future__ import annotations

import numpy as np
from convcore_bench.case import Case
from convcore_bench.peers import Peer, Work, not_importable


def peers() -> list[Peer]:
    """Return the one way."""
    return [JaxPeer()]


class JaxPeer(Peer):
    """JAX.  Its threads cannot be counted out to it: it takes as many as the process may run on."""

    name = "jax"
    alone = True

    def missing(self) -> str:
        return not_importable("jax", install="pip install jax")

    def versions(self) -> dict[str, str]:
        import jax

        return {"jax": jax.__version__, "device": str(jax.devices()[0])}

    def prepare_one(self, case: Case) -> Work:
        import jax

        jax.config.update("jax_enable_x64", case.dtype == "float64")
        x, weight, grad_out = (jax.device_put(array) for array in case.operands)
        layer = case.layer

        def forward(x, weight):
            return jax.lax.conv_general_dilated(
                x,
                weight,
                layer.stride,
                layer.padding,
                rhs_dilation=layer.dilation,
                feature_group_count=layer.groups,
                precision=jax.lax.Precision.HIGHEST,
            )

        if case.direction == "forward":
            compiled, operands = jax.jit(forward), (x, weight)
        elif case.direction == "grad_input":
            transposed = jax.jit(lambda g, w: jax.linear_transpose(lambda x: forward(x, w), x)(g)[0])
            compiled, operands = transposed, (grad_out, weight)
        else:
            transposed = jax.jit(lambda g, x: jax.linear_transpose(lambda w: forward(x, w), weight)(g)[0])
            compiled, operands = transposed, (grad_out, x)
        return Work(lambda: compiled(*operands).block_until_ready(), np.asarray, "XLA", normwise=True)
