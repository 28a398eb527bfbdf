"""The table of weights: what each stage needs, where it is published, and where it is kept under the weights folder.

Sizes are bytes of the published files, as the comments say. They are for plans and messages: a download asks the hub,
and uses what it answers. None stands for a size that could not be established.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wanavatar_lab.errors import RequestError, WeightsError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import shown


@dataclass(frozen=True)
class Layout:
    """One arrangement of the same weights in a folder.

    Attributes:
        name: of the layout.
        marker: a file or folder that only this layout has.
        needs: files that must exist, as patterns of paths in the folder; " | " separates alternatives, of which one is
            enough. The shards that an index names must exist too.
        repository: on the Hugging Face hub; None if several people published it, so that the folder does not show
            which repository it is from.
        files: what is downloaded of the repository, as patterns in which * also matches slashes.
        size: bytes of these files.
    """

    name: str
    marker: str
    needs: tuple[str, ...]
    repository: str | None = None
    files: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Link:
    """A single file that is published at a URL outside the hub."""

    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Weights:
    """Weights that are downloaded together, or that ship with the repository.

    Attributes:
        name: on the command line.
        place: the folder or file under the weights folder.
        use: what they are for, in a few words.
        licence: its name.
        layouts: in the order in which a folder is compared with them; empty for a single file.
        fetched: the name of the layout that a download makes.
        gated: whether the hub serves them only to accounts that have accepted the licence.
        link: of a single file.
    """

    name: str
    place: str
    use: str
    licence: str
    layouts: tuple[Layout, ...] = ()
    fetched: str | None = None
    gated: bool = False
    link: Link | None = None

    def path(self, weights_dir: Path | str) -> Path:
        """Their path under the weights folder; nothing is read."""
        return Path(weights_dir) / self.place

    @property
    def needed_by(self) -> tuple[tuple[str, str], ...]:
        """The stages whose weights these are, as (profile, stage); empty if no stage needs them."""
        stages = (
            (profile, stage, Path(profile.locations[stage]))
            for profile in PROFILES.values()
            for stage in profile.locations
        )
        return tuple((profile.name, stage) for profile, stage, path in stages if path.is_relative_to(self.place))

    @property
    def layout(self) -> Layout | None:
        """The layout that a download makes; None for a single file and for weights that ship."""
        return next((layout for layout in self.layouts if layout.name == self.fetched), None)

    @property
    def ships(self) -> bool:
        """Whether they come with the repository and are never downloaded."""
        return self.link is None and self.layout is None

    @property
    def size(self) -> int | None:
        """Bytes to download, where that is known in advance."""
        return self.link.size if self.link else self.layout.size if self.layout else None

    @property
    def source(self) -> str:
        """A repository of the hub, a URL, or "ships with this repository"."""
        if self.link is not None:
            return self.link.url
        return (self.layout and self.layout.repository) or "ships with this repository"


_FULL, _POCKET = PROFILES["full"], PROFILES["pocket"]
_POCKET_PLACE = "pocket"
_DENOISER = "diffusion_pytorch_model*.safetensors"
_WAV2VEC2 = "wav2vec2-large-xlsr-53-english"


def _network(folder: str, weights: str = _DENOISER) -> tuple[str, str]:
    return f"{folder}/config.json", f"{folder}/{weights}"


def _tokenizer(folder: str) -> tuple[str, str]:
    vocabulary = " | ".join(f"{folder}/{file}" for file in ("tokenizer.json", "spiece.model", "vocab.json"))
    return f"{folder}/tokenizer_config.json", vocabulary


def _pipeline_files(*parts: str) -> tuple[str, ...]:
    """The files of a diffusers pipeline, by folder: the top level of FLUX's repository repeats the transformer."""
    return "model_index.json", "LICENSE*", *(f"{part}/*" for part in parts)


def _pocket_needs() -> tuple[str, ...]:
    places = [*_POCKET.locations.values(), *(place for parts in _POCKET.shared.values() for place in parts.values())]
    return tuple(dict.fromkeys(PurePosixPath(place).relative_to(_POCKET_PLACE).as_posix() for place in places))


_WAN_TEXT_AND_VAE = ("models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth")
_PUBLISHED_TEXT = (*_WAN_TEXT_AND_VAE, *_tokenizer("google/umt5-xxl"))
_CONVERTED = (*_network("vae"), *_network("text_encoder", "model*.safetensors"), *_tokenizer("tokenizer"))

_TABLE = (
    Weights(
        name="pocket",
        place=_POCKET_PLACE,
        use="toy models for any CPU",
        licence="Apache-2.0",
        layouts=(Layout(name="diffusers", marker="", needs=_pocket_needs()),),
    ),
    Weights(
        name="FLUX.2-klein-9B",
        place=_FULL.locations["text_to_image"],
        use="text to image",
        # license_name and extra_gated_prompt in the front matter of the model cards of the 9B family
        licence="FLUX Non-Commercial License",
        gated=True,
        fetched="diffusers",
        layouts=(
            Layout(
                name="diffusers",
                marker="transformer",
                needs=("model_index.json", "scheduler/scheduler_config.json", *_network("transformer"), *_CONVERTED),
                repository="black-forest-labs/FLUX.2-klein-9B",
                files=_pipeline_files("scheduler", "transformer", "text_encoder", "tokenizer", "vae"),
                # the whole repository is listed with 49.26 GiB, of which the second transformer is 17316 MiB
                size=34_700_000_000,
            ),
        ),
    ),
    Weights(
        name="RealESRGAN_x2plus.pth",
        place=_FULL.locations["upscale"],
        use="2x upscaling of pictures",
        licence="BSD-3-Clause",
        # several projects that pin this asset of the release name the same size and hash
        link=Link(
            url="https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.1/RealESRGAN_x2plus.pth",
            sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
            size=67_061_725,
        ),
    ),
    Weights(
        name="Wan2.2-I2V-A14B",
        place=_FULL.locations["image_to_video"],
        use="image to video",
        licence="Apache-2.0",
        fetched="diffusers",
        layouts=(
            Layout(
                name="Wan-AI",
                marker="high_noise_model",
                needs=(*_network("high_noise_model"), *_network("low_noise_model"), *_PUBLISHED_TEXT),
                repository="Wan-AI/Wan2.2-I2V-A14B",
                files=("LICENSE*", "high_noise_model/*", "low_noise_model/*", *_WAN_TEXT_AND_VAE, "google/umt5-xxl/*"),
            ),
            Layout(
                name="diffusers",
                marker="transformer",
                needs=("model_index.json", *_network("transformer"), *_network("transformer_2"), *_CONVERTED),
                repository="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
                files=_pipeline_files("scheduler", "transformer", "transformer_2", "text_encoder", "tokenizer", "vae"),
                # 126,204,155,463 bytes in 50 files at commit 596658f, a few pictures and examples among them; the
                # experts are published in float32
                size=126_200_000_000,
            ),
        ),
    ),
    Weights(
        name="Wan2.2-S2V-14B",
        place=_FULL.locations["speech_to_video"],
        use="speech to video",
        licence="Apache-2.0",
        fetched="Wan-AI",
        layouts=(
            Layout(
                name="diffusers",
                marker="transformer",
                needs=(
                    *_network("transformer"),
                    *_CONVERTED,
                    "audio_encoder/config.json",
                    "audio_encoder/model*.safetensors | audio_encoder/pytorch_model*.bin",
                    "audio_processor/preprocessor_config.json",
                ),
            ),
            Layout(
                name="Wan-AI",
                marker="config.json",
                needs=(
                    "config.json",
                    _DENOISER,
                    *_PUBLISHED_TEXT,
                    f"{_WAV2VEC2}/config.json",
                    f"{_WAV2VEC2}/preprocessor_config.json",
                    f"{_WAV2VEC2}/model.safetensors | {_WAV2VEC2}/pytorch_model.bin",
                ),
                repository="Wan-AI/Wan2.2-S2V-14B",
                files=(
                    *("LICENSE*", "config.json", "diffusion_pytorch_model*", *_WAN_TEXT_AND_VAE, "google/umt5-xxl/*"),
                    # one format of the audio encoder; the repository has the same weights in three
                    *(f"{_WAV2VEC2}/*.json", f"{_WAV2VEC2}/model.safetensors"),
                ),
                # 16,295,755,609 weights (their shapes are in tests/golden/official_manifests.json) of 2 bytes,
                # 11,361,920,418 for the text encoder, 507,609,880 for the VAE, 1.26 GB for the audio encoder
                size=45_700_000_000,
            ),
        ),
    ),
    Weights(
        name="face-landmarker",
        place="face_landmarker.task",
        use="face masks and metrics",
        licence="Apache-2.0",
        # the URL has the version in it; several projects that pin it name the same size and hash
        link=Link(
            url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            size=3_758_596,
        ),
    ),
)
WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in _TABLE}


def find_weights(name: str) -> Weights:
    """The weights of that name; case does not matter.

    Raises:
        RequestError: there are none; the text suggests the nearest name.
    """
    known = {weights.name.lower(): weights for weights in WEIGHTS.values()}
    if name.lower() not in known:
        # people remember a part of a name, such as 14b
        near = [lower for lower in known if name and name.lower() in lower]
        near = near or difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        names = [known[lower].name for lower in near]
        advice = f"did you mean {' or '.join(map(repr, names))}?" if names else f"there are {', '.join(WEIGHTS)}"
        raise RequestError([("weights", f"{shown(name)} is not known; {advice}")])
    return known[name.lower()]


def weights_at(location: Path) -> Weights | None:
    """The weights that a profile keeps at `location` or in its parent folder; None if the table has none."""
    around = {location.name, location.parent.name}
    return next((weights for weights in WEIGHTS.values() if weights.place in around), None)


def missing_weights(stage: str, location: Path, otherwise: str = "") -> WeightsError:
    """The error of a stage whose weights are not at `location`; `otherwise` says what else can be done."""
    weights = weights_at(location)
    how = f" {download_command(weights)}" if weights is not None else ""
    return WeightsError(
        f"The weights of {stage} are not at {location}.{how} If they are in another folder, set WANAVATAR_WEIGHTS to "
        f"it{otherwise}."
    )


@contextmanager
def append_download_command(location: Path) -> Iterator[None]:
    """Append the download command to errors about weights at `location`.

    Raises:
        WeightsError: the one raised inside, with the command appended.
    """
    try:
        yield
    except WeightsError as error:
        weights = weights_at(location)
        if weights is None:
            raise
        raise WeightsError(f"{error} {download_command(weights)}") from error


def download_command(weights: Weights) -> str:
    """A sentence with the command that brings the weights."""
    if weights.ships:
        return f"They ship with the repository: `git checkout -- weights/{weights.place}` brings them back."
    licence = (
        f", once you have accepted the licence at https://huggingface.co/{weights.source}" if weights.gated else ""
    )
    return (
        f"`wanavatar-lab weights download {weights.name}` gets what is missing ({amount(weights.size)} in all)"
        f"{licence}."
    )


def amount(size: int | None) -> str:
    """Bytes as people read them: 45.7 GB, in powers of ten."""
    if size is None:
        return "size unknown"
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} bytes"
