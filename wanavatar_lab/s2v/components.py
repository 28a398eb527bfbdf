"""Loading all parts of the S2V pipeline from one folder: the published flat one, or any in diffusers layout."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from wanavatar_lab import wan
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v.transformer import WanS2VTransformer3DModel
from wanavatar_lab.wan.checkpoint_files import read_json
from wanavatar_lab.wan.load import PUBLISHED_PLACES, load_model, load_part, load_text_encoder, load_tokenizer, load_vae

# where the published folder has each part; in diffusers layout each has a folder of its own name
PLACES = PUBLISHED_PLACES | {
    "audio_processor": "wav2vec2-large-xlsr-53-english",
    "audio_encoder": "wav2vec2-large-xlsr-53-english",
    "transformer": ".",
}


def load_components(
    folder: str | os.PathLike[str],
    torch_dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    vae_dtype: torch.dtype = torch.float32,
    elsewhere: Mapping[str, Path] | None = None,
    leave_out: Collection[str] = (),
    variant: str | None = None,
) -> dict[str, Any]:
    """Load what `WanSpeechToVideoPipeline` takes: in evaluation mode, the weights frozen.

    Args:
        folder: the published folder (shards and `config.json` at its top, `Wan2.1_VAE.pth` and so on beside them), or
            one with a folder per part: the published conversions, or what `save_pretrained` wrote.
        torch_dtype: dtype of transformer and text encoder.
        device: where the models go.
        vae_dtype: dtype of the VAE; float32 is what Wan's pipelines advise. The audio encoder is always in float32.
        elsewhere: folders of parts outside of `folder`, by name, each as `save_pretrained` wrote it.
        leave_out: names of parts that are not needed.
        variant: of the files of weights in diffusers layout, as `save_pretrained` names them: fp16 and so on.

    Returns:
        name → part; None for a part that was left out here or on saving, and for a scheduler that the folder lacks.

    Raises:
        WeightsError: a part is missing or cannot be read, or a tensor is missing, left over or of another shape.
    """
    folder = Path(folder)
    saved: Mapping[str, Any] = {}
    if (folder / "transformer").is_dir():
        index = folder / "model_index.json"
        saved = read_json(index) if index.is_file() else {}
        # a pipeline that was saved without a part lists it as [null, null]
        without = {name for name in saved if saved[name] == [None, None]} - {"transformer", "vae"}
        places: dict[str, Path | None] = {name: None if name in without else folder / name for name in PLACES}
    elif (folder / "config.json").is_file():
        if variant is not None:
            raise WeightsError(f"{folder} is in the published layout, which has no variant {variant!r}. Leave it out.")
        places = {name: folder / place for name, place in PLACES.items()}
    else:
        raise WeightsError(
            f"{folder} holds neither a transformer folder nor a config.json. Point to the downloaded Wan2.2-S2V-14B "
            "folder."
        )
    places |= dict(elsewhere or {}) | dict.fromkeys(leave_out)
    gone = [place for place in places.values() if place is not None and not place.exists()]
    if gone:
        names = [str(place.relative_to(folder) if place.is_relative_to(folder) else place) for place in gone]
        raise WeightsError(f"{folder} lacks {', '.join(dict.fromkeys(names))}. Download what is missing.")

    def audio_encoder(place: Path) -> Wav2Vec2Model:
        # published with the head that reads letters; `masked_spec_embed` is for training only, and some files lack it
        head = ("lm_head.weight", "lm_head.bias")
        model = load_model(
            Wav2Vec2Model, place, torch.float32, may_lack=("masked_spec_embed",), may_hold=head, variant=variant
        )
        return model.to(device).eval().requires_grad_(False)

    def transformer(place: Path) -> WanS2VTransformer3DModel:
        if variant is None:
            return WanS2VTransformer3DModel.from_official(place, torch_dtype, device)
        model = load_model(WanS2VTransformer3DModel, place, torch_dtype, variant=variant)
        return model.to(device).eval().requires_grad_(False)

    # the small parts first: what is wrong with them is reported before the large ones are read
    readers: dict[str, Callable[[Path], Any]] = {
        "tokenizer": load_tokenizer,
        "audio_processor": lambda place: load_part(Wav2Vec2FeatureExtractor.from_pretrained, place),
        "audio_encoder": audio_encoder,
        "vae": lambda place: load_vae(place, vae_dtype, device, variant),
        "text_encoder": lambda place: load_text_encoder(place, torch_dtype, device, variant),
        "transformer": transformer,
    }
    parts = {name: None if (place := places[name]) is None else read(place) for name, read in readers.items()}
    scheduler = None if "scheduler" in leave_out else _scheduler(folder / "scheduler", saved.get("scheduler"))
    return parts | {"scheduler": scheduler}


def _scheduler(place: Path, saved: Any) -> SchedulerMixin | None:
    """The flow solver that a pipeline was saved with; `saved` is its package and class in the pipeline's index."""
    if not place.is_dir():
        return None
    package, name = saved or ("diffusers", read_json(place / "scheduler_config.json").get("_class_name"))
    kind: Any = getattr({"diffusers": diffusers, wan.__name__: wan}.get(package), str(name), None)
    is_scheduler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not is_scheduler:
        raise WeightsError(
            f"{place} is said to be {package}.{name}, which is no scheduler of diffusers. Correct model_index.json, or "
            "remove that folder to sample with UniPC."
        )
    return load_part(kind.from_pretrained, place)
