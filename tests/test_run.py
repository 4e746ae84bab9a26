"""Whole runs at debug scale: killed, repeated, damaged, side by side, with an arm that fails."""
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from runs import ON, Forked, finish, journal, of_pair, results, run, until

from synthnb.base.environment import ROOT
from synthnb.artefacts.store import Store


@pytest.fixture
def again(undisturbed, tmp_path):
    "A copy of the undisturbed store."
    return shutil.copytree(undisturbed["home"], tmp_path / "again")

def test_a_run_answers(undisturbed):
    out = undisturbed["out"]
    assert "On digits, “real + 1x”" in out and "report: " in out and "real x2" in out
    assert Path(out.split("report: ")[1].splitlines()[0]).exists()
    assert "published evidence" in out
    assert undisturbed["results"].count("\n") > 200
    assert max(journal(undisturbed["home"]).values()) == 1

def test_the_progress_names_what_runs_and_what_is_left(undisturbed):
    assert "running: " in undisturbed["err"] and "left: " in undisturbed["err"]

def test_a_finished_run_again_executes_nothing(study, undisturbed, again):
    before, cpu = journal(again), sum(os.times()[2:4])
    out, err = run(study, again)
    assert sum(os.times()[2:4]) - cpu < 15, "processor time: a wall clock would measure the tests beside"
    assert journal(again) == before and "running: " not in err
    assert out.split("report: ")[0] == undisturbed["out"].split("report: ")[0]

def test_kill_9_in_the_middle_and_run_again(study, undisturbed, tmp_path):
    process = Forked("run", study, *ON, home=tmp_path, own_server=True)
    until(lambda: any(key.startswith("rows-") for key in Store(tmp_path).keys()), process)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(family, timeout=30)[1], "kernels notice that their parent died"
    finished = {key: (Store(tmp_path).folder(key) / "manifest.json").stat().st_mtime_ns
        for key in Store(tmp_path).keys()}
    assert 0 < sum(key.startswith("rows-") for key in finished) < 8
    run(study, tmp_path)
    now = {key: (Store(tmp_path).folder(key) / "manifest.json").stat().st_mtime_ns for key in finished}
    assert now == finished, "something finished was made again"
    assert max(journal(tmp_path).values()) == 1
    assert (results(study, tmp_path)
        == undisturbed["results"]), "a killed run must end like an undisturbed one, in another store"

def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(pair, undisturbed, tmp_path):
    process = Forked("run", pair, *ON, home=tmp_path, own_server=True)
    until((tmp_path / "journal.txt").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = finish(process, 130)
    assert "goes on from here" in err and "Traceback" not in err
    run(pair, tmp_path)
    assert max(journal(tmp_path).values()) == 1 and results(pair, tmp_path) == of_pair(undisturbed["results"])

def test_two_runs_at_once_share_the_work(pair, undisturbed, tmp_path):
    both = [Forked("run", pair, *ON, home=tmp_path) for _ in range(2)]
    for process in both: finish(process)
    assert max(journal(tmp_path).values()) == 1, "something was made twice"
    assert results(pair, tmp_path) == of_pair(undisturbed["results"])

def test_a_damaged_artefact_is_noticed_named_and_made_again(study, undisturbed, again):
    store = Store(again)
    key = next(key for key in store.keys() if key.startswith("shard-"))
    with open(store.folder(key) / "x.npy", "r+b") as f:
        f.seek(-1, 2)
        f.write(b"\x07")
    torn = next(key for key in store.keys() if key.startswith("rows-"))
    (store.folder(torn) / "rows.parquet").write_bytes(b"")
    _, err = run(study, again)
    assert f"{key}: x.npy is not what was written" in err and f"{torn}: rows.parquet is not what was written" in err
    store.check(key)
    assert results(study, again) == undisturbed["results"]

def test_one_seed_has_an_answer_without_an_interval(study, again):
    out, _ = run(study, again, "--seeds", "1")
    assert "not judged" in out and "one shared seed" in out

def test_an_arm_that_fails_keeps_its_notebook_and_the_others_go_on(tmp_path):
    path = tmp_path / "half.yaml"
    path.write_text(
        "name: half\nquestion: q\narms:\n  good: {}\n  bad: {'recipe.model': 'timm:no_such_model'}\ncontrasts: [[bad, "
        "good]]\n")
    out, err = run(str(path), tmp_path / "store", code=1)
    assert "no_such_model" in err and "notebook:" in err
    notebook = Path(err.split("notebook: ")[1].splitlines()[0])
    assert notebook.exists() and "no_such_model" in notebook.read_text()
    assert "good" in out and "report: " in out
    page = Path(out.split("report: ")[1].splitlines()[0]).read_text()
    assert "no_such_model" in page

def test_gc_lists_what_nothing_needs(again):
    from synthnb.engine.run import unneeded_artefacts
    store = Store(again)
    assert unneeded_artefacts(store) == []
    store.save("shard-" + "0" * 24, {"note": {"a": 1}})
    assert unneeded_artefacts(store) == ["shard-" + "0" * 24]
    store.discard("shard-" + "0" * 24)

def test_the_working_tree_has_no_report_of_ours_but_local_ones(undisturbed):
    assert Path(undisturbed["out"].split("report: ")[1].splitlines()[0]).is_relative_to(ROOT / "reports" / "local")
