"""The reference's `Wan2.1_VAE.pth` as diffusers' `AutoencoderKLWan`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.wan.checkpoint_files import fill, read_state_dict

_STATISTICS_CHANNELS = 16  # AutoencoderKLWan's own defaults for latents_mean and latents_std are those of Wan2.1

# the reference numbers the layers of a residual block as one sequence, activations and dropout counted
_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_OUTER = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
_WHOLE = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_LEAF = re.compile(r"^(.+)\.(weight|bias|gamma)$")
_STEP = re.compile(r"^(encoder\.downsamples|decoder\.upsamples|(?:en|de)coder\.middle)\.(\d+)\.(.+)$")


def vae_name(name: str, num_res_blocks: int) -> str:
    """The name in `AutoencoderKLWan` of a tensor named as in the reference; an unknown name comes back as it is.

    Args:
        name: for example `decoder.upsamples.3.time_conv.weight`.
        num_res_blocks: residual blocks per stage of the encoder; the decoder has one more.
    """
    match = _LEAF.match(name)
    if match is None:
        return name
    module, leaf = match.groups()
    if module in _WHOLE:
        return f"{_WHOLE[module]}.{leaf}"
    side, _, rest = module.partition(".")
    if side in ("encoder", "decoder") and rest in _OUTER:
        return f"{side}.{_OUTER[rest]}.{leaf}"
    if step := _STEP.match(module):
        part, number, rest = step.groups()
        return f"{_step_name(part, number, num_res_blocks)}.{_RESIDUAL.get(rest, rest)}.{leaf}"
    return name


def _step_name(part: str, number: str, num_res_blocks: int) -> str:
    if part == "encoder.downsamples":
        return f"encoder.down_blocks.{number}"
    if part == "decoder.upsamples":
        # the reference has one long sequence: a stage is its residual blocks and, but for the last stage, a resampler
        stage, step = divmod(int(number), num_res_blocks + 2)
        kind = f"resnets.{step}" if step <= num_res_blocks else "upsamplers.0"
        return f"decoder.up_blocks.{stage}.{kind}"
    return f"{part.removesuffix('.middle')}.mid_block.{_MIDDLE.get(number, number)}"


def vae_config(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """Constructor arguments of `AutoencoderKLWan`, read off the shapes of the tensors in the reference's layout.

    Args:
        shapes: name → shape.
        where: what to call the file in an error.

    Raises:
        WeightsError: the tensors are not those of a Wan2.1 VAE, or it has another number of latent channels than 16:
            the mean and standard deviation of the latents are not in the file, and known for 16 only.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise WeightsError(f"{where} lacks {name}; it is no Wan2.1 VAE in the reference's layout.")
        return shapes[name]

    base_dim, in_channels = shape("encoder.conv1.weight")[:2]
    z_dim = shape("conv2.weight")[0]
    if z_dim != _STATISTICS_CHANNELS:
        raise WeightsError(
            f"{where} has {z_dim} latent channels; the latents' mean and deviation are known for "
            f"{_STATISTICS_CHANNELS} only. Use the VAE in diffusers layout, whose config.json has them."
        )

    widths: list[list[int]] = [[]]  # of the residual blocks, stage by stage
    temporal: list[bool] = []
    step = 0
    while any(name.startswith(f"encoder.downsamples.{step}.") for name in shapes):
        prefix = f"encoder.downsamples.{step}."
        if f"{prefix}resample.1.weight" in shapes:
            temporal.append(f"{prefix}time_conv.weight" in shapes)
            widths.append([])
        else:
            widths[-1].append(shape(f"{prefix}residual.6.weight")[0])
        step += 1
    lengths = {len(stage) for stage in widths}
    if len(lengths) != 1 or 0 in lengths or any(set(stage) != {stage[0]} for stage in widths):
        raise WeightsError(f"{where} has encoder stages of widths {widths}; need as many equal blocks in each.")
    if any(stage[0] % base_dim for stage in widths):
        raise WeightsError(f"{where} has encoder stages of widths {widths}, not multiples of the first, {base_dim}.")

    return {
        "base_dim": base_dim,
        "decoder_base_dim": shape("decoder.head.0.gamma")[0],
        "z_dim": z_dim,
        "dim_mult": [stage[0] // base_dim for stage in widths],
        "num_res_blocks": len(widths[0]),
        "temperal_downsample": temporal,
        "in_channels": in_channels,
        "out_channels": shape("decoder.head.2.weight")[0],
        "scale_factor_temporal": 2 ** sum(temporal),
        "scale_factor_spatial": 2 ** len(temporal),
    }


def load_vae(
    file: str | os.PathLike[str], torch_dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> AutoencoderKLWan:
    """Read a VAE file in the published layout (`Wan2.1_VAE.pth`), of that size or smaller.

    Args:
        file: what `torch.save` wrote of the reference's `state_dict`.
        torch_dtype: dtype of the weights; float32 is what Wan's pipelines advise.
        device: where they go.

    Returns:
        the VAE in evaluation mode, its weights frozen.

    Raises:
        WeightsError: the file is missing, damaged or holds more than tensors; or a tensor is missing, left over or of
            another shape.
    """
    file = Path(file)
    tensors = read_state_dict(file)
    config = vae_config({name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(file))
    with torch.device("meta"):
        vae = AutoencoderKLWan(**config)
    blocks = config["num_res_blocks"]
    fill(vae, tensors, lambda name: vae_name(name, blocks), lambda _: torch_dtype, device, str(file))
    return vae.eval()
