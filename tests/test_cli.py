"""The command line: bad input is a few clear lines and exit code 2, and leaves nothing behind; plan is quick and
imports no torch."""
import os
import subprocess
import sys

import distributed
import pytest
from runs import command

STUDY = ("synthetic_ratio", "--on", "digits-wild")
GOOD = "name: mine\nquestion: does it?\narms:\n  a: {}\n  b: {mix.synthetic: 1}\ncontrasts: [[b, a]]\n"

def synthnb(*args, home, code="from synthnb.interface.cli import main; main()"):
    env = {**os.environ, "SYNTHNB_HOME": str(home)}
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
    (("run", *STUDY, "--time-limit", "soon"), "time-limit"),
    (("run", *STUDY, "--scheduler", "localhost"), "tcp://HOST:PORT"),
    (("run", *STUDY, "--scheduler", "tcp://127.0.0.1:1"), "no scheduler answers"),
    (("cluster", "slrum", "--scheduler", "tcp://head:8786"), "did you mean 'slurm'"),
    (("cluster", "slurm"), "--scheduler"),
    (("cluster", "slurm", "--scheduler", "head:8786"), "tcp://HOST:PORT"),
    (("cluster", "pbs", "--scheduler", "tcp://head:8786", "--walltime", "4h"), "HOURS:MINUTES:SECONDS"),
    (("cluster", "lsf", "--scheduler", "tcp://head:8786", "--memory", "much"), "16GB"),
    (("testbed", "new", "pets"), "folder:DIR"),
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
    assert "testbeds: digits" in command("show", home=tmp_path / "store").stdout

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
