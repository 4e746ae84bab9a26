"""kill -9 at random moments of workers, kernels, drivers and schedulers: results to the byte, nothing torn, nothing made twice, nobody left."""
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from runs import ON, by_hand, end, journal, results

from synthnb.store import Store

KILLS = int(os.environ.get("KILLS", "50"))  # how many altogether
EACH = 13  # how many a study suffers before it is left alone
SEEDS = ("--seeds", "3")

class Monkey:
    "Runs a study until it is finished, and kills what belongs to it now and then."
    def __init__(self, study, home, draw, hand=None):
        self.study, self.home, self.draw, self.hand = study, Path(home), draw, hand
        self.kills, self.seen, self.finished, self.logs = Counter(), set(), {}, 0
        self.driver = self.scheduler = None
        if hand: self.new_cluster()

    def new_cluster(self, port=0):
        "A scheduler, at the old address where there was one, and three workers."
        self.scheduler = self.hand.scheduler(port)
        for _ in range(3): self.hand.worker()

    def start(self):
        "Start the driver."
        self.logs += 1
        where = ["--scheduler", self.hand.address] if self.hand else []
        command = [sys.executable, "-c", "from synthnb.start import main; main()", "run", self.study, *ON, *SEEDS, *where]
        with open(self.log, "w") as log:
            env = {**os.environ, "SYNTHNB_HOME": str(self.home)}
            self.driver = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    @property
    def log(self): return self.home.parent / f"driver-{self.home.name}-{self.logs}.txt"

    def victims(self):
        "Everything that may be killed now, by what it is."
        found = {"driver": [psutil.Process(self.driver.pid)]}
        if self.hand and self.scheduler.poll() is None: found["scheduler"] = [psutil.Process(self.scheduler.pid)]
        for root in [self.driver, *(self.hand.processes if self.hand else [])]:
            try: family = psutil.Process(root.pid).children(recursive=True)
            except psutil.NoSuchProcess: continue
            for process in family:
                try: command = " ".join(process.cmdline())
                except psutil.Error: continue
                what = "kernel" if "ipykernel_launcher" in command else "worker" if "spawn_main" in command else None
                if what: found.setdefault(what, []).append(process)
        if self.hand: found["nanny"] = [psutil.Process(p.pid) for p in self.hand.processes if p.poll() is None and "dask_worker" in " ".join(p.args)]
        self.seen |= {process for group in found.values() for process in group}
        return {what: group for what, group in found.items() if group}

    def kill_one(self):
        "Kill something; nothing that is finished may be harmed by it."
        there = self.victims()
        rare = [what for what in there if self.kills[what] == min(self.kills[other] for other in there)]
        what = self.draw.choice(rare if self.draw.random() < 0.5 else sorted(there))
        try: self.draw.choice(sorted(there[what], key=lambda process: process.pid)).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess: return
        self.kills[what] += 1
        store = Store(self.home)
        for key in store.keys():
            store.check(key)
            self.finished.setdefault(key, (store.folder(key) / "manifest.json").stat().st_mtime_ns)
        if what == "scheduler": self.after_scheduler()
        if what == "nanny": self.hand.worker()

    def after_scheduler(self):
        "The driver says in one line that it is gone; a new one starts, with new workers, at the same address."
        self.scheduler.wait()
        self.driver.wait(timeout=60)
        self.new_cluster(self.hand.address.rpartition(":")[2])

    def work(self, kills):
        "Run until the study is finished."
        self.start()
        while True:
            if sum(self.kills.values()) < kills:
                try: code = self.driver.wait(timeout=self.draw.uniform(0.5, 6))
                except subprocess.TimeoutExpired:
                    self.kill_one()
                    continue
            else: code = self.driver.wait(timeout=200)
            text = self.log.read_text()
            assert code in (0, 1, 3, -signal.SIGKILL) or "no scheduler answers" in text, text
            assert "Traceback" not in text and "damaged" not in text, text
            if code == 0: return
            self.start()

def judge(monkey, expected):
    "What must hold after a study that was disturbed."
    store = Store(monkey.home)
    assert results(monkey.study, monkey.home, 3) == expected, "results differ"
    for key in store.keys(): store.check(key)
    assert max(journal(monkey.home).values()) == 1, "something was made twice"
    now = {key: (store.folder(key) / "manifest.json").stat().st_mtime_ns for key in monkey.finished}
    assert now == monkey.finished, "something finished was made again"
    if monkey.hand:
        for process in monkey.hand.processes: end(process)
    _, alive = psutil.wait_procs(monkey.seen, timeout=15)
    assert not alive, f"left over: {[process.cmdline() for process in alive]}"

@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_fifty_kills(study, tmp_path, capsys):
    draw, killed, began, number = random.Random(7), Counter(), time.monotonic(), 0
    calm = Monkey(study, tmp_path / "calm", draw)
    calm.work(0)
    expected = results(study, calm.home, 3)
    while sum(killed.values()) < KILLS:
        number += 1
        wanted = min(EACH, KILLS - sum(killed.values()))
        with by_hand(tmp_path / f"dask-{number}") as hand:
            monkey = Monkey(study, tmp_path / f"store-{number}", draw, hand if number % 2 else None)
            monkey.work(wanted)
            judge(monkey, expected)
        killed.update({("by hand" if number % 2 else "local", what): n for what, n in monkey.kills.items()})
        with capsys.disabled(): print(f"\nstudy {number}: {dict(monkey.kills)}, {monkey.logs} drivers, {time.monotonic() - began:.0f} s", flush=True)
    with capsys.disabled():
        print(f"\n{sum(killed.values())} kills in {number} studies and {time.monotonic() - began:.0f} s: results to the byte, nothing torn, nothing made twice")
        for (where, what), n in sorted(killed.items()): print(f"  {where:8} {what:10} {n:3}")
    assert len({what for _, what in killed}) >= 4 or KILLS < 20
