"""What every test runs under: a store of its own, no network, no screen, one thread; what xdist's workers share."""
import gc
import json
import os
import runpy
import shutil
from multiprocessing import forkserver
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # guards this process; PYTHONPATH brings it to those that tests start
os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *filter(None, [os.environ.get("PYTHONPATH")])])

import matplotlib
import pytest
from filelock import FileLock

from synthnb.base.environment import ROOT, one_thread
from synthnb.engine.kernels import start_fork_server

os.environ["HF_HUB_OFFLINE"] = "1"
one_thread()
matplotlib.use("Agg")


@pytest.fixture(autouse=True, scope="session")
def store(tmp_path_factory):
    "A store that only this session sees, so that tests neither find nor leave artefacts."
    os.environ["SYNTHNB_HOME"] = str(tmp_path_factory.mktemp("store"))
    return Path(os.environ["SYNTHNB_HOME"])


@pytest.fixture(autouse=True, scope="session")
def few_count():
    "Coverage counts this process; others only where a test asks with `runs.counting`, as it costs a third more."
    if "COVERAGE_PROCESS_CONFIG" in os.environ: os.environ["COUNTING"] = os.environ.pop("COVERAGE_PROCESS_CONFIG")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    "Start one fork server for xdist's workers: its imports take nine CPU seconds."
    few, kept = os.environ.pop("COVERAGE_PROCESS_CONFIG", None), os.dup(2)  # it would count
    with open(os.devnull, "w") as nowhere: os.dup2(nowhere.fileno(), 2)  # where Dask's workers by hand log
    try: start_fork_server()
    finally: os.dup2(kept, 2)
    os.close(kept)
    if few: os.environ["COVERAGE_PROCESS_CONFIG"] = few
    node.workerinput["fork_server"] = {name: value for name, value in vars(forkserver._forkserver).items()
        if name in ("_forkserver_address", "_forkserver_authkey", "_forkserver_alive_fd")} | {"pid": os.getpid()}


@pytest.fixture(autouse=True, scope="session")
def fork_server(request):
    "The fork server of the process that started this worker; it ends when nobody holds its pipe any more."
    if not (told := getattr(request.config, "workerinput", {}).get("fork_server")): return
    pipe = os.open(f"/proc/{told.pop('pid')}/fd/{told['_forkserver_alive_fd']}", os.O_WRONLY)
    vars(forkserver._forkserver).update(told | {"_forkserver_alive_fd": pipe})


def pytest_collection_finish():
    "What was imported stays: a collection of garbage that looked at all of it would take half a second."
    gc.freeze()


def pytest_unconfigure():
    "Nothing is kept from the last collection of garbage, or nanobind would report it as leaked."
    gc.unfreeze()


# by seconds, first those that wait for others than the processor; whole files share what their fixtures make, and
# test_four and test_readme, of different workers, the undisturbed run, which the first to come makes
LONG = (
    "test_faults.py", "test_glyph.py", "test_workers.py::test_four", "generate/05_diffusion",
    "test_workers.py::test_a_run", "engine/02_kernels", "test_workers.py::test_a_scheduler", "test_readme.py",
    "test_disk.py::test_a_disk", "test_run.py::test_kill", "lab/03_cell", "test_own.py::test_a_new",
    "test_run.py::test_two", "test_bench.py")


@pytest.hookimpl(trylast=True)  # what is deselected is gone
def pytest_collection_modifyitems(items):
    "Each of xdist's two workers is given a half: let it begin with every second one of what takes long."
    rank = {item: k for item in items for k, name in enumerate(LONG) if name in item.nodeid}
    halves = [[item for item in sorted(rank, key=rank.get) if rank[item] % 2 == k] for k in (0, 1)]
    rest = [item for item in items if item not in rank]
    middle = max(0, len(items) // 2 - len(halves[0]))
    items[:] = [*halves[0], *rest[:middle], *halves[1], *rest[middle:]]


LOCAL = ROOT / "reports" / "local"
BEFORE = pytest.StashKey[set]()


def pytest_sessionstart(session):
    session.config.stash[BEFORE] = {*LOCAL.glob("*"), *LOCAL.glob("*/*")}


@pytest.hookimpl(trylast=True)  # after the workers of xdist
def pytest_sessionfinish(session):
    "The local reports that tests made go with them; those that were there before stay."
    from synthnb.pages.index import write_index
    if hasattr(session.config, "workerinput"): return  # other workers may still write
    for folder in sorted({*LOCAL.glob("*"), *LOCAL.glob("*/*")} - session.config.stash[BEFORE]):
        if folder.is_dir(): shutil.rmtree(folder)
    if LOCAL.exists(): write_index(LOCAL)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    "once(name, make): what `make(folder)` gives, made by the first worker of xdist that asks; the others wait for it."
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    def get(name, make):
        told = common / f"{name}.json"
        with FileLock(f"{told}.lock"):
            if not told.exists():
                (common / name).mkdir(exist_ok=True)
                told.write_text(json.dumps(make(common / name)))
        return json.loads(told.read_text())
    return get


@pytest.fixture(scope="session")
def study(once):
    "The file of a small study, for whole runs."
    from runs import STUDY
    return once("study", lambda folder: written(folder, STUDY))


@pytest.fixture(scope="session")
def pair(once):
    "The file of a study of two of its arms, where more would only take longer."
    from runs import PAIR
    return once("pair", lambda folder: written(folder, PAIR))


def written(folder, text):
    (folder / "small.yaml").write_text(text)
    return str(folder / "small.yaml")


@pytest.fixture(scope="session")
def undisturbed(once, study):
    "What a run of the small study leaves that nobody disturbs; who changes something takes a copy of its store."
    from runs import counting, finish, results, start
    def run(home):
        out, err = finish(start(study, home, env=counting()))
        return {"home": str(home), "out": out, "err": err, "results": results(study, home)}
    found = once("undisturbed", run)
    return found | {"home": Path(found["home"])}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    "Say after everything else where the report was not tested in a browser, and why."
    yield
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "test_report_browser" in r.nodeid]
    if not skipped: return
    terminalreporter.section(f"{len(skipped)} browser tests DID NOT RUN", "!", red=True, bold=True)
    why = skipped[0].longrepr[2].removeprefix("Skipped: ")
    terminalreporter.line(f"The report was not tested in a browser: {why}", red=True, bold=True)
    terminalreporter.section("", "!")
