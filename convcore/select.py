"""Which backend runs a problem, and why; the cache of plans.

A backend named by the user runs or raises.  In a list, only a refusal by ``probe()`` or
``supports()`` moves on to the next; an exception while computing always propagates.  A broken
backend that nobody named is passed over, with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, TypeVar

from convcore import config
from convcore.config import AUTO, Setting
from convcore.errors import BrokenBackend, NoDevice, UnsupportedProblem
from convcore.hookspecs import Event
from convcore.problem import HOST_ARRAY, Problem
from convcore.registry import BUILTIN_ORDER, fence, registry
from convcore.spi import BackendSpec, Packed, Plan, Step
from convcore.tuning import choices

V = TypeVar("V")


class BoundedCache(dict[Any, V], Generic[V]):
    """A dict that forgets its oldest entry when it is full; shapes of a long-lived process may be endless."""

    limit = 1024

    def __setitem__(self, key: Any, value: V) -> None:
        while len(self) >= self.limit:
            with suppress(RuntimeError):  # another thread has just written; a lock would not survive a fork
                self.pop(next(iter(self), None), None)
        super().__setitem__(key, value)


@dataclass(frozen=True)
class Candidate:
    """One backend that was considered; ``reason`` is empty if it accepts the problem."""

    name: str
    reason: str
    no_device: bool = False


@dataclass(frozen=True)
class Selection:
    """Which backend was chosen for a problem, from which candidates, by whose setting."""

    problem: Problem
    setting: Setting
    candidates: tuple[Candidate, ...]
    chosen: str | None


@dataclass(frozen=True)
class Explanation:
    """What would run, and why; ``print`` it, or read ``to_dict()``.

    Attributes
    ----------
    problem : Problem
    setting, source : str
        The backend setting in force, and where it came from.
    candidates : tuple of Candidate
        Every backend considered, in order, each with the reason why not.
    chosen, algorithm : str or None
        What would run; None when every candidate refused.
    workspace_bytes : int
        Scratch memory the plan would use, in bytes.
    notes : str
        What the backend says of its choice.
    details : str
        What the choice was among, by which numbers, if the backend says so.
    tune_source : str
        Where the tuning, ``problem.tune``, came from.
    steps : tuple of Step
        What a call took, if one was made: copies between host and device, and kernels.
    """

    problem: Problem
    setting: str
    source: str
    candidates: tuple[Candidate, ...]
    chosen: str | None = None
    algorithm: str | None = None
    workspace_bytes: int = 0
    notes: str = ""
    details: str = ""
    tune_source: str = ""
    steps: tuple[Step, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON types."""
        problem = {name: _plain(getattr(self.problem, name)) for name in self.problem.__slots__}
        return {
            "problem": problem | {"flops": self.problem.flops, "bytes": self.problem.bytes},
            "setting": self.setting,
            "source": self.source,
            "tune_source": self.tune_source,
            "candidates": [{"name": c.name, "reason": c.reason} for c in self.candidates],
            "chosen": self.chosen,
            "algorithm": self.algorithm,
            "workspace_bytes": self.workspace_bytes,
            "notes": self.notes,
            "details": self.details,
            "steps": [asdict(step) for step in self.steps],
        }

    def __str__(self) -> str:
        p = self.problem
        lines = [
            f"{p.op}: input {p.input_shape}, weight {p.weight_shape}, output {p.output_shape}",
            f"  stride {p.stride}, padding {p.padding}, dilation {p.dilation}, groups {p.groups}",
            f"  {p.dtypes[0]}, {p.layout}, boundary {p.boundary}, {p.flops:.3g} flops, {p.bytes:.3g} bytes",
            f"setting: {self.setting} (from {self.source})",
        ]
        for c in self.candidates:
            verdict = c.reason or ("runs" if c.name == self.chosen else "accepts")
            lines.append(f"  {c.name}: {verdict}")
        if self.tune_source:
            lines.append(f"tune: {p.tune} (from {self.tune_source})")
        if self.algorithm is not None:
            lines.append(f"algorithm: {self.algorithm}, workspace {self.workspace_bytes} bytes")
        if self.notes:
            lines.append(f"notes: {self.notes}")
        if self.details:
            lines.append(self.details)
        for step in self.steps:
            moved = f", {step.bytes} bytes, {step.bytes / max(step.seconds, 1e-9) / 1e9:.3g} GB/s" if step.bytes else ""
            lines.append(f"took {step.seconds * 1e3:.3f} ms: {step.name}, {step.count} times{moved}")
        return "\n".join(lines)


@dataclass
class PlanCache:
    """Plans by (backend, problem), and by the raw arguments of a call."""

    by_problem: BoundedCache[Plan] = field(default_factory=BoundedCache)
    by_call: BoundedCache[Plan] = field(default_factory=BoundedCache)

    def clear(self) -> None:
        """Forget every plan."""
        self.by_problem.clear()
        self.by_call.clear()


cache = PlanCache()


def select(problem: Problem, setting: Setting) -> Selection:
    """Ask the candidates of a setting, in order, and choose; ``chosen`` is None if all refuse."""
    candidates = []
    consult = setting.names == (AUTO,)
    for name in candidate_names(setting):
        candidates.append(consider(name, problem, setting))
        if not candidates[-1].reason and not consult:
            break
    accepting = [c.name for c in candidates if not c.reason]
    chosen = accepting[0] if accepting else None
    if consult and len(accepting) > 1:
        chosen = registry().choose(problem, accepting) or chosen
    return Selection(problem, setting, tuple(candidates), chosen)


def candidate_names(setting: Setting) -> Sequence[str]:
    """Return the backends a setting allows, best first; raise for a name that cannot be used."""
    known = registry()
    if not _names_backends(setting):
        ours = [name for name in BUILTIN_ORDER if name in known.specs or name in known.broken]
        return ours if setting is config.BUILTIN else ours + [name for name in known.specs if name not in ours]
    for name in setting.names:
        known.check_name(name, setting.source)
    return setting.names


def _names_backends(setting: Setting) -> bool:
    """Whether the user wrote the names; a broken backend is then an error, and not just passed over."""
    return setting is not config.BUILTIN and setting.names != (AUTO,)


def consider(name: str, problem: Problem, setting: Setting) -> Candidate:
    """Ask one backend about a problem: its spec first, which costs no import."""
    known = registry()
    try:
        known.check_name(name, setting.source)
        reason = outside(known.specs[name.partition(":")[0]], problem)
        if reason:
            return Candidate(name, reason)
        known.devices(name)
        with fence(f"backend {name!r} cannot say whether it supports this problem"):
            answer = known.backend(name).supports(problem)
    except NoDevice as error:
        return Candidate(name, str(error), no_device=True)
    except BrokenBackend as error:
        if _names_backends(setting):
            raise
        return Candidate(name, str(error))
    if answer is True:
        return Candidate(name, "")
    if not isinstance(answer, str) or not answer:
        answer = f"supports() must return True or a reason in words, got {answer!r}"
    return Candidate(name, answer)


def outside(spec: BackendSpec, problem: Problem) -> str:
    """Return which advertised feature a problem falls outside of, in words; empty when none."""
    wanted = (
        ("op", problem.op, spec.ops),
        ("array type", problem.arrays, spec.array_types),
        ("layout", problem.layout, spec.layouts),
        ("boundary", problem.boundary, spec.boundaries),
        *(("dtype", dtype.name, spec.dtypes) for dtype in dict.fromkeys(problem.dtypes)),
        *(("feature", feature, spec.features) for feature in problem.features),
    )
    for feature, value, offered in wanted:
        if value not in offered:
            return f"{feature} {value} is not supported, only {', '.join(offered)}"
    return ""


def make_plan(problem: Problem, setting: Setting) -> Plan:
    """Return the plan for a problem under a setting.

    Raises
    ------
    UnknownBackend, BrokenBackend, NoDevice, UnsupportedProblem
        See ``convcore.errors``.
    """
    selection = select(problem, setting)
    if selection.chosen is None:
        raise refusal(selection)
    return plan_for(selection.chosen, problem)


def plan_for(name: str, problem: Problem, *, now: bool = True) -> Plan:
    """Return the plan of one backend, from the cache if it has it; without ``now`` by what is known, not measured."""
    key = name, problem
    plan = cache.by_problem.get(key)
    if plan is None:
        plan = choices.plan_of(name, registry().backend(name), problem, now=now)
        if not isinstance(plan, Plan):
            raise BrokenBackend(f"backend {name!r} is broken: plan() must return a Plan, got {type(plan).__name__}")
        plan.backend = name
        if registry().observed:
            plan = ObservedPlan(plan)
        if now or problem.tune != "measure":
            cache.by_problem[key] = plan
    return plan


def refusal(selection: Selection) -> NoDevice | UnsupportedProblem:
    """Return the error for a problem that no candidate takes, with one reason for each."""
    candidates = selection.candidates
    if candidates and all(candidate.no_device for candidate in candidates):
        return NoDevice("; ".join(candidate.reason for candidate in candidates) + f" (from {selection.setting.source})")
    if not candidates:
        return UnsupportedProblem("no backend is installed; install convcore with its built-in ones")
    reasons = "; ".join(f"{c.name}: {c.reason}" for c in candidates)
    home = "" if selection.problem.arrays == HOST_ARRAY else f" on {selection.problem.arrays}"
    return UnsupportedProblem(
        f"{selection.problem.op}{home}: no backend of {selection.setting} (from {selection.setting.source}) "
        f"takes this problem: {reasons}"
    )


def explain(problem: Problem, setting: Setting, tune_source: str = "") -> Explanation:
    """Say what :func:`make_plan` would choose, without raising when everybody refuses."""
    selection = select(problem, setting)
    heard = {candidate.name for candidate in selection.candidates}
    later = tuple(consider(name, problem, setting) for name in candidate_names(setting) if name not in heard)
    candidates = selection.candidates + later
    found = Explanation(problem, str(setting), setting.source, candidates, selection.chosen, tune_source=tune_source)
    if selection.chosen is None:
        return found
    plan = plan_for(selection.chosen, problem, now=False)
    return replace(
        found,
        algorithm=plan.algorithm,
        workspace_bytes=plan.workspace_bytes,
        notes=plan.notes,
        details=plan.details(),
    )


def with_steps(found: Explanation, first: Any, second: Any, bias: Any) -> Explanation:
    """Make the call that was explained, and say what its steps take once nothing needs to be compiled any more."""
    assert found.chosen is not None
    plan = plan_for(found.chosen, found.problem)
    plan(first, second, bias)
    return replace(found, steps=plan.measure(first, second, bias))


class ObservedPlan(Plan):
    """A plan that tells the plugins that want to know when a call has finished."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.problem)
        self.backend, self.plan = plan.backend, plan
        self.algorithm, self.workspace_bytes, self.notes = plan.algorithm, plan.workspace_bytes, plan.notes

    def run(self, first: Any, second: Any, bias: Any, out: Any) -> None:
        """Run the plan unobserved."""
        self.plan.run(first, second, bias, out)

    def details(self) -> str:
        """Return what the plan that is observed says."""
        return self.plan.details()

    def measure(self, first: Any, second: Any = None, bias: Any = None) -> tuple[Step, ...]:
        """Measure the plan that is observed."""
        return self.plan.measure(first, second, bias)

    def pack(self, weight: Any) -> Packed:
        """Pack a weight for the plan that is observed."""
        return self.plan.pack(weight)

    def __call__(self, first: Any, second: Any = None, bias: Any = None, out: Any = None) -> Any:
        """Run the plan and report it."""
        start = time.perf_counter()
        result = self.plan(first, second, bias, out)
        event = Event(self.backend, self.algorithm, self.problem, time.perf_counter() - start)
        registry().tell(event)
        return result


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
