"""convcore inside libraries that differentiate: one module for each, imported by its own name.

Every module offers ``conv2d``, ``conv2d_grad_input``, ``conv2d_grad_weight`` and ``corr2d`` on that library's arrays,
with the arguments of the functions of the same name in :mod:`convcore`.  Each can be differentiated as often as the
library differentiates, because the three primitives are closed under differentiation: they are the derivatives of
``sum(conv2d(x, weight) * grad_out)``, which is linear in each of its arrays, so that the derivatives of one primitive
are the other two.

================================  =============  ==========================================
module                            extra          for
================================  =============  ==========================================
``convcore.adapters.autograd``    ``autograd``   HIPS autograd
``convcore.adapters.mygrad``      ``mygrad``     mygrad
``convcore.adapters.torch``       ``torch``      PyTorch
``convcore.adapters.jax``         ``jax``        JAX
``convcore.adapters.gluon``       ``mygrad``     code written for MXNet Gluon
================================  =============  ==========================================
"""
