"""A user's own images, from the command line: a folder, parquet files, mistakes; and real photographs where they are
at hand."""
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
import yaml
from PIL import Image
from runs import command, finish

from synthnb.artefacts.store import Store
from synthnb.base.environment import ROOT
from synthnb.base.generator_options import Captions, Own, Perturb
from synthnb.base.options import Recipe
from synthnb.base.plugins import add_module_folders, code_hash, load
from synthnb.base.random_streams import rng
from synthnb.generate.captions import caption_images, perturb_captions
from synthnb.generate.pool import sample_plugin
from synthnb.lab.outside import CALLS
from synthnb.lab.study import find_study
from synthnb.lab.testbed import MULTIPLES, find_testbed
from synthnb.learn.models import build_model

REAL = ROOT.parent / "shared" / "realdata"
FRUIT = ["Golden-Delicious", "Granny-Smith", "Pink-Lady", "Red-Delicious", "Royal-Gala", "Anjou", "Conference",
    "Kaiser", "Orange", "Satsumas"]


def synthnb(*words, cwd, code=0):
    "The command in a user's folder, which holds the store too; what it says on stdout and on stderr."
    if words[0] == "run" and not code: return finish(runs.Forked(*words, home=cwd / "store", cwd=cwd), timeout=280)
    done = command(*words, home=cwd / "store", cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def photos(folder, classes=("cat", "dog", "owl"), n=24, side=20, grey=False):
    "A folder of images of which each class has its own colour, if any."
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng([k, i]).integers(0, 120, (side, side + 4, 3), dtype=np.uint8)
            pixels[..., k % 3] += 120
            Image.fromarray(pixels[..., 0] if grey else pixels).save(folder / name / f"{i}.png")


def test_a_new_user_studies_a_folder(tmp_path):
    photos(tmp_path / "my pets")
    assert "my-pets.yaml" in synthnb("testbed", "new", "folder:my pets", cwd=tmp_path)[0]
    text = (tmp_path / "my-pets.yaml").read_text()
    assert ("3 classes (cat, dog, owl), in colour" in text and yaml.safe_load(text)["setting"]["dataset"]["source"]
        == "folder:my pets")
    planned, _ = synthnb("plan", "synthetic_ratio", "--on", "my-pets.yaml", "--scale", "debug", cwd=tmp_path)
    assert "9 arms x 2 seeds" in planned and "notebook" in planned
    ran, err = synthnb("run", "synthetic_ratio", "--on", "my-pets.yaml", "--scale", "debug", "--seeds", "1",
        cwd=tmp_path)
    assert "On my-pets, “real + 3x synthetic”" in ran, ran + err
    page = Path(ran.split("report: ")[1].splitlines()[0]).read_text()
    assert "3 classes (cat, dog, owl), in colour; 39 images to train (13 to 13 a class)" in page
    assert "is there already" in synthnb("testbed", "new", "folder:my pets", cwd=tmp_path, code=2)[1]
    full, _ = synthnb("plan", "synthetic_ratio", "--on", "my-pets.yaml", cwd=tmp_path)
    assert re.search(r"^time: about .* on 2 workers, estimated from a debug run$", full, re.M), full


@pytest.mark.parametrize("classes, n, grey, study, base", [
    (("cat", "dog"), 12, False, "synthetic_ratio", 1),
    (tuple(f"kind {k}" for k in range(25)), 18, True, "synthetic_ratio", 2),
    (("zero", "one"), 6, True, "generator_source", 1),
    (("cat", "dog"), 3, False, "guidance", 1),
])
def test_a_new_testbed_fits_its_images(classes, n, grey, study, base, tmp_path):
    photos(tmp_path / "few", classes, n, 8, grey)
    told = synthnb("testbed", "new", "folder:few", "--set", "dataset.size=8", cwd=tmp_path)[0]
    words = shlex.split(told.splitlines()[-1])[1:]
    assert words == ["plan", study, "--on", str(tmp_path / "few.yaml")]
    small = "--set", "dataset.size=8"
    for more in ((), ("--scale", "debug")):
        for command_line in (words, [*words[:3], "folder:few", *small]):
            assert f"{study} on few" in synthnb(*command_line, *more, cwd=tmp_path)[0]
    assert find_testbed(str(tmp_path / "few.yaml")).setting.base == base
    needs = (tmp_path / "few.yaml").read_text().partition("synthetic_ratio is out of reach")[1]
    assert bool(needs) == (study != "synthetic_ratio")
    if needs: assert "real x4" in synthnb("plan", "synthetic_ratio", "--on", "few.yaml", cwd=tmp_path, code=2)[1]


def test_the_multiples_are_those_of_the_study():
    arms = find_study("synthetic_ratio").arms
    assert {arm: n for arm, change in arms.items() if (n := change.get("mix.real", 0)) > 1} == MULTIPLES


FUNCTIONS = """
def images(folder): ...
def network(channels, size, classes, depth): ...
def score(images): ...
def labels_first(y, x): ...
def rule(scores, y, keep, temperature): ...
def make(y): ...
def caption(x, prompt): ...
def perturb(captions, temperature): ...
def right(x): return ["small"] * len(x)
"""
TEXT2IMG = {"kind": "text2img", "model": str(ROOT / "data/glyph"), "prompt": "{class}, {caption}", "negative": "",
    "guidance": 1}


@pytest.mark.parametrize("changes, told", [
    ({"dataset": "wrong:images"}, "images(folder); expected: images(); missing a required argument: 'folder'"),
    ({"recipe.model": "wrong:network"},
    "network(channels, size, classes, depth); expected: network(), and by name any of channels, size, classes;"),
    ({"filter": {"score": "wrong:score"}}, "score(images); expected: score(x, y), and by name any of rng, classes,"),
    ({"filter": {"score": "wrong:labels_first"}}, "real_checkpoint_logits; 'y' has another place"),
    ({"filter": {"score": "random", "rule": "wrong:rule"}}, "expected: rule(scores, y), and by name any of keep;"),
    ({"generator": {"kind": "own", "function": "wrong:make"}}, "make(y); expected: make(y, rng), and by name any of"),
    ({"generator": TEXT2IMG | {"captions": {"by": "wrong:caption"}}}, "caption(x, prompt); expected: caption(x), and"),
    ({"generator": TEXT2IMG | {"captions": {"by": "wrong:right", "perturb": {"by": "wrong:perturb"}}}},
    "expected: perturb(captions), and by name any of variants, y, classes, rng; missing"),
    ({"generator": TEXT2IMG | {"kind": "img2img", "prompt": "{class}", "sources": 0.5,
        "source_score": "wrong:score"}}, "score(images); expected: score(x, y)"),
], ids=["dataset", "classifier", "score", "order", "rule", "generator", "captions", "perturbed", "sources"])
def test_a_function_with_a_wrong_signature_is_refused_when_a_study_is_opened(changes, told, tmp_path):
    (tmp_path / "wrong.py").write_text(FUNCTIONS)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "question": "q", "arms":
        {"a": {}, "b": {"mix.synthetic": 1} | changes}}))
    _, err = synthnb("plan", "s.yaml", "--on", "digits", "--scale", "debug", cwd=tmp_path, code=2)
    assert told in err and len(err.splitlines()) == 1, err
    assert list(Store(tmp_path / "store").keys()) == []


def test_functions_are_called_as_they_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("SYNTHNB_MODULES", "")
    add_module_folders(tmp_path)
    (tmp_path / "told.py").write_text("""
import numpy as np
from torch import nn
seen = {}
def network(**given):
    seen["classifier"] = given
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
def make(y, rng, **given):
    seen["generator"] = given
    return np.zeros((len(y), 1, 8, 8), np.uint8)
def caption(x, **given):
    seen["captions"] = given
    return ["small"] * len(x)
def perturb(captions, **given):
    seen["perturbed"] = given
    return [["large"] * given["variants"]] * len(captions)
""")
    x, y, about = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 0, 1]), {"code": code_hash("told:make")}
    build_model(Recipe(model="told:network"), 1, 8, 2, (0,))
    sample_plugin(Own(function="told:make"), y, rng("pool", 0), **about, classes=("a", "b"), channels=1, size=8,
        real_x=x, real_y=y)
    caption_images(Captions(by="told:caption"), x, y, classes=("a", "b"), known=about)
    perturb_captions(Perturb(by="told:perturb"), ["small"] * 4, y, classes=("a", "b"), known=about, seed=0)
    seen = load("told:make").__globals__["seen"]
    assert {role: set(given) for role, given in seen.items()} == {role: set(CALLS[role].offered) for role in seen}
    assert len(seen) == 4


def test_a_folder_is_a_testbed_without_any_file(tmp_path):
    photos(tmp_path / "pets")
    assert "on pets-" in synthnb("plan", "synthetic_ratio", "--on", "folder:pets", "--scale", "debug", "--set",
        "dataset.size=16", cwd=tmp_path)[0]
    keys = set(Store(tmp_path / "store").keys())
    assert [key.partition("-")[0] for key in keys] == ["dataset"], "the images were read once, nothing else was made"
    shutil.move(tmp_path / "pets", tmp_path / "moved")
    synthnb("plan", "synthetic_ratio", "--on", "folder:moved", "--scale", "debug", "--set", "dataset.size=16",
        cwd=tmp_path)
    assert set(Store(tmp_path / "store").keys()) == keys, "a moved folder is the same data set"


@pytest.mark.parametrize("args, told", [
    (("--on", "folder:absent"), "there is no"),
    (("--on", "pets"), "unknown testbed 'pets'"),
    (("--on", "./pets"), "write folder:pets"),
    (("--on", "folder:pets", "--set", "dataset.sise=8"), "did you mean"),
    (("--on", "folder:pets", "--set", "dataset.classes=[cat, dgo]"), "did you mean 'dog'"),
    (("--on", "folder:pets", "--set", "dataset.classes=[cat]"), "class"),
    (("--on", "folder:pets", "--set", "base=4"),
    "class 'cat' has only 5 training images; allowed: at most 5, such as --set base=1"),
    (("--on", "folder:pets", "--set", "base=1", "--set", "recipe.model=nowhere:network"), "no module 'nowhere'"),
    (("--on", "parquet:pets"), "no parquet files"),
    (("--on", "torchvision:Flower102"), "did you mean 'Flowers102'"),
    (("--on", "hub:no/such"), "cannot be had"),
])
def test_mistakes_are_one_line_and_code_2(args, told, tmp_path):
    photos(tmp_path / "pets", n=8)
    _, err = synthnb("plan", "synthetic_ratio", *args, cwd=tmp_path, code=2)
    assert told in err and "Traceback" not in err, err
    assert len(err.strip().splitlines()) <= 2
    assert not [key for key in Store(tmp_path / "store").keys() if not key.startswith("dataset-")]


def test_images_that_cannot_be_downloaded_are_told_in_one_line(tmp_path):
    nobody = {"https_proxy": "http://127.0.0.1:9"}  # refused at once, and no name is looked up
    _, err = finish(
        runs.Forked("plan", "synthetic_ratio", "--on", "torchvision:OxfordIIITPet", home=tmp_path / "store",
        cwd=tmp_path, env=nobody), 2)
    assert ("torchvision:OxfordIIITPet: cannot be had" in err and "it needs network once" in err
        and len(err.strip().splitlines()) == 1), err


def test_a_broken_image_is_named_and_nothing_is_kept(tmp_path):
    photos(tmp_path / "pets", n=8)
    (tmp_path / "pets" / "dog" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    _, err = synthnb("run", "synthetic_ratio", "--on", "folder:pets", cwd=tmp_path, code=2)
    assert "dog/3.png" in err and err.endswith("leave them out: --set dataset.broken=skip\n")
    assert list(Store(tmp_path / "store").keys()) == []
    assert "--set dataset.broken=skip" in synthnb("testbed", "new", "folder:pets", cwd=tmp_path, code=2)[1]
    offered = "--set", "dataset.broken=skip"
    synthnb("testbed", "new", "folder:pets", *offered, cwd=tmp_path)
    assert find_testbed(str(tmp_path / "pets.yaml")).setting.dataset.broken == "skip"
    for on in ("pets.yaml", "folder:pets"): synthnb("plan", "synthetic_ratio", "--on", on, *offered, cwd=tmp_path)


def test_renderings_of_digits_do_not_fit_other_classes(tmp_path):
    photos(tmp_path / "pets", n=40)
    (tmp_path / "s.yaml").write_text(
        "name: s\nquestion: q\narms:\n  a: {}\n  b: {mix.synthetic: 1, generator: {kind: render}}\ncontrasts: "
        "[[b, a]]\n")
    assert "draws the digits" in synthnb("plan", "s.yaml", "--on", "folder:pets", "--scale", "debug", cwd=tmp_path,
        code=2)[1]


def photographs(tmp_path, source, changes):
    "Run the first study at debug scale on images that lie beside the project; the testbed is the one that a user gets."
    if not REAL.exists(): pytest.skip("no real photographs beside the project (../shared/realdata)")
    synthnb("testbed", "new", f"parquet:{REAL / source}", "--name", source, "--out", "real.yaml", cwd=tmp_path)
    data = yaml.safe_load((tmp_path / "real.yaml").read_text())
    data["setting"]["dataset"] |= changes
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(data))
    ran, err = synthnb("run", "synthetic_ratio", "--on", "real.yaml", "--scale", "debug", cwd=tmp_path)
    assert f"On {source}, real + 3x synthetic" in ran, ran + err
    return Path(ran.split("report: ")[1].splitlines()[0]).read_text()


@pytest.mark.slow
def test_synthetic_ratio_on_fashion(tmp_path):
    page = photographs(tmp_path, "fashion_mnist", {"size": 28, "per_class": {"train": 60, "val": 20, "test": 40}})
    assert "Ankle boot), grey; 600 images to train (60 to 60 a class), 200 to validate, 400 to test" in page


@pytest.mark.slow
def test_synthetic_ratio_on_fruit(tmp_path):
    page = photographs(tmp_path, "grocery", {"size": 32, "classes": FRUIT})
    assert "in colour; 521 images to train (30 to 70 a class), 37 to validate, 508 to test" in page
