"""kill -9 at random moments of workers, kernels, drivers and schedulers: results to the byte, nothing torn, nothing
made twice, nobody left."""
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
from runs import ON, by_hand, end, finish, journal, results, start, synthnb, until

from synthnb.base.environment import ROOT
from synthnb.artefacts.store import Store
from synthnb.engine.run import leftovers

KILLS = int(os.environ.get("KILLS", "50"))  # how many altogether
EACH = 13  # how many a study suffers before it is left alone
SEEDS = ("--seeds", "3")
POOL = """
name: pool
question: does a pool of 5,000 images stand three kills?
common: {base: 10, encoder: null, mix.synthetic: 50}
arms:
  generated: {generator: %s}
"""
GENERATORS = {  # in YAML; the model makes an image in one step, that 5,000 of them take seconds
    "render": "{kind: render}",
    "text2img": f"{{kind: text2img, model: '{ROOT / 'data' / 'glyph'}', steps: 1, guidance: 1, negative: ''}}"}
SHARDS = 79  # of 64 images: the last of the 5,000 lie in the 79th

# by how far they are from the driver: the fork server, and its copies, which are workers and kernels
FORKED = ("server", "child")
# by how far they are from the process that was started by hand: a nanny's worker, and its kernels
SPAWNED = ("worker", "kernel")

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
        command = [sys.executable, "-c", "from synthnb.interface.start import main; main()", "run", self.study, *ON,
            *SEEDS, *where]
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
                try: command, line = " ".join(process.cmdline()), [parent.pid for parent in process.parents()]
                except psutil.Error: continue
                depth, what = line.index(root.pid) if root.pid in line else 0, None
                if "multiprocessing.forkserver" in command: what = FORKED[min(depth, 1)]
                if "spawn_main" in command: what = SPAWNED[min(depth, 1)]
                if what: found.setdefault(what, []).append(process)
        if self.hand:
            found["nanny"] = [psutil.Process(p.pid) for p in self.hand.processes if p.poll() is None
                and "dask_worker" in " ".join(p.args)]
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
                # without a cluster nobody works for the first ten seconds
                try: code = self.driver.wait(timeout=self.draw.uniform(0.5, 6 if self.hand else 16))
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
        with by_hand(tmp_path / f"dask-{number}", forked=False) as hand:
            monkey = Monkey(study, tmp_path / f"store-{number}", draw, hand if number % 2 else None)
            monkey.work(wanted)
            judge(monkey, expected)
        killed.update({("by hand" if number % 2 else "local", what): n for what, n in monkey.kills.items()})
        with capsys.disabled():
            print(f"\nstudy {number}: {dict(monkey.kills)}, {monkey.logs} drivers, {time.monotonic() - began:.0f} s",
                flush=True)
    with capsys.disabled():
        print(f"\n{sum(killed.values())} kills in {number} studies and {time.monotonic() - began:.0f} s: results to "
            f"the byte, nothing torn, nothing made twice")
        for (where, what), n in sorted(killed.items()): print(f"  {where:8} {what:10} {n:3}")
    assert len({what for _, what in killed}) >= 4 or KILLS < 20


def shards(home):
    "Every shard's files, by their checksums."
    store = Store(home)
    return {key: store.manifest(key)["files"] for key in store.keys() if key.startswith("shard-")}

@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("generator", GENERATORS)
def test_a_pool_of_5000_killed_three_times(generator, tmp_path, capsys):
    study, calm, home, draw = tmp_path / "pool.yaml", tmp_path / "calm", tmp_path / "killed", random.Random(generator)
    study.write_text(POOL % GENERATORS[generator])
    began, seen, had = time.monotonic(), [], []
    finish(start(study, calm, "--seeds", "1"), timeout=700)
    undisturbed, expected = time.monotonic() - began, shards(calm)
    assert (len(expected) == SHARDS
        and all(set(files) == {"x.npy", "y.npy", "provenance.parquet"} for files in expected.values()))
    for kill in range(3):
        driver, least = start(study, home, "--seeds", "1"), draw.randrange(25 * kill + 1, 25 * kill + 20)
        until(lambda: len(shards(home)) >= least, driver, timeout=400)  # noqa: B023 - asked at once
        time.sleep(draw.uniform(0, 0.3))
        seen += psutil.Process(driver.pid).children(recursive=True)
        end(driver)
        had.append({key: (Store(home).folder(key) / "manifest.json").stat().st_mtime_ns for key in shards(home)})
        assert len(had[-1]) < SHARDS, "it was killed while shards were being made"
    finish(start(study, home, "--seeds", "1"), timeout=700)
    assert shards(home) == expected, "x, y and provenance, to the byte"
    for key in expected: Store(home).check(key)
    assert journal(home) == journal(calm) and set(journal(home).values()) == {1}, "everything was made exactly once"
    for before in had:
        assert before == {key: (Store(home).folder(key) / "manifest.json").stat().st_mtime_ns for key in before}
    assert results(str(study), home, 1) == results(str(study), calm, 1)
    torn = leftovers(Store(home))
    assert len(torn) <= 3 * 2, "at most what two workers wrote when they were killed"
    finish(synthnb("gc", "--delete", home=home))
    assert not leftovers(Store(home)) and shards(home) == expected
    assert not psutil.wait_procs(seen, timeout=15)[1], "processes are left over"
    with capsys.disabled():
        print(f"\n{generator}: 3 kills at {', '.join(str(len(there)) for there in had)} of {SHARDS} shards, "
            f"{len(torn)} half-written left; "
              f"{undisturbed:.0f} s undisturbed, {time.monotonic() - began - undisturbed:.0f} s with kills", flush=True)
