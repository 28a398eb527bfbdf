"""The table of profiles: `full` is the published models, `pocket` the same classes at toy size.

The table is `profiles.toml`, the only place where the two differ. Everything else asks the profile: where a stage's
weights are, which defaults it overrides, how large its pictures are, and in which dtype it computes.
"""

import tomllib
from collections.abc import Mapping, Sequence
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
        size_multiples: for each stage, the multiple of the sides of a video whose resolution is `auto` or a named one,
            if it is not `SIZE_MULTIPLE`.
        dtypes: the dtype by kind of device, as torch names it.
        host_gb: main memory that a worker takes at most, in GB: by it the workers of a machine with several GPUs are
            counted.
        face_reader: what reads the faces of its clips where MediaPipe does not know such faces, as "module:class" with
            a `load`, a `metrics.RegionSource` and `metrics.landmarks.LandmarkSource`; empty for MediaPipe.
        clones_voices: whether its voices follow a recording, or words on how something is said.
        extends_prompts: whether its text encoders understand more than the prompts that they were trained with.
        widths: for each stage whose weights are downloaded, the width of its network, so that LoRAs are matched before.
    """

    name: str
    label: str
    locations: Mapping[str, str]
    aspects: Mapping[str, Sequence[int]]
    auto_area: int
    dtypes: Mapping[str, str]
    host_gb: float
    shared: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    size_multiples: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    face_reader: str = ""
    extends_prompts: bool = True
    clones_voices: bool = True

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
    name: Profile(name=name, **facts)
    for name, facts in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
