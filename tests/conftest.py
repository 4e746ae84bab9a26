"""What every test runs under: a store of its own, no network, no screen, one thread."""
import os
import runpy
import shutil
from pathlib import Path

import matplotlib
import pytest

from synthnb.base.environment import ROOT, one_thread

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # guards this process; PYTHONPATH brings it to those that tests start
os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["HF_HUB_OFFLINE"] = "1"
one_thread()
matplotlib.use("Agg")


@pytest.fixture(autouse=True, scope="session")
def store(tmp_path_factory):
    "A store that only this session sees, so that tests neither find nor leave artefacts."
    os.environ["SYNTHNB_HOME"] = str(tmp_path_factory.mktemp("store"))
    return Path(os.environ["SYNTHNB_HOME"])


@pytest.fixture(autouse=True, scope="session")
def no_reports_left():
    "The local reports that tests made go with them; those that were there before stay."
    from synthnb.report.pages import write_index
    local = ROOT / "reports" / "local"
    before = {*local.glob("*"), *local.glob("*/*")}
    yield
    for folder in sorted({*local.glob("*"), *local.glob("*/*")} - before):
        if folder.is_dir(): shutil.rmtree(folder)
    if local.exists(): write_index(local)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    "The file of a small study, for whole runs."
    from runs import STUDY
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(STUDY)
    return str(path)


@pytest.fixture(scope="session")
def undisturbed(study, tmp_path_factory):
    "What a run of the small study leaves that nobody disturbs."
    from runs import finish, results, start
    home = tmp_path_factory.mktemp("undisturbed")
    out, err = finish(start(study, home))
    return {"home": home, "out": out, "err": err, "results": results(study, home)}


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
