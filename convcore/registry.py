"""Discovery: which backends are installed, and what is wrong with those that are broken.

pluggy finds plugins through entry points, but one at a time and behind a fence: a plugin
that cannot be imported disables itself only.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from convcore import hookspecs
from convcore.errors import BrokenBackend, NoDevice, UnknownBackend
from convcore.normalise import did_you_mean
from convcore.spi import Backend, BackendSpec, Device

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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


@dataclass
class Registry:
    """The installed plugins and the backends they provide."""

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("convcore"))
    specs: dict[str, BackendSpec] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    broken: dict[str, BrokenBackend] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(hookspecs)
        self._instances: dict[tuple[str, str], Backend] = {}
        self._provided: dict[str, list[str]] = {}
        self._lock = threading.RLock()

    # ------------------------------------------------------------ discovery

    def discover(self) -> None:
        """Load every entry point of the group ``convcore``, built-in ones first."""
        from importlib.metadata import entry_points  # a third of what importing convcore would cost

        found = sorted(entry_points(group=GROUP), key=lambda point: (not _is_ours(point), point.name))
        for point in found:
            try:
                plugin = point.load()
            except Exception as error:
                self._mark_broken(point.name, f"plugin {point.name!r} ({point.value}) cannot be imported", error)
            else:
                self.add_plugin(point.name, plugin, point.dist.name if point.dist else "", builtin=_is_ours(point))

    def add_plugin(self, name: str, plugin: Any, distribution: str = "", *, builtin: bool = False) -> None:
        """Register one plugin; what is wrong with it is kept under its own name and harms no other."""
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
            others = [other for other in self.manager.get_plugins() if other is not plugin]
            listed = self.manager.subset_hook_caller("convcore_backends", others)()
            specs = [spec for group in listed for spec in group]
            for spec in specs:
                _check_spec(spec, builtin)
        except Exception as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            self._mark_broken(name, f"plugin {name!r} is broken", error)
            return
        self._provided[name] = [spec.name for spec in specs]
        for spec in specs:
            self._add_spec(spec, distribution or name)

    def remove_plugin(self, name: str) -> None:
        """Forget a plugin that was added, and its backends."""
        self.manager.unregister(name=name)
        for provided in self._provided.pop(name, ()):
            self.specs.pop(provided, None)
            self._instances = {key: value for key, value in self._instances.items() if key[0] != provided}

    def _add_spec(self, spec: BackendSpec, distribution: str) -> None:
        if spec.name in self.specs:
            first = self.distributions[spec.name]
            del self.specs[spec.name]
            self._mark_broken(
                spec.name, f"backend {spec.name!r} is provided twice, by {first} and by {distribution}; uninstall one"
            )
        elif spec.name not in self.broken:
            self.specs[spec.name] = spec
            self.distributions[spec.name] = distribution

    def _mark_broken(self, name: str, message: str, cause: Exception | None = None) -> None:
        if name in self.specs:  # a stranger's plugin that calls itself like a working backend
            name = f"{name} (plugin)"
        error = BrokenBackend(f"{message}: {type(cause).__name__}: {cause}" if cause else message)
        error.__cause__ = cause
        self.broken[name] = error

    # ------------------------------------------------------------ use

    def check_name(self, name: str, source: str) -> None:
        """Raise unless ``name`` is a working plugin's backend; ``source`` says who asked for it."""
        base = name.partition(":")[0]
        if base in self.broken:
            raise BrokenBackend(f"{self.broken[base]} (asked for by {source})") from self.broken[base].__cause__
        if base not in self.specs:
            raise UnknownBackend(
                f"unknown backend {base!r} (from {source}){did_you_mean(base, self.specs)}; "
                f"installed: {', '.join(self.specs) or 'none'}"
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
        try:
            backend: Backend = getattr(importlib.import_module(module), attribute)(device)
        except Exception as error:
            raise BrokenBackend(f"backend {spec.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
        backend.spec = spec  # type: ignore[misc]  # the class is a stranger's; its spec is this one
        return backend

    def devices(self, name: str) -> Sequence[Device]:
        """Return the devices of a backend.

        Raises
        ------
        NoDevice
            With the backend's reason and what to install.
        """
        base, _, device = name.partition(":")
        found = self.backend(name).probe()
        if isinstance(found, str):
            hint = self.specs[base].install_hint
            raise NoDevice(f"backend {name!r} has no device: {found}" + (f"; {hint}" if hint else ""))
        if device and device not in {str(known.index) for known in found}:
            listed = ", ".join(f"{known.index} ({known.name})" for known in found)
            raise NoDevice(f"backend {base!r} has no device {device!r}, there are: {listed}")
        return found

    def describe(self) -> list[BackendInfo]:
        """Describe every backend, the broken ones too."""
        return [self._describe(spec) for spec in self.specs.values()] + [
            BackendInfo(name, "broken", reason=str(error)) for name, error in self.broken.items()
        ]

    def _describe(self, spec: BackendSpec) -> BackendInfo:
        state, reason = "ready", ""
        devices: tuple[Device, ...] = ()
        try:
            found = self.backend(spec.name).probe()
            if isinstance(found, str):
                state, reason = "no device", found
            else:
                devices = tuple(found)
        except BrokenBackend as error:
            state, reason = "broken", str(error)
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
        )

    @property
    def observed(self) -> bool:
        """Whether any plugin wants to hear of finished calls."""
        return bool(self.manager.hook.convcore_observe.get_hookimpls())


def _is_ours(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == "convcore"


def _check_spec(spec: Any, builtin: bool) -> None:
    if not isinstance(spec, BackendSpec):
        raise TypeError(f"convcore_backends() must list BackendSpec, got {type(spec).__name__}")
    if not spec.name or spec.name != spec.name.lower() or set(spec.name) & set(":, "):
        raise ValueError(f"a backend's name must be lower case without colon, comma or space, got {spec.name!r}")
    if spec.name == "auto":
        raise ValueError("a backend must not be named 'auto'")
    if not builtin and spec.name in BUILTIN_ORDER:
        raise ValueError(f"the built-in backend {spec.name!r} cannot be replaced")


_registry: Registry | None = None
_loading = threading.Lock()


def registry() -> Registry:
    """Return the process's registry, discovering plugins the first time."""
    global _registry
    if _registry is None:
        with _loading:
            if _registry is None:
                fresh = Registry()
                fresh.discover()
                _registry = fresh
    return _registry
