"""Untrained Wan I2V of the true classes, small enough that a test builds and runs it in a second."""

import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel

from tests import toys


def expert(seed: int = 0, text_dim: int = 16) -> WanTransformer3DModel:
    """Two blocks; no weight is zero."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36,
        out_channels=16,
        text_dim=text_dim,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
    )
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def i2v_pipeline(seed: int = 0) -> WanImageToVideoPipeline:
    """All of it, its experts of different weights."""
    text, tokenizer = toys.text_encoder(seed)
    return WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=toys.wan_vae(seed),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        transformer=expert(seed),
        transformer_2=expert(seed + 1),
        boundary_ratio=0.9,
    )
