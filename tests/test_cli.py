"""The command line: bad input is a few clear lines and exit code 2, and leaves nothing behind; plan is quick and
imports no torch."""
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import distributed
import numpy as np
import pytest
import runs
from runs import command

import synthnb as synthnb_package
from synthnb.artefacts.stages import record_failure
from synthnb.artefacts.store import Store
from synthnb.interface import cli
from synthnb.interface.api import Study
from synthnb.interface.cli import _print_result
from synthnb.lab.statistics import seeds_needed
from synthnb.lab.study import Experiment, find_study, open_experiment, published_values, study_names
from synthnb.lab.testbed import find_testbed, testbed_names

DEBUG = ("synthetic_ratio", "--on", "digits", "--scale", "debug")
STUDY = ("synthetic_ratio", "--on", "digits-wild")
GOOD = "name: mine\nquestion: does it?\narms:\n  a: {}\n  b: {mix.synthetic: 1}\ncontrasts: [[b, a]]\n"

def synthnb(*args, home, code="from synthnb.interface.cli import main; main()", env=None):
    env = {**os.environ, "SYNTHNB_HOME": str(home), **(env or {})}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, timeout=120)

@pytest.mark.parametrize("args, told", [
    (("run", "synthetic_ration", "--on", "digits"), "did you mean 'synthetic_ratio'"),
    (("run", "synthetic_ratio", "--on", "digit"), "did you mean 'digits'"),
    (("run", "synthetic_ratio"), "--on"),
    (("run", *STUDY, "--set", "recipe.stepz=3"), "did you mean 'steps'"),
    (("run", *STUDY, "--set", "recipes.steps=3"), "did you mean 'recipe.steps'"),
    (("run", *STUDY, "--set", "recipe.steps=many"), "recipe.steps"),
    (("run", *STUDY, "--set", "base=0"), "base"),
    (("run", *STUDY, "--set", "base"), "key=value"),
    (("run", *STUDY, "--set", "mix.synthetic=2"), "vary 'mix.synthetic'"),
    (("run", *STUDY, "--set", "mix={real: 2}"), "vary 'mix."),
    (("run", *STUDY, "--set", "generator={kind: renderr}"), "vary 'generator'"),
    (("run", *STUDY, "--set", "judge={widht: 8}"), "did you mean 'width'"),
    (("run", *STUDY, "--set", "dataset=digit"), "did you mean 'digits'"),
    (("run", *STUDY, "--set", "vary=[subset, luck]"), "luck"),
    (("run", *STUDY, "--seeds", ""), "at least one seed"),
    (("run", *STUDY, "--seeds", "0"), "at least one seed"),
    (("run", *STUDY, "--seeds", "1,1"), "once"),
    (("run", *STUDY, "--seeds", "two"), "how many"),
    (("run", *STUDY, "--scale", "huge"), "allowed: full, debug"),
    (("run", *STUDY, "--workers", "0"), "workers"),
    (("run", "absent.yaml", "--on", "digits"), "cannot be read"),
    (("run", "synthetic_ratio", "--on", "./absent.yaml"), "cannot be read"),
    (("plan", *STUDY, "--set", "base=500"), "base"),
    (("runn", *STUDY), "runn"),
    (("run", *STUDY, "--time-limit", "0"), "minutes above 0"),
    (("plan", *STUDY, "--show", "0"), "a difference above 0"),
    (("run", *STUDY, "--time-limit", "soon"), "time-limit"),
    (("run", *STUDY, "--scheduler", "localhost"), "tcp://HOST:PORT"),
    (("run", *STUDY, "--scheduler", "tcp://127.0.0.1:1"), "no scheduler answers"),
    (("cluster", "slrum", "--scheduler", "tcp://head:8786"), "did you mean 'slurm'"),
    (("cluster", "slurm"), "--scheduler"),
    (("cluster", "slurm", "--scheduler", "head:8786"), "tcp://HOST:PORT"),
    (("cluster", "pbs", "--scheduler", "tcp://head:8786", "--walltime", "4h"), "HOURS:MINUTES:SECONDS"),
    (("cluster", "lsf", "--scheduler", "tcp://head:8786", "--memory", "much"), "16GB"),
    (("testbed", "new", "pets"), "folder:DIR"),
    (("compare", "synthetic_ratio --on digits"), "1 studies are given; allowed: 2 to 26"),
    (("compare", "synthetic_ratio --on digits --sets a=1", "prompt --on digits"), "No such option"),
    (("compare", *["synthetic_ratio --on digits --scale debug"] * 2), "is given twice"),
])
def test_bad_input_is_a_few_lines_and_code_2(args, told, tmp_path, monkeypatch):
    client = distributed.Client
    def soon(**how): return client(**how | {"timeout": 0.5})  # test_workers waits as long as a user does
    monkeypatch.setattr(distributed, "Client", soon)
    done = command(*args, home=tmp_path / "store")
    assert done.returncode == 2, done.stderr
    assert told in done.stderr and 1 <= len(done.stderr.strip().splitlines()) <= 4
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()

@pytest.mark.parametrize("args", [
    ("run", *STUDY, "--set", "recipe.stepz=3"), ("runn", *STUDY), ("show",), ("plan", *STUDY)], ids=" ".join)
def test_a_process_of_its_own_says_what_the_command_says_in_this_one(args, tmp_path):
    alone, here = synthnb(*args, home=tmp_path / "store"), command(*args, home=tmp_path / "store")
    assert (alone.returncode, alone.stdout, alone.stderr) == (here.returncode, here.stdout, here.stderr)
    assert alone.stdout + alone.stderr and not (tmp_path / "store").exists()

@pytest.mark.parametrize("text, told", [
    ("- just\n- a list\n", "expected keys and values"),
    ("a: [1\n", "is not YAML at line"),
    ("\x00", "is not YAML"),
    (GOOD.replace("arms", "armes"), "did you mean 'arms'"),
    (GOOD.replace("mix.synthetic: 1", "mix.synthetic: -1"), "greater than or equal to 0"),
    (GOOD.replace("mix.synthetic: 1", "mix.synthetic: 0.25"), "multiple of 1/10"),
    (GOOD.replace("mix.synthetic: 1", "mix.syntetic: 1"), "did you mean 'synthetic'"),
    (GOOD.replace("mix.synthetic: 1", ""), "no effect"),
    (GOOD.replace("mix.synthetic: 1", "mix.real: 0"), "nothing to train on"),
    (GOOD.replace("[b, a]", "[b, c]"), "'c' is not an arm"),
    (GOOD.replace("name: mine", "name: ../x"), "name"),
    (GOOD.replace("question: does it?\n", ""), "'question' is missing"),
    ("name: mine\nquestion: q\narms: {}\n", "at least one arm"),
])
def test_a_study_file_is_checked_like_a_registered_study(text, told, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    done = command("run", str(tmp_path / "mine.yaml"), "--on", "digits", home=tmp_path / "store")
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4 and not (tmp_path / "store").exists()

def test_a_good_study_file_is_planned(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD)
    done = command("plan", str(tmp_path / "mine.yaml"), "--on", "digits", home=tmp_path / "store")
    assert done.returncode == 0 and "3 arms x 8 seeds" in done.stdout
    assert "control: 'b, noise' is added (without_controls leaves it out)" in done.stdout
    assert not (tmp_path / "store").exists(), "a plan writes nothing"

def test_plan_imports_no_torch_and_is_quick(tmp_path):
    code = "import sys, time; t = time.process_time()\nfrom synthnb.interface.cli import main\n"
    code += "try: main()\nfinally: print('torch' in sys.modules, round(time.process_time() - t, 2))"
    done = synthnb("plan", *STUDY, home=tmp_path / "store", code=code)
    torch, seconds = done.stdout.strip().splitlines()[-1].split()
    assert torch == "False"
    assert float(seconds) < 6, "of processor time, as a wall clock would measure the tests beside; it takes under 2 s"

def test_show_names_every_option_and_what_differs(tmp_path):
    done = command("show", *STUDY, home=tmp_path / "store")
    assert done.returncode == 0
    for part in ("recipe.steps = ", "what differs:", "real + 3x noise: ", "generator.kind = noise",
        "against real only"):
        assert part in done.stdout

def test_alone_it_says_what_to_begin_with_and_lists_what_show_lists(tmp_path):
    done, shown = command(home=tmp_path), command("show", home=tmp_path)
    assert done.returncode == shown.returncode == 0 and shown.stdout.strip() in done.stdout
    assert done.stdout.count("\n  synthnb ") == 3
    for name in study_names(): assert f"  {name} " in shown.stdout and find_study(name).question in shown.stdout
    for name in testbed_names(): assert f"  {name} " in shown.stdout and find_testbed(name).title in shown.stdout

def test_version(tmp_path):
    assert command("--version", home=tmp_path).stdout == f"synthnb {synthnb_package.__version__}\n"

def test_names_are_completed_without_torch(tmp_path):
    code = "import sys\nfrom synthnb.interface.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = synthnb(home=tmp_path, code=code, env=completion("synthnb plan synthetic_ratio --on dig"))
    assert done.stdout.split() == ["digits", "digits-wild", "False"], done.stderr
    for typed, found in [("run ge", ["generator_adaptation", "generator_source"]), ("open pro", ["prompt"]),
        ("status prompt --on pe", ["pets-sd15"])]:
        assert command(home=tmp_path, env=completion(f"synthnb {typed}")).stdout.split() == found
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is named, not looked up
    script = command("--show-completion", "bash", home=tmp_path, env=named)
    assert script.returncode == 0 and "-F _synthnb_completion synthnb" in script.stdout

def completion(typed):
    "The environment in which bash asks how what was typed goes on."
    return {"_SYNTHNB_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}

@pytest.fixture
def failing(tmp_path):
    "failing(): record a failed judge, which every arm needs, in the store of an experiment that was never run."
    experiment = open_experiment("synthetic_ratio", "digits", scale="debug", store=Store(tmp_path / "store"))
    judge = experiment.cells["real only"].of_kind(0, "judge")[0]
    def fail(): record_failure(judge, experiment.store, ValueError("luck"))
    return SimpleNamespace(experiment=experiment, fail=fail, home=tmp_path / "store")

def test_a_failure_is_told_once_with_what_it_cost(failing, capsys):
    failing.fail()
    record_failure(failing.experiment.cells["real x2"].ends[1], failing.experiment.store, ValueError("needs the judge"))
    told = command("status", *DEBUG, home=failing.home).stdout
    assert told.count("failed: ") == 1 and "0 of 18 arm-seeds done (0 %); 18 failed; not running" in told
    assert "failed: seed 0, 1 and 16 more results that need it: ValueError: luck\n" in told
    _print_result(Study("synthetic_ratio", "digits", scale="debug", store=failing.experiment.store), [])
    err = capsys.readouterr().err.splitlines()
    assert err[0] == ("failed: real only, seed 0, 1 and 16 more results that need it: ValueError: luck; "
        "no notebook was executed") and len(err) == 2 and "`synthnb status synthetic_ratio" in err[1]

def test_watching_goes_on_until_every_result_is_there_or_has_failed(failing, monkeypatch):
    waits = iter([lambda: None, failing.fail])
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: next(waits)())
    done = command("status", *DEBUG, "--watch", home=failing.home)
    assert done.returncode == 0 and next(waits, None) is None
    assert done.stdout.count("arm-seeds done") == 2 and "\x1b" not in done.stdout, "only what is new, line by line"
    assert done.stdout.index("; not running") < done.stdout.index("; 18 failed")

def test_on_a_terminal_watching_redraws_and_ends_with_ctrl_c(failing, monkeypatch):
    def press(seconds): signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(cli.time, "sleep", press)
    monkeypatch.setattr(runs, "StringIO", type("Terminal", (StringIO,), {"isatty": lambda stream: True}))
    done = command("status", *DEBUG, "--watch", home=failing.home)
    assert done.returncode == 130 and done.stdout.startswith("\x1b[H\x1b[2Jsynthnb run synthetic_ratio --on digits")
    assert "Traceback" not in done.stderr

@pytest.fixture
def pages(tmp_path, monkeypatch):
    "pages(where, study, testbed): write a report; what the command opens goes to `pages.opened`."
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    def page(where, study, testbed):
        file = tmp_path / "reports" / where / "index.html"
        file.parent.mkdir(parents=True)
        known = {"study": study, "testbed": testbed}.items()
        file.write_text("".join(f'<meta name="synthnb:{name}" content="{value}">' for name, value in known))
        return file
    page.opened = []
    monkeypatch.setattr(cli.webbrowser, "open", page.opened.append)
    return page

def test_open_takes_the_newest_of_ones_own_else_the_published_else_the_index(pages, tmp_path):
    def opened(*words):
        done = command("open", *words, home=tmp_path / "store")
        return Path(done.stdout.strip()) if done.returncode == 0 else done.stderr
    published, other = (pages(f"{testbed}/prompt", "prompt", testbed) for testbed in ("digits", "digits-wild"))
    index, local = tmp_path / "reports" / "index.html", tmp_path / "reports" / "local" / "index.html"
    index.touch()
    assert opened("prompt", "--on", "digits") == published and opened("prompt") == opened() == index
    assert pages.opened == [page.as_uri() for page in (published, index, index)]
    own, debug = (pages(f"local/digits/prompt{end}", "prompt", "digits") for end in ("", "-debug"))
    os.utime(own, (1, 1))
    assert opened("prompt", "--on", "digits") == opened("prompt") == opened("--on", "digits") == debug
    assert opened("prompt", "--on", "digits-wild") == other and opened() == local
    assert "no report of guidance on digits yet; synthnb run guidance --on digits" in opened(
        "guidance", "--on", "digits")
    assert "did you mean 'guidance'" in opened("guidence") and len(pages.opened) == 8

def test_plan_says_how_many_seeds_would_show_a_difference(tmp_path, monkeypatch):
    def planned():
        done = command("plan", "prompt", "--on", "digits-wild", "--show", "2", home=tmp_path / "store")
        return done.stdout.splitlines()
    lines, asked = planned(), "seeds that would show a true difference of 2 points in top-1"
    head = next(i for i, line in enumerate(lines) if line.startswith(f"{asked}, with 80 % power"))
    contrasts = find_study("prompt").contrasts
    assert len(lines) - head - 1 == len(open_experiment("prompt", "digits-wild", planning=True).spec.contrasts)
    arm, reference, _ = contrasts[0]
    values = published_values("prompt", "digits-wild")
    sd = np.std([values[arm][seed] - values[reference][seed] for seed in range(8)], ddof=1)
    needed = seeds_needed(sd, .02, .05 / (len(lines) - head - 1))
    assert lines[head + 1].startswith(f"  {arm} against {reference}: {needed} seeds (standard deviation of the ")
    assert lines[head + 1].endswith(f"{100 * sd:.1f}, from 8 published seeds)")
    monkeypatch.setattr(cli, "ROOT", tmp_path)  # nothing is published there
    assert planned()[-1].startswith(f"{asked}: not known, there are neither finished nor published results")
    finished = {"real only": {0: .5, 1: .52, 2: .51}, "real + 3x, class name": {0: .52, 1: .55, 2: .51}}
    monkeypatch.setattr(Experiment, "values", lambda run, metric=None: {a: finished.get(a, {}) for a in run.cells})
    known = [line for line in planned() if "finished" in line]
    assert len(known) == 1 and known[0].endswith("(standard deviation of the differences 1.5, from 3 finished seeds)")
    assert not (tmp_path / "store").exists(), "a plan writes nothing"

def test_status_and_gc_of_an_empty_store(tmp_path):
    assert "  0 of 2 seeds" in command("status", *STUDY, "--scale", "debug", home=tmp_path / "store").stdout
    assert command("gc", home=tmp_path / "store").stdout.startswith("0 artefacts")
    assert command("status", "synthetic_ratio", home=tmp_path / "store").returncode == 2
    assert command("report", *STUDY, home=tmp_path / "store").returncode == 2

def test_a_share_that_cannot_be_reached_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        GOOD.replace("mix.synthetic: 1", "mix.synthetic: 1, mix.real: 0, mix.real_share: 0.5"))
    done = command("plan", str(tmp_path / "mine.yaml"), "--on", "digits", home=tmp_path / "store")
    assert done.returncode == 2 and "mix.real_share = 0.5: there are no real images" in done.stderr
