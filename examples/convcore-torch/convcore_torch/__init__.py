"""PyTorch as a backend of convcore: what there is, said without importing torch."""

from convcore.spi import BackendSpec, hookimpl


@hookimpl
def convcore_backends():
    """List the one backend of this distribution."""
    exceptions = {"conduct=threads": "oneDNN sums the weight's gradient in an order that depends on the threads"}
    summary = "PyTorch's convolutions on the CPU"
    return [BackendSpec("torch", "convcore_torch.backend:TorchBackend", summary=summary, exceptions=exceptions)]
