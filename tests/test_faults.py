"""What goes wrong in one place stays there: a seed that gives NaN, memory that runs out, cells and generators that
hang."""
import os
import subprocess
from pathlib import Path

import pytest
from runs import ON, Forked, command, finish, journal

from synthnb.artefacts.store import Store
from synthnb.engine.plan import repeat_command, status
from synthnb.lab.study import open_experiment

FAULTS = '''
import os, signal, time
import numpy as np, torch
from torch import nn

def _linear(channels, size, classes): return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))

def moody(channels, size, classes):
    net = _linear(channels, size, classes)
    if net[1].weight[0, 0].item() > 0.1: nn.init.constant_(net[1].weight, float("inf"))  # of four seeds one draws that
    return net

def greedy(channels, size, classes): os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is short

def slow(channels, size, classes): time.sleep(600)

def stuck(y, rng): time.sleep(600)

def glutton(y, rng): os.kill(os.getpid(), signal.SIGKILL)
'''
STUDY = """
name: faults
question: does one failure leave the others standing?
common: {vary: [training]}
arms:
  hangs in training: {recipe.model: "faults:slow"}
  hangs in generation: {mix.synthetic: 1, generator: {kind: own, function: "faults:stuck"}}
  out of memory in generation: {mix.synthetic: 1, generator: {kind: own, function: "faults:glutton"}}
  out of memory in training: {recipe.model: "faults:greedy"}
  one bad seed: {recipe.model: "faults:moody"}
  good: {}
contrasts: [[one bad seed, good]]
"""
SEEDS = ("--seeds", "4")
LIMIT = "TimeoutError: took longer than the time limit of 12 s"
KILLED = "KernelDied: the kernel was killed, probably out of memory"
DIED = "RuntimeError: its worker died 3 times, probably out of memory"

@pytest.fixture(scope="module")
def faults(once):
    "A run in which nearly everything goes wrong."
    def run(place):
        (place / "faults.py").write_text(FAULTS)
        (place / "faults.yaml").write_text(STUDY)
        words = ("run", "faults.yaml", *ON, *SEEDS, "--time-limit", "0.2")
        out, err = finish(Forked(*words, home=place / "store", cwd=place), code=1)
        return {"place": str(place), "out": out, "err": err}
    found = once("faults", run)
    place = Path(found["place"])
    experiment = open_experiment(str(place / "faults.yaml"), "digits", 4, "debug", store=Store(place / "store"))
    return found | {"place": place, "experiment": experiment,
        "status": {row["arm"]: row for row in status(experiment)}}

def errors(faults, arm):
    "What is said of each failed seed of an arm."
    return {failure["seed"]: failure["error"] for failure in faults["status"][arm]["failed"]}

def test_the_other_arms_and_seeds_stand(faults):
    done = {arm: row["done"] for arm, row in faults["status"].items()}
    assert done["good"] == 4 and done["one bad seed"] == 3 and sum(done.values()) == 7
    assert "On digits, “one bad seed” against “good”" in faults["out"] and "3 seeds" in faults["out"]
    assert max(journal(faults["place"] / "store").values()) == 1

def test_every_missing_seed_has_its_reason(faults):
    bad = errors(faults, "one bad seed")
    assert len(bad) == 1 and "NotFinite" in next(iter(bad.values()))
    assert errors(faults, "out of memory in training") == dict.fromkeys(range(4), KILLED)
    assert errors(faults, "hangs in training") == dict.fromkeys(range(4), LIMIT)
    assert set(errors(faults, "hangs in generation").values()) == {LIMIT}
    assert set(errors(faults, "out of memory in generation").values()) == {DIED}

def test_run_status_and_page_tell_them(faults):
    out = command("status", home=faults["place"] / "store", cwd="/").stdout
    page = Path(faults["out"].split("report: ")[1].splitlines()[0]).read_text()
    for text in (LIMIT, KILLED, DIED, "NotFinite"):
        assert text in out and text in faults["err"] and text.partition(": ")[2] in page
    assert "7 of 24 arm-seeds done" in out and "17 failed; not running" in out
    for arm in ("one bad seed", "out of memory in training", "hangs in training"):
        notebook = faults["experiment"].cells[arm].notebook
        assert f"notebook: {notebook}" in out and notebook.exists(), "an executed notebook shows where it ended"
    assert "took longer than the time limit of 12 s" in faults["experiment"].cells[
        "hangs in training"].notebook.read_text()

def test_the_command_by_hand_works_as_it_is_printed(faults):
    failure = faults["status"]["one bad seed"]["failed"][0]
    printed = command("status", home=faults["place"] / "store").stdout
    line = next(line for line in printed.splitlines() if line.strip() == f"by hand: {failure['command']}").partition(
        "by hand: ")[2]
    env = {name: value for name, value in os.environ.items() if name != "SYNTHNB_HOME"}
    failing = subprocess.run(["bash", "-c", line], cwd="/", env=env, capture_output=True, text=True)
    assert failing.returncode != 0 and "NotFinite" in failing.stderr
    good = subprocess.run(["bash", "-c", repeat_command(faults["experiment"], "good", [2])], cwd="/", env=env,
        capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert list(faults["experiment"].cells["good"].notebook.parent.glob("good-*-by-hand.ipynb"))
