"""``mxnet.autograd``: what is recorded, and what is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextmanager
def record() -> Iterator[None]:
    """Record what is computed in this ``with`` block, for ``backward()``."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    """Whether this is inside :func:`record`."""
    return _recording.get()
