"""Wan2.2-I2V-A14B as Wan-AI publishes it: an expert in `high_noise_model` and one in `low_noise_model`, and beside
them the VAE and the text encoder as files of torch.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v.checkpoint import read_config, shard_files
from wanavatar_lab.s2v.components import PUBLISHED_PLACES, load_part
from wanavatar_lab.wan.checkpoint_files import Shapes, compare_names, model_shapes, place, safetensors_shapes
from wanavatar_lab.wan.cpu_convolution import convolve_by_frames
from wanavatar_lab.wan.scheduler import WanUniPCScheduler
from wanavatar_lab.wan.text_checkpoint import load_text_encoder
from wanavatar_lab.wan.vae_checkpoint import load_vae

EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
# `boundary` and `sample_shift` of wan/configs/wan_i2v_A14B.py (Wan2.2, commit 42bf4cf); no file of the folder has them
BOUNDARY = 0.9
FLOW_SHIFT = 5.0


def is_wan_folder(folder: Path) -> bool:
    """Whether a folder is arranged as Wan-AI's, and not in diffusers layout."""
    return any((folder / name).is_dir() for name in EXPERTS.values())


def load_wan_folder(folder: Path, dtype: torch.dtype) -> WanImageToVideoPipeline:
    """The pipeline of such a folder, in main memory.

    Args:
        folder: Wan-AI's, of that size or smaller.
        dtype: of the experts and the text encoder; the VAE is in float32.

    Raises:
        WeightsError: a part is missing or cannot be read, or a tensor is missing, left over or of another shape.
    """
    files = {name: folder / PUBLISHED_PLACES[name] for name in ("tokenizer", "vae", "text_encoder")}
    parts = files | {name: folder / place for name, place in EXPERTS.items()}
    gone = [path.relative_to(folder).as_posix() for path in parts.values() if not path.exists()]
    if gone:
        raise WeightsError(f"{folder} lacks {', '.join(gone)}. Download what is missing.")
    return WanImageToVideoPipeline(
        tokenizer=load_part(AutoTokenizer.from_pretrained, files["tokenizer"], trust_remote_code=False),
        vae=convolve_by_frames(load_vae(files["vae"], torch.float32)).requires_grad_(False),
        text_encoder=load_text_encoder(files["text_encoder"], dtype),
        scheduler=WanUniPCScheduler.shifted(FLOW_SHIFT),
        boundary_ratio=BOUNDARY,
        **{name: load_expert(parts[name], dtype) for name in EXPERTS},
    )


def load_expert(folder: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """An expert from `config.json` and shards in Wan's own names, tensor by tensor.

    Raises:
        WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
    """
    shapes: Shapes = {}
    places: dict[str, tuple[Path, str]] = {}
    for file in shard_files(folder):
        found = safetensors_shapes(file)
        # diffusers' table of names moves any values from one name to another
        for ours, theirs in convert_wan_transformer_to_diffusers({name: name for name in found}).items():
            shapes[ours], places[ours] = found[theirs], (file, theirs)
    config = _config(folder, shapes)
    # its rotary tables are computed, so that they must not be on the meta device
    with init_empty_weights():
        model = WanTransformer3DModel(**config)
    compare_names(shapes, model_shapes(model), str(folder))
    in_float32 = set(WanTransformer3DModel._keep_in_fp32_modules)
    for file in dict.fromkeys(file for file, _ in places.values()):
        try:
            with safe_open(file, framework="pt") as shard:
                for ours, theirs in [(ours, theirs) for ours, (where, theirs) in places.items() if where == file]:
                    kept = torch.float32 if in_float32 & set(ours.split(".")) else dtype
                    place(model, ours, shard.get_tensor(theirs).to(kept, copy=True))
        except SafetensorError as error:
            raise WeightsError(f"{file} is damaged ({error}). Download it again.") from error
    model.register_to_config(_name_or_path=str(folder))
    return model.eval()


def _config(folder: Path, shapes: Shapes) -> dict[str, Any]:
    theirs, text = read_config(folder), "condition_embedder.text_embedder.linear_1.weight"
    needed = ("num_heads", "dim", "in_dim", "out_dim", "freq_dim", "ffn_dim", "num_layers", "eps")
    lacking = [name for name in needed if name not in theirs]
    if lacking or text not in shapes:
        what = f"{folder}/config.json has no {', '.join(lacking)}" if lacking else f"{folder} has no text embedding"
        raise WeightsError(f"{what}, so it is no expert of Wan2.2. Download it again.")
    return {
        "num_attention_heads": theirs["num_heads"],
        "attention_head_dim": theirs["dim"] // theirs["num_heads"],
        "in_channels": theirs["in_dim"],
        "out_channels": theirs["out_dim"],
        # the width of the text encoder is not in their file
        "text_dim": shapes[text][1],
        "freq_dim": theirs["freq_dim"],
        "ffn_dim": theirs["ffn_dim"],
        "num_layers": theirs["num_layers"],
        "eps": theirs["eps"],
    }
