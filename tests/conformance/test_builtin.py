"""The conformance kit on every built-in backend."""

from convcore.testing.suite import *  # noqa: F403
