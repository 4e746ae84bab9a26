"""Every library notebook's own cells (asserts, demos) run once against the exported module, so that coverage counts
them."""
import importlib
import json
import linecache
import os
import re
from contextlib import contextmanager, nullcontext
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from IPython.display import display

from synthnb.engine.execute import execute_notebook
from synthnb.engine.kernels import start_fork_server

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted([*(ROOT / "nbs").glob("*/[0-9][0-9]_*.ipynb"), *(ROOT / "nbs/studies").glob("*.ipynb")])
HOWTO = sorted((ROOT / "nbs/howto").glob("*.ipynb"))
TESTBEDS = sorted((ROOT / "nbs/testbeds").glob("*.ipynb"))
SKIPPED = re.compile(r"^#\| *(exports?|default_exp|slow|gpu|eval: *false)\b", re.M)


def own_cells(notebook):
    "(name, source) of the code cells that are not exported."
    for i, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not SKIPPED.search(source) and "nbdev_export()" not in source:
            yield f"{notebook.name}[{i}]", source


def execute(notebook, namespace):
    "Run a notebook's own cells in this process."
    with mock.patch.dict(os.environ):
        for where, source in own_cells(notebook):
            # so that a traceback shows the cell
            linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
            exec(compile(source, where, "exec"), namespace)
    plt.close("all")


@contextmanager
def another_fork_server():
    "Hide the fork server, which all tests share, from a notebook that kills it."
    server = forkserver._forkserver
    kept = dict(vars(server))
    vars(server).clear()
    server.__init__()
    try: yield
    finally:
        server._stop()
        vars(server).clear()
        vars(server).update(kept)


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_cells_hold_for_the_exported_module(notebook, tmp_path, monkeypatch):
    name = re.search(r"#\| *default_exp +([\w.]+)", notebook.read_text())[1]
    monkeypatch.chdir(tmp_path)
    with another_fork_server() if notebook.stem == "02_kernels" else nullcontext():
        execute(notebook, {**vars(importlib.import_module(f"synthnb.{name}")), "display": display})


@pytest.mark.parametrize("notebook", TESTBEDS, ids=lambda p: p.stem)
def test_the_page_of_a_testbed_holds(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(notebook, {"display": display})


def test_every_library_notebook_checks_its_module():
    unchecked = [p.name for p in LIBRARY if p.parent.name != "studies"
        and not any(re.search(r"^\s*assert\b", s, re.M) for _, s in own_cells(p))]
    assert unchecked == []


@pytest.mark.parametrize("notebook", HOWTO, ids=lambda p: p.stem)
def test_a_how_to_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start_fork_server()
    execute_notebook(notebook, tmp_path / notebook.name, {})
    done = nbformat.read(tmp_path / notebook.name, 4)
    shown = [o.data for cell in done.cells for o in cell.get("outputs", []) if o.output_type == "display_data"]
    assert (shown
        and all("image/png" in data or "text/html" in data
        for data in shown)), "a figure without its picture, or a leftover of a progress bar"


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path):
    papermill.execute_notebook(ROOT / "nbs/tour.ipynb", tmp_path / "tour.ipynb", cwd=tmp_path, kernel_name="python3",
        progress_bar=False)
