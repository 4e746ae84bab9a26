"""What `make` does before anything else: one line where something is missing, and never half an environment."""
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
missing = runpy.run_path(str(ROOT / ".ci/venv.py"))["missing"]


@pytest.mark.parametrize(("version", "has_venv", "free", "names"), [
    ((3, 9), True, 99, "apt install python3.11 python3.11-venv"),
    ((3, 11), False, 99, "apt install python3.11-venv"),
    ((3, 12), True, 3.25, "3.2 GB are free"),
])
def test_a_missing_prerequisite_is_one_line(version, has_venv, free, names):
    line = missing(version, has_venv, free)
    assert names in line and "\n" not in line


def test_nothing_missing():
    assert missing((3, 11), True, 99) is None


@pytest.fixture
def project(tmp_path):
    "A folder with the Makefile and a requirement that no registry has."
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "requirements.txt").write_text("absent @ file:///absent/absent-1.0-py3-none-any.whl\n")
    return tmp_path


def make(project, *arguments):
    "Run make; its exit code and everything it said."
    done = subprocess.run(["make", "-C", project, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_failed_installation_leaves_nothing(project):
    code, said = make(project, "lint")
    assert code == 2 and "could not be installed" in said
    assert not (project / ".venv").exists()


def test_an_absent_python_is_one_line(project):
    code, said = make(project, "lint", "PYTHON=python0")
    assert code == 2 and "apt install python3 python3-venv" in said


def test_make_lists_its_targets(project):
    code, said = make(project)
    assert code == 0 and "make demo" in said and "make test" in said


def test_ci_ends_with_the_tests_that_did_not_run(tmp_path):
    for tool in ("bash", "dirname", "id", "tail"): (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "make").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "make").chmod(0o755)
    done = subprocess.run([ROOT / ".ci/run"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 3 and "THE BROWSER TESTS DID NOT RUN: no chromium here" in done.stdout.splitlines()[-2]


def test_tests_reach_no_other_machine():
    # an address that no machine has (RFC 5737)
    knock = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    with pytest.raises(ConnectionRefusedError, match="tests use no network"): exec(knock)
    assert "tests use no network" in subprocess.run([sys.executable, "-c", knock], capture_output=True,
        text=True).stderr
