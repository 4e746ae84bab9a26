"""Planning without images and weights: what is assumed, what has to be downloaded, how long it may take; a run says
in one line what it lacks."""
import re

import pytest
from runs import Forked, command, finish
from test_cli import synthnb

from synthnb.base.environment import ROOT
from synthnb.base.errors import BadInput
from synthnb.base.options import Images
from synthnb.artefacts.store import Store
from synthnb.engine.plan import plan
from synthnb.data.external_images import resolve_dataset
from synthnb.lab.study import open_experiment
from synthnb.lab.testbed import find_testbed

PETS = ("synthetic_ratio", "--on", "pets-sd15")
TESTBED = ROOT / "data" / "testbeds" / "pets-sd15.yaml"

def test_a_plan_on_pets_needs_neither_images_nor_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    code = "import sys\nfrom synthnb.interface.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = synthnb("plan", *PETS, home=tmp_path / "store", code=code)
    assert done.returncode == 0 and done.stdout.endswith("False\n") and not done.stderr, done.stderr
    told = done.stdout.splitlines()
    hours = float(
        re.search(r"\ntime: about ([\d.]+) GPU-hours on one GPU by the testbed's estimate .* which nobody measured\n",
        done.stdout)[1])
    stated = find_testbed("pets-sd15").seconds
    by_hand = (801 * (stated["shard"] + stated["features"]) + 27 * stated["notebook"]
        + 3 * (stated["adapter"] + stated["perturbed"] + stated["splits"]))
    assert hours == pytest.approx((by_hand + stated["dataset"] + stated["captions"] + stated["judge"]) / 3600, rel=5e-3)
    assert (
        "torchvision:OxfordIIITPet: the images are not there yet: 37 classes and at least 80 training images a class "
        "are assumed" in told)
    gb = dict(re.findall(r"download: (\S+), about ([\d.]+) GB\n", done.stdout))
    assert {name: float(n) for name, n in gb.items()} == find_testbed("pets-sd15").downloads
    assert f"download: about {sum(map(float, gb.values())):.1f} GB in all" in told
    bytes_ = 3 * (37 * 80 * 224**2 + 696 * 32 * 512**2 + 105 * 64 * 224**2)
    assert f"disk: at least {bytes_ / 1e9:.1f} GB, for images" in told
    assert not (tmp_path / "store").exists(), "a plan writes nothing"

def test_a_run_on_pets_says_in_one_line_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refused at once, and no name is looked up
    # in a process of its own: Python reads a proxy once
    _, err = finish(Forked("run", *PETS, home=tmp_path / "store"), 2)
    assert "it needs network once" in err and len(err.strip().splitlines()) == 1, err

def test_show_and_the_debug_scale_do_without_images_too(tmp_path):
    assert command("show", *PETS, home=tmp_path / "store").returncode == 0
    small = command("plan", *PETS, "--scale", "debug", home=tmp_path / "store")
    assert small.returncode == 0 and "at least 8 training images" in small.stdout and "Llama" not in small.stdout
    assert "time: not measured yet" in small.stdout, "the testbed's estimate is for the full scale"

def test_what_is_expected_is_no_part_of_a_key(tmp_path):
    store, asked = Store(tmp_path), find_testbed("pets-sd15").setting.dataset
    more = asked.model_copy(update={"expect": asked.expect.model_copy(update={"train": 90})})
    worlds = [resolve_dataset(images, store, planning=True) for images in (asked, more)]
    assert worlds[0].dataset.key == worlds[1].dataset.key and [min(w.shape.train) for w in worlds] == [80, 90]
    assert "expect" not in worlds[0].dataset.spec["images"]

def test_images_of_ones_own_are_never_assumed(tmp_path):
    images = Images(source=f"folder:{tmp_path / 'absent'}", expect={"classes": 2, "train": 5})
    with pytest.raises(BadInput, match="there is no"): resolve_dataset(images, Store(tmp_path), planning=True)

@pytest.mark.parametrize("old, new, told", [
    ("  shard: 16 ", "  shrad: 16 ", "'measure', 'rows' or 'notebook', not 'shrad'"),
    ("  shard: 16 ", "  shard: 0 ", "seconds.shard"),
    ("OxfordIIITPet: 0.8", "OxfordIIITPet: -1", "downloads.torchvision:OxfordIIITPet"),
    ("      train: 80 ", "      train: 0 ", "expect.train"),
])
def test_what_a_testbed_states_is_checked(old, new, told, tmp_path):
    text = TESTBED.read_text()
    assert text.count(old) == 1
    (tmp_path / "pets.yaml").write_text(text.replace(old, new))
    with pytest.raises(BadInput) as refused: find_testbed(str(tmp_path / "pets.yaml"))
    assert told in str(refused.value) and len(str(refused.value).splitlines()) == 1, refused.value

def test_what_is_measured_wins_over_what_is_stated(tmp_path):
    text = "name: mine\ntitle: t\nsetting: {dataset: digits, generator: {kind: render}}\n"
    kinds = ("dataset", "splits", "judge", "shard", "notebook")
    (tmp_path / "mine.yaml").write_text(text + "seconds: {" + ", ".join(f"{kind}: 3600" for kind in kinds) + "}\n")
    run = open_experiment("synthetic_ratio", str(tmp_path / "mine.yaml"), 1, store=Store(tmp_path / "store"))
    before = plan(run)
    assert (before.seconds is None and before.stated == 3600 * sum(before.todo.values())
        and " CPU-hours on one worker by" in repr(before))
    splits = run.cells["real only"].of_kind(0, "splits")[0]
    run.store.save(splits.key, {"order": []}, {"kind": "splits", "seconds": 1.0})
    after = plan(run)
    assert after.there == {"splits": 1} and after.stated == before.stated - 3600 and "nobody measured" in repr(after)
    again = open_experiment("synthetic_ratio", str(tmp_path / "mine.yaml"), 2, store=run.store)
    assert (plan(again).measured == ("splits",) and plan(again).stated % 3600 == 1
        and "but for what was measured: splits" in repr(plan(again)))

def test_on_digits_a_plan_says_what_it_said_and_a_line_of_the_disk(tmp_path):
    done = command("plan", "synthetic_ratio", "--on", "digits", home=tmp_path / "store")
    lines = done.stdout.splitlines()
    assert (done.returncode == 0
        and re.fullmatch(r"time: (about .* on 2 workers, from measured costs|not measured yet .*)",
        lines[-2])), done.stdout
    assert re.fullmatch(r"disk: at least [\d.]+ MB, for images", lines[-1]) and "download" not in done.stdout
    assert all(re.fullmatch(r"\w+ +\d+ to make +\d+ there", line) for line in lines[1:-2])
