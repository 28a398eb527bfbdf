"""The networks of every stage in two sizes: as they are published, and tiny, so that a bench can be tried anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

# config.json of black-forest-labs/FLUX.2-klein-9B, Wan-AI/Wan2.2-I2V-A14B-Diffusers, Wan-AI/Wan2.2-S2V-14B,
# google/umt5-xxl and jonatasgrosman/wav2vec2-large-xlsr-53-english, as far as they differ from the classes' defaults
_WAN_EXPERT = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13_824,
    "num_layers": 40,
}
_TINY_BLOCKS = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


@dataclass(frozen=True)
class Sizes:
    """The configs of one size, each in the words of its class.

    Attributes:
        flux: of the transformer of text to image; flux_text and flux_vae are what goes with it.
        expert: of both experts of image to video.
        s2v: of the transformer of speech to video; audio is its wav2vec2.
        text: of UMT5; wan_vae goes with it in both video stages.
        upscaler: features, blocks and growth channels of the RRDBNet.
    """

    flux: Config
    flux_text: Config
    flux_vae: Config
    expert: Config
    s2v: Config
    audio: Config
    text: Config
    wan_vae: Config
    upscaler: tuple[int, int, int]


SIZES: dict[str, Sizes] = {
    "published": Sizes(
        flux={
            "num_layers": 8,
            "num_single_layers": 24,
            "num_attention_heads": 32,
            "joint_attention_dim": 12_288,
            "guidance_embeds": False,
        },
        flux_text={
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": False,
        },
        flux_vae={},
        expert=_WAN_EXPERT,
        s2v={},
        audio={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "conv_bias": True,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
        },
        text={
            "vocab_size": 256_384,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10_240,
            "num_layers": 24,
            "num_heads": 64,
        },
        wan_vae={},
        upscaler=(64, 23, 32),
    ),
    "tiny": Sizes(
        flux={
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 1,
            "joint_attention_dim": 24,
            "timestep_guidance_channels": 16,
            "mlp_ratio": 1.0,
            "axes_dims_rope": (4, 4, 4, 4),
            "guidance_embeds": False,
        },
        flux_text={
            "vocab_size": 512,
            "hidden_size": 8,
            "intermediate_size": 8,
            # the pipeline reads the hidden states of the 27th
            "num_hidden_layers": 27,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "tie_word_embeddings": False,
        },
        flux_vae={
            "block_out_channels": (8, 8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
        },
        expert={**_TINY_BLOCKS, "in_channels": 36, "out_channels": 16},
        s2v={
            **_TINY_BLOCKS,
            "audio_dim": 16,
            "num_audio_layers": 3,
            "num_audio_tokens": 2,
            "audio_inject_layers": (1,),
        },
        audio={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "conv_dim": [8] * 7,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        text={"vocab_size": 512, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        wan_vae={"base_dim": 4, "z_dim": 16, "num_res_blocks": 1, "temperal_downsample": [False, True, True]},
        upscaler=(8, 1, 8),
    ),
}
