"""Broken plugins, all installed at once: each disables itself only, and `convcore doctor` shows where it failed."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

GOOD = """
    from convcore.spi import Backend, BackendSpec, Device, Plan, hookimpl

    @hookimpl
    def convcore_backends():
        return [BackendSpec({name!r}, __name__ + ":Mine")]

    class Mine(Backend):
        def plan(self, problem):
            return Filled(problem)

    class Filled(Plan):
        def run(self, first, second, bias, out):
            out[...] = 7
"""


def good(name, **changed):
    """Return a working module, with some of its text replaced."""
    code = textwrap.dedent(GOOD.format(name=name))
    for was, now in changed.pop("changes", {}).items():
        assert was in code
        code = code.replace(was, now)
    return code


def lists(answer):
    return good("unused", changes={"[BackendSpec('unused', __name__ + \":Mine\")]": answer})


def method(name, body):
    """Return a working module whose backend has one method more."""
    return good(name, changes={"class Mine(Backend):\n": f"class Mine(Backend):\n    {body}\n"})


# The code of each module, and the last line of what is said of it.  The backend has the module's name.
BROKEN = {
    "raises": ("def fail():\n    raise OSError('libraises.so is missing')\nfail()", "OSError: libraises.so is missing"),
    "exits": ("import sys\nsys.exit('no licence')", "SystemExit: no licence"),
    "panics": ("class Panic(BaseException): pass\nraise Panic('in Rust')", "panics.Panic: in Rust"),
    "syntax": ("def (", "SyntaxError: invalid syntax"),
    "needs": ("import a_library_nobody_has", "ModuleNotFoundError: No module named 'a_library_nobody_has'"),
    "computes": (
        "import convcore\nconvcore.backends()",
        "RuntimeError: a plugin must not compute, or ask for backends, while plugins are being discovered",
    ),
    "misspells": (
        good("x", changes={"def convcore_backends": "def convcore_backend"}),
        "pluggy._manager.PluginValidationError: unknown hook 'convcore_backend' in plugin",
    ),
    "unmarked": (
        good("x", changes={"@hookimpl\n": ""}),
        "ValueError: it implements no hook; mark those it has with @convcore.spi.hookimpl",
    ),
    "wronghook": (
        good("x", changes={"def convcore_backends()": "def convcore_backends(device)"}),
        "Argument(s) {'device'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "hookraises": (lists("1 / 0"), "ZeroDivisionError: division by zero"),
    "hookexits": (lists("[].append(exit(4))"), "SystemExit: 4"),
    "nothing": (lists("None"), "TypeError: convcore_backends() must return a list, got NoneType"),
    "endless": (lists("iter(int, 1)"), "TypeError: convcore_backends() must return a list, got callable_iterator"),
    "strings": (lists("['mine']"), "TypeError: convcore_backends() must list BackendSpec, got str"),
    "numbered": (lists("[BackendSpec(7, 'a:B')]"), "TypeError: BackendSpec.name must be a string, got 7"),
    "untupled": (
        lists("[BackendSpec('untupled', 'a:B', dtypes='float32')]"),
        "TypeError: BackendSpec.dtypes must be a tuple of strings, got 'float32'",
    ),
    "nowhere": (
        lists("[BackendSpec('nowhere', 'just_a_module')]"),
        "ValueError: BackendSpec.factory must read 'package.module:Class', got 'just_a_module'",
    ),
    "twice": (lists("[BackendSpec('twice', 'a:B')] * 2"), "ValueError: it lists a backend twice: twice"),
    "shadows": (good("cpu"), "ValueError: the built-in backend 'cpu' cannot be replaced"),
    # From here on the plugin is fine, and its backend is not.
    "classless": (
        good("classless", changes={":Mine": ":Ours"}),
        "AttributeError: module 'classless' has no attribute 'Ours'",
    ),
    "noengine": (
        good("noengine", changes={"Mine(Backend)": "Mine(str)"}),
        "TypeError: noengine:Mine must make a Backend, got Mine",
    ),
    "lateexit": (method("lateexit", "def __init__(self, device): exit(5)"), "SystemExit: 5"),
    "probeless": (
        method("probeless", "def probe(self): return []"),
        "TypeError: probe() must list Device, or say in words why there is none, got []",
    ),
    "probenone": (
        method("probenone", "def probe(self): pass"),
        "TypeError: probe() must list Device, or say in words why there is none, got None",
    ),
    "proberaises": (method("proberaises", "def probe(self): raise MemoryError('full')"), "MemoryError: full"),
}

# These can only be seen to fail when they are asked about a problem.
REFUSED = {
    "supportsraises": (
        method("supportsraises", "def supports(self, problem): return problem.no_such_thing"),
        "backend 'supportsraises' cannot say whether it supports this problem: AttributeError: "
        "'Problem' object has no attribute 'no_such_thing'",
    ),
    "supportsnone": (
        method("supportsnone", "def supports(self, problem): pass"),
        "supports() must return True or a reason in words, got None",
    ),
    "planless": (
        good("planless", changes={"return Filled(problem)": "pass"}),
        "backend 'planless' is broken: plan() must return a Plan, got NoneType",
    ),
}

HEALTHY = {"healthy": good("healthy"), "zealous": good("zealous")}

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("error")
import numpy as np
import convcore

x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))

def attempt(backend):
    try:
        return convcore.conv2d(x, w, backend=backend).flat[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

names = sys.argv[1].split(",")
answers = {name: attempt(name) for name in names}
print(json.dumps([attempt(None), attempt("auto"), attempt(["supportsnone", "healthy"]), answers]))
"""


def install(site, module, code, distribution=None, entry=None):
    """Put a distribution with one module and its entry point where Python finds it."""
    (site / f"{module}.py").write_text(code)
    info = site / f"{distribution or module}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or module}-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[convcore]\n{entry or module} = {module}\n")


def run(site, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVCORE")}
    environment |= {"PYTHONPATH": str(site), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=site)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder with all of them installed."""
    folder = tmp_path_factory.mktemp("site")
    for module, (code, _) in (BROKEN | REFUSED).items():
        install(folder, module, code)
    for module, code in HEALTHY.items():
        install(folder, module, code)
    # Two that provide the same backend, and one whose entry point has another's name.
    install(folder, "twin_one", good("twin"))
    install(folder, "twin_two", good("twin"))
    install(folder, "namesake", good("namesake"), entry="healthy")
    # One that is broken and has the name of a backend that is not.
    install(folder, "impostor", "raise OSError('gone')", entry="zealous")
    (folder / "zealous_dist-1.0.dist-info" / "entry_points.txt").write_text("[convcore]\nzz = zealous\n")
    return folder


@pytest.fixture(scope="module")
def answers(site):
    """What each backend answers, in one process with all of them."""
    result = run(site, "-c", SCRIPT, ",".join(["cpu", "numpy", *BROKEN, *REFUSED, *HEALTHY, "twin", "namesake"]))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def doctor(site):
    """What `convcore doctor` says of each, by name."""
    result = run(site, "-c", "from convcore.cli import main; main()", "doctor")
    assert (result.returncode, result.stderr) == (1, "")
    sections, name = {}, ""
    for line in result.stdout.splitlines():
        if not line.startswith(" "):
            name = line.partition(":")[0]
        sections.setdefault(name, []).append(line.strip())
    return sections


def test_the_others_run_as_if_the_broken_were_not_there(answers):
    default, auto, listed, by_name = answers
    assert (default, auto, listed) == (9, 9, 7)
    assert {name: by_name[name] for name in ("cpu", "numpy", *HEALTHY)} == {
        "cpu": 9, "numpy": 9, "healthy": 7, "zealous": 7
    }  # fmt: skip


@pytest.mark.parametrize("name", [*BROKEN])
def test_a_broken_one_that_is_named_raises(answers, name):
    said = answers[-1][name]
    assert said.startswith("BrokenBackend: ")
    assert f"'{name}'" in said
    assert BROKEN[name][1].removeprefix("panics.").removeprefix("pluggy._manager.") in said


@pytest.mark.parametrize("name", [*REFUSED])
def test_a_backend_that_answers_nonsense_raises_when_named(answers, name):
    assert REFUSED[name][1] in answers[-1][name]


def test_a_name_that_two_provide_is_nobodys(answers):
    assert answers[-1]["twin"].startswith(
        "BrokenBackend: backend 'twin' is provided twice, by twin_one-dist and by twin_two-dist; uninstall one"
    )


@pytest.mark.parametrize("name", [*BROKEN])
def test_the_doctor_shows_where_it_failed(site, doctor, name):
    state, *lines = doctor[name]
    assert state == f"{name}: broken"
    assert lines[0].startswith("why: ")
    assert any(line.startswith(f"| {BROKEN[name][1]}") for line in lines), lines
    assert lines[-1] == f"to do: reinstall or uninstall {name}-dist"
    traceback = [line for line in lines if line.startswith("|   File")]
    assert all(f'"{site}' in line or "pluggy" in line for line in traceback[:1]), traceback


def test_the_traceback_is_the_plugins_own(site, doctor):
    assert [line for line in doctor["raises"] if line.startswith("|")] == [
        "| Traceback (most recent call last):",
        f'|   File "{site}/raises.py", line 3, in <module>',
        "|     fail()",
        f'|   File "{site}/raises.py", line 2, in fail',
        "|     raise OSError('libraises.so is missing')",
        "| OSError: libraises.so is missing",
    ]


def test_namesakes_are_told_apart(answers, doctor):
    assert answers[-1]["healthy"] == answers[-1]["namesake"] == 7
    assert doctor["zealous"][0] == "zealous: ready"
    assert doctor["zealous (plugin)"][1].endswith("OSError: gone")


def test_the_table_has_everyone(site):
    result = run(site, "-c", "from convcore.cli import main; main()", "backends", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    states = {info["name"]: info["state"] for info in json.loads(result.stdout)}
    assert all(states[name] == "broken" for name in BROKEN)
    assert all(states[name] == "ready" for name in (*HEALTHY, *REFUSED, "cpu", "numpy"))
