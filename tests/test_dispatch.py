"""Which backend runs, who decided it, and what is said when none does."""

import asyncio
import sys
import threading
import types

import numpy as np
import pytest

import convcore
from convcore import config, select
from convcore.registry import Registry, registry
from convcore.spi import Backend, BackendSpec, Device, Plan, hookimpl

X = np.arange(48, dtype=np.float32).reshape(1, 1, 6, 8)
W = np.array([[[[1, -1]]]], np.float32)


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, tmp_path):
    """No setting from outside, and none left behind."""
    monkeypatch.delenv(config.VARIABLE, raising=False)
    monkeypatch.delenv(config.TUNE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    config.reload()
    yield
    convcore.set_backend(None)
    config.reload()


class ConstantPlan(Plan):
    """Fills the result with a number that tells who ran."""

    def __init__(self, problem, number):
        super().__init__(problem)
        self.number = number

    def run(self, first, second, bias, out):
        out[...] = self.number


class Fake(Backend):
    number = 7.0
    devices = (Device(0, "fake"),)
    answer = True

    def probe(self):
        return self.devices

    def supports(self, problem):
        return self.answer

    def plan(self, problem):
        return ConstantPlan(problem, self.number)


class Refuses(Fake):
    answer = "it is Monday"


class NoDevices(Fake):
    devices = "no such card"


class Raises(Fake):
    def plan(self, problem):
        plan = ConstantPlan(problem, 0)
        plan.run = lambda *arrays: 1 / 0
        return plan


class CannotLoad:
    def __init__(self, device):
        raise OSError("libfake.so: cannot open shared object file")


def plugin(*specs, **hooks):
    """Build a plugin module out of specs and further hooks."""
    module = types.ModuleType("a_plugin")
    for name, hook in hooks.items():
        setattr(module, name, hookimpl(hook))
    if specs:
        module.convcore_backends = hookimpl(lambda: list(specs))
    return module


def spec(name, cls=Fake, **features):
    return BackendSpec(name, f"{__name__}:{cls.__name__}", install_hint="buy one", **features)


@pytest.fixture
def add():
    """Add plugins to the process's registry for one test."""
    known, added = registry(), []
    broken = dict(known.broken)

    def add(name, module):
        known.add_plugin(name, module)
        added.append(name)
        select.cache.clear()

    yield add
    for name in added:
        known.remove_plugin(name)
    known.broken = broken
    select.cache.clear()


def ran_by(backend=None):
    """Return the number the fake that ran has left, or None for an honest backend."""
    result = convcore.conv2d(X, W, backend=backend)
    return result[0, 0, 0, 0] if (result == result[0, 0, 0, 0]).all() and result[0, 0, 0, 0] != -1 else None


class TestPrecedence:
    def test_of_the_seven_sources(self, add, monkeypatch, tmp_path):
        names = ["user", "project", "variable", "process", "scope", "argument"]
        for number, name in enumerate(names):
            cls = type(f"Fake{number}", (Fake,), {"number": float(number)})
            monkeypatch.setitem(globals(), cls.__name__, cls)
            add(name, plugin(spec(name, cls)))
        assert convcore.get_backend() == "cpu,opencl,numpy"
        assert convcore.explain("forward", X, W).source == "built-in order"

        def in_force(name, source, backend=None):
            assert ran_by(backend) == names.index(name)
            found = convcore.explain("forward", X, W, backend=backend)
            assert (found.chosen, found.source) == (name, source)

        user = tmp_path / "home" / "convcore" / "config.toml"
        user.parent.mkdir(parents=True)
        user.write_text('backend = "user"')
        config.reload()
        select.cache.clear()
        in_force("user", f"{user}, line 1")
        project = tmp_path / "convcore.toml"
        project.write_text('backend = "project"')
        config.reload()
        select.cache.clear()
        in_force("project", f"{project}, line 1")
        monkeypatch.setenv("CONVCORE_BACKEND", "variable")
        in_force("variable", "CONVCORE_BACKEND")
        convcore.set_backend("process")
        in_force("process", "set_backend()")
        with convcore.use("scope"):
            in_force("scope", "use()")
            in_force("argument", "call argument", backend="argument")
        in_force("process", "set_backend()")

    def test_pyproject_and_a_folder_above(self, monkeypatch, tmp_path):
        (tmp_path / "pyproject.toml").write_text('[tool.convcore]\nbackend = ["numpy"]\n')
        below = tmp_path / "a" / "b"
        below.mkdir(parents=True)
        (below / "pyproject.toml").write_text("[tool.other]\n")
        monkeypatch.chdir(below)
        config.reload()
        assert convcore.get_backend() == "numpy"

    def test_scope_is_of_one_task_and_process_is_of_all_threads(self):
        seen = {}

        async def task(name):
            with convcore.use(name):
                await asyncio.sleep(0)
                seen[name] = convcore.get_backend()

        async def both():
            await asyncio.gather(task("numpy"), task("cpu"))

        asyncio.run(both())
        assert seen == {"numpy": "numpy", "cpu": "cpu"}
        convcore.set_backend("numpy")
        thread = threading.Thread(target=lambda: seen.update(thread=convcore.get_backend()))
        thread.start()
        thread.join()
        assert seen["thread"] == "numpy"

    def test_scope_ends_with_an_exception(self):
        with pytest.raises(RuntimeError), convcore.use("numpy"):
            raise RuntimeError
        assert convcore.get_backend() == "cpu,opencl,numpy"


X4, W4 = X.reshape(1, 2, 4, 6), W.reshape(1, 2, 1, 1)


class TestTune:
    """Each function hands the tuning to the plan; the variable is read when a plan is made."""

    CALLS = (
        lambda **k: convcore.conv2d(X4, W4, **k),
        lambda **k: convcore.conv2d_grad_input(X4[:, :1], W4, X4.shape, **k),
        lambda **k: convcore.conv2d_grad_weight(X4, X4[:, :1], W4.shape, **k),
        lambda **k: convcore.conv_transpose2d(X4[:, :1], W4, **k),
        lambda **k: convcore.corr2d(X[0, 0], W[0, 0], **k),
        lambda **k: convcore.convolve2d(X[0, 0], W[0, 0], **k),
        lambda **k: convcore.plan("grad_bias", X4, **k)(X4),
    )

    @pytest.fixture
    def words(self, add, monkeypatch):
        seen = []
        planned = lambda self, problem: seen.append(problem.tune) or ConstantPlan(problem, 0)  # noqa: E731
        monkeypatch.setitem(globals(), "Tuned", type("Tuned", (Fake,), {"plan": planned}))
        add("tuned", plugin(spec("tuned", globals()["Tuned"])))
        return seen

    @pytest.mark.parametrize("call", CALLS)
    def test_of_a_call(self, words, call, monkeypatch):
        call(backend="tuned")
        call(backend="tuned", tune="tune")
        call(backend="tuned", tune="measure")
        monkeypatch.setenv("CONVCORE_TUNE", "off")
        select.cache.clear()
        call(backend="tuned")
        call(backend="tuned", tune="heuristic")
        assert words == ["cached", "measure", "off", "heuristic"]


class TestNamed:
    def test_runs_or_raises_never_another(self, add):
        add("monday", plugin(spec("monday", Refuses)))
        with pytest.raises(convcore.UnsupportedProblem) as caught:
            ran_by("monday")
        assert str(caught.value) == (
            "forward: no backend of monday (from call argument) takes this problem: monday: it is Monday"
        )

    def test_list_moves_on_after_a_refusal_only(self, add):
        add("monday", plugin(spec("monday", Refuses)))
        add("raises", plugin(spec("raises", Raises)))
        add("good", plugin(spec("good")))
        assert ran_by("monday,good") == ran_by(["monday", "good"]) == 7
        with pytest.raises(ZeroDivisionError) as caught:
            ran_by(["raises", "good"])
        assert caught.value.convcore_backend == "raises"

    def test_features_are_refused_before_anything_is_imported(self, add):
        add("narrow", plugin(BackendSpec("narrow", "no_such_module:Nothing", dtypes=("float64",), layouts=("NHWC",))))
        for arrays, layout, reason in (
            ((X, W), "NHWC", "dtype float32 is not supported, only float64"),
            ((X.astype("f8"), W.astype("f8")), "NCHW", "layout NCHW is not supported, only NHWC"),
        ):
            x = arrays[0].transpose(0, 2, 3, 1) if layout == "NHWC" else arrays[0]
            found = convcore.explain("forward", x, arrays[1], layout=layout, backend="narrow")
            assert [(c.name, c.reason) for c in found.candidates] == [("narrow", reason)]

    def test_out_survives_a_failing_backend(self, add):
        add("raises", plugin(spec("raises", Raises)))
        out = np.full((1, 1, 6, 7), 3, np.float32)
        with pytest.raises(ZeroDivisionError):
            convcore.conv2d(X, W, backend="raises", out=out)
        assert (out == 3).all()


class TestErrors:
    def test_unknown(self):
        with pytest.raises(convcore.UnknownBackend) as caught:
            ran_by("nunpy")
        assert str(caught.value) == (
            "unknown backend 'nunpy' (from call argument); did you mean 'numpy'?; "
            f"installed: {', '.join(registry().specs)}"
        )
        assert isinstance(caught.value, LookupError)

    @pytest.mark.parametrize("choose", [convcore.set_backend, lambda name: convcore.use(name).__enter__()])
    def test_unknown_changes_nothing(self, choose):
        with pytest.raises(convcore.UnknownBackend):
            choose("gpu")
        assert convcore.get_backend() == "cpu,opencl,numpy"

    def test_no_device(self, add):
        add("card", plugin(spec("card", NoDevices)))
        with pytest.raises(convcore.NoDevice) as caught:
            ran_by("card")
        assert str(caught.value) == "backend 'card' has no device: no such card; buy one (from call argument)"
        (info,) = [info for info in convcore.backends() if info.name == "card"]
        assert (info.state, info.reason) == ("no device", "no such card")

    def test_no_such_device(self):
        with pytest.raises(convcore.NoDevice) as caught:
            ran_by("numpy:1")
        assert str(caught.value) == "backend 'numpy' has no device '1', there are: 0 (host) (from call argument)"
        assert ran_by("numpy:0") is None

    def test_unsupported_has_a_reason_for_each(self, add):
        add("monday", plugin(spec("monday", Refuses)))
        add("card", plugin(spec("card", NoDevices)))
        with pytest.raises(convcore.UnsupportedProblem) as caught:
            ran_by(["monday", "card"])
        assert str(caught.value) == (
            "forward: no backend of monday,card (from call argument) takes this problem: "
            "monday: it is Monday; card: backend 'card' has no device: no such card; buy one"
        )

    def test_class_that_cannot_be_loaded(self, add):
        add("heavy", plugin(spec("heavy", CannotLoad)))
        with pytest.raises(convcore.BrokenBackend) as caught:
            ran_by("heavy")
        assert str(caught.value) == (
            "backend 'heavy' cannot be loaded: OSError: libfake.so: cannot open shared object file"
        )
        assert isinstance(caught.value.__cause__, OSError)
        (info,) = [info for info in convcore.backends() if info.name == "heavy"]
        assert info.state == "broken"

    @pytest.mark.parametrize("setting", [None, "auto"])
    def test_broken_built_in_is_passed_over_unless_named(self, monkeypatch, setting):
        known = registry()
        monkeypatch.setitem(known.specs, "cpu", spec("cpu", CannotLoad))
        monkeypatch.setattr(known, "_instances", {})
        select.cache.clear()
        found = convcore.explain("forward", X, W, backend=setting)
        reasons = {candidate.name: candidate.reason for candidate in found.candidates}
        assert reasons["cpu"] == ("backend 'cpu' cannot be loaded: OSError: libfake.so: cannot open shared object file")
        assert found.chosen != "cpu"
        for named in ("cpu", ["cpu", "numpy"]):
            with pytest.raises(convcore.BrokenBackend):
                ran_by(named)
        select.cache.clear()

    def test_exceptions_carry_the_backend(self, add):
        add("raises", plugin(spec("raises", Raises)))
        with pytest.raises(ZeroDivisionError) as caught:
            ran_by("raises")
        assert caught.value.convcore_backend == "raises"


class TestPlugins:
    """One broken plugin disables itself only."""

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (
                plugin(convcore_backend=lambda: []),
                "plugin 'bad' is broken: PluginValidationError: unknown hook 'convcore_backend' in plugin",
            ),
            (
                plugin(convcore_backends=lambda: 1 / 0),
                "plugin 'bad' is broken: ZeroDivisionError: division by zero",
            ),
            (
                plugin(convcore_backends=lambda: ["bad"]),
                "plugin 'bad' is broken: TypeError: convcore_backends() must list BackendSpec, got str",
            ),
            (
                plugin(spec("cpu")),
                "plugin 'bad' is broken: ValueError: the built-in backend 'cpu' cannot be replaced",
            ),
            (
                plugin(spec("Bad:1")),
                "plugin 'bad' is broken: ValueError: "
                "a backend's name must be lower case without colon, comma or space, got 'Bad:1'",
            ),
            (plugin(spec("auto")), "plugin 'bad' is broken: ValueError: a backend must not be named 'auto'"),
        ],
        ids=["misspelt hook", "raises", "no spec", "shadows a built-in", "bad name", "auto"],
    )
    def test_broken(self, module, message):
        fresh = Registry()
        fresh.add_plugin("good", plugin(spec("good")))
        fresh.add_plugin("bad", module)
        fresh.add_plugin("other", plugin(spec("other")))
        assert list(fresh.specs) == ["good", "other"]
        with pytest.raises(convcore.BrokenBackend) as caught:
            fresh.check_name("bad", "test")
        assert str(caught.value).startswith(message)
        assert caught.value.__cause__ is not None

    def test_duplicate_names(self):
        fresh = Registry()
        fresh.add_plugin("one", plugin(spec("same"), spec("mine")), "dist-one")
        fresh.add_plugin("two", plugin(spec("same")), "dist-two")
        assert list(fresh.specs) == ["mine"]
        with pytest.raises(convcore.BrokenBackend) as caught:
            fresh.check_name("same", "test")
        assert str(caught.value) == (
            "backend 'same' is provided twice, by dist-one and by dist-two; uninstall one (asked for by test)"
        )

    def test_entry_point_that_cannot_be_imported(self, monkeypatch):
        from importlib.metadata import EntryPoint

        points = [
            EntryPoint("gone", "no_such_module_of_ours", "convcore"),
            EntryPoint("fine", f"{__name__}:FINE", "convcore"),
        ]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
        fresh = Registry()
        fresh.discover()
        assert list(fresh.specs) == ["fine"]
        with pytest.raises(convcore.BrokenBackend) as caught:
            fresh.check_name("gone", "test")
        assert str(caught.value) == (
            "plugin 'gone' (no_such_module_of_ours) cannot be imported: "
            "ModuleNotFoundError: No module named 'no_such_module_of_ours' (asked for by test)"
        )
        assert [(info.name, info.state) for info in fresh.describe()] == [("fine", "ready"), ("gone", "broken")]

    def test_installing_one_changes_no_result(self, add):
        add("eager", plugin(spec("eager"), convcore_select=lambda problem, candidates: "eager"))
        assert ran_by() is None
        assert ran_by("auto") == 7

    def test_select_is_offered_what_accepts(self, add):
        offered = []
        add("monday", plugin(spec("monday", Refuses)))
        add("watch", plugin(spec("good"), convcore_select=lambda problem, candidates: offered.append(candidates)))
        assert ran_by("auto") is None
        assert "good" in offered[0]
        assert "monday" not in offered[0]

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (lambda: "monday", "ValueError: it chose 'monday', which is none of cpu, "),
            (lambda: 7, "ValueError: it chose 7, which is none of cpu, "),
            (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
            (lambda: sys.exit(3), "SystemExit: 3"),
        ],
        ids=["a refuser", "nonsense", "raises", "exits"],
    )
    def test_select_that_fails_is_not_asked_again(self, add, answer, said):
        asked = []
        add("monday", plugin(spec("monday", Refuses)))
        add("good", plugin(spec("good"), convcore_select=lambda problem, candidates: "good"))
        add("bad", plugin(convcore_select=lambda problem, candidates: asked.append(problem) or answer()))
        with pytest.warns(RuntimeWarning) as warned:
            assert ran_by("auto") == 7
        (message,) = [str(warning.message) for warning in warned]
        assert message.startswith(f"plugin 'bad' failed in convcore_select: {said}")
        assert message.endswith("; convcore does not ask it again")
        convcore.conv2d_grad_bias(X, backend="auto")
        assert len(asked) == 1
        (info,) = [info for info in convcore.backends() if info.name == "bad"]
        assert (info.state, info.traceback.splitlines()[-1].partition(",")[0]) == ("broken", said.partition(",")[0])

    @pytest.mark.parametrize("fail", [lambda: 1 / 0, lambda: sys.exit(3)])
    def test_observer_that_fails_is_not_told_again(self, add, fail):
        told, events = [], []
        add("good", plugin(convcore_observe=lambda event: events.append(event)))
        add("bad", plugin(convcore_observe=lambda event: told.append(event) or fail()))
        with pytest.warns(RuntimeWarning, match="^plugin 'bad' failed in convcore_observe: "):
            assert convcore.conv2d(X, W).shape == (1, 1, 6, 7)
        convcore.conv2d(X, W)
        assert (len(told), len(events)) == (1, 2)

    def test_observe(self, add):
        events = []
        add("watch", plugin(convcore_observe=lambda event: events.append(event)))
        convcore.conv2d(X, W, backend="numpy")
        convcore.conv2d(X, W, backend="numpy")
        assert [(event.backend, event.problem.op) for event in events] == [("numpy", "forward")] * 2
        assert all(event.seconds > 0 for event in events)

    def test_every_hook_is_documented(self):
        from convcore import hookspecs

        hooks = [value for name, value in vars(hookspecs).items() if name.startswith("convcore_")]
        assert len(hooks) == 3
        assert all(len(hook.__doc__.split()) > 8 for hook in hooks)


FINE = plugin(spec("fine"))


class TestExplain:
    def test_lists_every_candidate(self):
        found = convcore.explain("forward", X, W, backend=["numpy", "cpu"])
        assert [c.name for c in found.candidates] == ["numpy", "cpu"]
        assert (found.chosen, found.source) == ("numpy", "call argument")
        text = str(found)
        assert "setting: numpy,cpu (from call argument)" in text
        assert "  numpy: runs" in text
        assert f"algorithm: {found.algorithm}" in text

    def test_when_everybody_refuses(self):
        found = convcore.explain("forward", X, W, algorithm="magic", backend="numpy")
        assert found.chosen is None
        assert found.candidates[0].reason
        assert found.to_dict()["candidates"] == [{"name": "numpy", "reason": found.candidates[0].reason}]

    def test_shapes_do_as_well_as_arrays(self):
        by_shape = convcore.explain("conv2d", X.shape, W.shape, (1,), padding="same", backend="numpy")
        by_array = convcore.explain("conv2d", X, W, np.zeros(1, np.float32), padding="same", backend="numpy")
        assert by_shape == by_array

    def test_is_json(self):
        import json

        json.dumps(convcore.explain("forward", X, W).to_dict())

    @pytest.mark.parametrize("backend", ["numpy", "cpu"])
    def test_a_call_that_is_run_tells_its_steps(self, backend):
        import json

        by_array = convcore.explain("conv2d", X, W, backend=backend, run=True)
        by_shape = convcore.explain("conv2d", X.shape, W.shape, (1,), backend=backend, run=True)
        for found in (by_array, by_shape):
            (step,) = found.steps
            assert (step.name, step.bytes, step.count) == ("call", 0, 1)
            assert step.seconds > 0
            assert str(found).endswith(f"took {step.seconds * 1e3:.3f} ms: call, 1 times")
            assert json.loads(json.dumps(found.to_dict()))["steps"][0]["seconds"] == step.seconds
        assert convcore.explain("conv2d", X, W, backend=backend).steps == ()

    def test_what_is_run_is_the_call_with_its_arrays(self, monkeypatch):
        given = []
        monkeypatch.setattr(convcore.spi.Plan, "__call__", lambda self, *arrays: given.append(arrays))
        convcore.explain("grad_weight", X.T.copy().T, (1, 1, 6, 7), W.shape, backend="numpy", run=True)
        assert len(given) == 2
        for first, second, bias in given:
            np.testing.assert_array_equal(first, X)
            assert first.flags.c_contiguous
            assert second.shape == (1, 1, 6, 7)
            assert np.unique(second).size > 10
            assert bias is None

    def test_what_is_refused_is_not_run(self):
        assert convcore.explain("forward", X, W, algorithm="magic", backend="numpy", run=True).steps == ()


class TestPlanCache:
    def test_equal_values_of_another_type_are_still_refused(self):
        convcore.conv2d(X, W, stride=1, backend="numpy")
        for stride in (1.0, True):
            with pytest.raises(TypeError):
                convcore.conv2d(X, W, stride=stride, backend="numpy")

    def test_is_bounded(self):
        cache = select.BoundedCache()
        cache.limit = 4
        for number in range(10):
            cache[number] = number
        assert list(cache) == [6, 7, 8, 9]

    def test_same_problem_same_plan(self):
        assert convcore.plan("forward", X, W, backend="numpy") is convcore.plan(
            "conv2d", X, W, stride=(1, 1), padding="valid", backend="numpy"
        )

    def test_nan_fill_is_one_problem(self):
        plans = {id(convcore.plan("forward", X, W, padding=1, fill_value=float("nan"), backend="numpy")) for _ in "ab"}
        assert len(plans) == 1
