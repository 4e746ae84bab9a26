"""A user's own images, from the command line: a folder, parquet files, mistakes; and real photographs where they are at hand."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from synthnb.core import ROOT
from synthnb.report import write_index
from synthnb.store import Store

REAL = ROOT.parent / "shared" / "realdata"
FRUIT = ["Golden-Delicious", "Granny-Smith", "Pink-Lady", "Red-Delicious", "Royal-Gala", "Anjou", "Conference", "Kaiser", "Orange", "Satsumas"]


@pytest.fixture(autouse=True)
def no_reports_left():
    "The local reports of these runs go with them."
    local = ROOT / "reports" / "local"
    before = set(local.glob("*"))
    yield
    for folder in set(local.glob("*")) - before: shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    if local.exists(): write_index(local)


def synthnb(*args, cwd):
    env = {**os.environ, "SYNTHNB_HOME": str(cwd / "store")}
    return subprocess.run([sys.executable, "-c", "from synthnb.cli import main; main()", *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


def photos(folder, classes=("cat", "dog", "owl"), n=24, side=20):
    "A folder of images of which each class has its own colour."
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng([k, i]).integers(0, 120, (side, side + 4, 3), dtype=np.uint8)
            pixels[..., k % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_a_new_user_studies_a_folder(tmp_path):
    photos(tmp_path / "my pets")
    made = synthnb("testbed", "new", "folder:my pets", cwd=tmp_path)
    assert made.returncode == 0 and "my-pets.yaml" in made.stdout, made.stderr
    text = (tmp_path / "my-pets.yaml").read_text()
    assert "3 classes (cat, dog, owl), in colour" in text and yaml.safe_load(text)["setting"]["dataset"]["source"] == "folder:my pets"
    planned = synthnb("plan", "synthetic_ratio", "--on", "my-pets.yaml", "--scale", "debug", cwd=tmp_path)
    assert planned.returncode == 0 and "9 arms x 2 seeds" in planned.stdout and "notebook" in planned.stdout, planned.stderr
    ran = synthnb("run", "synthetic_ratio", "--on", "my-pets.yaml", "--scale", "debug", cwd=tmp_path)
    assert ran.returncode == 0 and "On my-pets, real + 3x synthetic" in ran.stdout, ran.stdout + ran.stderr
    page = Path(ran.stdout.split("report: ")[1].splitlines()[0]).read_text()
    assert "3 classes (cat, dog, owl), in colour; 39 images to train (13 to 13 a class)" in page
    again = synthnb("testbed", "new", "folder:my pets", cwd=tmp_path)
    assert again.returncode == 2 and "is there already" in again.stderr


def test_a_folder_is_a_testbed_without_any_file(tmp_path):
    photos(tmp_path / "pets")
    shown = synthnb("plan", "synthetic_ratio", "--on", "folder:pets", "--scale", "debug", "--set", "dataset.size=16", cwd=tmp_path)
    assert shown.returncode == 0 and "on pets-" in shown.stdout, shown.stderr
    keys = set(Store(tmp_path / "store").keys())
    assert [key.partition("-")[0] for key in keys] == ["dataset"], "the images were read once, nothing else was made"
    shutil.move(tmp_path / "pets", tmp_path / "moved")
    assert synthnb("plan", "synthetic_ratio", "--on", "folder:moved", "--scale", "debug", "--set", "dataset.size=16", cwd=tmp_path).returncode == 0
    assert set(Store(tmp_path / "store").keys()) == keys, "a moved folder is the same data set"


@pytest.mark.parametrize("args, told", [
    (("--on", "folder:absent"), "there is no"),
    (("--on", "pets"), "unknown testbed 'pets'"),
    (("--on", "./pets"), "write folder:pets"),
    (("--on", "folder:pets", "--set", "dataset.sise=8"), "did you mean"),
    (("--on", "folder:pets", "--set", "dataset.classes=[cat, dgo]"), "did you mean 'dog'"),
    (("--on", "folder:pets", "--set", "dataset.classes=[cat]"), "class"),
    (("--on", "folder:pets", "--set", "base=4"), "class 'cat' has only 5 training images; allowed: at most 5, such as --set base=1"),
    (("--on", "folder:pets", "--set", "base=1", "--set", "recipe.model=nowhere:network"), "no module 'nowhere'"),
    (("--on", "parquet:pets"), "no parquet files"),
    (("--on", "torchvision:Flower102"), "did you mean 'Flowers102'"),
    (("--on", "hub:no/such"), "cannot be had"),
])
def test_mistakes_are_one_line_and_code_2(args, told, tmp_path):
    photos(tmp_path / "pets", n=8)
    done = synthnb("plan", "synthetic_ratio", *args, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not [key for key in Store(tmp_path / "store").keys() if not key.startswith("dataset-")]


def test_a_broken_image_is_named_and_nothing_is_kept(tmp_path):
    photos(tmp_path / "pets", n=8)
    (tmp_path / "pets" / "dog" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = synthnb("run", "synthetic_ratio", "--on", "folder:pets", cwd=tmp_path)
    assert done.returncode == 2 and "dog/3.png" in done.stderr and "broken: skip" in done.stderr
    assert list(Store(tmp_path / "store").keys()) == []


def test_renderings_of_digits_do_not_fit_other_classes(tmp_path):
    photos(tmp_path / "pets", n=40)
    (tmp_path / "s.yaml").write_text("name: s\nquestion: q\narms:\n  a: {}\n  b: {mix.synthetic: 1, generator: {kind: render}}\ncontrasts: [[b, a]]\n")
    done = synthnb("plan", "s.yaml", "--on", "folder:pets", "--scale", "debug", cwd=tmp_path)
    assert done.returncode == 2 and "draws the digits" in done.stderr


def photographs(tmp_path, source, changes):
    "Run the first study at debug scale on images that lie beside the project; the testbed is the one that a user gets."
    if not REAL.exists(): pytest.skip("no real photographs beside the project (../shared/realdata)")
    assert synthnb("testbed", "new", f"parquet:{REAL / source}", "--name", source, "--out", "real.yaml", cwd=tmp_path).returncode == 0
    data = yaml.safe_load((tmp_path / "real.yaml").read_text())
    data["setting"]["dataset"] |= changes
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(data))
    ran = synthnb("run", "synthetic_ratio", "--on", "real.yaml", "--scale", "debug", cwd=tmp_path)
    assert ran.returncode == 0 and f"On {source}, real + 3x synthetic" in ran.stdout, ran.stdout + ran.stderr
    return Path(ran.stdout.split("report: ")[1].splitlines()[0]).read_text()


@pytest.mark.slow
def test_synthetic_ratio_on_fashion(tmp_path):
    page = photographs(tmp_path, "fashion_mnist", {"size": 28, "per_class": {"train": 60, "val": 20, "test": 40}})
    assert "Ankle boot), grey; 600 images to train (60 to 60 a class), 200 to validate, 400 to test" in page


@pytest.mark.slow
def test_synthetic_ratio_on_fruit(tmp_path):
    page = photographs(tmp_path, "grocery", {"size": 32, "classes": FRUIT})
    assert "in colour; 521 images to train (30 to 70 a class), 37 to validate, 508 to test" in page
