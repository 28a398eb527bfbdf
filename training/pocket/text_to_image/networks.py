"""Configs and initialisation of the networks, and saving them as a pipeline folder.

The classes are those of the published FLUX.2-klein, with these of its properties: the pipeline uses the states after
the text encoder's 9th, 18th and 27th layer, so there are 27 layers; latents are packed into patches of 2x2 and
normalised by the VAE's `bn`; guidance is no input of the transformer. The VAE downsamples 4x and not 8x: at 128x128 a
token of the transformer covers 8x8 pixels, at which the rim of a pair of glasses is still visible.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

LAYERS = 27
TEXT_WIDTH = 64
LATENT_CHANNELS = 8
VAE_CONFIG = {
    "block_out_channels": (32, 64, 64),
    "decoder_block_out_channels": (32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": 128,
}
TRANSFORMER_CONFIG = {
    "in_channels": 4 * LATENT_CHANNELS,
    "num_layers": 2,
    "num_single_layers": 8,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "joint_attention_dim": 3 * TEXT_WIDTH,
    "timestep_guidance_channels": 128,
    "mlp_ratio": 2.0,
    "axes_dims_rope": (8, 8, 8, 8),
    "guidance_embeds": False,
}
TEXT_CONFIG = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 112,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
}
# as published with FLUX.2-klein; the pipeline computes the shift from the picture's size
SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": "exponential",
}


def build_vae(seed: int = 0, **changes: object) -> AutoencoderKLFlux2:
    """Build the VAE: pixels [B, 3, H, W] in [-1, 1] to latents [B, 8, H/4, W/4] and back."""
    torch.manual_seed(seed)
    return AutoencoderKLFlux2(**VAE_CONFIG | changes)


def build_text_encoder(tokenizer: Qwen2Tokenizer, seed: int = 0, **changes: object) -> Qwen3ForCausalLM:
    """Build the text encoder. With its 27 layers, the output projections are initialised smaller by the depth.

    As in Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3.
    """
    torch.manual_seed(seed)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    encoder = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **ids, **TEXT_CONFIG | changes))
    for name, parameter in encoder.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 2:
            smaller = (2 * LAYERS) ** -0.5 if "o_proj" in name or "down_proj" in name else 1.0
            nn.init.normal_(parameter, std=smaller * parameter.shape[1] ** -0.5)
    return encoder


def build_transformer(seed: int = 0, **changes: object) -> Flux2Transformer2DModel:
    """Build the transformer; every block starts as the identity (adaLN-Zero, Peebles and Xie, 2023)."""
    torch.manual_seed(seed)
    transformer = Flux2Transformer2DModel(**TRANSFORMER_CONFIG | changes)
    for name, parameter in transformer.named_parameters():
        if "modulation" in name or "norm_out" in name or "proj_out" in name:
            nn.init.zeros_(parameter)
    return transformer


def save_pipeline(
    folder: Path,
    vae: AutoencoderKLFlux2,
    text_encoder: Qwen3ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    transformer: Flux2Transformer2DModel,
    *,
    distilled: bool,
) -> None:
    """Save the pipeline in bfloat16; the networks are converted in place.

    The saved configs do not contain the paths that the networks were loaded from.
    """
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG),
        vae=vae.to(torch.bfloat16),
        text_encoder=text_encoder.to(torch.bfloat16),
        tokenizer=tokenizer,
        transformer=transformer.to(torch.bfloat16),
        is_distilled=distilled,
    )
    pipeline.save_pretrained(folder)
    # diffusers writes the folder that a network was loaded from into its config, and has no option to omit it
    for file in (folder / "vae" / "config.json", folder / "transformer" / "config.json"):
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")
