"""The tests that changed files concern: `python tests/changed.py` runs them (`make check`); `make test` runs all."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = "tests/test_structure.py"  # layers, export and clean without diff, stage versions
CELLS = "tests/test_notebooks.py::test_cells_hold_for_the_exported_module"
PAGES = {"howto": "tests/test_notebooks.py::test_a_how_to_runs_from_top_to_bottom",
         "testbeds": "tests/test_notebooks.py::test_the_page_of_a_testbed_holds"}


def changed():
    "Files that differ from where this branch left main, committed or not, and new ones; on main, from the last commit."
    def git(*words):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.splitlines()
    base = (git("merge-base", "HEAD", "main") or ["HEAD"])[0]
    return sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")})


def modules():
    "The notebook of every module that is exported, by the module's dotted name."
    found = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        name = re.search(r"^#\| *default_exp +(\S+)", code, re.M)
        if name: found[f"synthnb.{name[1]}"] = notebook.relative_to(ROOT).as_posix()
    return found


def imports(file, package):
    "The dotted names that a file imports, and what it takes from them."
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import): yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*above, *filter(None, [node.module])])
            yield from [name, *(f"{name}.{alias.name}" for alias in node.names)]


def notebooks_of(files):
    "The tests of notebooks that changed, and of those whose modules import a changed one."
    known = modules()
    source = {name: f"{name.replace('.', '/')}.py" for name in known}
    new = {name for name in known if known[name] in files or source[name] in files}
    for name in known:
        if name in new or new & {*imports(ROOT / source[name], name.rpartition(".")[0])}:
            yield f"{CELLS}[{Path(known[name]).parent.name}/{Path(known[name]).stem}]"
    for notebook in map(Path, files):
        if notebook.parent.name in PAGES and notebook.suffix == ".ipynb" and (ROOT / notebook).exists():
            yield f"{PAGES[notebook.parent.name]}[{notebook.stem}]"


def tests_of(files):
    "The files of tests that changed, import a changed helper, or name another changed file."
    helpers = {Path(file).stem for file in files if re.fullmatch(r"tests/(?!test_|conftest)\w+\.py", file)}
    named = {Path(file).name for file in files if not file.startswith(("synthnb/", "tests/"))}
    for test in sorted((ROOT / "tests").glob("test_*.py")):
        text = test.read_text()
        told = helpers & {*imports(test, "tests")} or any(name in text for name in named)
        if told or f"tests/{test.name}" in files: yield f"tests/{test.name}"


def concerned(files):
    "What pytest is to run."
    return [*dict.fromkeys([*notebooks_of(files), *tests_of(files), ALWAYS])]


if __name__ == "__main__":
    chosen = concerned(changed())
    print("what changed concerns:", *chosen, sep="\n  ", flush=True)
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", *chosen, *sys.argv[1:]]).returncode)
