"""Models of the real classes with a few thousand random weights, in folders: what the real loading paths are tested
with."""
import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from synthnb.data.worlds import embedded_world
from synthnb.lab.cell import make_cells

WORDS = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase), ",</w>", "<|startoftext|>",
    "<|endoftext|>"]
LENGTH = 24  # tokens of a prompt


def clip(kind, width=32, projection=32):
    "A text encoder of CLIP that reads letters, and its tokenizer."
    last = len(WORDS) - 1
    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
        num_attention_heads=2, projection_dim=projection,
        max_position_embeddings=LENGTH, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last)
    return kind(config), CLIPTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, merges=[],
        model_max_length=LENGTH)


def vae():
    "Images of 16x16 as latents of 8x8."
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=16,
        scaling_factor=0.2, shift_factor=0.1)


def unet(context, **more):
    "A denoiser that reads prompts."
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=context,
        attention_head_dim=2, norm_num_groups=4, **more)


def sd15():
    "The class of Stable Diffusion 1.5."
    encoder, tokenizer = clip(CLIPTextModel)
    return StableDiffusionPipeline(
        vae=vae(), text_encoder=encoder, tokenizer=tokenizer, unet=unet(32),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def lcm():
    "The same, distilled to a few steps: guidance is an input of its network."
    pipeline = sd15()
    pipeline.register_modules(unet=unet(32, time_cond_proj_dim=8))
    return pipeline


def sdxl():
    "The class of Stable Diffusion XL: two text encoders, sizes as further input."
    (one, reads), (two, reads_too) = clip(CLIPTextModel), clip(CLIPTextModelWithProjection)
    net = unet(64, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 32, transformer_layers_per_block=1)
    return StableDiffusionXLPipeline(
        vae=vae(), text_encoder=one, text_encoder_2=two, tokenizer=reads, tokenizer_2=reads_too, unet=net,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"), add_watermarker=False)


def sd3():
    "The class of Stable Diffusion 3: a transformer, flow matching, three text encoders, one of them T5."
    (one, reads), (two, reads_too) = (clip(CLIPTextModelWithProjection, 16, 16),
        clip(CLIPTextModelWithProjection, 16, 16))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0),
        *((letter, -3.0) for letter in string.ascii_lowercase)]
    t5 = T5EncoderModel(T5Config(vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=8)
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), text_encoder=one,
        tokenizer=reads, text_encoder_2=two,
        tokenizer_2=reads_too, text_encoder_3=t5,
        tokenizer_3=T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH))


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
LETTERS = {letter: i for i, letter in enumerate([*SPECIAL, *string.ascii_letters, *" .,:\n"])}


def letters(**more):
    "A tokenizer whose tokens are letters."
    made = Tokenizer(models.BPE(vocab=LETTERS, merges=[], unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=["<image>"], **(named | more))


def talkative(net):
    "Large random weights, so that what a network says depends on what it reads; none of its words is special."
    for weights in net.parameters():
        if weights.ndim > 1: torch.nn.init.normal_(weights)
    net.generation_config.update(suppress_tokens=[LETTERS[token] for token in SPECIAL if token != "</s>"])
    return net


def clip_model():
    "The class of CLIP: both encoders, a tokenizer that reads letters, and an image processor that cuts nothing off."
    tokenizer, last = clip(CLIPTextModel)[1], len(WORDS) - 1
    text = SMALL | {"vocab_size": len(WORDS), "max_position_embeddings": LENGTH, "bos_token_id": last - 1,
        "eos_token_id": last, "pad_token_id": last}
    net = CLIPModel(
        CLIPConfig(text_config=text, vision_config=SMALL | {"image_size": 16, "patch_size": 8}, projection_dim=16))
    return net, CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer)


def blip2():
    "The class of BLIP-2 with an OPT: an image-to-text model."
    told = {"vocab_size": len(LETTERS), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "max_position_embeddings": 64}
    net = Blip2ForConditionalGeneration(Blip2Config(
        vision_config=SMALL | {"image_size": 16, "patch_size": 8}, qformer_config=SMALL
        | {"vocab_size": len(LETTERS), "encoder_hidden_size": 16},
        text_config=SMALL | told
        | {"model_type": "opt", "ffn_dim": 16, "word_embed_proj_dim": 16, "tie_word_embeddings": False},
        num_query_tokens=4,
        image_token_index=LETTERS["<image>"], image_text_hidden_size=8))
    talkative(net.language_model)
    return talkative(net), Blip2Processor(BlipImageProcessor(size={"height": 16, "width": 16}), letters(),
        num_query_tokens=4)


def llama(chat=False):
    "The class of Llama: a text-generation model; without a token for padding, as Llama's own."
    told = {"vocab_size": len(LETTERS), "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 512}
    template = ({"chat_template": "{{ bos_token }}{% for m in messages %}U: {{ m.content }}\nA:{% endfor %}"} if chat
        else {})
    return talkative(LlamaForCausalLM(LlamaConfig(**SMALL | told))), letters(pad_token=None, **template)


def saved(make, folder, seed=0):
    "One of the models above with weights of a seed, in a folder."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make()
    for part in made if isinstance(made, tuple) else (made,): part.save_pretrained(folder)
    return str(folder)


def cell_of(setting, seeds, store):
    "An arm on digits."
    return make_cells("new", "digits", {"arm": setting}, {"arm": embedded_world("digits")}, seeds, store)["arm"]
