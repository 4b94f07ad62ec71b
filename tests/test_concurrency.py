"""The choice of a backend is right in threads, tasks, pools, processes, and a notebook's cells."""

import asyncio
import contextvars
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbclient
import nbformat
import numbered
import pytest
from numbered import NAMES, answer

import convcore
from convcore import calls, config, select
from convcore.registry import registry

START_METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture(autouse=True)
def plugin(monkeypatch, tmp_path):
    """Install the numbered backends here and in child processes, and start from no setting."""
    monkeypatch.delenv(config.VARIABLE, raising=False)
    known = registry()
    info = tmp_path / "numbered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numbered\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[convcore]\nnumbered = numbered\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent)]))
    known.add_plugin("numbered", numbered)
    select.cache.clear()
    yield
    convcore.set_backend(None)
    known.remove_plugin("numbered")
    select.cache.clear()


@pytest.fixture
def hurried(monkeypatch):
    """Switch threads as often as Python can, and have every second plan forgotten."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    monkeypatch.setattr(select.BoundedCache, "limit", 3)
    yield
    sys.setswitchinterval(interval)


def number_of(name):
    return int(name[-1])


def in_threads(count, function):
    """Run function(0), function(1), … each in a thread, all at once; return the results, raise what was raised."""
    barrier = threading.Barrier(count)

    def start(index):
        barrier.wait()
        return function(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


# ---------------------------------------------------------------- threads


def test_threads_with_scopes_and_arguments_do_not_mix(hurried):
    def work(seed):
        rng = random.Random(seed)
        for _ in range(300):
            outer, inner, named = rng.choices(NAMES, k=3)
            size = rng.randint(1, 6)
            with convcore.use(outer):
                assert answer(size) == number_of(outer)
                with convcore.use(inner):
                    assert answer(size) == number_of(inner)
                    assert answer(size, backend=named) == number_of(named)
                assert answer(size) == number_of(outer)

    in_threads(8, work)


def test_threads_follow_the_process(hurried):
    """While one thread changes the process's backend the others get an old or the new one, and at the end the last."""
    ended = threading.Event()

    def work(index):
        if index == 0:
            for number in range(400):
                convcore.set_backend(NAMES[number % 2])
            convcore.set_backend(NAMES[2])
            ended.set()
        while not ended.is_set():
            assert answer(index) in (1, 2, 3)
        return [answer(size) for size in range(1, 8)]

    convcore.set_backend(NAMES[0])
    assert in_threads(6, work) == [[3] * 7] * 6
    convcore.set_backend(NAMES[0])
    assert [answer(size) for size in range(1, 8)] == [1] * 7


def test_a_change_in_the_middle_of_a_call_is_not_remembered(monkeypatch):
    """Another thread changes the backend between a call's look at the setting and its plan."""
    first_plan = calls.first_plan

    def late(*arguments):
        convcore.set_backend("number2")
        return first_plan(*arguments)

    convcore.set_backend("number1")
    with monkeypatch.context() as patched:
        patched.setattr(calls, "first_plan", late)
        assert answer() == 1
    assert answer() == 2
    convcore.set_backend("number1")
    assert answer() == 1


def test_threads_write_into_a_full_cache(hurried):
    cache = select.BoundedCache()

    def work(index):
        for number in range(20_000):
            cache[index, number % 7] = number

    in_threads(8, work)
    assert len(cache) <= 3 + 8


def test_threads_that_are_the_first_to_ask(monkeypatch):
    """Discovery and the making of a backend happen once, however many ask at once."""
    made = []
    monkeypatch.setattr("convcore.registry._registry", None)
    monkeypatch.setattr(numbered.Numbered, "__init__", lambda self, device: made.append(device))

    found = in_threads(8, lambda index: (registry(), registry().backend(NAMES[index % 2])))
    assert len({id(known) for known, _ in found}) == 1
    assert len({id(backend) for _, backend in found}) == 2
    assert made == ["", ""]


def test_a_thread_pool_has_the_process_and_not_the_scope():
    convcore.set_backend("number1")
    with convcore.use("number2"), ThreadPoolExecutor(2) as pool:
        context = contextvars.copy_context()
        assert pool.submit(context.run, answer).result() == 2
        if not getattr(sys.flags, "thread_inherit_context", 0):
            assert pool.submit(answer).result() == 1
        assert answer() == 2


# ---------------------------------------------------------------- asyncio


def test_tasks_do_not_mix():
    async def task(seed):
        rng = random.Random(seed)
        for _ in range(20):
            outer, inner = rng.choices(NAMES, k=2)
            with convcore.use(outer):
                await asyncio.sleep(0)
                assert answer() == number_of(outer)
                assert await asyncio.to_thread(answer) == number_of(outer)
                with convcore.use(inner):
                    child = asyncio.create_task(asyncio.sleep(0, answer()))
                    await asyncio.sleep(rng.random() / 1000)
                    assert answer() == number_of(inner) == await child
                assert answer() == number_of(outer)

    async def all_tasks():
        await asyncio.gather(*(task(seed) for seed in range(30)))
        assert answer() == 4

    convcore.set_backend("number4")
    asyncio.run(all_tasks())


def test_a_task_keeps_the_scope_it_was_started_in():
    async def child(ready):
        await ready.wait()
        return answer()

    async def parent():
        ready = asyncio.Event()
        with convcore.use("number2"):
            task = asyncio.create_task(child(ready))
        ready.set()
        assert answer() == 1
        return await task

    convcore.set_backend("number1")
    assert asyncio.run(parent()) == 2


# ---------------------------------------------------------------- processes


def run(code):
    """Run code in a process of its own, where no library has threads that a fork would lose; return what it prints."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize("method", START_METHODS)
def test_a_process_pool(method, monkeypatch):
    monkeypatch.setenv(config.VARIABLE, "number2")
    assert run(f"import numbered; print(numbered.answers_of_processes({method!r}))") == "{(2, 3, 4)}\n"


FORKED = """
import convcore, numbered
convcore.set_backend("number1")
print(numbered.answers_of_processes("fork"))
with convcore.use("number2"):
    print(numbered.answers_of_processes("fork"))
"""


@pytest.mark.skipif("fork" not in START_METHODS, reason="this platform does not fork")
def test_a_forked_process_goes_on_with_the_settings_of_its_parent():
    assert run(FORKED) == "{(1, 3, 4)}\n{(2, 3, 4)}\n"


FORKS = """
import os, threading, time
from convcore import registry as module, select
from numbered import NAMES, answer

answer(backend=NAMES[0])  # Python's own import locks are not renewed: no import may be under way
ended = threading.Event()

def plan_again():
    while not ended.is_set():
        select.cache.clear()
        module.registry()._instances.clear()
        answer(backend=NAMES[0])

def hold_the_locks():
    while not ended.is_set():
        with module._loading, module.registry()._lock:
            time.sleep(0.001)
        time.sleep(0)

threads = [threading.Thread(target=target) for target in (plan_again, hold_the_locks)]
for thread in threads:
    thread.start()
failed = 0
for _ in range(40):
    child = os.fork()
    if not child:
        module._registry._instances.clear()
        os._exit(answer(backend=NAMES[1]) != 2)
    failed += os.waitpid(child, 0)[1] != 0
ended.set()
for thread in threads:
    thread.join()
print(failed, "children failed")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_child_forked_while_threads_hold_locks_is_not_stuck():
    assert run(FORKS) == "0 children failed\n"


# ---------------------------------------------------------------- notebooks

CELLS = [
    "import asyncio, os, threading\nimport convcore\nfrom numbered import answer",
    "convcore.set_backend('number1')\nanswer()",
    "answer()",
    "with convcore.use('number2'):\n    scoped = answer()\nscoped, answer()",
    """
async def task(name):
    with convcore.use(name):
        await asyncio.sleep(0.01)
        return answer()

await asyncio.gather(task('number3'), task('number4'), asyncio.to_thread(answer))
""",
    """
heard, go = [], threading.Event()

def work():
    with convcore.use('number3'):
        go.wait()
        heard.append(answer())

thread = threading.Thread(target=work)
thread.start()
answer()
""",
    "convcore.set_backend('number4')\ngo.set()\nthread.join()\nheard, answer()",
    "with convcore.use('number2'):\n    raise RuntimeError('a cell that fails')",
    "answer()",
    "convcore.set_backend(None)\nos.environ['CONVCORE_BACKEND'] = 'number2'\nanswer()",
    "%env CONVCORE_BACKEND=number3\nanswer()",
]
SHOWN = [None, "1", "1", "(2, 1)", "[3, 4, 1]", "1", "([3], 4)", None, "4", "2", "3"]


def test_cells_of_a_notebook(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = nbclient.NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=300)
    client.execute(cwd=str(tmp_path))
    shown = [
        next((out["data"]["text/plain"] for out in cell.outputs if out.output_type == "execute_result"), None)
        for cell in notebook.cells
    ]
    assert shown == SHOWN, json.dumps([cell.outputs for cell in notebook.cells], default=str)
