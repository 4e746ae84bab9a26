"""A full disk is one clear line wherever it is noticed; nothing half-written counts as finished, and the same
command goes on when there is room."""
import errno
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from runs import ON, Forked, finish, journal, results, run, start

from synthnb.artefacts.store import DiskFull, Store
from synthnb.engine.execute import execute_notebook
from synthnb.artefacts import stages
from synthnb.artefacts.artefact import Artefact
from synthnb.lab.study import open_experiment
from synthnb.learn.train import load_checkpoint, save_checkpoint

LINE = (
    r"(?m)^synthnb: (/\S+): {why}, its file system has [\d.]+ MB left; what is finished is kept: make room there, and "
    r"the same command goes on from here$")
NO_SPACE, QUOTA = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)
FULL = 3  # as where the scheduler is gone: nothing is wrong with what was asked for


class Disk:
    "A small file system in memory."
    def __init__(self, place):
        self.place, self.filler = place, place / "filler"

    def fill(self, leave):
        "Leave so many bytes."
        with open(self.filler, "wb", buffering=0) as f:
            with pytest.raises(OSError, match=NO_SPACE):
                while True: f.write(bytes(4096))
        os.truncate(self.filler, self.filler.stat().st_size - leave)

    def grow(self, size): subprocess.run(["mount", "-o", f"remount,size={size}", self.place], check=True)


@pytest.fixture
def disk(tmp_path):
    "A file system of one megabyte."
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode: pytest.skip(f"only who may mount a small file system can fill one: {made.stderr.strip()}")
    yield Disk(place)
    subprocess.run(["umount", "--lazy", place], check=True)


def stopped(process, why=NO_SPACE):
    "The path that a run named when it ended because the disk was full."
    _, err = finish(process, FULL)
    said = re.findall(LINE.format(why=why), err)
    assert len(said) == 1 and "Traceback" not in err and "failed" not in err, err
    return said[0]


def whole(home, undisturbed):
    "Everything that is there is whole, once, and what an undisturbed run makes; its keys."
    store = Store(home)
    keys, lines = set(store.keys()), journal(home) if (home / "journal.txt").exists() else {}
    for key in keys: store.check(key)
    assert keys <= set(Store(undisturbed["home"]).keys()) and set(lines) <= keys and set(lines.values()) <= {1}
    assert not list(store.root.glob("partial/*/failure.txt")), "a full disk is no failure of a seed"
    assert (not list(store.root.glob("attempts/*")) and not list(store.root.glob("partial/*/*.part"))
        and not list(store.root.glob("drivers/*")))
    return keys


def made(home, keys): return {key: (Store(home).folder(key) / "manifest.json").stat().st_mtime_ns for key in keys}


# ---- whoever writes

@pytest.mark.parametrize("content", [
    {"x": np.arange(400_000.0)}, {"x": np.arange(2000.0)}, {"w": {"a": np.arange(400_000.0)}},
    {"w": {"a": np.arange(2000.0)}}, {"n": {"a": "b" * 9000}},
    {"rows": pd.DataFrame({"a": np.random.default_rng(0).normal(size=2000)})}],
    ids=["array", "array's end", "weights", "weights' end", "json", "table"])
def test_whatever_an_artefact_holds(disk, content):
    store, key = Store(disk.place), f"thing-{'0' * 24}"
    store.save(f"thing-{'1' * 24}", {"note": {"a": 1}})
    disk.fill(leave=8192)
    with pytest.raises(DiskFull, match=rf"^{disk.place}\S*: {NO_SPACE}, its file system has 0\.0 MB left; "):
        store.save(key, content)
    assert (not store.has(key) and not list((disk.place / "attempts").iterdir()) and list(store.keys())
        == [f"thing-{'1' * 24}"])
    disk.grow("9m")
    store.save(key, content)
    store.check(key)


def test_no_half_line_in_the_journal(disk):
    store = Store(disk.place)
    with open(disk.place / "journal.txt", "w") as f: f.write(("a" * 29 + "\n") * 136)  # 16 bytes are left of its page
    attempt = store._attempt("thing-1")
    store.folder("thing-1").parent.mkdir(parents=True)
    disk.fill(leave=0)
    before = (disk.place / "journal.txt").read_text()
    with pytest.raises(OSError, match=NO_SPACE): store._publish(attempt, "thing-1")
    assert (disk.place / "journal.txt").read_text() == before


def test_the_checkpoint_before_stays(disk):
    one, two = {"w": torch.zeros(50_000)}, {"w": torch.ones(50_000)}
    save_checkpoint(disk.place / "seed", one, {"step": 1})
    disk.fill(leave=8192)
    with pytest.raises(DiskFull, match=NO_SPACE): save_checkpoint(disk.place / "seed", two, {"step": 2})
    tensors, info = load_checkpoint(disk.place / "seed")
    assert info["step"] == 1 and not tensors["w"].any() and len(list((disk.place / "seed").iterdir())) == 1
    disk.filler.unlink()
    save_checkpoint(disk.place / "seed", two, {"step": 2})
    assert load_checkpoint(disk.place / "seed")[1]["step"] == 2


def test_no_half_of_a_notebook(disk, tmp_path):
    import nbformat
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('a' * n)")])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(nb, tmp_path / "template.ipynb")
    output = disk.place / "out.ipynb"
    execute_notebook(tmp_path / "template.ipynb", output, {"n": 10})
    disk.fill(leave=16384)
    with pytest.raises(DiskFull, match=NO_SPACE): execute_notebook(tmp_path / "template.ipynb", output, {"n": 30_000})
    assert ("'a' * n" in output.read_text() and len(nbformat.read(output, 4).cells) == 3
        and {p.name for p in disk.place.iterdir()} == {"out.ipynb", "filler"})


def test_what_cannot_be_noted_does_not_hide_the_error(tmp_path, monkeypatch, capsys):
    bad, write = Artefact("dataset", {"name": "digts"}), Path.write_text
    def half(path, text, *more):
        write(path, text[:3], *more)
        raise OSError(errno.ENOSPC, NO_SPACE)
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ValueError, match="did you mean 'digits'"): stages.fetch(bad, Store(tmp_path))
    said = capsys.readouterr().err
    assert NO_SPACE in said and "did you mean 'digits'" in said and not list(tmp_path.rglob("failure.txt"))


def test_a_full_disk_is_no_failed_seed(study, tmp_path, monkeypatch, capsys):
    store, sync = Store(tmp_path), os.fsync
    cell = open_experiment(study, "digits", [0, 1], scale="debug", store=store).cells["real"]
    key = cell.ends[1].key
    def full(fd):
        if key in os.readlink(f"/proc/self/fd/{fd}"): raise OSError(errno.ENOSPC, NO_SPACE)
        sync(fd)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=key.split("-")[1]): cell.make()
    assert (len(cell.results().seed.unique()) == 1 and not list(tmp_path.rglob("failure.txt"))
        and "failed" not in capsys.readouterr().err)
    monkeypatch.undo()
    assert len(cell.make().seed.unique()) == 2


# ---- whole runs

@pytest.mark.timeout(1500)
@pytest.mark.parametrize("words",
    [("shard-",),
    pytest.param(("runs/", "shard-", "checkpoint.safetensors", "weights-", "results.csv"), marks=pytest.mark.slow)])
def test_a_disk_that_is_found_full_late_wherever_that_is(words, study, undisturbed, tmp_path):
    flag, home, before = tmp_path / "full", tmp_path / "store", {}
    for word in words:
        flag.write_text(word)
        stopped(Forked("run", study, *ON, home=home, env={"FULL_LATE": str(flag)}), QUOTA)
        keys = whole(home, undisturbed)
        assert made(home, before) == before, "something finished was made again"
        before = made(home, keys)
    flag.write_text("")
    run(study, home)
    assert results(study, home) == undisturbed["results"] and journal(home) == journal(undisturbed["home"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("share", [0.25, 0.6, 0.9])
def test_a_run_on_a_disk_that_is_full_in_the_middle(disk, share, study, undisturbed):
    home, needed = (disk.place / "store",
        sum(-(-p.stat().st_size // 4096) * 4096 for p in undisturbed["home"].rglob("*") if p.is_file()))
    disk.grow(int(share * needed))
    assert stopped(start(study, home)).startswith(str(disk.place))
    finished = made(home, whole(home, undisturbed))
    assert 0 < len(finished) < len(list(Store(undisturbed["home"]).keys()))
    assert stopped(start(study, home)).startswith(str(disk.place)), "still full"
    disk.grow(4 * needed)
    finish(start(study, home))
    assert made(home, finished) == finished, "something finished was made again"
    assert (whole(home, undisturbed) == set(Store(undisturbed["home"]).keys()) and results(study, home)
        == undisturbed["results"])
