"""What every test runs under: a store of its own, no network, no screen, one thread."""
import os
import runpy
from pathlib import Path

import matplotlib
import pytest

from synthnb.core import one_thread

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


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    "The file of a small study, for whole runs."
    from runs import STUDY, forget_reports
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(STUDY)
    yield str(path)
    forget_reports("small")


@pytest.fixture(scope="session")
def undisturbed(study, tmp_path_factory):
    "What a run of the small study leaves that nobody disturbs."
    from runs import finish, results, start
    home = tmp_path_factory.mktemp("undisturbed")
    out, err = finish(start(study, home))
    return {"home": home, "out": out, "err": err, "results": results(study, home)}
