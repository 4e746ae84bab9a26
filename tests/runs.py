"""What tests of whole runs share: the command, what it left in the store, and Dask processes started by hand."""
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from multiprocessing import forkserver, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from unittest import mock

import dask
import psutil

from synthnb.artefacts.store import Store
from synthnb.engine.kernels import start_fork_server
from synthnb.interface.cli import main
from synthnb.lab.study import open_experiment
from synthnb.report.files import results_csv

STUDY = """
name: small
question: does the machinery hold?
arms:
  real: {}
  real + 1x: {mix.synthetic: 1}
  real x2: {mix.real: 2}
  noise: {mix.synthetic: 1, generator: {kind: noise}}
contrasts: [[real + 1x, real], [noise, real]]
worth: [real, real x2]
"""
PAIR = """
name: small
question: does the machinery hold?
arms:
  real: {}
  real + 1x: {mix.synthetic: 1}
contrasts: [[real + 1x, real]]
without_controls: {synthetic images: two arms are enough here}
"""  # two of its arms
ON = ("--on", "digits", "--scale", "debug")

def synthnb(*words, home, cwd=None, env=None):
    "Start the command in a session of its own."
    env = {**os.environ, "SYNTHNB_HOME": str(home), **(env or {})}
    command = [sys.executable, "-c", "from synthnb.interface.start import main; main()", *words]
    return subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True)

def command(*words, home, cwd=".", env=None):
    "The command in this process, a second less than in one of its own; what `subprocess.run` would give."
    out, err, env = StringIO(), StringIO(), {"SYNTHNB_HOME": str(home), **(env or {})}
    with (mock.patch.dict(os.environ, env), mock.patch.object(sys, "argv", ["synthnb", *words]),
          mock.patch.object(sys, "path", [*sys.path]), chdir(cwd), redirect_stdout(out), redirect_stderr(err)):
        try: main()
        except SystemExit as e: code = e.code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

def fork(target, *args, **how):
    "A process that calls a function, forked from one that has imported."
    start_fork_server()
    process = get_context("forkserver").Process(target=target, args=args, kwargs=how)
    with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}): process.start()
    return process

class Forked:
    """The command in a process forked from one that has imported, which saves nine CPU seconds and more; with a fork
    server of its own its workers and kernels are its children, and in its process group, as a user's are."""
    def __init__(self, *words, home=None, cwd=None, env=None, module="synthnb.interface.cli", folder=None,
                 own_server=False):
        if not folder: self.place = TemporaryDirectory()  # gone with this object
        self.folder = Path(folder or self.place.name)
        env = {**os.environ, **({"SYNTHNB_HOME": str(home)} if home else {}), **(env or {})}
        self.process = fork(drive, module, words, cwd or os.getcwd(), env, self.folder, own_server)
        self.pid = self.process.pid

    def poll(self): return self.process.exitcode

    def wait(self): self.process.join()

    def said(self): return [(self.folder / name).read_text() for name in ("out", "err")]

    def communicate(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None: raise TimeoutError(f"process {self.pid} takes more than {timeout} s")
        return self.said()

    @property
    def returncode(self): return self.process.exitcode

def fork_instead(path, args, fds):
    "What starts a fork server, as a copy of this process: its imports would take ten CPU seconds."
    if pid := os.fork(): return pid
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own is closed already
            if fd > 2 and fd not in fds: os.close(fd)  # or it would hold the pipe whose end tells it to end
    try: exec(args[-1], {})
    finally: os._exit(0)

def drive(module, words, cwd, env, folder, own_server):
    "Be a module's command, its output in two files."
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a fork server ignores
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        with open(folder / name, "w") as file: os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["synthnb", *words]
    if own_server: forkserver._forkserver.__init__()  # forget the one that this process comes from
    with mock.patch("multiprocessing.util.spawnv_passfds", fork_instead): start_fork_server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):  # a nanny forks its worker, too
        import_module(module).main()

def run(study, home, *args, code=0):
    "What a run says that is left alone."
    return finish(Forked("run", study, *ON, *args, home=home), code)

def counting():
    "An environment in which a process, and all that it starts, counts the lines that it executes."
    return {"COVERAGE_PROCESS_CONFIG": os.environ["COUNTING"]} if "COUNTING" in os.environ else {}

def start(study, home, *args, env=None):
    return synthnb("run", study, *ON, *args, home=home, env=env)

def finish(process, code=0, timeout=300):
    try: out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None: end(process)  # what takes too long would go on, and write a report after the tests
    assert process.returncode == code, out + err
    return out, err

def results(study, home, seeds=None):
    return results_csv(open_experiment(study, "digits", seeds, scale="debug", store=Store(home)).rows())

def of_pair(text):
    "The results of PAIR, out of those of STUDY."
    lines = text.splitlines(keepends=True)
    arm = lines[0].split(",").index("arm")
    return "".join(line for line in lines if line.split(",")[arm] in ("arm", "real", "real + 1x"))

def journal(home): return Counter(line.split()[0] for line in (Path(home) / "journal.txt").read_text().splitlines())

def until(condition, process=None, timeout=200):
    "Wait for something; fail where it takes too long, or the process ends."
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)

def end(process):
    "Kill a process, started here, and all that it started."
    try: family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    except psutil.NoSuchProcess: family = []
    for pid in family:
        try: psutil.Process(pid).kill()
        except psutil.NoSuchProcess: continue
    process.wait()

class Hand:
    "A Dask scheduler and workers as a user would start them by hand, each in a folder of its own."
    def __init__(self, place, forked=True):
        self.place, self.processes, self.address, self.forked = Path(place), [], None, forked

    def dask(self, what, *words, env=None, forked=None):
        "Start one: as a copy of a process that has imported, or by the command itself, which takes seven CPU seconds."
        folder = self.place / f"{what}-{len(self.processes)}"
        folder.mkdir(parents=True)
        module, words = f"distributed.cli.dask_{what}", (*words, "--no-dashboard")
        if self.forked if forked is None else forked:
            self.processes.append(Forked(*words, cwd=folder, env=env, module=module, folder=folder))
            return self.processes[-1]
        with open(folder / "err", "w") as log:
            self.processes.append(subprocess.Popen([sys.executable, "-m", module, *words], cwd=folder, stdout=log,
                stderr=log, env={**os.environ, **(env or {})}, start_new_session=True))
        return self.processes[-1]

    def scheduler(self, port=0):
        process = self.dask("scheduler", "--host", "127.0.0.1", "--port", str(port))
        log = self.place / f"scheduler-{len(self.processes) - 1}" / "err"
        until(lambda: log.exists() and re.search(r"Scheduler at: +(\S+)", log.read_text()), process)
        self.address = re.search(r"Scheduler at: +(\S+)", log.read_text())[1]
        return process

    def worker(self, *words, **how):
        return self.dask("worker", self.address, "--nthreads", "1", "--memory-limit", "0", *words, **how)

    def joined(self, n):
        "Wait until so many workers are there; what the scheduler knows of them."
        from distributed import Client
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=120)
            return list(client.scheduler_info()["workers"].values())

@contextmanager
def by_hand(place, forked=True):
    "Dask processes that end with the block."
    hand = Hand(place, forked)
    with ExitStack() as stack:
        stack.callback(lambda: [end(process) for process in hand.processes])
        yield hand
