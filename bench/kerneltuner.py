"""Kernel Tuner (B. van Werkhoven, 2019) as the one who decides which candidate is tried next.

It brings the space of parameters, the strategies that walk through it, and their budget.  What it would do with a
kernel, compile, check and time it, is done by :class:`Search` instead: a plan has several kernels, which its OpenCL
backend does not run, and some candidates may only run in another process.
"""

from __future__ import annotations

import json
import warnings
from typing import Any, NamedTuple

from constraint import FunctionConstraint
from kernel_tuner.interface import Options, strategy_map
from kernel_tuner.runners.runner import Runner
from kernel_tuner.searchspace import Searchspace
from kernel_tuner.util import RuntimeFailedConfig, TuningBudget

from convcore.normalise import word
from convcore.tuning.search import Search

#: Those that walk through a space of named points, and that need nothing more to be installed.
STRATEGIES = (
    "brute_force",
    "random_sample",
    "greedy_mls",
    "ordered_greedy_mls",
    "greedy_ils",
    "mls",
    "genetic_algorithm",
    "simulated_annealing",
    "dual_annealing",
    "pso",
)


class _Device(NamedTuple):
    """What Kernel Tuner asks of a device: no limit of ours is in threads."""

    name: str = "convcore"
    max_threads: int = 1


class CandidateRunner(Runner):
    """Kernel Tuner's way to one search: configurations in, times out.

    Parameters
    ----------
    search : Search
    names : dict
        The candidates' names by their configurations.
    """

    def __init__(self, search: Search, names: dict[tuple[str, ...], str]) -> None:
        super().__init__()
        self._search, self._names = search, names

    def get_device_info(self) -> _Device:
        """Return a device without limits."""
        return _Device()

    def get_environment(self, tuning_options: Any) -> dict[str, Any]:
        """Return nothing: what a time depends on is in the key it is kept under."""
        return {}

    def run(self, parameter_space: Any, tuning_options: Any) -> list[dict[str, Any] | None]:
        """Try configurations; None for those that the budget left no room for."""
        return [self._run(configuration, tuning_options) for configuration in parameter_space]

    def _run(self, configuration: Any, tuning_options: Any) -> dict[str, Any] | None:
        if tuning_options.budget.is_done():
            return None
        tuning_options.budget.add_evaluations(1)
        result = dict(zip(tuning_options.tune_params, configuration, strict=True))
        attempt = self._search.attempt(self._names[tuple(configuration)])
        if attempt.seconds is None:
            return result | {"__error__": RuntimeFailedConfig(attempt.failure)}
        return result | {"time": 1e3 * attempt.seconds}


def known(strategy: str) -> None:
    """Raise ValueError unless there is such a strategy."""
    word("tune", "strategy", strategy, STRATEGIES)


def by_strategy(search: Search, strategy: str, evaluations: int | None = None, seconds: float | None = None) -> None:
    """Let one of Kernel Tuner's strategies choose what is tried.

    Parameters
    ----------
    search : Search
    strategy : str
        One of :data:`STRATEGIES`.
    evaluations, seconds : int, float, optional
        How much may be tried.
    """
    space, names = _space(search)
    most = min(evaluations or space.size, space.size)
    options = Options(
        tune_params=space.tune_params,
        restrictions=space.restrictions,
        strategy_options=Options({} if strategy == "brute_force" else {"max_fevals": most}),
        max_fevals=most,
        budget=TuningBudget(seconds, most),
        objective=["time"],
        objective_higher_is_better=[False],
        cache={},
        cachefile=None,
        metrics=None,
        verbose=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="kernel_tuner")  # overflows where two candidates are as fast
        strategy_map[strategy].tune(space, CandidateRunner(search, names), options)


def _space(search: Search) -> tuple[Searchspace, dict[tuple[str, ...], str]]:
    """Return the space that holds the candidates and nothing else; a parameter that one lacks is empty in it."""
    keys = list(dict.fromkeys(key for parameters in search.candidates.values() for key in parameters))
    names = {tuple(_text(parameters.get(key)) for key in keys): name for name, parameters in search.candidates.items()}
    values = {key: list(dict.fromkeys(point[axis] for point in names)) for axis, key in enumerate(keys)}
    among = FunctionConstraint(lambda *point: point in names)
    return Searchspace(values, [among], _Device().max_threads), names


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
