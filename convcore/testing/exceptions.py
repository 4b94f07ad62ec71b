"""The exceptions of a spec: what a backend may decline although the rest of its spec speaks for it.

An exception is written ``key=value``, or several of them with spaces between, all of which must hold; a value may be a
pattern of :mod:`fnmatch`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from convcore.problem import BOUNDARIES, FEATURES, HOST_ARRAY, LAYOUTS, Problem
from convcore.spi import BackendSpec
from convcore.testing.problems import ALL_OPS, DTYPES

#: Ways of running, beside problems, that a backend may announce not to bear: work in a forked child, and with another
#: number of threads the same bits.
CONDUCTS = ("fork", "threads")
_KNOWN = {"op": ALL_OPS, "dtype": DTYPES, "layout": LAYOUTS, "boundary": BOUNDARIES, "feature": FEATURES}


def core_profile(problem: Problem) -> bool:
    """Whether every backend must compute this problem, whatever its spec says."""
    return (
        problem.op == "forward"
        and {dtype.name for dtype in problem.dtypes} == {"float32"}
        and (problem.layout, problem.boundary, problem.arrays) == ("NCHW", "constant", HOST_ARRAY)
        and set(problem.features) <= {"padding", "stride", "bias"}
        and problem.algorithm is None
        and problem.workspace_limit is None
    )


def exception_for(spec: BackendSpec, problem: Problem) -> str:
    """Return the exception of a spec that allows a refusal, or nothing; the core profile has none."""
    if core_profile(problem):
        return ""
    values = {
        "op": (problem.op,),
        "dtype": tuple(dtype.name for dtype in problem.dtypes),
        "layout": (problem.layout,),
        "boundary": (problem.boundary,),
        "feature": problem.features,
        "arrays": (problem.arrays,),
        "conduct": (),
    }
    for pattern in spec.exceptions:
        if all(any(fnmatchcase(value, wanted) for value in values[key]) for key, wanted in _terms(pattern)):
            return pattern
    return ""


def conduct_exception(spec: BackendSpec, conduct: str) -> str:
    """Return the exception of a spec for a way of running, or nothing."""
    return next((pattern for pattern in spec.exceptions if pattern == f"conduct={conduct}"), "")


def check_exceptions(spec: BackendSpec) -> None:
    """Raise unless every exception can match something and has a reason."""
    for pattern, reason in spec.exceptions.items():
        assert isinstance(reason, str), f"exception {pattern!r} must have a reason in words, got {reason!r}"
        assert reason.strip(), f"exception {pattern!r} has no reason"
        terms = _terms(pattern)
        for key, wanted in terms:
            known = CONDUCTS if key == "conduct" else spec.array_types if key == "arrays" else _KNOWN[key]
            assert any(fnmatchcase(value, wanted) for value in known), (
                f"exception {pattern!r}: no {key} is like {wanted!r}, there are {', '.join(known)}"
            )


def _terms(pattern: str) -> list[tuple[str, str]]:
    keys = (*_KNOWN, "arrays", "conduct")
    terms = [tuple(term.partition("=")[::2]) for term in pattern.split()]
    assert terms, "an exception must not be empty"
    for key, wanted in terms:
        assert key in keys and wanted, (  # noqa: PT018
            f"exception {pattern!r} must be key=value, with a key of {', '.join(keys)}"
        )
    return [(key, wanted) for key, wanted in terms]
