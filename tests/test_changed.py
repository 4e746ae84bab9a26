"""What `make check` runs after a change."""
from pathlib import Path

import pytest
from changed import CELLS, PAGES, ROOT, concerned, imports, modules

KNOWN = modules()
FILTER = "synthnb.learn.filters"  # a module that others import


def source(name): return f"{name.replace('.', '/')}.py"


@pytest.mark.parametrize("file", [KNOWN[FILTER], source(FILTER)], ids=["notebook", "module"])
def test_a_notebook_concerns_its_cells_and_those_of_whose_modules_import_it(file):
    users = [name for name in KNOWN if FILTER in imports(ROOT / source(name), name.rpartition(".")[0])]
    books = [Path(KNOWN[name]) for name in (FILTER, *users)]
    cells = {f"{CELLS}[{book.parent.name}/{book.stem}]" for book in books}
    assert users and set(concerned([file])) == {*cells, "tests/test_structure.py"}


@pytest.mark.parametrize(("file", "test"), [
    ("tests/test_stats.py", "test_stats.py"), ("tests/simulated.py", "test_report_browser.py"),
    ("Makefile", "test_setup.py"), ("data/testbeds/pets-sd15.yaml", "test_plan.py")])
def test_a_test_a_helper_and_what_a_test_names(file, test):
    assert {f"tests/{test}", "tests/test_structure.py"} <= set(concerned([file]))


def test_the_named_tests_are_there():
    text = (ROOT / "tests" / "test_notebooks.py").read_text()
    for name in (CELLS, *PAGES.values()): assert f"def {name.partition('::')[2]}(" in text
    assert concerned(["nbs/howto/score.ipynb"])[0].endswith("[score]")
