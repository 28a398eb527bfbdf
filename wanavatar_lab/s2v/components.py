"""Everything the S2V pipeline is made of, from one folder: the published flat one, or any in diffusers layout."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypedDict, cast

import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v.checkpoint import read_json
from wanavatar_lab.s2v.transformer import WanS2VTransformer3DModel
from wanavatar_lab.wan.checkpoint_files import name_problems
from wanavatar_lab.wan.cpu_convolution import convolve_by_frames
from wanavatar_lab.wan.text_checkpoint import load_text_encoder
from wanavatar_lab.wan.vae_checkpoint import load_vae

# where the published folder keeps each part; in diffusers layout each has a folder of its own name
PUBLISHED_PLACES = {
    "transformer": ".",
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "google/umt5-xxl",
    "audio_encoder": "wav2vec2-large-xlsr-53-english",
    "audio_processor": "wav2vec2-large-xlsr-53-english",
}
_NEVER_LEFT_OUT = ("transformer", "vae")


class Components(TypedDict):
    """What `WanSpeechToVideoPipeline` takes, but for its scheduler; None for a part that was left out on saving."""

    transformer: WanS2VTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel | None
    tokenizer: PreTrainedTokenizerBase | None
    audio_encoder: Wav2Vec2Model | None
    audio_processor: Wav2Vec2FeatureExtractor | None


def load_components(
    folder: str | os.PathLike[str],
    torch_dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    vae_dtype: torch.dtype = torch.float32,
    elsewhere: Mapping[str, Path] | None = None,
    leave_out: Collection[str] = (),
) -> Components:
    """Load all parts of the pipeline, ready to run: in evaluation mode, their weights frozen.

    Args:
        folder: the published folder (shards and `config.json` at its top, `Wan2.1_VAE.pth` and so on beside them), or
            one with a folder per part: the published conversions, or what `save_pretrained` wrote.
        torch_dtype: dtype of transformer and text encoder.
        device: where the models go.
        vae_dtype: dtype of the VAE; float32 is what Wan's pipelines advise. The audio encoder is always in float32.
        elsewhere: folders of parts that lie outside of `folder`, by name, each as `save_pretrained` wrote it.
        leave_out: names of parts that are not needed; they are None.

    Raises:
        WeightsError: a part is missing or cannot be read, or a tensor is missing, left over or of another shape.
    """
    folder = Path(folder)
    places = _places(folder) | dict(elsewhere or {}) | dict.fromkeys(leave_out)
    gone = [place for place in places.values() if place is not None and not place.exists()]
    if gone:
        names = [str(place.relative_to(folder) if place.is_relative_to(folder) else place) for place in gone]
        raise WeightsError(f"{folder} lacks {', '.join(dict.fromkeys(names))}. Download what is missing.")

    readers: dict[str, Callable[[Path], Any]] = {
        "tokenizer": lambda place: load_part(AutoTokenizer.from_pretrained, place, trust_remote_code=False),
        "audio_processor": lambda place: load_part(Wav2Vec2FeatureExtractor.from_pretrained, place),
        "audio_encoder": lambda place: _audio_encoder(place).to(device),
        "vae": lambda place: _vae(place, vae_dtype, device),
        "text_encoder": lambda place: _text_encoder(place, torch_dtype, device),
        "transformer": lambda place: WanS2VTransformer3DModel.from_official(place, torch_dtype, device),
    }
    # the small parts first: what is wrong with them is said before the large ones are read
    parts: dict[str, Any] = dict.fromkeys(places)
    for name, read in readers.items():
        place = places[name]
        if place is not None:
            parts[name] = read(place)
            if isinstance(parts[name], torch.nn.Module):
                parts[name].eval().requires_grad_(False)
    return cast(Components, parts)


def load_model(
    model_class: Any, folder: Path, dtype: torch.dtype, may_lack: tuple[str, ...] = (), may_hold: tuple[str, ...] = ()
) -> Any:
    """A model in diffusers' or transformers' layout, whose own loaders draw at random what is missing and only warn.

    Args:
        may_lack, may_hold: tensors that the files may lack, or hold beyond what the model needs.

    Raises:
        WeightsError: it cannot be read, or a tensor is missing or left over.
    """
    model, info = load_part(model_class.from_pretrained, folder, dtype=dtype, output_loading_info=True)
    missing = sorted(set(info["missing_keys"]) - set(may_lack))
    left_over = sorted(set(info["unexpected_keys"]) - set(may_hold))
    problems = name_problems({"missing": missing, "left over": left_over})
    if problems:
        raise WeightsError(f"{folder} is not the {model_class.__name__} this pipeline needs. {problems}.")
    return model


def load_part(from_pretrained: Callable[..., Any], folder: Path, **kwargs: Any) -> Any:
    """What a library's `from_pretrained` reads from a folder; nothing is downloaded.

    diffusers and transformers read safetensors, and of files that torch.save wrote only tensors (`weights_only`).

    Raises:
        WeightsError: it cannot be read, or would execute code.
    """
    try:
        return from_pretrained(str(folder), local_files_only=True, **kwargs)
    except UnpicklingError as error:
        raise WeightsError(
            f"{folder} was refused: a file of it is damaged, or holds more than tensors, which could run code when "
            "loaded. Download it again from a source that you trust."
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be read: {error}") from error


def _places(folder: Path) -> dict[str, Path | None]:
    if (folder / "transformer").is_dir():
        index = folder / "model_index.json"
        listed = read_json(index) if index.is_file() else {}
        # a pipeline that was saved without a part lists it as [null, null]
        left_out = {name for name in listed if listed[name] == [None, None]} - {*_NEVER_LEFT_OUT}
        return {name: None if name in left_out else folder / name for name in PUBLISHED_PLACES}
    if (folder / "config.json").is_file():
        return {name: folder / place for name, place in PUBLISHED_PLACES.items()}
    raise WeightsError(
        f"{folder} holds neither a transformer folder nor a config.json. Point to the downloaded Wan2.2-S2V-14B folder."
    )


def _vae(place: Path, dtype: torch.dtype, device: torch.device | str) -> AutoencoderKLWan:
    if place.is_file():
        return convolve_by_frames(load_vae(place, dtype, device))
    return convolve_by_frames(load_model(AutoencoderKLWan, place, dtype).to(device))


def _text_encoder(place: Path, dtype: torch.dtype, device: torch.device | str) -> UMT5EncoderModel:
    if place.is_file():
        return load_text_encoder(place, dtype, device)
    return load_model(UMT5EncoderModel, place, dtype).to(device)


def _audio_encoder(place: Path) -> Wav2Vec2Model:
    # published with the head that reads letters; `masked_spec_embed` is for training only, and some files lack it
    heads = ("lm_head.weight", "lm_head.bias")
    return load_model(Wav2Vec2Model, place, torch.float32, may_lack=("masked_spec_embed",), may_hold=heads)
