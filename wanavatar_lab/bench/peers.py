"""The networks that `parts` measures beside this package's: diffusers' own, and that of Wan's publisher.

They have random weights of the same size, and compute as they come: uncompiled, and by PyTorch's attention.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from wanavatar_lab.bench.random_models import random_network
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.apply_offload import compute_dtype

MODULES = ("s2v.model_s2v", "s2v.motioner", "model")  # of the publisher, which call its attention
AUDIO_LAYERS = 25  # that the publisher's network always takes


def plain_vae(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Wan's autoencoder as diffusers has it, on the device of another one."""
    return random_network(lambda: AutoencoderKLWan.from_config(vae.config), torch.float32, vae.device)


def plain_expert(expert: WanTransformer3DModel) -> WanTransformer3DModel:
    """An expert of image to video as diffusers has it, on the device of another one."""
    build = lambda: WanTransformer3DModel.from_config(expert.config)  # noqa: E731
    return random_network(build, compute_dtype(expert), expert.device)


def published_s2v(folder: Path) -> ModuleType:
    """The module of the publisher's S2V network.

    Args:
        folder: a clone of https://github.com/Wan-Video/Wan2.2, in which the package `wan` is.

    Raises:
        LabError: there is no such package, or what it imports is not installed.
    """
    root = folder / "wan"
    if not (root / "modules/s2v/model_s2v.py").is_file():
        raise LabError(f"{folder} has no wan/modules/s2v. Give the folder of a clone of github.com/Wan-Video/Wan2.2.")
    # without what these packages import by themselves, which is all of its pipelines
    for name in ("wan", "wan.modules", "wan.modules.s2v", "wan.distributed"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    try:
        module, *_ = [importlib.import_module(f"wan.modules.{name}") for name in MODULES]
        return module
    except ImportError as error:
        raise LabError(f"{folder} cannot be imported: {error}. Install what it needs.") from error


def published_pass(
    module: ModuleType, transformer: Any, inputs: Mapping[str, torch.Tensor], device: torch.device
) -> Callable[[], Any]:
    """A pass of the publisher's S2V network of the size of ours.

    Args:
        module: from `published_s2v`.
        transformer: ours.
        inputs: of our pass.
        device: where it computes.
    """
    config, dtype = transformer.config, compute_dtype(transformer)
    published: Any = importlib.import_module("wan.modules.attention")
    if not hasattr(getattr(published, "flash_attn", None), "flash_attn_varlen_func"):
        published.FLASH_ATTN_2_AVAILABLE = False  # FlashAttention 4 by itself is a package of the same name
    if not (published.FLASH_ATTN_2_AVAILABLE or published.FLASH_ATTN_3_AVAILABLE):
        # the publisher's own way out where FlashAttention is not installed, which its networks do not take themselves
        attend = functools.partial(published.attention, dtype=dtype)
        for name in MODULES:
            importlib.import_module(f"wan.modules.{name}").flash_attention = attend  # type: ignore[attr-defined]
    theirs = random_network(
        lambda: module.WanModel_S2V(
            cond_dim=config.pose_channels,
            audio_dim=config.audio_dim,
            num_audio_token=config.num_audio_tokens,
            enable_adain=True,
            audio_inject_layers=list(config.audio_inject_layers),
            zero_timestep=True,
            enable_motioner=False,
            enable_framepack=True,
            framepack_drop_mode="padd",
            in_dim=config.in_channels,
            out_dim=config.out_channels,
            dim=config.num_attention_heads * config.attention_head_dim,
            num_heads=config.num_attention_heads,
            **{name: config[name] for name in ("ffn_dim", "freq_dim", "text_dim", "num_layers")},
        ),
        dtype,
        device,
    )
    noise, motion = inputs["hidden_states"], inputs["motion_latents"]
    audio = inputs["audio_embeds"]
    arguments = {
        "x": list(noise),
        "t": inputs["timestep"],
        "context": list(inputs["encoder_hidden_states"]),
        "seq_len": noise[0, 0].numel() // 4,  # a token is 2 x 2
        "ref_latents": inputs["ref_latents"],
        "motion_latents": motion,
        "cond_states": torch.zeros_like(noise),
        "audio_input": audio[:, :1].expand(-1, AUDIO_LAYERS, -1, -1).contiguous(),
        "motion_frames": [4 * motion.shape[2] - 3, motion.shape[2]],
    }

    def call() -> Any:
        with torch.autocast(device.type, dtype, enabled=device.type == "cuda"):
            return theirs(**arguments)

    return call
