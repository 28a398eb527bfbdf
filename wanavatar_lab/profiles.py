"""The table of profiles: `full` is the published models, `pocket` the same classes at toy size.

This is the only place where the two differ. Everything else asks the profile: where a stage's weights are, which
defaults it overrides, how large its pictures are, and in which dtype it computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError

SIZE_MULTIPLE = 16  # VAE stride 8 times patch size 2, in FLUX.2 and in Wan alike


@dataclass(frozen=True)
class Profile:
    """One family of models.

    Attributes:
        name: its name in a request.
        label: its name in a form, in English (`requests/words.json` has the translations).
        locations: for each stage, the folder or file under the weights folder.
        shared: for each stage, the parts that it shares with other stages, and the folder of each under the weights
            folder.
        defaults: for each stage, the defaults of the request that this family overrides.
        aspects: width and height in pixels of each named aspect of text_to_image.
        auto_area: pixels of a video whose resolution is `auto`.
        size_multiple: every width and height is a multiple of this.
        dtypes: the dtype by kind of device, as torch names it.
        widths: for each stage whose weights are downloaded, the width of its network, so that LoRAs are matched before.
    """

    name: str
    label: str
    locations: Mapping[str, str]
    aspects: Mapping[str, tuple[int, int]]
    auto_area: int
    dtypes: Mapping[str, str]
    shared: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    size_multiple: int = SIZE_MULTIPLE
    widths: Mapping[str, int] = field(default_factory=dict)

    def weights(self, stage: str, weights_dir: Path | str) -> Path:
        """Path of the weights of `stage`; nothing is read.

        Raises:
            LabError: this profile has no such stage.
        """
        if stage not in self.locations:
            raise LabError(f"The profile {self.name} has no stage {stage!r}; it has {', '.join(self.locations)}.")
        return Path(weights_dir) / self.locations[stage]

    def shared_parts(self, stage: str, weights_dir: Path | str) -> dict[str, Path]:
        """Paths of the parts of `stage` that are not in its own folder, by name; nothing is read."""
        return {name: Path(weights_dir) / place for name, place in self.shared.get(stage, {}).items()}

    def default_overrides(self, stage: str) -> dict[str, Any]:
        """The defaults of the request of `stage` that differ in this profile."""
        return dict(self.defaults.get(stage, {}))

    def dtype(self, device: str) -> str:
        """The dtype on `device` ("cpu", "cuda", "cuda:1", ...), as torch names it.

        Raises:
            LabError: there is none for such a device.
        """
        kind = device.partition(":")[0]
        if kind not in self.dtypes:
            raise LabError(f"No dtype is set for the device {device!r}; use one of {', '.join(self.dtypes)}.")
        return self.dtypes[kind]


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="full",
            label="Full: the published models",
            locations={
                "text_to_image": "FLUX.2-klein-9B",
                "upscale": "RealESRGAN_x2plus.pth",
                "image_to_video": "Wan2.2-I2V-A14B",
                "speech_to_video": "Wan2.2-S2V-14B",
            },
            aspects={"portrait": (720, 1280), "landscape": (1280, 720), "square": (960, 960)},
            auto_area=720 * 1280,
            dtypes={"cpu": "bfloat16", "cuda": "bfloat16"},
            widths={"text_to_image": 4096, "image_to_video": 5120, "speech_to_video": 5120},
        ),
        Profile(
            name="pocket",
            label="Pocket: small models for any CPU",
            locations={
                "text_to_image": "pocket/text_to_image",
                "upscale": "pocket/upscale",
                "image_to_video": "pocket/image_to_video",
                "speech_to_video": "pocket/speech_to_video",
            },
            shared={
                "image_to_video": {
                    "vae": "pocket/video_vae",
                    "text_encoder": "pocket/speech_to_video/text_encoder",
                    "tokenizer": "pocket/speech_to_video/tokenizer",
                },
                "speech_to_video": {
                    "vae": "pocket/video_vae",
                    "audio_encoder": "pocket/audio_encoder",
                    "audio_processor": "pocket/audio_encoder",
                },
            },
            aspects={"portrait": (96, 160), "landscape": (160, 96), "square": (128, 128)},
            auto_area=128 * 128,
            dtypes={"cpu": "float32", "cuda": "float32"},
            defaults={
                "text_to_image": {"aspect": "square"},
                # the published negative prompts are Chinese, which the toy text encoder never saw
                "image_to_video": {
                    "resolution": "128x128",
                    "frame_num": 49,
                    "segment_frames": 49,
                    "num_inference_steps": 8,
                    "guidance_scale": 2.5,
                    "negative_prompt": "",
                },
                "speech_to_video": {
                    "resolution": "128x128",
                    "frames_per_segment": 80,
                    "num_inference_steps": 8,
                    # more follows neither the loudness nor the sounds any better
                    "guidance_scale": 2.5,
                    "negative_prompt": "",
                },
            },
        ),
    )
}
