"""The networks that a run starts from, and those that it has trained so far, as a diffusers pipeline."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click
import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from data.sapling.recipe import dataset
from data.sapling.recipe.latents import encoder_digest
from data.sapling.recipe.training import read
from inversion.embedded import sapling_folder

SAPLING, SCRATCH = "sapling", "scratch"
TOKENS = 16
"""In a prompt, with the two at its ends."""

AUTOENCODER, DIFFUSION = "autoencoder.pt", "diffusion.pt"


def new_autoencoder() -> AutoencoderKL:
    """128 × 128 × 3 → 32 × 32 × 4."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=128,
        mid_block_add_attention=False,
    )


def new_unet() -> UNet2DConditionModel:
    """With cross-attention at 8 × 8 alone: it would take half of the time at 16 × 16."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=6,
        norm_num_groups=16,
    )


def new_tokenizer(captions: Iterable[str], entries: int = 1024) -> CLIPTokenizer:
    """Byte-pair encoding of lower-case words, trained on the captions."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    learner = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=entries, special_tokens=[start, end], end_of_word_suffix="</w>", show_progress=False
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = learner.model.save(folder)
        return CLIPTokenizer(vocabulary, merges, model_max_length=TOKENS, pad_token=end)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels, with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def new_pipeline(captions: Iterable[str], seed: int = 0) -> StableDiffusionPipeline:
    """Everything untrained."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer(captions)
    return StableDiffusionPipeline(
        vae=new_autoencoder(),
        text_encoder=new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=new_unet(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def start_pipeline(folder: Path, start: str) -> StableDiffusionPipeline:
    """What a run starts from: ``sapling``, ``scratch``, or any diffusers folder of a Stable Diffusion.

    Untrained networks are made once and kept in the run's folder, so that all stages start from the same.

    Raises:
        click.ClickException: if there is no such folder.
    """
    source = sapling_folder() if start == SAPLING else folder / SCRATCH if start == SCRATCH else Path(start)
    if start == SCRATCH and not (source / "model_index.json").is_file():
        new_pipeline(dataset.load(folder / "data", dataset.TRAIN).captions).save_pretrained(source)
    if not (source / "model_index.json").is_file():
        raise click.ClickException(
            f"{start!r} is neither {SAPLING}, {SCRATCH}, nor a folder of a diffusers pipeline"
        )
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    return StableDiffusionPipeline.from_pretrained(source, dtype=torch.float32)


def trained_pipeline(folder: Path, start: str) -> StableDiffusionPipeline:
    """The start, with the average weights of everything that has been trained in the folder.

    Raises:
        click.ClickException: if the diffusion network was trained on the latents of another encoder, or the latents
            are by now of another one or gone.
    """
    pipe = start_pipeline(folder, start)
    if (folder / AUTOENCODER).exists():
        pipe.vae.load_state_dict(read(folder / AUTOENCODER)["averaged"]["vae"])
    if (folder / DIFFUSION).exists():
        diffusion, own = read(folder / DIFFUSION), encoder_digest(pipe.vae)
        if diffusion["settings"].get("encoder") != own:
            raise click.ClickException(
                f"{folder / DIFFUSION} was trained on latents of another encoder than the one there is by now: it "
                "has to be trained anew"
            )
        kept = folder / "latents.json"
        about = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if about.get("encoder") != own or "scaling_factor" not in about:
            raise click.ClickException(
                f"{folder} has other latents by now, or none: train_diffusion --resume restores them"
            )
        pipe.vae.register_to_config(scaling_factor=about["scaling_factor"])
        pipe.unet.load_state_dict(diffusion["averaged"]["unet"])
        pipe.text_encoder.load_state_dict(diffusion["averaged"]["text_encoder"])
    return pipe
