"""Longer chains of artefacts: phases that are killed, scores that ask for a classifier, unequal pools, new metrics."""
import functools
import json
import os
import signal
from types import SimpleNamespace
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import tiny
from runs import Forked, command, finish, journal

from synthnb.artefacts.artefact import closure
from synthnb.artefacts.stages import ensure, fetch
from synthnb.artefacts.store import Store
from synthnb.base import plugins
from synthnb.base.errors import BadInput
from synthnb.base.options import Setting, override
from synthnb.engine.plan import missing_jobs
from synthnb.lab.study import open_experiment
from synthnb.learn import measures, train
from synthnb.report.tables import mixes_table

SMALL = Setting(dataset="digits", base=2, generator={"kind": "noise", "shard": 20}, mix={"synthetic": 2},
    recipe={"width": 8, "steps": 16, "batch": 16, "curve": 2}, judge={"width": 8, "steps": 4})
PHASES = {"mix.synthetic": 0, "phases": {"synthetic": {"mix": {"real": 0, "synthetic": 2}}, "real": {"lr": 0.001}}}
OWN = '''
import numpy as np
from torch import nn

def entropy(x, y, logits, real_logits):
    assert logits.shape == (len(y), 10) and real_logits.shape == (20, 10)
    return -logits.max(1)

def variance(x, y, checkpoint_logits):
    assert checkpoint_logits.shape == (3, len(y), 10)
    return checkpoint_logits.var(0).sum(1)

def moody(channels, size, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))
    if net[1].weight[0, 0].item() > 0.1: nn.init.constant_(net[1].weight, float("inf"))  # of four seeds one draws that
    return net

def twenty_or_sixty(scores, y, keep): return np.arange(len(y)) < (20 if scores.mean() < MEAN else 60)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    "A module of scores and a rule."
    def write(mean=0.5):
        (tmp_path / "own.py").write_text(OWN.replace("MEAN", str(mean)))
        plugins.add_module_folders(tmp_path)
    monkeypatch.setenv("SYNTHNB_MODULES", "")
    write()
    return write


def killed_at(step, phases, root):
    "Train in a process that dies by kill -9 once it has written so many checkpoints."
    def work():
        left, whole = iter(range(step)), train.save_checkpoint
        def save(*checkpoint):
            whole(*checkpoint)
            if next(left, None) is None: os.kill(os.getpid(), signal.SIGKILL)
        train.save_checkpoint = save
        train.train_classifiers = functools.partial(train.train_classifiers, every=0)
        ensure(phases, Store(root))
    process = get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("saved, there", [(5, 0), (11, 1)])  # eight steps in each phase
def test_a_training_in_two_phases_goes_on_after_kill_9_in_either(saved, there, seeds, tmp_path):
    cell = tiny.cell_of(override(SMALL, PHASES, ""), seeds, Store(tmp_path / "killed"))
    last = [cell.training(seed)["real"] for seed in seeds]
    killed_at(2 * saved + 1, last, cell.store.root)  # two networks a group, also for a seed alone
    made = [a for end in last for a in closure(end).values() if a.kind == "weights" and cell.store.has(a.key)]
    assert len(made) == there * len(seeds) and train.steps_done(cell.store.partial(
        cell.training(seeds[0])["real" if there else "synthetic"].key)) > 0
    ensure(last, cell.store)
    whole = Store(tmp_path / "whole")
    ensure(last, whole)
    for phase in (a for end in last for a in closure(end).values() if a.kind == "weights"):
        back, straight = fetch(phase, cell.store), fetch(phase, whole)
        assert all(np.array_equal(back["weights"][name], w) for name, w in straight["weights"].items())
        assert back["curve"].equals(straight["curve"]) and back["log"].equals(straight["log"])


STUDY = {"name": "asking", "question": "one classifier for all?", "without_controls": {"filter": "a test"},
    "arms": {"real": {}, "chosen": {"mix.synthetic": 2, "filter": {"score": "own:entropy"}}}}


def test_a_score_that_asks_for_a_classifier_has_one_job_for_all_seeds(own, tmp_path):
    (tmp_path / "asking.yaml").write_text(json.dumps(STUDY))
    words = (str(tmp_path / "asking.yaml"), "--on", "digits", "--scale", "debug")
    home = tmp_path / "store"
    study = open_experiment(words[0], "digits", scale="debug", store=Store(home))
    trained = [job for job in missing_jobs(study) if job.kind == "weights"]
    assert [len(job.target) for job in trained] == [2] and {a.seed for a in trained[0].target} == {0, 1}
    done = command("run", *words, home=home)
    assert done.returncode == 0, done.stderr
    assert set(journal(home).values()) == {1} and Counter(key.split("-")[0] for key in journal(home))["weights"] == 4
    chosen = study.cells["chosen"]
    assert chosen.of_kind(0, "scores")[0].inputs["classifier"][0].key == study.cells["real"].training(0)["train"].key


def test_a_classifier_that_fails_for_one_seed_leaves_the_others_theirs(own, tmp_path):
    common = {"recipe.model": "own:moody", "vary": ["training"]}
    (tmp_path / "asking.yaml").write_text(json.dumps(STUDY | {"common": common}))
    words = (str(tmp_path / "asking.yaml"), "--on", "digits", "--scale", "debug", "--seeds", "4")
    _, said = finish(Forked("run", *words, home=tmp_path / "store"), code=1)
    study = open_experiment(words[0], "digits", 4, "debug", store=Store(tmp_path / "store"))
    assert {arm: len(values) for arm, values in study.values().items()} == {"real": 3, "chosen": 3}
    assert "NotFinite" in said and len(study.missing()) == 2


def test_a_score_that_asks_for_checkpoints_gets_those_that_the_recipe_keeps(own, tmp_path):
    asking = override(SMALL, {"recipe.checkpoints": 3, "filter": {"score": "own:variance"}}, "")
    cell = tiny.cell_of(asking, (0,), Store(tmp_path))
    assert len(cell.pool(0)) == 40 and cell.candidates(0).provenance.filter_score.nunique() > 40


def test_seeds_with_unequal_pools_each_draw_from_all_of_theirs(own, tmp_path):
    filter = {"score": "random", "rule": "own:twenty_or_sixty", "fill": False}
    setting = override(SMALL, {"mix.synthetic": 6, "filter": filter}, "")
    means = [np.concatenate([fetch(a, Store(tmp_path))["scores"] for a in cell.of_kind(seed, "scores")]).mean()
        for cell in [tiny.cell_of(setting, (0, 1), Store(tmp_path))] for seed in (0, 1)]
    own(sum(means) / 2)
    cell = tiny.cell_of(setting, (0, 1), Store(tmp_path))
    cell.make()
    pools = cell.mix().pool_synthetic.tolist()
    assert sorted(pools) == [20, 60] and pools == [20 if mean < sum(means) / 2 else 60 for mean in means]
    experiment = SimpleNamespace(cells={"arm": cell}, spec=SimpleNamespace(arms=["arm"]))
    assert "(20 to 60)" in mixes_table(experiment, cell.results())
    for seed, n in zip((0, 1), pools):
        x, _, synthetic = cell.training_images(seed)
        assert synthetic.sum() == n and len(cell.pool(seed)) == n and len(x) == 20 + n
        # sixteen batches of sixteen: every image is drawn three times or more
        assert cell.mix().draws_synthetic[seed] >= 3 * n


def test_a_new_metric_remakes_measures_only(tmp_path, monkeypatch):
    store = Store(tmp_path)
    tiny.cell_of(SMALL, (0, 1), store).make()
    before = set(store.keys())
    more = measures.MEASURES | {"more": measures.Measure(1, ("weights",), "synthnb.learn.measures:batches")}
    monkeypatch.setattr(measures, "MEASURES", more)
    monkeypatch.setattr("synthnb.lab.arms.MEASURES", more)
    cell = tiny.cell_of(SMALL, (0, 1), store)
    assert not cell.store.has(cell.ends[0].key)
    cell.make()
    assert Counter(key.split("-")[0] for key in set(store.keys()) - before) == {"measure": 2, "rows": 2}


def test_dropping_everything_or_nothing_is_an_alias_and_said_so(tmp_path):
    arms = {"real": {}, "all": {"mix.synthetic": 2}}
    arms |= {f"keep {keep}": {"mix.synthetic": 2, "filter": {"score": "random", "keep": keep}} for keep in (0, 0.5, 1)}
    (tmp_path / "ends.yaml").write_text(json.dumps({"name": "ends", "question": "?", "arms": arms,
        "contrasts": [["keep 0", "real"], ["keep 0.5", "all"]]}))
    home = tmp_path / "store"
    study = open_experiment(str(tmp_path / "ends.yaml"), "digits", scale="debug", store=Store(home))
    assert study.aliases == {"keep 0": "real", "keep 1": "all"}
    done = command("run", str(tmp_path / "ends.yaml"), "--on", "digits", "--scale", "debug", home=home)
    assert done.returncode == 0, done.stderr
    assert set(journal(home).values()) == {1} and study.values()["keep 0"] == study.values()["real"]
    page = done.stdout.split("report: ")[1].splitlines()[0]
    assert "keep 0 is the same training as real" in Path(page).read_text()


def test_phases_are_options_by_name(tmp_path):
    phases = {"synthetic": {"mix": {"real": 0, "synthetic": 2}}, "real": {"steps": 0.5}}
    study = {"name": "named", "question": "?", "common": {"phases": phases},
        "arms": {"half": {}, "quarter": {"phases.real.steps": 0.25}}}
    (tmp_path / "named.yaml").write_text(json.dumps(study))
    opened = functools.partial(open_experiment, str(tmp_path / "named.yaml"), "digits", scale="debug",
        store=Store(tmp_path / "store"))
    assert opened().differences() == {"phases.real.steps": {"half": 0.5, "quarter": 0.25}}
    slower = opened(overrides={"phases.real.lr": 0.001}).cells["half"].training(0)
    assert slower["real"].spec["recipe"]["lr"] == 0.001 != slower["synthetic"].spec["recipe"]["lr"]
    with pytest.raises(BadInput, match="vary 'phases.real.steps'"): opened(overrides={"phases.real.steps": 0.1})
    (tmp_path / "named.yaml").write_text(json.dumps(study | {"common": {}, "arms": {"joint": {}, "two": {
        "phases": phases}}}))
    with pytest.raises(BadInput, match="vary 'phases' .two."): opened(overrides={"phases.real.steps": 0.1})
