"""Loading the S2V network: our folders, the published one, and the two conversions published in diffusers layout."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import snapshot_download

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v.key_names import is_foreign, our_config, our_name
from wanavatar_lab.wan import checkpoint_files as files

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# with these, diffusers reads files of other names, or makes other tensors of them, so headers are not compared
_UNCHECKED = ("variant", "quantization_config", "use_flashpack", "ignore_mismatched_sizes")
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_SAVE_FIRST = "Load it without, call save_pretrained(<new folder>), and load that folder."


class PublishedCheckpointMixin(ModelMixin):
    """A diffusers model that also loads what others have published."""

    @classmethod
    def from_official(
        cls,
        folder: str | os.PathLike[str],
        torch_dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load a checkpoint folder whose tensors are named in any of the three vocabularies, see `key_names`.

        All headers are compared with the model before the first tensor is read. Then tensors are read one by one from
        the mapped shard to their dtype and device, and a shard is unmapped before the next is opened: host memory stays
        below the model's share of it plus one shard. What the model keeps in float32 is loaded in float32.

        Args:
            folder: has `config.json` and `diffusion_pytorch_model*.safetensors`, sharded or whole.
            torch_dtype: dtype of the weights.
            device: where they go.

        Returns:
            the model in evaluation mode, its weights frozen.

        Raises:
            WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
        """
        model, places = cls._read_headers(Path(folder))
        files.fill(model, files.read_shards(places), torch_dtype, device, cls._keep_in_fp32_modules or ())
        model.register_to_config(_name_or_path=str(folder))
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load one of our folders, or one of the two conversions published in diffusers layout.

        The names in `config.json` and of the tensors tell which it is. Our folders are loaded by diffusers, once their
        headers have been compared: diffusers would draw at random what is missing, and only warn. A conversion is
        loaded as by `from_official`, but its weights can be trained, as diffusers leaves them.

        Args:
            pretrained_model_name_or_path: a folder, or the id of a repository on the Hub, of which only what the
                network needs is downloaded.
            kwargs: those of diffusers' `from_pretrained`, `subfolder` and `torch_dtype` among them.

        Raises:
            WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
            ValueError: an option that a conversion cannot be read with.
        """
        root = _local_root(pretrained_model_name_or_path, kwargs)
        folder = root / (kwargs.get("subfolder") or "")
        config = files.read_config(folder)
        foreign = is_foreign(config)
        if not foreign and not config.get("quantization_config") and not any(map(kwargs.get, _UNCHECKED)):
            _, places = cls._read_headers(folder)
            foreign = any(ours != theirs for ours, (_, theirs) in places.items())
        if not foreign:
            return super().from_pretrained(str(root), **kwargs)
        dtype, device = _conversion_options(folder, kwargs)
        return cls.from_official(folder, dtype, device).requires_grad_(True)

    @classmethod
    def _read_headers(cls, folder: Path) -> tuple[Self, dict[str, tuple[Path, str]]]:
        """The model on the meta device and where each of its tensors is stored, names and shapes compared."""
        published = files.read_config(folder)
        try:
            config = our_config(published, cls._get_init_keys(cls))
            with torch.device("meta"):
                model = cls(**config)
        except (ValueError, TypeError, RuntimeError) as error:  # such as a text or nothing instead of a number
            raise WeightsError(f"{folder}/config.json cannot be used: {error}") from error
        layers = model.config.audio_inject_layers
        places, shapes = files.read_headers(folder, lambda name: our_name(name, layers))
        files.compare_names(shapes, files.model_shapes(model), str(folder))
        return model, places


def _local_root(name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> Path:
    """The folder itself, or the snapshot of a repository on the Hub."""
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if not _HUB_ID.match(str(name_or_path)):
        raise WeightsError(f"{name_or_path} is neither a local folder nor the id of a repository, <owner>/<name>.")
    options = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
    prefix = f"{kwargs['subfolder']}/" if kwargs.get("subfolder") else ""
    wanted = [f"{prefix}config.json", f"{prefix}{files.WEIGHTS_STEM}*"]
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=wanted, **options))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name_or_path} is not a local folder and cannot be downloaded from the Hub: {error}"
        ) from error


def _conversion_options(folder: Path, kwargs: Mapping[str, Any]) -> tuple[torch.dtype, torch.device]:
    """Dtype and device that diffusers' options ask for; an option that would not be honoured is refused."""
    options = {name: value for name, value in kwargs.items() if name not in (*_HUB_OPTIONS, "subfolder")}
    newer, older = options.pop("dtype", None), options.pop("torch_dtype", None)
    dtype = newer or older or torch.float32  # float32 is diffusers' own default
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch_dtype is {dtype!r}; need a torch.dtype such as torch.bfloat16.")
    device_map = options.pop("device_map", None)
    device = device_map[""] if isinstance(device_map, Mapping) and list(device_map) == [""] else device_map
    if isinstance(device, Mapping) or (isinstance(device, str) and device.partition(":")[0] not in _DEVICES):
        raise ValueError(f"{folder} is a conversion and goes to one device; device_map is {device!r}. {_SAVE_FIRST}")
    # a conversion is streamed from safetensors only, so these two hold anyway
    options.pop("low_cpu_mem_usage", None)
    pickled = options.pop("use_safetensors", None) is False
    refused = [f"{name}={value!r}" for name, value in options.items() if value] + ["use_safetensors=False"] * pickled
    if refused:
        raise ValueError(f"{folder} is a conversion, which cannot be read with {', '.join(refused)}. {_SAVE_FIRST}")
    return dtype, torch.device("cpu" if device is None else device)
