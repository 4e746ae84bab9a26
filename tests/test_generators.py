"""Generators that are told, adapted and started from real images, through whole arms: what is made once, and what
each image comes from."""
import re

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from synthnb.base.environment import ROOT
from synthnb.base.errors import BadInput
from synthnb.artefacts.store import Store
from synthnb.lab.study import open_experiment

STUDY = """
name: told
question: does it all fit together?
common: {mix.synthetic: 2, generator.steps: 3, generator.shard: 20}
arms:
  class name: {}
  caption: {generator.prompt: "a photo of a {class}, which is {caption}", generator.captions: {}}
  perturbed:
    generator.prompt: "a photo of a {class}, which is {caption}"
    generator.captions: {perturb: {variants: 2}}
  adapted: {generator.lora: {steps: 2, batch: 4, flip: false}}
  adapted, drawn otherwise: {generator.lora: {steps: 2, batch: 4, flip: false}, generator.guidance: 4}
  adapted to captions:
    generator.prompt: "a photo of a {class}, which is {caption}"
    generator.captions: {}
    generator.lora: {steps: 2, batch: 4}
  started: {generator.kind: img2img, generator.strength: 0.7}
  chosen:
    generator.kind: img2img
    generator.strength: 0.7
    generator.sources: 0.5
    generator.source_score: "brightest:light"
"""
# perturbed captions may be longer than what the embedded model reads; that this is said is tested in test_pipelines
pytestmark = pytest.mark.filterwarnings("ignore:some prompts have more than the 24 tokens")
GLYPH = ROOT / "data" / "glyph"
SCORE = '''
def light(x, y): return x.mean((1, 2, 3))
'''


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    place = tmp_path_factory.mktemp("told")
    (place / "told.yaml").write_text(STUDY)
    (place / "brightest.py").write_text(SCORE)
    return open_experiment(str(place / "told.yaml"), "digits-wild", 1, "debug", store=Store(place / "store"))


@pytest.fixture(scope="module")
def pools(told):
    return {arm: cell.pool(0) for arm, cell in told.cells.items()}


def list_of(told, arm):
    "Kind -> the first artefact of it; of scores those of sources."
    return {a.kind: a for a in reversed(told.cells[arm].artefacts(0).values())}


def test_what_arms_share_is_made_once(told):
    caption, perturbed, adapted, other = (
        list_of(told, arm) for arm in ("caption", "perturbed", "adapted", "adapted, drawn otherwise"))
    assert caption["captions"].key == perturbed["captions"].key == list_of(told, "adapted to captions")["captions"].key
    assert (adapted["adapter"].key == other["adapter"].key
        and adapted["shard"].key != other["shard"].key), "one adaptation for every guidance"
    assert list_of(told, "adapted to captions")["adapter"].key != adapted["adapter"].key
    kinds = [a.kind for a in told.cells["perturbed"].artefacts(0).values()]
    order = ("captions", "perturbed", "shard", "features", "rows")
    assert sorted(order, key=kinds.index) == list(order)
    assert "scores" in list_of(told, "chosen") and "scores" not in list_of(told, "started")
    assert "adapter" not in caption


def test_what_differs_names_whole_parts(told):
    found = told.differences()
    assert (found["generator.lora"]["adapted"] == "steps 2, batch 4, flip False"
        and found["generator.lora"]["caption"] is None)
    assert (found["generator.captions"]["caption"] == "by default" and found["generator.captions.perturb"]["perturbed"]
        == "variants 2")


def test_each_image_is_told_of_its_own_source(told, pools):
    said = told.store.load(list_of(told, "caption")["captions"].key)["captions"].set_index("image").caption
    for prompt, source in zip(pools["caption"].provenance.prompt, pools["caption"].provenance.source):
        assert prompt.endswith(f" {said[source]}" if said[source].startswith("on ") else f", which is {said[source]}")
    assert len(said) == 898 and (pools["class name"].provenance.prompt.str.count(" ") == 4).all()
    found = told.store.load(list_of(told, "perturbed")["perturbed"].key)["captions"]
    assert set(found.how) <= {"perturbed", "fallback"} and len(found) == 20 * 2
    new = found[found.how == "perturbed"]
    assert (new.caption.to_numpy() != said[new.image].to_numpy()).all()


def test_sources_are_the_base_set(told, pools):
    base = told.store.load(list_of(told, "started")["splits"].key)["order"][:20]
    assert set(pools["started"].provenance.source) == set(base), "all of them serve"
    dataset = told.store.load(list_of(told, "chosen")["dataset"].key)
    light = dataset["x"][base].mean((1, 2, 3))
    for label in range(10):
        mine = base[dataset["y"][base] == label]
        chosen = set(pools["chosen"].provenance.source[pools["chosen"].y == label])
        assert chosen == {mine[np.argmax(light[dataset["y"][base] == label])]}, "half of the base set, the brightest"


def test_an_adaptation_changes_images_and_is_a_standard_file(told, pools):
    assert not np.array_equal(pools["adapted"].x, pools["class name"].x)
    folder = told.store.folder(list_of(told, "adapted")["adapter"].key)
    pipe = StableDiffusionPipeline.from_pretrained(GLYPH)
    pipe.load_lora_weights(folder)
    assert pipe.get_active_adapters()


def test_rows_hold_diversity(told):
    rows = told.cells["caption"].make()
    pool = rows[rows.slice == "pool"].set_index("metric")
    assert ({"fidelity", "kid", "vendi", "clip_distance"} <= set(pool.index) and 1 <= pool.value["vendi"] <= 4
        and pool.n["vendi"] == 40)
    assert ("test", "top5") in set(zip(rows.slice, rows.metric))


@pytest.mark.parametrize("changes, said", [
    ({"generator.prompt": "a {class} that is {caption}"}, "has to name {class} and nothing else"),
    ({"generator.captions": {}}, "has to name {class} and {caption}"),
    ({"generator.lora_scale": 0.5}, "lora_scale has no effect without lora"),
    ({"generator.kind": "img2img", "generator.source_score": "mine:score"},
    "source_score has no effect while sources is 1"),
    ({"generator.prompt": "{class} {caption}", "generator.captions": {"by": "transformers:nowhere/at/all"}},
    "there is no folder"),
    ({"generator.prompt": "{class} {caption}", "generator.captions": {}, "encoder": None}, "needs a CLIP model"),
])
def test_what_cannot_be_is_said_before_anything_runs(changes, said, tmp_path):
    with pytest.raises(BadInput, match=re.escape(said)):
        open_experiment("synthetic_ratio", "digits-wild", 1, "debug", changes, store=Store(tmp_path))
