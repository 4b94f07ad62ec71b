"""PyTorch as a backend of convcore: what there is, said without importing torch."""

from convcore.spi import BackendSpec, hookimpl


@hookimpl
def convcore_backends():
    """List the one backend of this distribution."""
    return [BackendSpec("torch", "convcore_torch.backend:TorchBackend", summary="PyTorch's convolutions on the CPU")]
