"""Runs on Dask workers that were started by hand or by a batch system's script: same results, clear refusals,
nothing lost with a scheduler."""
import os
import signal
import subprocess
import time

import psutil
import pytest
from runs import ON, Forked, by_hand, command, counting, end, finish, journal, of_pair, results, run, start, until

from synthnb.artefacts.store import Store
from synthnb.engine.batch_systems import SYSTEMS, job_script
from synthnb.engine.kernels import WORKER_PRELOAD, Kernel, start_fork_server

pytestmark = pytest.mark.timeout(600)  # on a machine that others use as well

# a worker that has other code in memory
STRANGER = "import synthnb.engine.workers as w; w.CODE_HASH = 'other'; w.versions.cache_clear()"

@pytest.fixture
def hand(tmp_path):
    with by_hand(tmp_path / "dask") as hand: yield hand

def said(process, text):
    "Wait until a process has written something to its error output; what it wrote so far."
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    return "".join(lines)

def test_four_workers_started_by_hand_in_other_folders_give_the_same_results(study, undisturbed, hand, tmp_path):
    hand.scheduler()
    hand.worker(forked=False)  # the command itself
    for words in ((), ("--no-nanny", "--nthreads", "3"), ("--name", "four")): hand.worker(*words)
    store = tmp_path / "store"
    out, _ = run(study, store, "--scheduler", hand.address)
    assert results(study, store) == undisturbed["results"] and max(journal(store).values()) == 1
    assert out.split("report: ")[0] == undisturbed["out"].split("report: ")[0]
    makers = {line.split()[-1] for line in (store / "journal.txt").read_text().splitlines()}
    assert len(makers) > 4, "workers, and the kernels of their notebooks"
    assert not any("synthnb" in str(path)
        for path in hand.place.rglob("*.ipynb")), "nothing is written where a worker was started"

def test_a_kernel_starts_with_everything_imported():
    start_fork_server()
    with Kernel({**os.environ}) as kernel:
        said = [*kernel.execute(f"import sys; {set(WORKER_PRELOAD)} - set(sys.modules)")]
    assert said[-1]["content"]["data"]["text/plain"] == "set()"

def test_scripts_for_batch_systems_start_workers_with_names_of_their_own(hand, tmp_path):
    hand.scheduler()
    jobs = []
    for system in SYSTEMS:
        (tmp_path / f"{system}.sh").write_text(job_script(system, hand.address, f"{system}.sh", 2, gpu=True))
        for number in ("1", "2"):
            env = {**os.environ, "SLURM_JOB_ID": f"7{number}", "PBS_JOBID": f"7[{number}].head", "LSB_JOBID": "7",
                "LSB_JOBINDEX": number}
            jobs.append(
                subprocess.Popen(["bash", str(tmp_path / f"{system}.sh")], env=env, cwd=tmp_path,
                stderr=subprocess.DEVNULL, start_new_session=True))
    try:
        workers = hand.joined(6)
        assert ({w["name"] for w in workers}
            == {"synthnb-71", "synthnb-72", "synthnb-7-1", "synthnb-7-2", "synthnb-7[1].head", "synthnb-7[2].head"})
        assert all(w["nthreads"] == 1 and w["resources"] == {"GPU": 1} for w in workers)
    finally:
        for job in jobs: end(job)

def test_workers_that_cannot_do_it_are_refused_by_name(study, hand, tmp_path):
    gone = "tcp://127.0.0.1:1"
    waits = Forked("run", study, *ON, "--scheduler", gone, home=tmp_path / "nowhere")  # ten seconds
    hand.scheduler()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "stranger.py").write_text(STRANGER)
    hand.worker("--preload", str(tmp_path / "other" / "stranger.py"))
    hand.worker()
    hand.joined(2)
    _, err = run(study, tmp_path / "store", "--scheduler", hand.address, code=2)
    assert ("synthnb: worker tcp://127.0.0.1:" in err and "has synthnb's code other, the driver has" in err
        and len(err.splitlines()) == 1)
    _, err = run(study, tmp_path / "store", "--scheduler", hand.address, "--set", "device=cuda", code=2)
    assert "no worker of this cluster offers a GPU" in err and "--set device=cpu" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "store" / "runs").exists(), "nothing was begun"
    _, err = finish(
        Forked("run", study, *ON, "--set", "device=cuda", home=tmp_path / "store", env={"CUDA_VISIBLE_DEVICES": ""}),
        2)
    assert "this machine has no GPU; allowed: --set device=cpu" in err and len(err.splitlines()) == 1
    _, err = finish(waits, 2)
    assert err.startswith(f"synthnb: --scheduler {gone}: no scheduler answers") and len(err.splitlines()) == 1
    assert not (tmp_path / "nowhere" / "runs").exists()

def test_a_run_waits_for_workers_sends_strangers_home_and_outlives_those_that_die(pair, undisturbed, hand, tmp_path):
    hand.scheduler()
    store = tmp_path / "store"
    process = start(pair, store, "--scheduler", hand.address, env=counting())
    said(process, f"waiting: no worker is connected to {hand.address}")
    out = command("status", home=store).stdout
    assert "waiting: no worker is connected to" in out and "not running" not in out
    first = hand.worker()
    until(lambda: (store / "journal.txt").exists(), process)
    end(first)
    said(process, "waiting: no worker")
    (tmp_path / "stranger.py").write_text(STRANGER)
    hand.worker("--preload", str(tmp_path / "stranger.py"))
    assert "it is sent home" in said(process, "has synthnb's code other")
    for _ in range(2): hand.worker()
    finish(process)
    assert results(pair, store) == of_pair(undisturbed["results"]) and max(journal(store).values()) == 1

def test_a_scheduler_that_dies_is_told_in_one_line_and_the_run_goes_on(pair, undisturbed, hand, tmp_path):
    scheduler, store = hand.scheduler(), tmp_path / "store"
    for _ in range(2): hand.worker()
    process = Forked("run", pair, *ON, "--scheduler", hand.address, home=store)
    until(lambda: sum(key.startswith("generator-") for key in Store(store).keys()), process)
    os.kill(scheduler.pid, signal.SIGKILL)
    began = time.monotonic()
    _, err = finish(process, 3)
    assert time.monotonic() - began < 30 and "Traceback" not in err
    assert (err.splitlines()[-1]
        == "synthnb: the connection to the scheduler is lost; what is finished is kept, and the same command goes on "
        "from here")
    port = hand.address.rpartition(":")[2]
    # workers end with their scheduler
    until(lambda: all(worker.poll() is not None for worker in hand.processes[1:3]), timeout=60)
    hand.scheduler(port)
    for _ in range(2): hand.worker()
    run(pair, store, "--scheduler", hand.address)
    assert results(pair, store) == of_pair(undisturbed["results"]) and max(journal(store).values()) == 1

def test_workers_of_a_driver_that_was_killed_end_by_themselves(study, tmp_path):
    process = Forked("run", study, *ON, home=tmp_path / "store", own_server=True)
    def started(): return psutil.Process(process.pid).children(recursive=True)
    # fork server, two workers, a kernel
    until(lambda: (tmp_path / "store" / "runs").exists() and len(started()) > 3, process)
    family = started()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    out = command("status", home=tmp_path / "store").stdout
    assert "; not running; " in out
