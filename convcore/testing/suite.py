"""The conformance kit as one name: ``from convcore.testing.suite import *`` in a plugin's own tests.

Say which backend beside it, ``convcore_backend = "mine"``, or leave that to ``--convcore-backend``.
"""

from convcore.testing.test_conduct import *  # noqa: F403
from convcore.testing.test_declaration import *  # noqa: F403
from convcore.testing.test_laws import *  # noqa: F403
from convcore.testing.test_memory import *  # noqa: F403
from convcore.testing.test_values import *  # noqa: F403

__all__ = [name for name in dir() if name.startswith("test_")]
