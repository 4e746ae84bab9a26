"""The progress line on a terminal: the time left stands directly after the bar, whatever the terminal cuts."""
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from contextlib import contextmanager

import pytest

from synthnb.artefacts.store import Store
from synthnb.engine.plan import missing_jobs
from synthnb.engine.run import Progress
from synthnb.lab.study import open_experiment

WAITING = "waiting: no worker with a GPU is connected to tcp://head:8786"


@contextmanager
def terminal(columns, stream, monkeypatch):
    "A terminal of so many columns in the place of a stream; a function that reads what was drawn so far."
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(theirs, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, stream, file)
        yield lambda: drawn_until_now(file, ours)
    os.close(ours)


def drawn_until_now(file, ours):
    "What was drawn, read until a mark of our own: a terminal hands it on in pieces."
    file.write("\0")
    file.flush()
    text = b""
    while not text.endswith(b"\0"): text += os.read(ours, 1 << 16)
    return text.decode().removesuffix("\0")


@pytest.fixture
def begun(tmp_path):
    "begun(): the progress of a run of which four jobs are running, all costs known."
    experiment = open_experiment("synthetic_ratio", "digits", scale="debug", store=Store(tmp_path))
    todo = missing_jobs(experiment)
    def begin():
        progress = Progress(todo, experiment, 4, tmp_path / "said.json")
        progress.measured = {kind: 10.0 for job in todo for kind in job.makes}
        for job in todo[:4]: progress.started(job)
        return progress
    return begin


@pytest.mark.parametrize("columns", [80, 60, 300])
def test_the_time_left_follows_the_bar_and_what_runs_is_cut(columns, begun, monkeypatch):
    with terminal(columns, "stderr", monkeypatch) as drawn:
        progress = begun()
        progress.show()
        last = drawn().split("\r")[-1]
        progress.close()
    found = re.fullmatch(r"\d\d:\d\d 0/(\d+) \|.{20}\| about (\d+ s|\d+ min) left: (.*)", last)
    assert found and len(last) <= columns, last
    assert ("running: dataset, " in last) is (columns == 300)


def test_without_a_terminal_the_order_is_the_same(begun, capsys):
    progress = begun()
    progress.show()
    told = capsys.readouterr().err
    assert re.fullmatch(r"about \d+ min left: 1 dataset, 2 splits, .*; running: dataset, [^;]*\n", told), told


def test_what_all_wait_for_takes_the_place_of_the_time(begun, monkeypatch):
    with terminal(80, "stderr", monkeypatch) as drawn:
        progress = begun()
        progress.show(WAITING)
        last = drawn().split("\r")[-1]
        progress.close()
    assert "| waiting: no worker with a GPU is connected" in last and "about" not in last
