"""The README keeps its promises: every snippet runs as it stands, links lead somewhere, and it is short."""
import os
import re
import shutil
import subprocess

import runs
from test_own import photos

from synthnb.base.environment import ROOT
from synthnb.engine.kernels import Kernel, start_fork_server

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)


def shell(line, folder):
    "Run one line of a shell snippet; what `make` would do is only looked up."
    words = line.partition("#")[0].split()
    if not words: return
    if words[0] == "make":
        return subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    assert words[0] == "synthnb"
    runs.finish(runs.Forked(*words[1:], home=folder / "store", cwd=folder))


def run(kind, text, folder):
    "Run a snippet, or write the file that it shows."
    if kind == "sh":
        for line in text.splitlines(): shell(line, folder)
    elif kind == "yaml": (folder / f"{re.match('name: (.+)', text)[1]}.yaml").write_text(text)
    elif name := re.match(r"# (\w+\.py)\b", text): (folder / name[1]).write_text(text)
    else:
        start_fork_server()
        with Kernel({**os.environ, "SYNTHNB_HOME": str(folder / "store")}) as kernel:  # "in a notebook"
            said = [*kernel.execute(f"import os; os.chdir({str(folder)!r})"), *kernel.execute(text)]
        assert not [message for message in said if message["msg_type"] == "error"], said


def test_every_snippet_runs_as_it_stands(undisturbed, tmp_path):
    shutil.copytree(undisturbed["home"], tmp_path / "store")  # generators of digits that this would only train again
    photos(tmp_path / "photos")
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "yaml"}
    for kind, text in BLOCKS: run(kind, text, tmp_path)


def test_it_can_be_read_in_two_minutes():
    words = re.findall(r"\S*\w\S*", TEXT.partition("## Reference")[0])
    assert len(words) <= 900


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT): assert (ROOT / link).exists(), link
    texts = [TEXT, *((ROOT / page).read_text() for page in ("data/README.md", "data/glyph/README.md"))]
    for name in re.findall(r"`((?:nbs|data|reports|tests)/[\w./-]+)`", "\n".join(texts)):
        assert (ROOT / name).exists() or name.startswith("data/store"), name
