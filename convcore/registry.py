"""Discovery: which backends are installed, and what is wrong with those that are broken.

pluggy finds plugins through entry points, but one at a time and behind a fence: a plugin
that fails, at import or whenever it is asked something, disables itself only.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import pluggy

from convcore import hookspecs
from convcore.errors import BrokenBackend, NoDevice, UnknownBackend
from convcore.normalise import did_you_mean
from convcore.spi import Backend, BackendSpec, Device, find_device

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from convcore.problem import Problem

GROUP = "convcore"
#: The order in which backends are tried when nobody says anything else.
BUILTIN_ORDER = ("cpu", "opencl", "numpy")


@dataclass(frozen=True)
class BackendInfo:
    """What is known of one backend, ready or not.

    Attributes
    ----------
    name, version, summary, install_hint, distribution : str
    state : str
        "ready", "no device" or "broken".
    devices : tuple of Device
    dtypes : tuple of str
    reason : str
        Why it is not ready; empty when it is.
    traceback : str
        Where a broken one failed, if it raised.
    """

    name: str
    state: str
    version: str = ""
    summary: str = ""
    install_hint: str = ""
    distribution: str = ""
    devices: tuple[Device, ...] = ()
    dtypes: tuple[str, ...] = ()
    reason: str = ""
    traceback: str = ""


@contextmanager
def fence(what: str) -> Iterator[None]:
    """Turn whatever a plugin raises into BrokenBackend, whose cause keeps it.

    Only Ctrl-C passes: ``sys.exit`` in a plugin, or a panic of one written in Rust, is no Exception either.
    """
    try:
        yield
    except (KeyboardInterrupt, BrokenBackend):
        raise
    except BaseException as error:
        raise BrokenBackend(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error


@dataclass
class Registry:
    """The installed plugins and the backends they provide.

    Attributes
    ----------
    manager : pluggy.PluginManager
    specs, distributions : dict
        Of each usable backend, by its name: what it says of itself, and who provides it.
    broken : dict of BrokenBackend
        What cannot be used: plugins by their own names, and backends that two plugins provide.
    """

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("convcore"))
    specs: dict[str, BackendSpec] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    broken: dict[str, BrokenBackend] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(hookspecs)
        self._instances: dict[tuple[str, str], Backend] = {}
        self._sources: dict[str, str] = {}
        self._provided: dict[str, list[str]] = {}
        self._unheard: set[str] = set()
        self._lock = threading.RLock()

    # ------------------------------------------------------------ discovery

    def discover(self) -> None:
        """Load every entry point of the group ``convcore``, built-in ones first."""
        from importlib.metadata import entry_points  # a third of what importing convcore would cost

        for point in sorted(
            entry_points(group=GROUP), key=lambda point: (not _is_ours(point), point.name, point.value)
        ):
            distribution = point.dist.name if point.dist else ""
            try:
                with fence(f"plugin {point.name!r} ({point.value}) cannot be imported"):
                    plugin = point.load()
            except BrokenBackend as error:
                self._mark_broken(point.name, error, distribution)
            else:
                self.add_plugin(point.name, plugin, distribution, builtin=_is_ours(point))

    def add_plugin(self, name: str, plugin: Any, distribution: str = "", *, builtin: bool = False) -> None:
        """Register one plugin; what is wrong with it is kept under its own name and harms no other."""
        if self.manager.has_plugin(name):  # the names of entry points are labels: two distributions may use one
            name = f"{name} of {distribution or 'another'}"
        try:
            with fence(f"plugin {name!r} is broken"):
                specs = self._register(name, plugin, builtin)
        except BrokenBackend as error:
            self._mark_broken(name, error, distribution)
            return
        self._sources[name] = distribution
        self._provided[name] = [spec.name for spec in specs]
        for spec in specs:
            self._add_spec(spec, distribution or name)

    def _register(self, name: str, plugin: Any, builtin: bool) -> list[BackendSpec]:
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
            if not self.manager.get_hookcallers(plugin):
                raise ValueError("it implements no hook; mark those it has with @convcore.spi.hookimpl")
            return self._listed(plugin, builtin)
        except BaseException:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            raise

    def _listed(self, plugin: Any, builtin: bool) -> list[BackendSpec]:
        """Ask one plugin for its backends, and look at what it says of them."""
        specs: list[BackendSpec] = []
        for hook in self.manager.hook.convcore_backends.get_hookimpls():
            if hook.plugin is plugin:
                listed = hook.function()
                if not isinstance(listed, (list, tuple)):
                    raise TypeError(f"convcore_backends() must return a list, got {type(listed).__name__}")
                specs += listed
        for spec in specs:
            _check_spec(spec, builtin)
        names = [spec.name for spec in specs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"it lists a backend twice: {', '.join(sorted(twice))}")
        return specs

    def remove_plugin(self, name: str) -> None:
        """Forget a plugin that was added, and its backends."""
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)
        self._unheard.discard(name)
        for provided in self._provided.pop(name, ()):
            self.specs.pop(provided, None)
            self.distributions.pop(provided, None)
            self._instances = {key: value for key, value in self._instances.items() if key[0] != provided}

    def _add_spec(self, spec: BackendSpec, distribution: str) -> None:
        first = self.distributions.get(spec.name)
        if first is not None:
            self.specs.pop(spec.name, None)
            message = f"backend {spec.name!r} is provided twice, by {first} and by {distribution}; uninstall one"
            self.broken[spec.name] = BrokenBackend(message)
            return
        if spec.name in self.broken:  # a broken plugin that is only called like this backend
            self.broken[self._free_name(spec.name)] = self.broken.pop(spec.name)
        self.specs[spec.name] = spec
        self.distributions[spec.name] = distribution

    def _mark_broken(self, name: str, error: BrokenBackend, distribution: str) -> None:
        error.distribution = distribution
        taken = name in self.specs or name in self.broken
        self.broken[self._free_name(name) if taken else name] = error

    def _free_name(self, name: str) -> str:
        labels = [f"{name} (plugin)", *(f"{name} (plugin {number})" for number in range(2, len(self.broken) + 3))]
        return next(label for label in labels if label not in self.broken)

    # ------------------------------------------------------------ use

    def check_name(self, name: str, source: str) -> None:
        """Raise unless ``name`` is a working plugin's backend; ``source`` says who asked for it."""
        base = name.partition(":")[0]
        if base in self.broken:
            raise BrokenBackend(f"{self.broken[base]} (asked for by {source})") from self.broken[base].__cause__
        if base not in self.specs:
            broken = f"; broken: {', '.join(self.broken)} (see convcore doctor)" if self.broken else ""
            raise UnknownBackend(
                f"unknown backend {base!r} (from {source}){did_you_mean(base, self.specs)}; "
                f"installed: {', '.join(self.specs) or 'none'}{broken}"
            )

    def backend(self, name: str) -> Backend:
        """Return the one instance for "name" or "name:device", importing its class on first use."""
        base, _, device = name.partition(":")
        with self._lock:
            if (base, device) not in self._instances:
                self._instances[base, device] = self._create(self.specs[base], device)
            return self._instances[base, device]

    def _create(self, spec: BackendSpec, device: str) -> Backend:
        module, _, attribute = spec.factory.partition(":")
        with fence(f"backend {spec.name!r} cannot be loaded"):
            backend = getattr(importlib.import_module(module), attribute)(device)
            if not isinstance(backend, Backend):
                raise TypeError(f"{spec.factory} must make a Backend, got {type(backend).__name__}")
            backend.spec = spec  # type: ignore[misc]  # the class is a stranger's; its spec is this one
            return backend

    def probe(self, name: str) -> tuple[Device, ...] | str:
        """Return the devices of a backend, or its reason why there is none."""
        backend = self.backend(name)
        with fence(f"backend {name!r} cannot say what devices it has"):
            found = backend.probe()
            if isinstance(found, str) and found:
                return found
            if not isinstance(found, (list, tuple)) or not found or not all(isinstance(d, Device) for d in found):
                raise TypeError(f"probe() must list Device, or say in words why there is none, got {found!r}")
            return tuple(found)

    def devices(self, name: str) -> Sequence[Device]:
        """Return the devices of a backend.

        Raises
        ------
        NoDevice
            With the backend's reason and what to install; or with the devices there are, if ``name`` asks for another.
        """
        base, _, device = name.partition(":")
        found = self.probe(name)
        if isinstance(found, str):
            hint = self.specs[base].install_hint
            raise NoDevice(f"backend {name!r} has no device: {found}" + (f"; {hint}" if hint else ""))
        if device:
            find_device(found, device, base)
        return found

    def describe(self) -> list[BackendInfo]:
        """Describe every backend, the broken ones too."""
        return [self._describe(spec) for spec in self.specs.values()] + [
            BackendInfo(name, "broken", distribution=error.distribution, reason=str(error), traceback=_traceback(error))
            for name, error in self.broken.items()
        ]

    def _describe(self, spec: BackendSpec) -> BackendInfo:
        state, reason, traceback = "ready", "", ""
        devices: tuple[Device, ...] = ()
        try:
            found = self.probe(spec.name)
            if isinstance(found, str):
                state, reason = "no device", found
            else:
                devices = found
        except BrokenBackend as error:
            state, reason, traceback = "broken", str(error), _traceback(error)
        return BackendInfo(
            spec.name,
            state,
            spec.version,
            spec.summary,
            spec.install_hint,
            self.distributions.get(spec.name, ""),
            devices,
            spec.dtypes,
            reason,
            traceback,
        )

    # ------------------------------------------------------------ the optional hooks

    def choose(self, problem: Problem, candidates: Sequence[str]) -> str | None:
        """Ask the plugins which candidate to take; who fails or names another is not asked again."""
        for hook in self._heard("convcore_select"):
            try:
                with fence(f"plugin {hook.plugin_name!r} failed in convcore_select"):
                    chosen = self._call(hook, problem=problem, candidates=tuple(candidates))
                    if chosen is not None and chosen not in candidates:
                        raise ValueError(f"it chose {chosen!r}, which is none of {', '.join(candidates)}")
            except BrokenBackend as error:
                self._stop_hearing(hook.plugin_name, error)
            else:
                if chosen is not None:
                    return str(chosen)
        return None

    def tell(self, event: hookspecs.Event) -> None:
        """Tell the plugins of a finished call; who fails is not told again."""
        for hook in self._heard("convcore_observe"):
            try:
                with fence(f"plugin {hook.plugin_name!r} failed in convcore_observe"):
                    self._call(hook, event=event)
            except BrokenBackend as error:
                self._stop_hearing(hook.plugin_name, error)

    @property
    def observed(self) -> bool:
        """Whether any plugin wants to hear of finished calls."""
        return bool(self._heard("convcore_observe"))

    def _heard(self, hook: str) -> list[pluggy.HookImpl]:
        """List who implements a hook, in pluggy's order; each is called alone, as pluggy would stop at a failure."""
        found = reversed(getattr(self.manager.hook, hook).get_hookimpls())
        return [implementation for implementation in found if implementation.plugin_name not in self._unheard]

    @staticmethod
    def _call(hook: pluggy.HookImpl, **arguments: Any) -> Any:
        return hook.function(*(arguments[name] for name in hook.argnames))

    def _stop_hearing(self, plugin: str, error: BrokenBackend) -> None:
        with self._lock:
            if plugin in self._unheard:
                return
            self._unheard.add(plugin)
            self._mark_broken(plugin, error, self._sources.get(plugin, ""))
        warnings.warn(f"{error}; convcore does not ask it again", RuntimeWarning, stacklevel=2)


def _is_ours(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == "convcore"


def _check_spec(spec: Any, builtin: bool) -> None:
    if not isinstance(spec, BackendSpec):
        raise TypeError(f"convcore_backends() must list BackendSpec, got {type(spec).__name__}")
    for known in fields(BackendSpec):
        value = getattr(spec, known.name)
        if known.name == "exceptions":
            if not isinstance(value, Mapping) or not all(
                isinstance(item, str) for pair in value.items() for item in pair
            ):
                raise TypeError(f"BackendSpec.exceptions must map strings to strings, got {value!r}")
        elif isinstance(known.default, tuple):
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"BackendSpec.{known.name} must be a tuple of strings, got {value!r}")
        elif not isinstance(value, str):
            raise TypeError(f"BackendSpec.{known.name} must be a string, got {value!r}")
    if not spec.name or spec.name != spec.name.lower() or set(spec.name) & set(":, "):
        raise ValueError(f"a backend's name must be lower case without colon, comma or space, got {spec.name!r}")
    if not re.fullmatch(r"[\w.]+:\w+", spec.factory):
        raise ValueError(f"BackendSpec.factory must read 'package.module:Class', got {spec.factory!r}")
    if spec.name == "auto":
        raise ValueError("a backend must not be named 'auto'")
    if not builtin and spec.name in BUILTIN_ORDER:
        raise ValueError(f"the built-in backend {spec.name!r} cannot be replaced")


def _traceback(error: BrokenBackend) -> str:
    """Write where a plugin failed, without the way that led into it; empty if nothing was raised."""
    if error.__cause__ is None:
        return ""
    import traceback

    told = traceback.TracebackException.from_exception(error.__cause__)
    theirs = [frame for frame in told.stack if not _leads_in(frame.filename)]
    told.stack = traceback.StackSummary.from_list(theirs)
    return "".join(told.format())


def _leads_in(filename: str) -> bool:
    machinery = (importlib.__file__, os.path.join(os.path.dirname(importlib.__file__), "metadata"), pluggy.__path__[0])
    return filename.startswith(("<frozen importlib", __file__, *machinery))


_registry: Registry | None = None
_loading = threading.RLock()
_discovering = False


def registry() -> Registry:
    """Return the process's registry, discovering plugins the first time."""
    global _registry, _discovering
    if _registry is None:
        with _loading:
            if _discovering:
                raise RuntimeError("a plugin must not compute, or ask for backends, while plugins are being discovered")
            if _registry is None:
                _discovering = True
                try:
                    fresh = Registry()
                    fresh.discover()
                    _registry = fresh
                finally:
                    _discovering = False
    return _registry


def _renew_locks() -> None:
    """Forget, in a forked child, what other threads of its parent were holding."""
    global _loading, _discovering
    _loading, _discovering = threading.RLock(), False
    if _registry is not None:
        _registry._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
