"""Reading an S2V checkpoint folder shard by shard, whichever vocabulary its tensors are named in."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v.key_names import is_foreign, our_config, our_name
from wanavatar_lab.wan.checkpoint_files import Shapes, compare_names, model_shapes, place, safetensors_shapes

if TYPE_CHECKING:
    from wanavatar_lab.s2v.transformer import WanS2VTransformer3DModel

WEIGHTS_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class StoredCheckpoint:
    """What a checkpoint folder holds, read off its headers.

    Args:
        folder: where it lies.
        config: its `config.json`.
        model: the model it is of, on the meta device.
        stored: our name of a tensor → its file, and its name there.
        shapes: our name of a tensor → its shape.
    """

    folder: Path
    config: Mapping[str, Any]
    model: "WanS2VTransformer3DModel"
    stored: Mapping[str, tuple[Path, str]]
    shapes: Shapes

    @property
    def foreign(self) -> bool:
        """Whether config or tensors are named as the reference or the diffusers draft name them."""
        return is_foreign(self.config) or any(ours != theirs for ours, (_, theirs) in self.stored.items())

    def check(self) -> None:
        """Compare names and shapes with the model's.

        Raises:
            WeightsError: a tensor is missing, left over or of another shape.
        """
        compare_names(self.shapes, model_shapes(self.model), str(self.folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder.

    Raises:
        WeightsError: it is not there or damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsError(f"{folder} has no config.json. Point to the folder that holds the S2V transformer.")
    return read_json(file)


def read_json(file: Path) -> dict[str, Any]:
    """The fields of a JSON file that comes with a checkpoint.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file} is damaged ({error}). Download it again.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} holds a {type(value).__name__} instead of named fields. Download it again.")
    return value


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, in order.

    Raises:
        WeightsError: the folder or a file that its index names is not there, or the index is damaged.
    """
    index = folder / f"{WEIGHTS_STEM}.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise WeightsError(f"{index} has no weight_map. Download it again.")
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        files = sorted(folder.glob(f"{WEIGHTS_STEM}*.safetensors"))
    gone = [file.name for file in files if not file.is_file()]
    if not files or gone:
        what = ", ".join(gone) if gone else f"{WEIGHTS_STEM}*.safetensors"
        raise WeightsError(f"{folder} lacks {what}. Download the checkpoint again, or point to the folder that has it.")
    return files


def read_headers(model_class: "type[WanS2VTransformer3DModel]", folder: Path) -> StoredCheckpoint:
    """Read config and tensor headers of a checkpoint folder, in any of the three vocabularies.

    Raises:
        WeightsError: a file is missing or damaged, or two tensors are the same one under two names.
    """
    config = read_config(folder)
    with torch.device("meta"):
        model = model_class(**our_config(config))
    stored: dict[str, tuple[Path, str]] = {}
    shapes: Shapes = {}
    for file in shard_files(folder):
        for theirs, shape in safetensors_shapes(file).items():
            ours = our_name(theirs, model.config.audio_inject_layers)
            if ours in stored:
                raise WeightsError(f"{file} has {theirs}, which is the same tensor as {stored[ours][1]}.")
            stored[ours] = (file, theirs)
            shapes[ours] = shape
    return StoredCheckpoint(folder, config, model, stored, shapes)


def load_transformer(
    model_class: "type[WanS2VTransformer3DModel]",
    folder: str | os.PathLike[str],
    torch_dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> "WanS2VTransformer3DModel":
    """Build a model from a checkpoint folder whose tensors bear any of the three vocabularies' names.

    All headers are compared with the model before the first tensor is read. Then tensors go one by one from the
    mapped shard to their dtype and device, and a shard's mapping is given back before the next is opened: host memory
    stays below the model's share of it plus one shard. What the model keeps in float32 stays so.

    Args:
        model_class: the class to build.
        folder: has `config.json` and `diffusion_pytorch_model*.safetensors`, sharded or whole.
        torch_dtype: dtype of the weights.
        device: where they go.

    Returns:
        the model in evaluation mode, its weights frozen.

    Raises:
        WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
    """
    checkpoint = read_headers(model_class, Path(folder))
    checkpoint.check()
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for ours, (file, theirs) in checkpoint.stored.items():
        by_file.setdefault(file, []).append((ours, theirs))

    in_float32 = set(model_class._keep_in_fp32_modules)
    for file, names in by_file.items():
        try:
            with safe_open(file, framework="pt") as shard:
                for ours, theirs in names:
                    dtype = torch.float32 if in_float32 & set(ours.split(".")) else torch_dtype
                    tensor = shard.get_tensor(theirs).to(device=device, dtype=dtype, copy=True)
                    place(checkpoint.model, ours, tensor)
        except SafetensorError as error:
            raise WeightsError(f"{file} is damaged ({error}). Download it again.") from error
    checkpoint.model.register_to_config(_name_or_path=str(folder))
    return checkpoint.model.eval()
