"""A toy VoxCPM2 with random weights, written in the layout of openbmb/VoxCPM2."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

# the published config.json, with every size made small
CONFIG: dict[str, Any] = {
    "architecture": "voxcpm2",
    "lm_config": {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000,
        "kv_channels": 16,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0] * 8,
            "short_factor": [1.0] * 8,
            "original_max_position_embeddings": 512,
        },
        "vocab_size": 400,
        "use_mup": False,
        "scale_emb": 12,
        "dim_model_base": 256,
        "scale_depth": 1.4,
    },
    "patch_size": 4,
    "feat_dim": 8,
    "scalar_quantization_latent_dim": 16,
    "scalar_quantization_scale": 9,
    "residual_lm_num_layers": 1,
    "residual_lm_no_rope": True,
    "encoder_config": {"hidden_dim": 32, "ffn_dim": 48, "num_heads": 2, "num_layers": 1, "kv_channels": 16},
    "dit_config": {
        "hidden_dim": 32,
        "ffn_dim": 48,
        "num_heads": 2,
        "num_layers": 1,
        "kv_channels": 16,
        "mean_mode": False,
        "cfm_config": {"sigma_min": 1e-06, "solver": "euler", "t_scheduler": "log-norm", "inference_cfg_rate": 2.0},
    },
    # the published rates, so that a part is 0.16 s at 48 kHz
    "audio_vae_config": {
        "encoder_dim": 4,
        "encoder_rates": [2, 5, 8, 8],
        "latent_dim": 8,
        "decoder_dim": 64,
        "decoder_rates": [8, 6, 5, 2, 2, 2],
        "sr_bin_boundaries": [20000, 30000, 40000],
        "sample_rate": 16000,
        "out_sample_rate": 48000,
    },
    "max_length": 512,
    "device": "cuda",
    "dtype": "float32",
}

_LAYERS = {"num_heads": 16, "num_layers": 12, "kv_channels": 128}
# the same with the published sizes
PUBLISHED_CONFIG: dict[str, Any] = CONFIG | {
    "lm_config": CONFIG["lm_config"]
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 32768,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "kv_channels": 128,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0] * 64,
            "short_factor": [1.0] * 64,
            "original_max_position_embeddings": 32768,
        },
        "vocab_size": 73448,
    },
    "feat_dim": 64,
    "scalar_quantization_latent_dim": 512,
    "residual_lm_num_layers": 8,
    "encoder_config": {"hidden_dim": 1024, "ffn_dim": 4096, **_LAYERS},
    "dit_config": CONFIG["dit_config"] | {"hidden_dim": 1024, "ffn_dim": 4096, **_LAYERS},
    "audio_vae_config": CONFIG["audio_vae_config"] | {"encoder_dim": 128, "latent_dim": 64, "decoder_dim": 2048},
    "max_length": 8192,
    "dtype": "bfloat16",
}


def write_voxcpm2(folder: Path, *, ends: bool = True, **changed: Any) -> None:
    """Write config, tokenizer and weights; needs the extra `voices`.

    Args:
        ends: whether it finds an end, after the four parts that are the fewest; else it goes on as far as it may.
        changed: of the config.
    """
    from voxcpm.model.voxcpm2 import AudioVAEV2, VoxCPM2Model, VoxCPMConfig

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed), encoding="utf-8")
    write_tokenizer(folder)
    config = VoxCPMConfig.model_validate(CONFIG | changed)
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        from transformers import LlamaTokenizerFast

        vae = AudioVAEV2(config.audio_vae_config)
        model = VoxCPM2Model(config, LlamaTokenizerFast.from_pretrained(folder), vae, device="cpu")
        # whatever was spoken: the second of two numbers wins, or neither does
        model.stop_proj.weight.zero_()
        model.stop_proj.bias.fill_(1)
        model.stop_head.weight.copy_(torch.tensor([[0.0], [float(ends)]]).expand(2, 32))
    save_file(
        {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("audio_vae.")},
        folder / "model.safetensors",
    )
    torch.save({"state_dict": vae.state_dict()}, folder / "audiovae.pth")


def write_tokenizer(folder: Path) -> None:
    """Write one token for each byte; the model uses four numbers among them, 101 to 104, to begin and end sound."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.save(str(folder / "tokenizer.json"))
    known = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizerFast", **known, "extra_special_tokens": ["<unk>"]}),
        encoding="utf-8",
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(known), encoding="utf-8")
