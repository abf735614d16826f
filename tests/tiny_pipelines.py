"""Tiny random diffusers pipelines of every supported family, for tests.

Each function builds one in evaluation mode, always with the same weights. Latents may be 16 × 16, the smallest that
carry a watermark. Schedulers are deterministic and of first order, so that the pipeline's own steps are those of
:func:`inversion.sample`. Weights are larger than at random, so that z, t and the prompt all matter for the output.
"""

import torch
from diffusers import (
    AnimateDiffPipeline,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from tests import tiny_autoencoders as autoencoders
from tests.problems import SD_BETAS, tiny_pipeline

NO_CORRECTOR = list(range(50))


def build(cls, loud=1.0, **config):
    """A model with seeded weights; those of matrices, convolutions and the queries' norms times ``loud``."""
    torch.manual_seed(0)
    network = cls(**config).eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim > 1 or "norm_q" in name:
                p.mul_(loud)
    return network


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip(cls=CLIPTextModel, width=16, layers=1):
    """(tokenizer, text encoder) that know the letters of a red apple."""
    words = ["<|startoftext|>", "<|endoftext|>", *"adelpr", *(f"{letter}</w>" for letter in "adelpr")]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=16)
    torch.manual_seed(0)
    encoder = cls(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=32,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    return tokenizer, encoder.eval()


def t5(cls=T5EncoderModel, config=T5Config):
    """(tokenizer, text encoder) that know three words; loud, because most of its tokens are padding."""
    pieces = ["<pad>", "</s>", "<unk>", "▁a", "▁red", "▁apple", "▁"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i > 2)) for i, piece in enumerate(pieces)], extra_ids=0)
    torch.manual_seed(0)
    size = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    encoder = cls(config(vocab_size=len(pieces), **size)).eval()
    torch.nn.init.constant_(encoder.encoder.final_layer_norm.weight, 4.0)
    return tokenizer, encoder


def sd():
    return tiny_pipeline()


def sd_second_order():
    return tiny_pipeline(scheduler=DPMSolverMultistepScheduler(steps_offset=1))


def sd_flow(scheduler=DPMSolverMultistepScheduler, **settings):
    """A flow in the layout of Stable Diffusion."""
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
    return tiny_pipeline(scheduler=scheduler(steps_offset=1, solver_order=1, **flow, **settings))


def unet_settings(kind, channels=(8, 16)):
    """Two levels, of which the lower one has attention."""
    return {
        "sample_size": 16,
        "block_out_channels": channels,
        "layers_per_block": 1,
        "down_block_types": (f"DownBlock{kind}", f"CrossAttnDownBlock{kind}"),
        "up_block_types": (f"CrossAttnUpBlock{kind}", f"UpBlock{kind}"),
    }


def sdxl(scheduler=None, **changes):
    """With noise of the Euler scheduler, as SDXL has it."""
    tokenizer, text_encoder = clip()
    tokenizer_2, text_encoder_2 = clip(CLIPTextModelWithProjection, layers=2)
    unet = build(
        UNet2DConditionModel,
        1.5,
        **unet_settings("2D"),
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
        norm_num_groups=4,
    )
    pipe = StableDiffusionXLPipeline(
        vae=autoencoders.sdxl_vae(),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=scheduler or EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **SD_BETAS),
        add_watermarker=False,
        **changes,
    )
    return quiet(pipe)


def sd3(with_t5=True, **scheduler):
    tokenizer, text_encoder = clip(CLIPTextModelWithProjection, layers=2)
    tokenizer_3, text_encoder_3 = t5() if with_t5 else (None, None)
    transformer = build(
        SD3Transformer2DModel,
        2.0,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=autoencoders.sd3_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder,
        tokenizer_2=tokenizer,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )
    return quiet(pipe)


def sd3_shifted():
    """Without T5; its shift depends on the size."""
    return sd3(with_t5=False, use_dynamic_shifting=True)


def flux(guidance_embeds=True):
    """The layout of Flux.1 dev; of schnell without guidance, and then without the dynamic shift too."""
    tokenizer, text_encoder = clip()
    tokenizer_2, text_encoder_2 = t5()
    transformer = build(
        FluxTransformer2DModel,
        2.0,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds),
        vae=autoencoders.sd3_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )
    return quiet(pipe)


def flux_schnell():
    return flux(guidance_embeds=False)


def pixart(cls=PixArtAlphaPipeline, sample_size=128, solver_order=1, **config):
    """α for 1024² pixels unless told otherwise."""
    tokenizer, text_encoder = t5()
    transformer = build(
        PixArtTransformer2DModel,
        1.5,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=sample_size,
        **config,
    )
    scheduler = DPMSolverMultistepScheduler(solver_order=solver_order)
    pipe = cls(tokenizer, text_encoder, autoencoders.sd_vae(), transformer, scheduler)
    return quiet(pipe)


def pixart_small():
    """α for 256² pixels, which is not told the size."""
    return pixart(sample_size=32)


def pixart_sigma():
    return pixart(PixArtSigmaPipeline, use_additional_conditions=False)


def animate_diff():
    tokenizer, text_encoder = clip()
    unet = build(
        UNetMotionModel,
        1.5,
        **unet_settings("Motion"),
        cross_attention_dim=16,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        norm_num_groups=4,
    )
    pipe = AnimateDiffPipeline(
        vae=autoencoders.sd_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        motion_adapter=None,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1, beta_schedule="linear"),
    )
    return quiet(pipe)


def svd():
    """64 channels in 32 groups, a number that is fixed; with one to a group the time would be normalised away."""
    unet = build(
        UNetSpatioTemporalConditionModel,
        1.5,
        **unet_settings("SpatioTemporal", (64, 64)),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        cross_attention_dim=16,
        num_attention_heads=(2, 2),
        num_frames=3,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=56,
    )
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
        **SD_BETAS,
    )
    image_encoder = build(CLIPVisionModelWithProjection, 1.5, config=vision)
    return quiet(
        StableVideoDiffusionPipeline(autoencoders.svd_vae(), image_encoder, unet, scheduler, CLIPImageProcessor())
    )


def cogvideox(**config):
    """1.0 with rotary embeddings, as 5B has them, and zero terminal signal-to-noise ratio."""
    tokenizer, text_encoder = t5()
    transformer = build(
        CogVideoXTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=1,
        sample_width=24,
        sample_height=16,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
        **config,
    )
    torch.nn.init.constant_(transformer.transformer_blocks[0].attn1.norm_q.weight, 10.0)  # to single out words
    scheduler = CogVideoXDDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        **SD_BETAS,
    )
    return quiet(CogVideoXPipeline(tokenizer, text_encoder, autoencoders.cogvideox_vae(), transformer, scheduler))


def cogvideox_pairs():
    """The layout of 1.5, for two latent frames."""
    return cogvideox(patch_size_t=2, patch_bias=False)


def wan_transformer(loud=1.5):
    return build(
        WanTransformer3DModel,
        loud,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )


def wan(vae=autoencoders.wan_vae, transformer_2=None, **settings):
    """The layout of 2.1, with the scheduler that it comes with at first order."""
    tokenizer, text_encoder = t5(UMT5EncoderModel, UMT5Config)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        solver_order=1,
        disable_corrector=NO_CORRECTOR,
    )
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae(),
        scheduler=scheduler,
        transformer=wan_transformer(),
        transformer_2=transformer_2,
        **settings,
    )
    return quiet(pipe)


def wan_two_experts():
    """The layout of 2.2 A14B."""
    return wan(transformer_2=wan_transformer(1.2), boundary_ratio=0.8)


def wan_times_per_token():
    """The layout of 2.2 5B."""
    return wan(autoencoders.wan22_vae, expand_timesteps=True)


PICTURES = {
    "sd": sd,
    "sd-flow": sd_flow,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3-shifted": sd3_shifted,
    "flux": flux,
    "flux-schnell": flux_schnell,
    "pixart": pixart,
    "pixart-small": pixart_small,
    "pixart-sigma": pixart_sigma,
}
VIDEOS = {
    "animatediff": animate_diff,
    "svd": svd,
    "cogvideox": cogvideox,
    "cogvideox-pairs": cogvideox_pairs,
    "wan": wan,
    "wan-two-experts": wan_two_experts,
    "wan-times-per-token": wan_times_per_token,
}
ALL = PICTURES | VIDEOS
