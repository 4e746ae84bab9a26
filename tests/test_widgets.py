"""What notebooks show of a run, and exports to MLflow and Weights & Biases with the libraries themselves."""
import threading
from types import SimpleNamespace
from unittest import mock

import IPython
import pytest

from synthnb.artefacts.store import Store
from synthnb.base.environment import ROOT
from synthnb.interface import api
from synthnb.interface.api import Study, in_notebook
from synthnb.interface.export import finished_runs, to_mlflow, to_wandb


@pytest.fixture(scope="module")
def finished(pair, tmp_path_factory):
    "A study of two arms, one of them made."
    study = Study(pair, on="digits-wild", scale="debug", store=Store(tmp_path_factory.mktemp("finished")))
    study.cells["real"].make()
    return study


def test_a_run_in_a_notebook_shows_a_bar_and_links_the_report(finished, monkeypatch):
    shown, states = [], []
    class Handle:
        def update(self, html): states.append(html.data)
    def display(html, display_id):
        shown.append(html.data)
        return Handle()
    def run(*args, **options):
        finished.folder().mkdir(parents=True, exist_ok=True)
        (finished.folder() / "index.html").write_text("")
        return [["nothing"]]
    monkeypatch.chdir(ROOT / "nbs")
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    with mock.patch.object(api, "run_all", run): assert finished.run() == ["nothing"]
    store, keys = finished.experiment.store, finished.experiment.artefacts
    assert len(shown) == 1 and "href" not in shown[0]
    assert f"{sum(map(store.has, keys))} of {len(keys)} artefacts" in states[-1]
    assert 'href="../reports/local/digits-wild/small' in states[-1]


def test_a_run_outside_a_notebook_shows_no_bar(finished):
    assert not in_notebook()
    with mock.patch.object(api, "run_all", lambda *_, **__: [[]]), mock.patch.object(
            api, "shown_progress", side_effect=AssertionError): assert finished.run() == []


def test_a_bar_stops_with_the_run(finished, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda html, display_id: mock.Mock())
    with pytest.raises(KeyboardInterrupt), api.shown_progress(finished): raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if "follow" in thread.name]


def test_mlflow_has_each_seed_once(finished, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/runs.db"
    made = [*finished_runs(finished)]
    assert to_mlflow(finished, uri) == len(made) and to_mlflow(finished, uri) == 0
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("small on digits-wild").experiment_id])
    assert {run.data.tags["key"] for run in runs} == {run.tags["key"] for run in made} and len(runs) == len(made)
    one = next(run for run in runs if run.info.run_name == "real, seed 0")
    assert one.data.params["recipe.steps"] == "24"
    assert one.data.metrics["test/top1"] == finished.experiment.values()["real"][0]
    curve = client.get_metric_history(one.info.run_id, "val/top1")
    assert [point.step for point in curve] == [12, 24]


def test_wandb_has_each_seed_once(finished, tmp_path):
    pytest.importorskip("wandb")
    made = [*finished_runs(finished)]
    assert to_wandb(finished, "digits", tmp_path) == len(made) and to_wandb(finished, "digits", tmp_path) == 0
    folders = sorted(folder.name.rpartition("-")[2] for folder in (tmp_path / "wandb").iterdir())
    assert folders == sorted(run.id for run in made)
    assert all([*folder.glob("run-*.wandb")] for folder in (tmp_path / "wandb").iterdir())
