"""A child process that holds contenders and does as the driver says: one JSON object a line in, one out.

Nothing is decided here.  The process has the environment, the threads and the cores that the driver gave it, and what
libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import IO, Any

from convcore_bench.case import Case, WrongAnswer, check
from convcore_bench.peers import Peer, Refused, Work, choose
from convcore_bench.rounds import Sampler, seconds, warmed_up


class Contenders:
    """The peers of this process, and the works they have made ready."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.samplers: dict[str, Sampler] = {}
        self.case: Case | None = None

    def about(self, peer: str) -> dict[str, Any]:
        """Say whether a peer is there, and its versions."""
        (self.peers[peer],) = (each for each in choose(peer) if each.name == peer)
        start = time.perf_counter()
        missing = self.peers[peer].missing()
        found = {"missing": missing, "import_seconds": time.perf_counter() - start}
        return found if missing else found | {"versions": self.peers[peer].versions()}

    def load(self, peer: str, case: dict[str, Any]) -> dict[str, Any]:
        """Draw the operands, so that :meth:`first` need not."""
        self.case, self.samplers = Case.from_json(case), {}
        return {"bytes": sum(array.nbytes for array in self.case.operands)}

    def first(self, peer: str) -> dict[str, Any]:
        """Time the first call of this process for a peer; the answer is held against the oracle afterwards."""
        start = time.perf_counter()
        try:
            work = self.peers[peer].prepare(self.case)
        except Refused as reason:
            return {"refused": str(reason)}
        answer = work.run()
        taken = time.perf_counter() - start
        judged(self.case, work, answer)
        return {"seconds": taken}

    def prepare(self, peer: str, case: dict[str, Any]) -> dict[str, Any]:
        """Make a case ready, hold the answer against the oracle, and say how long calls take, the first one too."""
        wanted = Case.from_json(case)
        if self.case != wanted:
            self.case, self.samplers = wanted, {}
        try:
            start = time.perf_counter()
            work = self.peers[peer].prepare(self.case)
            answer = work.run()
            first = time.perf_counter() - start
            verdicts = judged(self.case, work, answer)
        except Refused as reason:
            return {"refused": str(reason)}
        except WrongAnswer as wrong:
            return {"wrong": str(wrong)}
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        self.samplers[peer] = warmed_up(work.run)
        return {
            "first_seconds": first,
            "seconds": min(seconds(work.run, 1) for _ in range(2)),
            "algorithm": work.algorithm,
            "detail": work.detail,
            "error": max(verdict.error for verdict in verdicts),
            "of_allowed": max(verdict.of_allowed for verdict in verdicts),
        }

    def sample(self, peer: str, calls: int) -> dict[str, Any]:
        """Take one sample."""
        return {"seconds": self.samplers[peer](calls)}


def judged(case: Case, work: Work, answer: Any) -> list[Any]:
    """Return the verdict on the answer of each direction."""
    answers = work.to_numpy(answer)
    parts = case.parts
    algorithms = work.algorithm.split(" + ") if len(parts) > 1 else [work.algorithm]
    return [
        check(part, each, algorithm=algorithm, normwise=work.normwise)
        for part, each, algorithm in zip(parts, answers if len(parts) > 1 else [answers], algorithms, strict=True)
    ]


def serve(orders: IO[str], replies: IO[str]) -> None:
    """Answer orders until there are no more."""
    contenders = Contenders()
    for line in orders:
        order = json.loads(line)
        reply = getattr(contenders, order.pop("do"))(**order)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """Keep stdout for the replies."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
