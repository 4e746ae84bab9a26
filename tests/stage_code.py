"""The code behind each stage, as hashes: `python tests/stage_code.py` records them, test_structure.py compares."""
import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

RECORD = Path(__file__).with_name("stages.json")
PACKAGE = Path(__file__).resolve().parent.parent / "synthnb"
INPUTS = {  # what they return has a key of its own, and what is in the tables a version of its own
    ("artefacts.stages", "fetch"), ("artefacts.stages", "ensure"), ("learn.filters", "SCORES"),
    ("learn.measures", "MEASURES")}
# where artefacts lie, not what is in them
KEEPING = ("base.environment", "base.errors", "artefacts.store", "artefacts.artefact")
OPTIONS = ("base.options", "base.generator_options")  # values are part of keys; only what methods compute is code


def shape(node):
    "A syntax tree as lists without comments, docstrings, positions and what differs between versions of Python."
    if isinstance(node, list): return [shape(n) for n in node]
    if not isinstance(node, ast.AST): return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, []) or name == "value"}
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None: fields["body"] = node.body[1:]
    return [type(node).__name__, *([name, shape(value)] for name, value in fields.items())]


class Module:
    "What a file defines at its top, and what its names mean."
    def __init__(self, text, name):
        self.tree, self.name = ast.parse(text), name
        self.defined = {name: node for node in self.tree.body for name in names_of(node)}
        self.imported = {}  # name -> dotted name of a module, or of something in it
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.ImportFrom): continue
            above = ["synthnb", *name.split(".")][:-node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names: self.imported[alias.asname or alias.name] = f"{source}.{alias.name}"


parsed = cache(Module)  # a module that has not changed is read once, whatever folder it is in


@cache
def hashed(nodes):
    "A hash of what one definition does, from the nodes that count of it."
    return hashlib.sha256(json.dumps(shape(list(nodes))).encode()).hexdigest()


def names_of(node):
    "What a statement defines."
    if isinstance(node, ast.FunctionDef | ast.ClassDef): return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def without_annotations(node):
    "Every node of a tree, but for the types of arguments and of what is returned."
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"): continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST): yield from without_annotations(child)


class Package:
    "Every module, and which definitions a definition uses."
    def __init__(self, folder=PACKAGE):
        files = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in folder.rglob("*.py")}
        self.modules = {name: parsed(path.read_text(), name) for name, path in files.items() if "." in name}
        self.used = cache(self._used)

    def find(self, dotted):
        "The module and name of a definition, by `synthnb.wing.module.name`; None where it decides no content."
        module, _, name = dotted.removeprefix("synthnb.").rpartition(".")
        if module in KEEPING: return None
        return (module, name) if module in self.modules and name in self.modules[module].defined else None

    def body(self, module, name):
        "The nodes that count of a definition."
        node = self.modules[module].defined[name]
        if module not in OPTIONS or not isinstance(node, ast.ClassDef): return (node,)
        checks = ("field_validator", "model_validator")
        return tuple(method for method in node.body if isinstance(method, ast.FunctionDef)
            and not any(check in ast.unparse(d) for d in method.decorator_list for check in checks))

    def _used(self, module, name):
        "The definitions of ours that a definition names, by itself, through a module, or as `module:function`."
        here, found = self.modules[module], set()
        for node in (n for top in self.body(module, name) for n in without_annotations(top)):
            if isinstance(node, ast.Name): names = [here.imported.get(node.id, f"synthnb.{module}.{node.id}")]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{here.imported.get(node.value.id, '')}.{node.attr}"]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [text.replace(":", ".") for text in re.findall(r"^synthnb\.[\w.]+:\w+$", node.value)]
            else: continue
            found |= {self.find(dotted) for dotted in names} - {None}
        return found

    def behind(self, *roots):
        "All definitions that some use, themselves among them."
        found, new = set(), set(roots)
        while new:
            found |= new
            new = {used for one in new - INPUTS for used in self.used(*one)} - found
        return found - INPUTS

    def code(self, *roots):
        "A hash of what some definitions do."
        found = [[*one, hashed(self.body(*one))] for one in sorted(self.behind(*roots))]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def now(folder=PACKAGE):
    "Every stage's version and code as they are."
    from synthnb.artefacts.artefact import STAGES
    from synthnb.learn.filters import SCORES
    from synthnb.learn.measures import MEASURES
    makers = {kind: (stage.version, stage.maker) for kind, stage in STAGES.items()}
    makers |= {f"measure {name}": (measure.version, measure.function) for name, measure in MEASURES.items()}
    makers |= {f"score {name}": (score.version, score.function) for name, score in SCORES.items()}
    package = Package(folder)
    return {kind: {"version": version, "code": package.code(package.find(function.replace(":", ".")))}
            for kind, (version, function) in sorted(makers.items())}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(now(), indent=1) + "\n")
    print("recorded", RECORD)
