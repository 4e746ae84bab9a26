"""The measurement of generation runs by papermill, with few images: its table and its gate are there."""
import json
from pathlib import Path

import nbformat

from synthnb.engine.execute import execute_notebook
from synthnb.engine.kernels import start_fork_server

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs/bench/generation.ipynb"
SMALL = {"rounds": 1, "images": 20, "workers": 0, "share": 10,
    "options": {"judge.steps": 30, "judge.width": 8, "judge.views": 1}}
REPORT = """
import json
assert not alike("fair", "darker", 1, made | {"darker": made["fair"] // 2})["equal"], "a gate that can be shut"
assert speed.columns.tolist() == [
    "steps", "a call", "images/s", "CPU ms an image", "x plain", "x plain, CPU", "x fair", "x fair, CPU", "fidelity",
    "fidelity error", "KID", "KID error"]
print(json.dumps({"speed": speed.T.to_dict(), "gates": gates.set_index("gate").to_dict("index"), "weights": weights}))
"""


def test_the_measurement_of_generation_runs(tmp_path):
    book = nbformat.read(NOTEBOOK, 4)
    book.cells.append(nbformat.v4.new_code_cell(REPORT))
    nbformat.write(book, tmp_path / "in.ipynb")
    start_fork_server()
    execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", SMALL)
    done = nbformat.read(tmp_path / "out.ipynb", 4)
    said = json.loads(done.cells[-1].outputs[-1].text)
    assert list(said["speed"]) == ["plain", "fair", "ours"]
    assert all(value > 0 for side in said["speed"].values() for name, value in side.items()
        if name not in ("KID", "fidelity", "fidelity error"))
    assert said["speed"]["plain"]["x plain"] == said["speed"]["fair"]["x fair"] == 1
    same = "grey values: fair and ours"
    assert (set(said["gates"])
        == {"fidelity: plain and ours", "KID: plain and ours", "grey values: plain and plain, batched", same})
    assert (all(isinstance(gate["equal"], bool) for gate in said["gates"].values())
        and said["gates"][same]["equal"]), "same noise, same steps: same images"
    assert (said["weights"]
        == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}), "Stable Diffusion 1.5, as published"
    assert any("Not run" in output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
