"""The file map in nbs/README.md, from the notebooks' own first lines: `python tests/file_map.py` writes it."""
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "nbs" / "README.md"
# a wing imports from the wings before it, and within a wing a notebook from those before it; studies import options
# alone, and the maker of data/glyph is imported by the command alone
WINGS = ("base", "artefacts", "data", "learn", "generate", "glyph", "lab", "studies", "engine", "report", "pages",
         "interface")
START, END = "<!-- written by `make export` from the notebooks' first lines -->", "<!-- end -->"


def first_line(notebook):
    "The line below a notebook's title."
    text = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
    return re.search(r"^> *(.+)$", text, re.M)[1]


def file_map():
    "A table a wing: each notebook with its first line."
    lines = [START]
    for wing in WINGS:
        lines += ["", f"### {wing}", "", "| notebook | what is in it |", "|---|---|"]
        for notebook in sorted((ROOT / "nbs" / wing).glob("*.ipynb")):
            lines.append(f"| [{notebook.stem}]({wing}/{notebook.name}) | {first_line(notebook)} |")
    return "\n".join([*lines, "", END])


def written(text):
    "A README with the map of today."
    head, _, rest = text.partition(START)
    return head + file_map() + rest.partition(END)[2]


if __name__ == "__main__": README.write_text(written(README.read_text()))
