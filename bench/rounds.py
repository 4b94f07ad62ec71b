"""Time several candidates for the same work in turn, so that a drift of the machine meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Candidate = Callable[[], object]


# Threads of another library's pool wait actively for some milliseconds after their work, and those of this one may
# be woken on the caller's core, from where the system takes some milliseconds to move them.
PAUSE = 0.01


def seconds(candidate: Candidate, calls: int) -> float:
    """Return the time of one call, over ``calls`` of them, in seconds."""
    start = time.perf_counter()
    for _ in range(calls):
        candidate()
    return (time.perf_counter() - start) / calls


def interleave(
    candidates: Mapping[str, Candidate], *, rounds: int = 7, sample: float = 2e-3, budget: float = 2.0
) -> dict[str, list[float]]:
    """Return, for every candidate, the seconds of a call in each round.

    Parameters
    ----------
    candidates : mapping of str to callable
        Called in turn, each round starting with the next one.
    rounds : int
        At most; at least three are made.
    sample : float
        Seconds a sample lasts at least: short calls are repeated.
    budget : float
        Seconds after which no further round is begun.
    """
    first = {name: seconds(candidate, 1) for name, candidate in candidates.items()}
    first = {name: min(first[name], seconds(candidate, 1)) for name, candidate in candidates.items()}
    calls = {name: max(1, round(sample / max(once, 1e-7))) for name, once in first.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    start = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - start > budget:
            break
        for name in names[number % len(names) :] + names[: number % len(names)]:
            time.sleep(PAUSE)
            warm_up = time.perf_counter()
            while time.perf_counter() - warm_up < PAUSE:
                candidates[name]()
            times[name].append(seconds(candidates[name], calls[name]))
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each candidate's rounds."""
    return {name: statistics.median(values) for name, values in times.items()}
