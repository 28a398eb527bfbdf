"""An untrained FLUX.2-klein of the true classes, small enough that a test builds and runs it in a second."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

END = "<|endoftext|>"
CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer() -> Qwen2Tokenizer:
    """One token for each byte."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Qwen2Tokenizer(vocab=letters | {END: len(letters)}, merges=[], model_max_length=512)
    made.chat_template = CHAT
    return made


def text_encoder(seed: int = 0) -> Qwen3ForCausalLM:
    """As many layers as the pipeline asks for, eight channels wide."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer()),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=27,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        initializer_range=0.5,
    )
    return Qwen3ForCausalLM(config).eval()


def transformer(seed: int = 0) -> Flux2Transformer2DModel:
    """One block of each kind."""
    torch.manual_seed(seed)
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        mlp_ratio=1.0,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    ).eval()


def vae(seed: int = 0) -> AutoencoderKLFlux2:
    """Three levels, eight channels wide: 8 pixels to a patch."""
    torch.manual_seed(seed)
    return AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    ).eval()


def pipeline(seed: int = 0, *, distilled: bool = True) -> Flux2KleinPipeline:
    """All of it."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(seed),
        text_encoder=text_encoder(seed),
        tokenizer=tokenizer(),
        transformer=transformer(seed),
        is_distilled=distilled,
    )


def pocket_weights(folder: Path, *, distilled: bool = True) -> Path:
    """A weights folder whose pocket text_to_image is the toy pipeline; returns it, for WANAVATAR_WEIGHTS."""
    pipeline(distilled=distilled).save_pretrained(folder / "pocket" / "text_to_image")
    return folder
