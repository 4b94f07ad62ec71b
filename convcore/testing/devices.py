"""Watching for data that travels between a device and the host while a plan runs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from convcore.spi import Backend

#: Methods by which array types of many libraries hand their data to the host, or take it from there.
TRANSFERS = (
    "__array__", "get", "get_async", "set", "set_async", "map_to_host", "numpy", "cpu", "tobytes", "tolist", "asnumpy",
)  # fmt: skip


@dataclass
class Traffic:
    """What was seen: the names of what moves data, and the most bytes the host took at a time."""

    transfers: set[str] = field(default_factory=set)
    allocated: int = 0


@contextmanager
def watching(backend: Backend, array: Any, *, simulated: bool = False) -> Iterator[Traffic]:
    """Note what moves data to or from the host inside the ``with`` block.

    Parameters
    ----------
    backend : Backend
    array : Any
        One of its device arrays.
    simulated : bool
        Whether the device is one in name only; what the host allocates then says nothing.
    """
    seen = Traffic()
    owners: list[tuple[Any, str]] = [(backend, name) for name in ("to_device", "from_device")]
    owners += [(type(array), name) for name in TRANSFERS if hasattr(type(array), name)]
    with ExitStack() as stack:
        for owner, name in owners:
            try:
                stack.enter_context(mock.patch.object(owner, name, _noting(seen, owner, name)))
            except TypeError:
                continue  # a type of C cannot be patched; the host's memory says enough
        tracemalloc.start()
        try:
            yield seen
            seen.allocated = 0 if simulated else tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def _noting(seen: Traffic, owner: Any, name: str) -> Any:
    original = getattr(owner, name)

    def noting(*arguments: Any, **keywords: Any) -> Any:
        seen.transfers.add(name)
        return original(*arguments, **keywords)

    return noting
