"""`from_official` and `from_pretrained` of the S2V network: our folders, the published one and its conversions."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import snapshot_download

from wanavatar_lab.errors import WeightsError

from .checkpoint import WEIGHTS_STEM, load_transformer, read_config, read_headers
from .vocabulary import is_foreign

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# with these, what lies in our folder is not what the model will hold, or lies under other file names
_UNCHECKED = ("variant", "quantization_config", "use_flashpack", "ignore_mismatched_sizes")
# values that hold anyway when a conversion is read, since that streams safetensors only
_GRANTED = {"low_cpu_mem_usage": (True, False, None), "use_safetensors": (True, None)}
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_SAVE_FIRST = "Load it without, call save_pretrained(<new folder>), and load that folder."


class FromPublishedMixin(ModelMixin):
    """A diffusers model that also loads what others have published."""

    @classmethod
    def from_official(
        cls,
        folder: str | os.PathLike[str],
        torch_dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read a checkpoint folder in the published layout; see `load_transformer`."""
        return load_transformer(cls, folder, torch_dtype=torch_dtype, device=device)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read one of our folders, or one of the two conversions published in diffusers layout.

        What `config.json` and the tensors are called says which it is. Our folders go through diffusers' own loader,
        once their headers are seen to fit: diffusers would draw at random what is missing, and only warn. A
        conversion is read as `load_transformer` does, into weights that can be trained, as diffusers leaves them.

        Args:
            pretrained_model_name_or_path: a folder, or the id of a repository on the Hub, of which only what the
                network needs is fetched.
            kwargs: those of diffusers' `from_pretrained`, `subfolder` and `torch_dtype` among them.

        Raises:
            WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
            ValueError: an option that a conversion cannot be read with.
        """
        root = _local_root(pretrained_model_name_or_path, kwargs)
        folder = root / (kwargs.get("subfolder") or "")
        config = read_config(folder)
        foreign = is_foreign(config)
        if not foreign and not config.get("quantization_config") and not any(map(kwargs.get, _UNCHECKED)):
            checkpoint = read_headers(cls, folder)
            checkpoint.check()
            foreign = checkpoint.foreign
        if not foreign:
            return super().from_pretrained(str(root), **kwargs)
        dtype, device = _conversion_options(folder, kwargs)
        return load_transformer(cls, folder, torch_dtype=dtype, device=device).requires_grad_(True)


def _local_root(name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> Path:
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if not _HUB_ID.match(str(name_or_path)):
        raise WeightsError(f"{name_or_path} is neither a folder here nor the id of a repository, <owner>/<name>.")
    options = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
    prefix = f"{kwargs['subfolder']}/" if kwargs.get("subfolder") else ""
    wanted = [f"{prefix}config.json", f"{prefix}{WEIGHTS_STEM}*"]
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=wanted, **options))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name_or_path} is no folder here, and the Hub did not give it: {error}") from error


def _conversion_options(folder: Path, kwargs: Mapping[str, Any]) -> tuple[torch.dtype, torch.device]:
    """Dtype and device that diffusers' options ask for; an option that would not be honoured is refused."""
    options = {name: value for name, value in kwargs.items() if name not in (*_HUB_OPTIONS, "subfolder")}
    newer, older = options.pop("dtype", None), options.pop("torch_dtype", None)
    dtype = newer or older or torch.float32  # float32 is diffusers' own default
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch_dtype is {dtype!r}; need a torch.dtype such as torch.bfloat16.")
    place = options.pop("device_map", None)
    if isinstance(place, Mapping) and list(place) == [""]:
        place = place[""]
    place = "cpu" if place is None else place
    if isinstance(place, Mapping) or (isinstance(place, str) and place.partition(":")[0] not in _DEVICES):
        raise ValueError(f"{folder} is a conversion and goes to one device; device_map is {place!r}. {_SAVE_FIRST}")
    refused = [f"{name}={value!r}" for name, value in options.items() if value and value not in _GRANTED.get(name, ())]
    if options.get("use_safetensors") is False:
        refused.append("use_safetensors=False")
    if refused:
        raise ValueError(f"{folder} is a conversion, which cannot be read with {', '.join(refused)}. {_SAVE_FIRST}")
    return dtype, torch.device(place)
