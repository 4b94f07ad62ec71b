"""What a lesson written for MXNet Gluon uses of it, thin, over mygrad: MXNet is retired and no longer imports.

Such a lesson runs with its import lines changed, ::

    from convcore.adapters.gluon import autograd, nd, nn  # from mxnet import autograd, nd; from mxnet.gluon import nn

Arrays are float32 and have at least one axis, as MXNet's; only what is computed inside ``autograd.record()`` is
recorded; a gradient is that of the latest ``backward()``, not a sum over several.  Random numbers are not MXNet's.
"""

from convcore.adapters.gluon import autograd, nd, nn, random

__all__ = ["autograd", "nd", "nn", "random"]
