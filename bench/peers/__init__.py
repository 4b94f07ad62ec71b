"""Who is compared: every module of this folder that has a function ``peers()``.  To add one, add a file.

A peer is a library in one configuration.  Listing peers is cheap; whether the library is there is asked when it is
wanted, and what is missing is said in words.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from convcore_bench.case import Array, Case


class Refused(NotImplementedError):  # noqa: N818 - a refusal is an answer
    """A peer cannot do a case; the reason in words."""


@dataclass
class Work:
    """A case made ready by a peer.

    Attributes
    ----------
    run : callable
        What is timed: returns when the answer is there, of whatever type.
    to_numpy : callable
        Turns what ``run`` returned into NumPy arrays, one for each direction, outside the clock.
    algorithm : str
        What runs, if the library says.
    detail : dict
        What else the library says.
    normwise : bool
        See :func:`convcore_bench.case.check`.
    """

    run: Callable[[], Any]
    to_numpy: Callable[[Any], Array | Sequence[Array]]
    algorithm: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    normwise: bool = False


class Peer(ABC):
    """A library in one configuration.

    Attributes
    ----------
    name : str
        What users write, and what stands in tables.
    family : str
        Another name that stands for every peer that has it.
    alone : bool
        Whether its threads, or its OpenMP runtime, must not share a process with others.
    """

    name: str
    family: str = ""
    alone: bool = False

    @abstractmethod
    def missing(self) -> str:
        """Return what is missing and how to get it, in words; empty when it can run."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return versions of the library, and of the driver where there is one."""

    @abstractmethod
    def prepare_one(self, case: Case) -> Work:
        """Make ready a case of one direction.

        Raises
        ------
        Refused
            With the reason in words.
        """

    def prepare(self, case: Case) -> Work:
        """Make ready a case; a step is its directions one after the other."""
        if len(case.parts) == 1:
            return self.prepare_one(case)
        works = [self.prepare_one(part) for part in case.parts]
        return Work(
            run=lambda: [work.run() for work in works],
            to_numpy=lambda answers: [work.to_numpy(a) for work, a in zip(works, answers, strict=True)],
            algorithm=" + ".join(work.algorithm for work in works),
            detail={part.direction: work.detail for part, work in zip(case.parts, works, strict=True) if work.detail},
            normwise=any(work.normwise for work in works),
        )


def everybody() -> list[Peer]:
    """Return every peer of this folder, missing or not."""
    found: list[Peer] = []
    for module in pkgutil.iter_modules(__path__):
        found += importlib.import_module(f"{__name__}.{module.name}").peers()
    return found


def choose(text: str) -> list[Peer]:
    """Return the peers that a list of names stands for: "cpu,opencl:1,torch".

    Raises
    ------
    ValueError
        For a name that nobody has.
    """
    known, chosen = everybody(), {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        matching = [peer for peer in known if word in (peer.name, peer.family)]
        if not matching and ":" in word:
            from convcore_bench.peers.backends import BackendPeer

            base = word.partition(":")[0]
            matching = [BackendPeer(word) for peer in known if isinstance(peer, BackendPeer) and peer.name == base]
        if not matching:
            names = sorted({peer.name for peer in known} | {peer.family for peer in known if peer.family})
            raise ValueError(f"--backends: nobody is called {word!r}; there are {', '.join(names)}")
        chosen |= {peer.name: peer for peer in matching}
    return list(chosen.values())


def not_importable(*modules: str, install: str) -> str:
    """Return which of the modules cannot be imported, and why; empty when all can."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            return f"{module} cannot be imported ({type(error).__name__}: {error}); {install}"
    return ""


def single_image(case: Case) -> tuple[Array, Array]:
    """Return image and kernel of a case that a filter of images can do: one channel, same size, forward.

    Raises
    ------
    Refused
        For any other case.
    """
    layer = case.layer
    _, c, h, w = case.input_shape
    if case.direction != "forward":
        raise Refused("it has no gradients")
    if c != 1 or case.weight_shape[0] != 1 or case.batch != 1:
        raise Refused("it takes one image of one channel")
    if layer.stride != (1, 1) or layer.dilation != (1, 1) or case.output_shape[2:] != (h, w):
        raise Refused("it computes results of the image's size: no stride, no dilation, padding of half the kernel")
    x, weight, _ = case.operands
    return x[0, 0], weight[0, 0]
