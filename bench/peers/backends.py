"""convcore's backends, built in or installed: NumPy arrays in and out, or arrays that stay on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from convcore_bench.case import Case
from convcore_bench.peers import Peer, Refused, Work

import convcore
from convcore.registry import registry
from convcore.testing.tolerance import ERROR_CONSTANTS

RESIDENT = "-resident"


def peers() -> list[Peer]:
    """Return a peer for each installed backend; a second one for arrays on the device, where it has a device."""
    found = []
    for info in convcore.backends():
        found.append(BackendPeer(info.name))
        spec = registry().specs.get(info.name)
        if spec is not None and len(spec.array_types) > 1:
            found.append(BackendPeer(info.name + RESIDENT))
    return found


class BackendPeer(Peer):
    """A backend of convcore."""

    family = "convcore"

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = name.replace(RESIDENT, "")
        self.resident = name != self.backend

    def missing(self) -> str:
        try:
            registry().check_name(self.backend, "--backends")
            registry().devices(self.backend)
        except convcore.ConvcoreError as error:
            return str(error)
        return ""

    def versions(self) -> dict[str, str]:
        device = registry().devices(self.backend)[0]
        detail = {key: str(value) for key, value in device.detail.items()}
        return {"convcore": convcore.__version__, "numpy": np.__version__, "device": device.name} | detail

    def prepare_one(self, case: Case) -> Work:
        x, weight, grad_out = case.operands
        backend = registry().backend(self.backend)
        if self.resident:
            x, weight, grad_out = (backend.to_device(array) for array in (x, weight, grad_out))
        keywords = case.layer.geometry | {"accuracy": case.accuracy, "backend": self.backend}
        operands = case.arguments(x, weight, grad_out)
        try:
            plan = convcore.plan(case.direction, *operands, **keywords)
        except convcore.UnsupportedProblem as refusal:
            raise Refused(str(refusal)) from refusal
        return Work(
            run=self._run(case.function, operands, keywords, backend),
            to_numpy=backend.from_device if self.resident else np.asarray,
            algorithm=plan.algorithm,
            detail={"workspace_bytes": plan.workspace_bytes},
            normwise=plan.algorithm in ERROR_CONSTANTS.keys() - {"direct"} or "fft" in plan.algorithm,
        )

    def _run(self, function: Callable[..., Any], operands: Any, keywords: Any, backend: Any) -> Callable[[], Any]:
        if not self.resident:
            return lambda: function(*operands, **keywords)

        def run() -> Any:
            result = function(*operands, **keywords)
            backend.synchronize()
            return result

        return run
