"""The round-robin driver: contenders take turns in shuffled rounds, so that a drift of the machine meets all alike.

A round gives every contender one sample. What is compared is the ratio of two samples of the same round, and its
interval comes from drawing rounds with replacement (the bootstrap; Efron and Tibshirani, "An Introduction to the
Bootstrap", section 13.3).
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Candidate = Callable[[], object]
#: Takes the number of calls and returns the seconds of one, over all of them.
Sampler = Callable[[int], float]

# Threads of another library's pool wait actively for some milliseconds after their work, and those of this one may
# be woken on the caller's core, from where the system takes some milliseconds to move them.
PAUSE = 0.01
#: A contender's rounds are called unstable when half of them lie further apart than this, over their median.
UNSTABLE = 0.1


def seconds(candidate: Candidate, calls: int) -> float:
    """Return the time of one call, over ``calls`` of them, in seconds."""
    start = time.perf_counter()
    for _ in range(calls):
        candidate()
    return (time.perf_counter() - start) / calls


def warmed_up(candidate: Candidate) -> Sampler:
    """Return the sampler of a candidate: rest, warm up, then take the time."""

    def sample(calls: int) -> float:
        time.sleep(PAUSE)
        start = time.perf_counter()
        while time.perf_counter() - start < PAUSE:
            candidate()
        return seconds(candidate, calls)

    return sample


def interleave(
    candidates: Mapping[str, Candidate], *, rounds: int = 7, sample: float = 2e-3, budget: float = 2.0
) -> dict[str, list[float]]:
    """Return, for every candidate of this process, the seconds of a call in each round; see :func:`play`."""
    samplers = {name: warmed_up(candidate) for name, candidate in candidates.items()}
    first = {name: min(seconds(candidate, 1) for _ in range(2)) for name, candidate in candidates.items()}
    return play(samplers, first, rounds=rounds, sample=sample, budget=budget)


def play(
    samplers: Mapping[str, Sampler],
    first: Mapping[str, float],
    *,
    rounds: int = 7,
    least: int = 3,
    sample: float = 2e-3,
    budget: float = 2.0,
    seed: int = 0,
    disturbed: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """Return, for every contender, the seconds of a call in each round.

    Parameters
    ----------
    samplers : mapping of str to callable
        Called in turn, in another order each round.
    first : mapping of str to float
        About how many seconds a call takes.
    rounds, least : int
        How many rounds at most and at least.
    sample : float
        Seconds a sample lasts at least: short calls are repeated.
    budget : float
        Seconds after which no further round is begun.
    seed : int
        Of the order.
    disturbed : callable
        Asked after each round: whether it must be played again.
    """
    calls = {name: max(1, round(sample / max(first[name], 1e-7))) for name in samplers}
    times: dict[str, list[float]] = {name: [] for name in samplers}
    order, shuffle = list(samplers), random.Random(seed).shuffle
    start = time.perf_counter()
    played = 0
    while played < least or (played < rounds and time.perf_counter() - start < budget):
        shuffle(order)
        samples = {name: samplers[name](calls[name]) for name in order}
        if not disturbed():
            played += 1
            for name, seconds_a_call in samples.items():
                times[name].append(seconds_a_call)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each candidate's rounds."""
    return {name: statistics.median(values) for name, values in times.items()}


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another: the median over the rounds, and its interval."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low > 1 or self.high < 1


def paired_ratio(
    times: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Ratio:
    """Compare two contenders round by round.

    Parameters
    ----------
    times, reference : sequence of float
        Seconds of the same rounds; the ratio is times over reference.
    confidence : float
        The part of the bootstrap's medians that lies in the interval.
    draws : int
        How often rounds are drawn.
    seed : int
    """
    ratios = [mine / other for mine, other in zip(times, reference, strict=True)]
    draw = random.Random(seed).choices
    found = sorted(statistics.median(draw(ratios, k=len(ratios))) for _ in range(draws))
    outside = round((1 - confidence) / 2 * (draws - 1))
    return Ratio(statistics.median(ratios), found[outside], found[-1 - outside])


def spread(times: Sequence[float]) -> float:
    """Return the distance between the quartiles of the rounds, over their median."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle
