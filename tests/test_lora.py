"""Adapters of whole pipelines with small random weights: the standard file, interruptions, and the pipeline that is
left as it was."""
from operator import attrgetter

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from peft import get_peft_model_state_dict
from safetensors.numpy import load_file

from synthnb.base.errors import BadInput
from synthnb.base.generator_options import Img2Img, Text2Img
from synthnb.base.random_streams import rng
from synthnb.artefacts.store import Store
from synthnb.data.pretrained import model_identity
from synthnb.generate import lora as module
from synthnb.generate.lora import (
    LatentDataset,
    encode_latents,
    encode_unique_prompts,
    fit_adapter,
    loss_at,
    training_schedule,
    with_new_adapter,
)
from synthnb.generate.pipelines import ADAPTER, build_prompts, load_pipeline, sample, with_adapter
from synthnb.generate.pool import pool_labels, shard_rng
from synthnb.learn.train import steps_done

CLASSES = ("cat", "dog", "owl")
DRAW = np.random.default_rng(0)
Y = np.arange(9) % 3
X = (DRAW.integers(0, 60, (9, 1, 8, 8)) + 80 * Y[:, None, None, None]).astype(np.uint8)
QUICK = {"rank": 2, "steps": 12, "batch": 4, "lr": 0.01, "flip": False}


def v_prediction():
    "Stable Diffusion 1.5 as 2.x is: it predicts v."
    pipeline = tiny.sd15()
    pipeline.scheduler = pipeline.scheduler.from_config(
        {**pipeline.scheduler.config, "prediction_type": "v_prediction"})
    return pipeline


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A folder for each class of pipelines."
    place = tmp_path_factory.mktemp("models")
    return {make.__name__: tiny.saved(make, place / make.__name__)
        for make in (tiny.sd15, v_prediction, tiny.sdxl, tiny.sd3, tiny.lcm)}


@pytest.fixture(scope="module")
def fitted(models):
    "An adapter whose alpha is not its rank."
    return fit(asked(models["sd15"], alpha=3.0))


def asked(model, kind=Text2Img, scale=1.0, more=None, **lora):
    return kind(model=model, steps=3, guidance=3, lora=QUICK | lora, lora_scale=scale, **more or {})


def fit(spec, folder=None, seed=0, every=5.0):
    return fit_adapter(spec, X, Y, build_prompts(spec, Y, CLASSES), seed, folder, known=model_identity(spec.model),
        every=every)


def made(spec, adapter=None):
    about = {"classes": CLASSES, "channels": 3, "seed": 0, "start": 0, "known": model_identity(spec.model),
        "adapter": adapter}
    real = {"real_x": X, "real_y": Y, "real_index": np.arange(9)} if isinstance(spec, Img2Img) else {}
    return sample(spec, pool_labels(0, 6, 3), shard_rng(0, 0), **about, **real)


def same(a, b):
    return (a["log"].equals(b["log"])
        and all(np.array_equal(w, b["pytorch_lora_weights"][name]) for name, w in a["pytorch_lora_weights"].items()))


def loss_of(spec, adapter):
    "The mean loss at fixed images, times and noise."
    pipe = load_pipeline(spec, model_identity(spec.model)).pipe
    seen = LatentDataset(*encode_latents(pipe.vae, X, 16, False, 4),
        *encode_unique_prompts(load_pipeline(spec, model_identity(spec.model)), spec, build_prompts(spec, Y, CLASSES)))
    with torch.no_grad(), with_adapter(pipe, adapter, 1.0):
        return np.mean(
            [loss_at(pipe.unet, seen, spec.lora, training_schedule(pipe), 16, rng("fixed", step=i)).item()
            for i in range(16)])


@pytest.mark.parametrize("kind", ["sd15", "v_prediction", "sdxl"])
def test_adaptation_lowers_the_loss(kind, models):
    spec = asked(models[kind], steps=60, batch=8, lr=0.02, rank=4,
        modules=("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"))
    found = fit(spec)
    before, after = loss_of(spec, None), loss_of(spec, found["pytorch_lora_weights"])
    assert after < 0.95 * before, f"{before:.4f} -> {after:.4f}"
    assert list(found["log"].columns) == ["step", "loss"] and found["log"].step.iloc[-1] == 60
    assert all(w.dtype == np.float32 for w in found["pytorch_lora_weights"].values())


def test_a_new_adapter_changes_nothing(models):
    spec = asked(models["sd15"])
    pipe, plain = (load_pipeline(spec, model_identity(spec.model)).pipe,
        made(Text2Img(model=spec.model, steps=3, guidance=3))[0])
    with with_new_adapter(pipe.unet, spec.lora, 0): new = module.export_adapter(pipe, spec.lora)
    assert np.array_equal(made(spec, new)[0], plain), "B is zero"


def test_plain_diffusers_loads_the_artefact(models, fitted, tmp_path):
    "The store's folder goes into a fresh pipeline of diffusers, and its pictures are ours."
    spec, store = asked(models["sd15"], alpha=3.0), Store(tmp_path)
    store.save("generator-0123456789ab", fitted)
    x, origin = made(spec, store.load("generator-0123456789ab", "pytorch_lora_weights")["pytorch_lora_weights"])
    plain = StableDiffusionPipeline.from_pretrained(models["sd15"], safety_checker=None)
    plain.load_lora_weights(store.folder("generator-0123456789ab"))
    plain.set_progress_bar_config(disable=True)
    for i in (0, 5):
        draw = torch.Generator().manual_seed(int(origin.seed[i]))
        image = plain(origin.prompt[i], negative_prompt=spec.negative, num_inference_steps=3, guidance_scale=3,
            generator=draw).images[0]
        assert np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - x[i]).max() <= 1
    assert np.abs(x.astype(int) - made(Text2Img(model=spec.model, steps=3, guidance=3))[0]).max() > 1


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_the_file_has_what_diffusers_would_write(kind, models, tmp_path):
    spec = asked(models[kind], alpha=1.0, modules=("to_q", "to_out.0", "conv1"))
    pipe = load_pipeline(spec, model_identity(spec.model)).pipe
    with with_new_adapter(pipe.unet, spec.lora, 0) as adapter, torch.no_grad():
        for name, w in adapter.items(): w.copy_(torch.from_numpy(rng("weights", name).standard_normal(w.shape)))
        layers = get_peft_model_state_dict(pipe.unet, adapter_name=ADAPTER)
        pipe.save_lora_weights(tmp_path, unet_lora_layers=layers)
        ours, noisy = module.export_adapter(pipe, spec.lora), torch.ones(1, 4, 8, 8)
        words = {"prompt_embeds": torch.ones(1, 24, pipe.unet.config.cross_attention_dim)}
        if kind == "sdxl": words["pooled_prompt_embeds"] = torch.ones(1, 32)
        trained = module.predict_noise(pipe.unet, noisy, torch.tensor([5]), words, 16)
    theirs = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert theirs.keys() == ours.keys()
    for name, w in theirs.items():
        assert np.array_equal(w * (0.5 if name.endswith(module.B_SUFFIX) else 1), ours[name]), "alpha / r is in B"
    with torch.no_grad(), with_adapter(pipe, ours, 1.0):
        loaded = module.predict_noise(pipe.unet, noisy, torch.tensor([5]), words, 16)
        held = {name.replace(".lora.weight", ".weight"): w for name, w in pipe.unet.named_parameters()
            if ".lora_" in name}
        assert (held.keys()
            == {name.removeprefix("unet.") for name in ours}), "every layer arrives, attention and convolutions"
        assert all(np.array_equal(w.numpy(), ours[f"unet.{name}"]) for name, w in held.items())
    assert torch.allclose(loaded, trained, atol=1e-5), "what was trained is what samples"


@pytest.mark.parametrize("kind", [Text2Img, Img2Img])
def test_the_pipeline_is_left_as_it_was(kind, models, fitted):
    spec, plain = asked(models["sd15"], kind), kind(model=models["sd15"], steps=3, guidance=3)
    pipe, before = load_pipeline(plain, model_identity(plain.model)).pipe, made(plain)[0]
    weights = {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    x, origin = made(spec, fitted["pytorch_lora_weights"])
    half = made(asked(models["sd15"], kind, 0.5), fitted["pytorch_lora_weights"])
    fit(spec)
    assert (not np.array_equal(x, before) and not np.array_equal(x, half[0])
        and np.array_equal(x, made(spec, fitted["pytorch_lora_weights"])[0]))
    assert set(origin.lora_scale) == {1.0} and set(half[1].lora_scale) == {0.5} and "lora_scale" not in made(plain)[1]
    assert load_pipeline(plain, model_identity(plain.model)).pipe is pipe and np.array_equal(made(plain)[0], before)
    assert (weights.keys() == pipe.unet.state_dict().keys()
        and all(torch.equal(w, weights[name]) for name, w in pipe.unet.state_dict().items()))


def test_an_interrupted_adaptation_ends_in_the_same_bits(models, tmp_path, monkeypatch):
    spec = asked(models["sd15"], flip=True, matching=0.003)
    whole, real, calls = fit(spec), module.loss_at, iter(range(7))
    def stopping(*args):
        if next(calls, None) is None: raise KeyboardInterrupt
        return real(*args)
    with monkeypatch.context() as patch:
        patch.setattr(module, "loss_at", stopping)
        with pytest.raises(KeyboardInterrupt): fit(spec, tmp_path, every=0)
    assert steps_done(tmp_path) == 7
    assert same(fit(spec, tmp_path), whole) and same(fit(spec), whole) and not same(fit(spec, seed=1), whole)


def test_every_option_has_an_effect(models, fitted):
    base = asked(models["sd15"], alpha=3.0)
    for option, value in (("alpha", None), ("lr", 0.02), ("weight_decay", 1.0), ("flip", True), ("snr_gamma", None),
        ("matching", 0.1), ("drop_prompt", 0.9)):
        assert not same(fit(base.model_copy(update={"lora": base.lora.model_copy(update={option: value})})),
            fitted), option


def test_each_prompt_is_read_once_and_images_are_encoded_once(models):
    spec, calls = asked(models["sd15"], steps=3), {"text_encoder": 0, "vae.encoder": 0, "unet": 0}
    pipe = load_pipeline(spec, model_identity(spec.model)).pipe
    def counted(name): return lambda *_: calls.update({name: calls[name] + 1})
    hooks = [attrgetter(name)(pipe).register_forward_hook(counted(name)) for name in calls]
    fit(spec)
    for hook in hooks: hook.remove()
    assert calls == {"text_encoder": 2 * 3, "vae.encoder": 3,
        "unet": 3}, "three prompts, each beside no prompt; nine images, four at once"


def test_mirrored_images_have_latents_of_their_own(models):
    vae = load_pipeline(asked(models["sd15"]), model_identity(models["sd15"])).pipe.vae
    mean, std = encode_latents(vae, X, 16, True, 4)
    alone, _ = encode_latents(vae, X[..., ::-1].copy(), 16, False, 2)
    assert (mean.shape == std.shape == (2, 9, 4, 8, 8) and torch.allclose(mean[1], alone[0], atol=1e-5)
        and not torch.allclose(mean[0], mean[1], atol=1e-3))
    pixels = torch.from_numpy(X[:1]).float().repeat(1, 3, 1, 1) / 127.5 - 1
    assert torch.allclose(encode_latents(vae, X[:1], 8, False, 1)[0][0], vae.encode(pixels).latent_dist.mean * 0.2,
        atol=1e-5), "scaled as the denoiser knows them"


def test_no_prompt_is_what_the_pipeline_takes_for_it(models):
    "Stable Diffusion XL takes zeros, Stable Diffusion the embedding of nothing."
    for kind, zeros in (("sdxl", True), ("sd15", False)):
        spec = asked(models[kind])
        words, said = encode_unique_prompts(load_pipeline(spec, model_identity(spec.model)), spec,
            ["a cat", "a dog", "a cat"])
        assert (said.tolist() == [0, 1, 0] and {len(w) for w in words.values()} == {3}
            and (words["prompt_embeds"][2] == 0).all() == zeros)


def test_what_cannot_be_adapted_is_one_line(models, fitted):
    cases = [(asked(models["sd3"]),
        "StableDiffusion3Pipeline has no UNet that reads prompts; "
        "allowed: .*UNet that predicts epsilon or v_prediction"),
             (asked(models["lcm"], more={"negative": ""}), "was distilled to few steps"),
             (asked(models["sd15"], modules=("to_q", "to_w")),
             "no layer of UNet2DConditionModel is called 'to_w'; .*allowed: .*to_q, to_v")]
    for spec, said in cases:
        with pytest.raises(BadInput, match=said) as told: fit(spec)
        assert len(str(told.value).splitlines()) == 1
    with pytest.raises(BadInput, match="9 images, 9 labels, 1 prompts"):
        fit_adapter(asked(models["sd15"]), X, Y, ["a cat"], 0, known=model_identity(models["sd15"]))
    with pytest.raises(BadInput, match="lora is asked for, and there is no adapter"): made(asked(models["sd15"]))
    adapter = fitted["pytorch_lora_weights"]
    with pytest.raises(BadInput, match="StableDiffusion3Pipeline, which has no layer"):
        made(asked(models["sd3"]), adapter)
    with pytest.raises(BadInput, match="its weights have other shapes"): made(asked(models["sdxl"]), adapter)
    with pytest.raises(BadInput, match="has no layer 'nowhere'"):
        made(asked(models["sd15"]), {"unet.nowhere.lora_B.weight": np.ones((2, 2), np.float32)})
