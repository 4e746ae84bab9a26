"""The shape of the project: layers, light imports, exports without diff, documented and short functions, stage
versions."""
import ast
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tokenize
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import file_map
import pytest
import stage_code
from file_map import WINGS

from synthnb.engine.kernels import Kernel, start_fork_server

ROOT = Path(__file__).resolve().parent.parent
LIGHT = (  # no torch: `synthnb plan` answers at once
    "base.options base.plugins artefacts.store artefacts.artefact artefacts.stages data.external_images "
    "data.pretrained generate.captions generate.ready_made generate.pool learn.filters learn.mix learn.measures "
    "lab.outside lab.arms lab.cell lab.statistics lab.testbed lab.study engine.requirements engine.plan engine.run "
    "interface.api interface.cli").split()
DEVELOPMENT = {"nbdev", "fastcore", "execnb", "ghapi", "pytest"}  # never at run time

NUMBERED = {  # module -> its notebook, from the bottom to the top
    f"{wing}.{p.stem[3:]}": p for wing in WINGS for p in sorted((ROOT / "nbs" / wing).glob("[0-9][0-9]_*.ipynb"))}
STUDIES = {f"studies.{p.stem}": p for p in sorted((ROOT / "nbs/studies").glob("*.ipynb"))}
LAYERS = list(NUMBERED)
SOURCES = [p for p in sorted((ROOT / "synthnb").rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")]


def module(path):
    "synthnb/lab/study.py -> lab.study"
    return ".".join(path.relative_to(ROOT / "synthnb").with_suffix("").parts)


def cells(notebook, kind="code"):
    "The sources of a notebook's cells of one kind."
    return ["".join(c["source"]) for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == kind]


def tree_files(*suffixes):
    "Files that git tracks or would track, by suffix; all where none."
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
        capture_output=True, text=True, check=True).stdout
    files = sorted({ROOT / line for line in listed.splitlines()})
    return [f for f in files if f.is_file() and (not suffixes or f.suffix in suffixes)]


def nothing(found, advice=""):
    "Fail with one line for each finding."
    assert not found, "\n".join(["", *filter(None, [advice]), *map(str, found)])


# ---- layers

def imported(path, package=ROOT / "synthnb"):
    "(line, dotted name) of everything that a module imports, in functions too; our own modules as `synthnb.x.name`."
    here = ["synthnb", *path.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (".".join([*here[:len(here) - node.level + 1], *filter(None, [node.module])]) if node.level
                else node.module)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def rank(name):
    "Position of a module, or of a wing's folder: wing first, then number."
    wing, _, room = name.partition(".")
    return WINGS.index(wing), LAYERS.index(name) if name in LAYERS else -1


def upward(path):
    "The imports of a module that do not lead downward."
    own, known = module(path), [*LAYERS, *STUDIES]
    for line, name in imported(path):
        if name.split(".")[0] != "synthnb": continue
        target = name.split(".", 1)[1] if "." in name else ""
        found = next((m for m in known if target == m or target.startswith(m + ".")), None)
        if target == "studies" and own == "lab.study": continue  # the folder, which study lists; it imports nothing
        if found is None: yield f"synthnb/{own}:{line} imports {name}, which is no module of ours"
        elif rank(found) >= rank(own): yield f"synthnb/{own}:{line} imports upward: {name}"
        elif own.startswith("studies.") and found != "base.options":
            yield f"synthnb/{own}:{line} imports more than options: {name}"
        elif found.startswith("glyph.") and not own.startswith(("glyph.", "interface.")):
            yield f"synthnb/{own}:{line} imports {name}"


def test_wings_are_small_and_numbered_from_0():
    for wing in WINGS:
        if wing == "studies": continue
        numbers = [int(p.name[:2]) for m, p in NUMBERED.items() if m.startswith(wing + ".")]
        assert numbers == list(range(len(numbers))) and 0 < len(numbers) <= 9, wing


def test_imports_lead_downward():
    nothing([line for path in SOURCES for line in upward(path)])


def test_no_star_imports():
    nothing([f"{p.relative_to(ROOT)}:{line} from {name}" for p in SOURCES for line, name in imported(p)
        if name.endswith(".*")])


def test_the_package_itself_imports_nothing():
    inits = [ROOT / "synthnb" / "__init__.py", *(ROOT / "synthnb" / wing / "__init__.py" for wing in WINGS)]
    statements = [node for init in inits for node in ast.parse(init.read_text()).body]
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in statements)


def test_one_notebook_a_module_and_the_reverse():
    exports = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        found = [m for source in cells(notebook) for m in re.findall(r"^#\| *default_exp +(\S+)", source, re.M)]
        if found: exports[notebook] = found
        else:
            assert not any(re.search(r"^#\| *exports?\b", s, re.M)
                for s in cells(notebook)), f"{notebook.name} exports without default_exp"
    expected = {p: [name] for name, p in (NUMBERED | STUDIES).items()}
    assert exports == expected
    assert sorted(name for names in exports.values() for name in names) == sorted(map(module, SOURCES))


# ---- imports that cost

def loading(modules, suspects):
    "Code that imports modules, and prints which of the suspects are loaded then, if any."
    return (f"import importlib, sys\nfor m in {[*modules]}:\n    importlib.import_module('synthnb.' + m)\n"
            f"    found = sorted({suspects} & set(sys.modules))\n    if found: print(m, found); break")


def test_light_modules_import_neither_torch_nor_plotting():
    code = loading(LIGHT, {"torch", "torchvision", "diffusers", "timm", "matplotlib", "seaborn"})
    assert not subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout


def test_run_time_needs_no_development_package():
    "In a process forked from one that has imported; that one loads nothing else either."
    nothing([f"{p.relative_to(ROOT)}:{line} {name}" for p in SOURCES for line, name in imported(p)
        if name.split(".")[0] in DEVELOPMENT])
    start_fork_server()
    with Kernel(dict(os.environ)) as kernel: said = [*kernel.execute(loading(map(module, SOURCES), DEVELOPMENT))]
    assert [message["msg_type"] for message in said] == ["execute_input"], said


def test_run_time_imports_are_declared():
    owners = packages_distributions()
    declared = {re.split("[<>=]", d)[0]
        for d in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    tops = {(name.split(".")[0], module(p)) for p in SOURCES for _, name in imported(p)}
    foreign = [(top, where) for top, where in sorted(tops) if top != "synthnb" and top not in sys.stdlib_module_names]
    nothing([f"{where} imports {top}: name it in pyproject.toml, its closure in requirements.txt"
        for top, where in foreign
             if not declared & {owner.lower().replace("_", "-") for owner in owners.get(top, [])}])


# ---- export and clean leave no diff

@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    "A copy of the tree after nbdev_export and nbdev_clean."
    copy, home = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("home")
    for file in tree_files():
        (copy / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy / file.relative_to(ROOT))
    env = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "JUPYTER_DATA_DIR": str(home)}
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / tool], cwd=copy, env=env, check=True, capture_output=True,
            text=True)
    return copy


def test_export_and_clean_leave_no_diff(exported):
    made = {p.relative_to(exported) for p in exported.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    files = {p.relative_to(ROOT) for p in tree_files()}
    nothing(sorted(made ^ files), "these are only here or only after `make export`:")
    nothing([f for f in sorted(files) if (ROOT / f).read_bytes() != (exported / f).read_bytes()],
        "`make export` writes these anew:")


def test_templates_keep_their_parameters(exported):
    templates = sorted((ROOT / "nbs/templates").glob("*.ipynb"))
    assert templates
    for template in [*templates, *(exported / t.relative_to(ROOT) for t in templates)]:
        tags = [c["metadata"].get("tags", []) for c in json.loads(template.read_text())["cells"]]
        assert (sum("parameters" in t for t in tags)
            == 1), f"{template.name} needs exactly one cell with the tag `parameters`"


def test_the_file_map_is_that_of_the_notebooks():
    text = file_map.README.read_text()
    assert text == file_map.written(text), "`make export` writes the file map in nbs/README.md anew"
    missing = [wing for wing in WINGS if f"| `{wing}` |" not in text]
    assert missing == [], "the table of wings in nbs/README.md lacks these"


# ---- functions: documented and short

def functions(body, public=True):
    "(function, whether it is public) of a module: functions and methods, without those inside functions."
    for node in body:
        shown = public and not getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef): yield node, shown
        elif isinstance(node, ast.ClassDef): yield from functions(node.body, shown)


def returns_value(function):
    "Whether a function without annotation gives something back."
    todo = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef): continue
        if isinstance(node, ast.Yield | ast.YieldFrom) or isinstance(node, ast.Return) and node.value is not None:
            return True
        todo += ast.iter_child_nodes(node)
    return False


def undocumented(function, comments):
    "What a public function's documentation lacks; comments: the lines that end with one."
    if not (doc := ast.get_docstring(function, clean=False)) or "\n" in doc: yield "needs a docstring of one line"
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    defaults = (dict(zip(reversed(positional), reversed(a.defaults), strict=False))
        | dict(zip(a.kwonlyargs, a.kw_defaults, strict=True)))
    named = [x for x in [*positional, a.vararg, *a.kwonlyargs, a.kwarg] if x and x.arg not in ("self", "cls")]
    lines = [(defaults.get(x) or x).end_lineno for x in named]
    end = function.returns.end_lineno if function.returns else function.lineno
    # typer's help texts say it
    if any(ast.unparse(d).split("(")[0].endswith(".command") for d in function.decorator_list): named = lines = []
    for argument, line in zip(named, lines, strict=True):
        if line not in comments or lines.count(line) > 1 or line == end:
            yield f"argument {argument.arg} needs a line and a comment of its own"
    if function.returns is None and returns_value(function): yield "the return value needs an annotation and a comment"
    elif function.returns and ast.unparse(function.returns) not in ("None", "Iterator[None]") and end not in comments:
        yield "the return value needs a comment"


def test_public_functions_are_documented():
    lacks = []
    for path in SOURCES:
        text = path.read_text()
        comments = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(text).readline)
            if t.type == tokenize.COMMENT}
        tree = ast.parse(text)
        lacks += [f"{module(path)}.{f.name}: {lack}" for f, public in functions(tree.body) if public
            for lack in undocumented(f, comments)]
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        lacks += [f"{module(path)}.{c.name}: needs a docstring" for c in classes if not ast.get_docstring(c)]
    nothing(lacks)


def test_functions_are_short():
    every = [(module(p), f) for p in SOURCES for f, _ in functions(ast.parse(p.read_text()).body)]
    nothing([f"{name}.{f.name}: {n} lines" for name, f in every if (n := f.end_lineno - f.lineno + 1) > 40])
    bodies = [f.body[1:] if ast.get_docstring(f) else f.body for _, f in every]
    assert statistics.median(b[-1].end_lineno - b[0].lineno + 1 if b else 0 for b in bodies) <= 8


# ---- what does not belong into the tree

TEXT = (".py", ".ipynb", ".md", ".toml", ".ini", ".txt", ".yaml", ".yml", ".json", ".csv", ".html", ".tex", "")
PLACES = re.compile(r"/(work|tmp|root|home)/\w+/")
NOTES = re.compile(r"\b(TO(?:DO)|FIX(?:ME)|X{3})\b")


def test_no_path_of_a_machine_and_no_leftover_notes():
    found = []
    for file in tree_files(*TEXT):
        name = str(file.relative_to(ROOT))
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if PLACES.search(line) and not name.startswith("tests/") or NOTES.search(line):
                found.append(f"{name}:{number} {line.strip()[:80]}")
    nothing(found)


def test_notebooks_are_light():
    sizes = {f.name: sum(len(json.dumps(c.get("outputs", []))) for c in json.loads(f.read_text())["cells"])
        for f in tree_files(".ipynb")}
    nothing([f"{name}: {size // 1000} kB of outputs" for name, size in sizes.items() if size > 150_000])


def test_outputs_are_at_most_30_percent_of_the_notebooks():
    files = tree_files(".ipynb")
    outputs = sum(len(json.dumps(c.get("outputs", []))) for f in files for c in json.loads(f.read_text())["cells"])
    assert outputs <= 0.3 * sum(f.stat().st_size for f in files)


def test_requirements_are_names_and_versions():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    nothing([line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)])


# ---- stage versions: a result's key must change when the code behind it does

@pytest.fixture(scope="module")
def now(): return stage_code.now()


def test_changed_stages_have_a_new_version(now):
    recorded = json.loads(stage_code.RECORD.read_text())
    changed = sorted(kind for kind in now.keys() & recorded if now[kind] != recorded[kind]
                     and now[kind]["version"] == recorded[kind]["version"])
    nothing(changed, "the code behind these stages changed, their versions did not: give them new versions in STAGES "
                     "(nbs/artefacts/01_artefact.ipynb), so that old artefacts are made again; where no result "
                     "changes, leave the version. Then record with `make stages`")
    assert recorded == now, "stages are new, gone or have a new version: record them with `make stages`"


@pytest.mark.parametrize("module, old, new, stages", [
    ("learn.metrics", "if len(y) == 0 or k >=", "if len(y) == 0 or k >",
        "judge, measure outcomes, measure pool, weights"),
    ("generate.pool", "rng.integers(0, 256,", "rng.integers(0, 255,", "shard"),
    ("learn.diversity", "np.linalg.eigvalsh(gram / len(u))", "np.linalg.eigvalsh(gram)", "measure diversity"),
    ("learn.train", '"Train to the end,', '"Train until the end,', ""),
    ("artefacts.artefact", 'STAGES = {', 'STAGES = {"more": Stage(1, "synthnb.data.splits:make_splits"),', ""),
    ("learn.measures", 'MEASURES = {', 'MEASURES = {"more": Measure(1, (), "synthnb.learn.measures:batches"),', ""),
    ("base.options", "return Recipe(width=self.width,", "return Recipe(width=2 * self.width,", "judge, measure pool"),
])
def test_the_guard_calls_for_the_stages_that_use_what_changed(module, old, new, stages, now, tmp_path):
    package = shutil.copytree(ROOT / "synthnb", tmp_path / "synthnb", ignore=shutil.ignore_patterns("__pycache__"))
    file = package / f"{module.replace('.', '/')}.py"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    after = stage_code.now(package)
    assert [kind for kind in now if now[kind] != after[kind]] == list(filter(None, stages.split(", ")))


def test_published_pages_are_small():
    pages = {page: 150_000 if page.parent.name == "arms" else 2_000_000 for page in (ROOT / "reports").rglob("*.html")
        if "local" not in page.parts}
    assert pages and [page.name for page, most in pages.items() if page.stat().st_size > most] == []
