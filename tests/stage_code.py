"""The code behind each stage, as hashes: `python tests/stage_code.py` records them, test_structure.py compares."""
import ast
import hashlib
import json
from pathlib import Path

RECORD = Path(__file__).with_name("stages.json")
PACKAGE = Path(__file__).resolve().parent.parent / "synthnb"


def shape(node):
    "A syntax tree as lists without comments, docstrings, positions and what differs between versions of Python."
    if isinstance(node, list): return [shape(n) for n in node]
    if not isinstance(node, ast.AST): return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, []) or name == "value"}
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node,
        clean=False) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, *([name, shape(value)] for name, value in fields.items())]


def code(modules, package=PACKAGE):
    "A hash of what these modules do."
    trees = [[name, shape(ast.parse((package / f"{name.replace('.', '/')}.py").read_text()))]
        for name in sorted(modules)]
    return hashlib.sha256(json.dumps(trees).encode()).hexdigest()[:16]


def now():
    "Every stage's version and code as they are."
    from synthnb.lab.artefacts import STAGES
    return {kind: {"version": stage.version, "code": code(stage.modules)} for kind, stage in sorted(STAGES.items())}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(now(), indent=1) + "\n")
    print("recorded", RECORD)
