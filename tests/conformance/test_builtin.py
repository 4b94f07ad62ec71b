"""The conformance kit on every built-in backend."""

from convcore.testing.conformance import BackendConformance


class TestBuiltin(BackendConformance):
    pass
