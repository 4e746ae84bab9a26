"""The real loading paths of text-to-image pipelines, with small random weights of the real classes; and whole
studies with them."""
import json
import shutil
import time

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from runs import Forked, finish
from safetensors.numpy import load_file, save_file

from synthnb.base.errors import BadInput
from synthnb.base.generator_options import Img2Img, Text2Img
from synthnb.base.options import Setting
from synthnb.artefacts.stages import fetch
from synthnb.artefacts.store import Store
from synthnb.data.pretrained import model_identity
from synthnb.data.worlds import DIGITS
from synthnb.generate.pipelines import load_pipeline, sample
from synthnb.generate.pool import pool_labels, shard_rng

CLASSES = ("cat", "dog", "owl")
REAL = {"real_x": np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8), "real_y": np.arange(6) % 3,
    "real_index": np.arange(6)}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    "A folder for each class of pipelines."
    place = tmp_path_factory.mktemp("models")
    return {make.__name__: tiny.saved(make, place / make.__name__) for make in (tiny.sd15, tiny.sdxl, tiny.sd3)}


def made(spec, start=0, seed=0, channels=3):
    about = {"classes": CLASSES, "channels": channels, "seed": seed, "start": start,
        "known": model_identity(spec.model, spec.revision)}
    return sample(spec, pool_labels(start, 6, 3), shard_rng(seed, 0), **about,
        **(REAL if isinstance(spec, Img2Img) else {}))


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
@pytest.mark.parametrize("what", [Text2Img, Img2Img])
def test_every_class_of_pipeline_runs(kind, what, models):
    spec = what(model=models[kind], steps=4, guidance=3, negative="blurry")
    x, origin = made(spec, channels=1)
    assert x.shape == (6, 1, 16, 16) and x.dtype == np.uint8 and x.std() > 5
    assert np.array_equal(x, made(spec, channels=1)[0])
    assert (not np.array_equal(x, made(spec, start=6, channels=1)[0])
        and not np.array_equal(x, made(spec, seed=1, channels=1)[0]))
    told = ({"generator", "model", "prompt", "negative", "guidance", "steps", "scheduler", "seed"}
        | ({"strength", "source"} if what is Img2Img else set()))
    assert told <= set(origin) and origin.seed.nunique() == 6 and origin.prompt[2] == "a photo of an owl"
    for option, value in (("guidance", 1.5), ("negative", "dark"), ("prompt", "art of {class}"), ("steps", 6)):
        assert not np.array_equal(x,
            made(spec.model_copy(update={option: value}), channels=1)[0]), f"{option} has an effect"
    assert (made(spec.model_copy(update={"guidance": 0, "negative": ""}))[0].shape
        == (6, 3, 16, 16)), "turbo models want no guidance"


def test_images_are_those_of_plain_diffusers(models):
    "One code path, and nothing in it of our own: a plain call with the same generator makes the same picture."
    import torch
    from diffusers import StableDiffusionPipeline
    x, origin = made(Text2Img(model=models["sd15"], steps=3, guidance=4, negative="blurry"))
    plain = StableDiffusionPipeline.from_pretrained(models["sd15"], safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    for i in (0, 5):
        draw = torch.Generator().manual_seed(int(origin.seed[i]))
        image = plain(origin.prompt[i], negative_prompt="blurry", num_inference_steps=3, guidance_scale=4,
            generator=draw).images[0]
        assert np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - x[i]).max() <= 1


def test_a_shard_is_one_batch_and_a_prompt_is_read_once(models):
    spec = Img2Img(model=models["sd15"], steps=10, strength=0.55, guidance=3)
    pipe = load_pipeline(spec, model_identity(spec.model)).pipe
    seen = {"unet": [], "text_encoder": []}
    hooks = [getattr(pipe, name).register_forward_hook(lambda net, given, made,
        calls=calls: calls.append(len(given[0]))) for name, calls in seen.items()]
    load_pipeline(spec, model_identity(spec.model)).prompts.clear()
    for start in (0, 6): made(spec, start=start)
    for hook in hooks: hook.remove()
    assert seen["unet"] == [12] * 5 * 2, "int(steps x strength) steps, with and without the prompt at once"
    assert len(seen["text_encoder"]) == 2 * 3, "three prompts with their negative one, for two shards"


def test_a_distilled_model_takes_no_negative_prompt(models, tmp_path):
    made_of = tiny.saved(tiny.lcm, tmp_path / "lcm")
    assert made(Text2Img(model=made_of, steps=2, negative="", scheduler="LCMScheduler"))[0].shape == (6, 3, 16, 16)
    with pytest.raises(BadInput, match="distilled to do without a negative prompt: set generator.negative to ''"):
        made(Text2Img(model=made_of, steps=2))


def test_a_scheduler_by_name(models):
    spec = Text2Img(model=models["sd15"], steps=3)
    assert not np.array_equal(made(spec)[0],
        made(spec.model_copy(update={"scheduler": "DPMSolverMultistepScheduler"}))[0])
    with pytest.raises(BadInput, match="trained for FlowMatchEulerDiscreteScheduler"):
        made(Text2Img(model=models["sd3"], scheduler="DPMSolverMultistepScheduler", steps=3))
    assert (made(Text2Img(model=models["sd3"], scheduler="FlowMatchHeunDiscreteScheduler", steps=3))[1].scheduler[0]
        == "FlowMatchHeunDiscreteScheduler")


def shard(model, **options):
    "The first shard's artefact of an arm with a text2img generator on digits."
    generator = {"kind": "text2img", "model": str(model), "steps": 2, "shard": 10, **options}
    setting = Setting(dataset="digits", base=2, mix={"synthetic": 1}, generator=generator)
    return tiny.cell_of(setting, (0,), None).of_kind(0, "shard")[0]


def test_a_moved_model_keeps_its_key_a_changed_one_does_not(models, tmp_path):
    here, store = tmp_path / "here", Store(tmp_path / "store")
    shutil.copytree(models["sd15"], here)
    first = shard(here)
    x = fetch(first, store)["x"]
    assert x.shape == (10, 1, 16, 16)
    here.rename(tmp_path / "there")
    moved = shard(tmp_path / "there")
    assert moved.key == first.key and np.array_equal(fetch(moved, store)["x"], x)
    assert np.array_equal(fetch(moved, Store(tmp_path / "other"))["x"], x), "made anew, the same bits"
    weights = tmp_path / "there/unet/diffusion_pytorch_model.safetensors"
    save_file({name: w * 1.5 for name, w in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(BadInput, match="changed since this was planned"): fetch(moved, Store(tmp_path / "late"))
    changed = shard(tmp_path / "there")
    assert (changed.key != first.key
        and not np.array_equal(fetch(changed, store)["x"], x)), "loaded anew, in the same process"


def test_pickled_weights_are_refused_before_anything_runs(models, tmp_path):
    shutil.copytree(models["sd15"], tmp_path / "old")
    (tmp_path / "old/unet/diffusion_pytorch_model.safetensors").rename(
        tmp_path / "old/unet/diffusion_pytorch_model.bin")
    with pytest.raises(BadInput, match="pickled weights only: unet/diffusion_pytorch_model.bin; allowed: safetensors"):
        shard(tmp_path / "old")


def test_pickled_weights_load_where_they_are_trusted(models, tmp_path, monkeypatch):
    shutil.copytree(models["sd15"], tmp_path / "old")
    weights = tmp_path / "old/unet/diffusion_pytorch_model.safetensors"
    torch.save({name: torch.from_numpy(w) for name, w in load_file(weights).items()}, weights.with_suffix(".bin"))
    weights.unlink()
    monkeypatch.setenv("SYNTHNB_PICKLED", "allow")
    trusted, safe = (made(Text2Img(model=str(model), steps=2)) for model in (tmp_path / "old", models["sd15"]))
    assert np.array_equal(trusted[0], safe[0])


def test_a_safety_checker_is_left_out(models, tmp_path):
    shutil.copytree(models["sd15"], tmp_path / "prude")
    index = tmp_path / "prude/model_index.json"
    said = json.loads(index.read_text())
    index.write_text(
        json.dumps(said
        | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}))
    spec = Text2Img(model=str(tmp_path / "prude"), steps=2)
    assert made(spec)[0].std() > 5, "its weights are not even there"


@pytest.mark.parametrize("damage, told", [
    (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").unlink(), "cannot be had"),
    (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"torn"), "cannot be had"),
    (lambda folder: (folder / "model_index.json").write_text("{"), "no model_index.json that can be read"),
    (lambda folder: (folder / "model_index.json").write_text('{"_class_name": "DanceDiffusionPipeline"}'),
    "cannot be had"),
])
def test_a_damaged_model_is_one_line(damage, told, models, tmp_path):
    shutil.copytree(models["sd15"], tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(BadInput, match=told) as said: made(Text2Img(model=str(tmp_path / "model"), steps=2))
    assert len(str(said.value).splitlines()) == 1


def test_a_hub_model_that_was_downloaded_before_needs_no_network(models, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(models["sd15"], tmp_path / "models--owner--tiny/snapshots/0a1b2c3d")
    (tmp_path / "models--owner--tiny/refs").mkdir()
    (tmp_path / "models--owner--tiny/refs/main").write_text("0a1b2c3d")
    spec = Text2Img(model="owner/tiny", steps=2)
    x, origin = made(spec)
    assert origin.model[0] == "owner/tiny@0a1b2c3d", "the commit that was loaded"
    assert np.array_equal(x, made(spec.model_copy(update={"model": models["sd15"]}))[0]), "the same calls load a folder"


def test_a_hub_model_without_network_is_one_line():
    spec = Text2Img(model="stable-diffusion-v1-5/stable-diffusion-v1-5", revision="main")
    begun = time.monotonic()
    with pytest.raises(BadInput,
        match="'stable-diffusion-v1-5/stable-diffusion-v1-5' cannot be had .* --set generator.model=DIR") as said:
        made(spec)
    assert len(str(said.value).splitlines()) == 1 and time.monotonic() - begun < 20


STUDY = """
name: pictured
question: do pictures of a model that others trained help?
arms:
  real: {}
  asked: {mix.synthetic: 1, generator: {kind: text2img, model: model, steps: 2, shard: 20}}
without_controls: {synthetic images: one pool is enough here}
contrasts: [[asked, real]]
"""


def test_a_whole_study_with_a_pipeline(models, tmp_path):
    shutil.copytree(models["sd15"], tmp_path / "files/model")
    (tmp_path / "files/pictured.yaml").write_text(STUDY)
    ran, _ = finish(
        Forked("run", "files/pictured.yaml", "--on", "digits", "--scale", "debug", "--seeds", "1",
        home=tmp_path / "store", cwd=tmp_path))
    assert "On digits, “asked”" in ran
    store = Store(tmp_path / "store")
    shards = [store.load(key, "x", "provenance") for key in store.keys() if key.startswith("shard")]
    assert (len(shards) == 1 and shards[0]["x"].shape == (20, 1, 16, 16) and set(shards[0]["provenance"].generator)
        == {"text2img"})


def test_cells_with_every_new_generator(models, tmp_path):
    for k, name in enumerate(DIGITS):
        (tmp_path / "made" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.random.default_rng([k, i]).integers(0, 256, (12, 12), np.uint8)).save(
                tmp_path / "made" / name / f"{i}.png")
    generators = {"asked": {"kind": "text2img", "model": models["sdxl"], "steps": 2},
        "made": {"kind": "folder", "source": f"folder:{tmp_path / 'made'}"},
                  "started": {"kind": "img2img", "model": models["sd3"], "steps": 2, "strength": 0.5, "sources": 0.5}}
    small = {"base": 2, "mix": {"synthetic": 1}, "recipe": {"width": 8, "steps": 4, "batch": 16, "curve": 2},
        "judge": {"width": 8, "steps": 4}}
    for arm, generator in generators.items():
        cell = tiny.cell_of(Setting(dataset="digits", generator=generator, **small), (0, 1), Store(tmp_path / "store"))
        assert (cell.make().seed.unique().tolist() == [0, 1] and len(cell.pool(0))
            == 20), "twenty images: fewer than a shard of the folder"
        cell.show_pool(0)
        if arm == "started":
            base = {cell.of_kind(seed, "shard")[0].inputs["splits"][0].key for seed in (0, 1)}
            assert (len(base) == 2 and cell.pool(0).provenance.source.nunique()
                == 10), "half of the base set of twenty are sources"
    with pytest.raises(BadInput, match="class 'zero' has 2 images, 4 are asked for"):
        twice = small | {"mix": {"synthetic": 2}}
        tiny.cell_of(Setting(dataset="digits", generator=generators["made"], **twice), (0,), None)
