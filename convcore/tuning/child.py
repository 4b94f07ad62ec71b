"""Trials in a child process, which a compiler may abort: the parent names who did it, and goes on with a new child."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

from convcore.problem import Problem
from convcore.tuning.trial import SECONDS, Parameters, Trial, WrongResultError

#: Seconds after which a child is ended that has not started, and one that has not answered.
START, PATIENCE = 120.0, 120.0


class ChildError(Exception):
    """What went wrong in the child, or how it ended before it had answered."""


class ChildTrial:
    """What :class:`Trial` is, each question answered by a child process.

    Parameters
    ----------
    name, problem
        As for :class:`Trial`.
    """

    def __init__(self, name: str, problem: Problem) -> None:
        self._about = name, problem
        self._child: subprocess.Popen[bytes] | None = None

    def times(
        self, parameters: Sequence[Parameters], best: float | None = None, effort: float = SECONDS
    ) -> list[list[float]]:
        """Return what :meth:`Trial.times` does.

        Raises
        ------
        WrongResultError
            As there.
        ChildError
            What a candidate raised, or how it ended the child; the next question starts another then.
        """
        if self._child is None:
            self._start()
        return list(self._ask((parameters, best, effort), PATIENCE))

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._complaints.close()
            self._child = None

    def _start(self) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        command = [sys.executable, "-c", "from convcore.tuning.child import serve; serve()"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints)
        try:
            self._ask(self._about, START)
        except ChildError:
            self.close()
            raise

    def _ask(self, question: Any, seconds: float) -> Any:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            child.kill()

        patience = threading.Timer(seconds, give_up)
        patience.start()
        try:
            pickle.dump(question, child.stdin)
            child.stdin.flush()
            answer = pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            why = f"was not done in {seconds:g} seconds" if hung.is_set() else _ended(child.wait())
            self._complaints.seek(0)
            said = self._complaints.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise ChildError(why + (f", saying {said[-1]!r}" if said else "")) from None
        finally:
            patience.cancel()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _ended(status: int) -> str:
    if status < 0:
        return f"ended its process with {signal.Signals(-status).name}"
    return f"ended its process with status {status}"


def serve() -> None:
    """Answer the parent's questions until it closes the pipe; what else is written to stdout goes to stderr."""
    questions, answers = sys.stdin.buffer, _own_stdout()
    trial = None
    while True:
        try:
            question = pickle.load(questions)
        except EOFError:
            return
        try:
            if trial is None:
                trial = Trial(*question)
                answer: Any = "ready"
            else:
                answer = trial.times(*question)
        except WrongResultError as error:
            answer = error
        except Exception as error:
            answer = ChildError(f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


def _own_stdout() -> IO[bytes]:
    """Keep the pipe to the parent for answers: libraries and drivers print."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe
