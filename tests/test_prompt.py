"""Captioners, perturbers and CLIP: the real loading paths, with small random weights of the real classes in folders."""
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.numpy import load_file, save_file

from synthnb.base.errors import BadInput
from synthnb.base.generator_options import Captions, Perturb
from synthnb.base.options import Encoder
from synthnb.data.pretrained import model_identity
from synthnb.generate import captions as writers
from synthnb.generate import encoders, prompts
from synthnb.generate.captions import caption_images, captioner_identity, instruction_text, perturb_captions

CLASSES = ("cat", "big_dog", "owl")
X, Y = np.random.default_rng(0).integers(0, 256, (7, 3, 20, 20), dtype=np.uint8), np.arange(7) % 3
SAID = ["asleep", "a cat on a couch", "small", "under a tree", "brown"]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    "A folder for each class of models."
    place = tmp_path_factory.mktemp("models")
    makers = {"clip": tiny.clip_model, "blip2": tiny.blip2, "llama": tiny.llama,
        "chat": functools.partial(tiny.llama, chat=True)}
    return {name: tiny.saved(make, place / name) for name, make in makers.items()}


def captions(folder, x=X, **options):
    spec = Captions(by=f"transformers:{folder}", **{"tokens": 12, **options})
    return caption_images(spec, x, Y[:len(x)], classes=CLASSES, known=captioner_identity(spec))


def changed(folder, said=SAID, seed=0, **options):
    spec = Perturb(by=f"transformers:{folder}", **{"tokens": 12, "variants": 3, **options})
    return perturb_captions(spec, said, Y[:len(said)], classes=CLASSES, known=captioner_identity(spec), seed=seed)


def refusal(call, *args, **options):
    with pytest.raises(BadInput) as said: call(*args, **options)
    assert len(str(said.value).splitlines()) == 1
    return str(said.value)


def test_a_blip2_captions_images(models):
    said = captions(models["blip2"])
    assert (list(said) == ["caption", "raw"] and len(said) == 7
        and said.caption.nunique() > 3), "what it says depends on the image"
    assert said.equals(captions(models["blip2"])) and not said.caption.str.contains("<").any()
    assert captions(models["blip2"], tokens=3).raw.str.len().max() <= 3
    grey = captions(models["blip2"], X[:, :1])
    assert grey.equals(captions(models["blip2"], X[:, :1].repeat(3, 1))) and not grey.equals(said)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_greedy_captions_do_not_depend_on_the_batch(batch, models):
    assert captions(models["blip2"], batch=batch).equals(captions(models["blip2"], batch=16))


def test_captions_are_those_of_plain_transformers(models):
    from PIL import Image
    from transformers import Blip2ForConditionalGeneration, Blip2Processor
    net, processor = (kind.from_pretrained(models["blip2"]) for kind in (Blip2ForConditionalGeneration, Blip2Processor))
    given = processor(images=Image.fromarray(X[3].transpose(1, 2, 0)), return_tensors="pt")
    assert (processor.decode(net.generate(**given, max_new_tokens=12, do_sample=False)[0], skip_special_tokens=True)
        == captions(models["blip2"]).raw[3])


@pytest.mark.parametrize("kind", ["llama", "chat"])
def test_a_llama_changes_captions(kind, models):
    before = torch.get_rng_state()
    made = changed(models[kind])
    assert torch.equal(before, torch.get_rng_state()), "torch's global generator is given back"
    assert list(made) == ["source", "variant", "caption", "raw", "how"]
    assert made.source.tolist() == np.repeat(range(5), 3).tolist() and made.variant.tolist() == [0, 1, 2] * 5
    assert made.raw.nunique() > 10 and not made.raw.str.contains("Change this").any(), "the answer alone"
    torch.manual_seed(3)
    assert made.equals(changed(models[kind])) and not made.raw.equals(changed(models[kind], seed=1).raw)
    assert (not made.raw.equals(changed(models[kind], instruction="{class}: {caption}").raw)
        and not made.raw.equals(changed(models[kind], temperature=0.1).raw))


def test_padding_is_on_the_left(models):
    "At a temperature near 0 the answer to a short caption does not depend on a long one beside it."
    long = [*SAID[:2], "word " * 30]
    alone, beside = (changed(models["llama"], long, temperature=1e-4, variants=1, batch=batch).raw.tolist()
        for batch in (1, 3))
    assert alone == beside


def test_a_chat_template_is_used_where_there_is_one(models):
    read = {}
    for kind in ("llama", "chat"):
        spec = Perturb(by=f"transformers:{models[kind]}", instruction="{class} | {caption}")
        tokenizer = writers._captioner(spec, captioner_identity(spec))[1]
        read[kind] = instruction_text(spec, tokenizer, "asleep", "big dog")
    assert read == {"llama": "big dog | asleep", "chat": "<s>U: big dog | asleep\nA:"}


def test_a_fallback_is_counted(models, monkeypatch):
    answers = ["Here it is:\n\"awake\"", "an owl", "", "two cats", "asleep", "w" * 300]
    monkeypatch.setattr(writers, "_perturb_by_model", lambda *args: [answers])
    made = changed(models["llama"], ["asleep"], variants=6)
    assert made.how.tolist() == ["perturbed", "fallback", "fallback", "perturbed", "fallback", "fallback"]
    assert (made.caption.tolist() == ["awake", "asleep", "asleep", "two cats", "asleep", "asleep"]
        and made.raw.tolist() == answers)


def test_a_changed_model_is_refused_and_another_one_is_loaded(models, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(models["llama"], place)
    spec = Perturb(by=f"transformers:{place}", tokens=12)
    first, known = changed(place), captioner_identity(spec)
    weights = place / "model.safetensors"
    save_file({name: w * 1.5 for name, w in load_file(weights).items()}, weights, {"format": "pt"})
    told = refusal(perturb_captions, spec, SAID, Y[:5], classes=CLASSES, known=known, seed=0)
    assert "generator.captions.perturb.by" in told and "has changed since this was planned" in told
    assert captioner_identity(spec) != known and not changed(place).equals(first)


@pytest.mark.parametrize("call, kind, option", [
    (captions, "blip2", "generator.captions.by"), (changed, "llama", "generator.captions.perturb.by"),
    (lambda folder: encoders.load_clip(Encoder(model=str(folder)),
    model_identity(str(folder), None, "config.json", "encoder.model")), "clip", "encoder.model")])
def test_what_cannot_be_loaded_is_one_line(call, kind, option, models, tmp_path):
    with pytest.raises(BadInput, match=f"{option}: there is no folder './absent'"): call("./absent")
    told = refusal(call, "owner/absent-model")
    assert (f"{option} 'owner/absent-model' cannot be had" in told and f"local folder: --set {option}=" in told
        and told.endswith("`save_pretrained` wrote"))
    pickled, torn, empty, lacking = (tmp_path / name for name in ("pickled", "torn", "empty", "lacking"))
    for place in (pickled, torn, lacking): shutil.copytree(models[kind], place)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert f"{option}: {pickled} has pickled weights only: pytorch_model.bin; allowed: safetensors" in refusal(call,
        pickled)
    (torn / "model.safetensors").write_bytes(b"torn")
    assert "cannot be had" in refusal(call, torn)
    empty.mkdir()
    assert f"{option}: {empty} holds no model: no config.json" in refusal(call, empty)
    save_file(dict(list(load_file(lacking / "model.safetensors").items())[1:]), lacking / "model.safetensors",
        {"format": "pt"})
    assert "its weights lack" in refusal(call, lacking), "transformers would draw them at random"


def test_a_model_of_another_kind_is_refused(models):
    assert "an image-to-text model of the hub" in refusal(captions, models["llama"])
    assert "a text-generation model of the hub" in refusal(changed, models["clip"])
    with pytest.raises(BadInput, match="encoder.model .* cannot be had .*its weights lack"):
        encoders.load_clip(Encoder(model=models["llama"]),
            model_identity(models["llama"], None, "config.json", "encoder.model"))


def test_a_hub_model_that_was_downloaded_before_needs_no_network(models, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0a1b2c3d" * 5
    for kind in ("clip", "blip2"):
        shutil.copytree(models[kind], tmp_path / f"models--owner--{kind}/snapshots/{commit}")
        (tmp_path / f"models--owner--{kind}/refs").mkdir()
        (tmp_path / f"models--owner--{kind}/refs/main").write_text(commit)
    held = encoders.load_clip(Encoder(model="owner/clip"), {"hub": "owner/clip", "revision": None})
    assert held.name == f"owner/clip@{commit}", "the commit that was loaded"
    assert captions("owner/blip2").equals(captions(models["blip2"])), "the same calls load a folder"


def test_clip_chooses_the_words_that_its_sentences_are_nearest_to(models):
    "With turns the choice cannot be worse than any change of one word."
    clip, groups = (Encoder(model=models["clip"]),
        {"coat": ("", "red", "dim"), "pose": ("", "up"), "place": ("on ice", "in mud")})
    spec = Captions(attributes=groups)
    said = caption_images(spec, X, Y, classes=CLASSES, known=captioner_identity(spec, clip), encoder=clip)
    held = encoders.load_clip(clip, captioner_identity(spec, clip))
    seen = encoders.image_features(held, X)

    def near(image, caption):
        return float(
            encoders.text_features(held, [prompts.fill_template(prompts.TEMPLATE, CLASSES[Y[image]], caption)])[0]
            @ seen[image])
    for image, caption in enumerate(said.caption):
        assert all(near(image, caption) >= near(image, other) - 1e-6
            for other in writers._swap_attributes(caption, groups, ""))


def test_planning_needs_no_torch():
    code = (
        "import sys; from synthnb.generate import captions, pool, render; print(sorted({'torch', 'transformers', "
        "'scipy'} & set(sys.modules)))")
    root = Path(__file__).resolve().parent.parent
    assert (subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
        == "[]\n")
