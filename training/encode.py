"""From clip folders to encoded samples: latents, audio features, embedded words and masks, each computed once.

    python -m training.encode --data DATA/processed/video_path.txt --out DATA/samples --profile pocket

A sample is kept under a hash of everything that it was made of: the clip's files, the window, the segment, the prompt
and the weights. So the same command again computes what is new, and what is no longer asked for is removed.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data.masks import latent_masks, latent_validity
from training.data.sample_list import Entry, listed_in
from training.data.samples import NO_TEXT, write_list, write_sample
from training.data.segments import ASPECTS, LONGEST, Segment, segments_of, window_about
from training.launch.folder_locks import changing
from training.prepare.clip_folder import FACE_MASKS, FPS, IMAGES, LIP_MASKS, RATE, ClipFolder, read_clips
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import remove
from wanavatar_lab.media import Audio, read_audio, write_audio
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanSpeechToVideoPipeline
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.s2v.inpaint import encode_given
from wanavatar_lab.settings import read_settings
from wanavatar_lab.wan.latents import MOTION_FRAMES, LatentCodec
from wanavatar_lab.weights import missing_weights
from wanavatar_lab.weights.folders import fingerprint
from wanavatar_lab.worker.execute import choose_device

FORMAT = 2  # of what a sample holds; another one makes every sample again
CAPTION = "caption.txt"  # in a clip's folder: what is seen and done there
SOUND_ENDS = ".wav"  # of the file beside a held-out sample
MOTION_LATENTS = (MOTION_FRAMES + 3) // 4


@dataclass(frozen=True)
class Encoders:
    """What samples are computed with: an S2V pipeline without its transformer.

    Attributes:
        pipeline: VAE, text encoder and audio encoder.
        device: where they compute.
        made_of: a hash of their weights.
    """

    pipeline: WanSpeechToVideoPipeline
    device: torch.device
    made_of: str

    @classmethod
    def load(cls, profile: str, device: str) -> "Encoders":
        """Those of a profile.

        Raises:
            WeightsError: they are not there.
        """
        weights_dir, stage = read_settings().weights_dir, SpeechToVideo.stage
        folder = PROFILES[profile].weights(stage, weights_dir)
        if not folder.is_dir():
            raise missing_weights(stage, folder)
        elsewhere = PROFILES[profile].shared_parts(stage, weights_dir)
        dtype = getattr(torch, PROFILES[profile].dtype(device))
        components = load_components(folder, dtype, device, elsewhere=elsewhere, leave_out=("transformer",))
        hashes = {
            name: value for name, value in fingerprint(folder, elsewhere.values()).items() if "transf" not in name
        }
        made_of = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
        return cls(WanSpeechToVideoPipeline(**components), torch.device(device), made_of)


def encode(
    clips: Sequence[ClipFolder],
    held_out: Sequence[ClipFolder],
    folder: Path,
    encoders: Encoders,
    aspects: dict[str, tuple[int, int]],
    prompt: str,
    longest: int = LONGEST,
    inpaint: bool = False,
) -> list[Entry]:
    """Encode clips into `folder`, and list them there; what is there already under its hash is kept.

    Args:
        clips, held_out: for training, and for validation alone.
        aspects: width and height in pixels, by name.
        prompt: of clips without a `caption.txt`.
        longest: frames of a segment.
        inpaint: samples say what is given when a face is painted into a clip, as `patch_embedding` learns it.

    Raises:
        LabError: no clip is long enough for a segment, or a training reads what is in `folder` and would change.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    for clip, is_held_out in [*((clip, False) for clip in clips), *((clip, True) for clip in held_out)]:
        entries += _encode_clip(clip, is_held_out, folder, encoders, aspects, prompt, longest, inpaint)
    if not any(not entry.held_out for entry in entries):
        raise LabError("No clip is as long as a second, so there is nothing to train on. Prepare longer ones.")
    if not _is_listed(folder, entries):
        with changing(folder):
            write_list(folder, entries, encoders.pipeline.encode_prompt("")[0].float().cpu())
            for old in _others(folder, entries):
                remove(old)
    return entries


def _is_listed(folder: Path, entries: list[Entry]) -> bool:
    try:
        return (folder / NO_TEXT).is_file() and listed_in(folder) == entries
    except LabError:  # it is damaged, which a new one mends
        return False


def _others(folder: Path, entries: Sequence[Entry]) -> list[Path]:
    """Files of samples that are no longer asked for."""
    known = {f"{entry.name}.safetensors" for entry in entries} | {NO_TEXT}
    found = (*folder.glob("*.safetensors"), *folder.glob(f"*{SOUND_ENDS}"))
    return [path for path in found if path.with_suffix(".safetensors").name not in known]


def _encode_clip(
    clip: ClipFolder,
    held_out: bool,
    folder: Path,
    encoders: Encoders,
    aspects: dict[str, tuple[int, int]],
    prompt: str,
    longest: int,
    inpaint: bool,
) -> list[Entry]:
    caption = clip.path / CAPTION
    said = caption.read_text(encoding="utf-8").strip() if caption.is_file() else prompt
    digest = _digest(clip, encoders, said)
    steps = clip.steps()
    entries, opened = [], None
    for name, size in aspects.items():
        for segment in segments_of(len(steps), longest):
            told = f"{digest} {size} {asdict(segment)}{' inpaint' if inpaint else ''}"
            asked = hashlib.sha256(told.encode()).hexdigest()[:12]
            kind = "next" if segment.continued else "first"
            sample = f"{clip.path.name}-{name}-{segment.start:04d}-{kind}-{asked}"
            tensors: dict[str, Tensor] | None = None
            if not (folder / f"{sample}.safetensors").is_file():
                # a clip's pictures are read when the first of its samples is computed
                opened = opened or _Opened(clip, steps, encoders, said)
                tensors = opened.tensors(size, segment, inpaint)
            entries.append(write_sample(folder, sample, tensors, f"{clip.path.name}", held_out))
            if held_out:
                _write_sound(clip, segment, folder / f"{sample}{SOUND_ENDS}")
    return entries


def _write_sound(clip: ClipFolder, segment: Segment, file: Path) -> None:
    """The sound of a segment, for who makes sample clips."""
    if not file.is_file():
        samples = read_audio(clip.sound, rate=RATE, mono=True).samples
        per_frame = RATE // FPS
        part = slice(segment.start * per_frame, (segment.start + segment.frames) * per_frame)
        write_audio(file, Audio(samples[part], RATE))


class _Opened:
    """A clip in memory."""

    def __init__(self, clip: ClipFolder, steps: NDArray[np.int64], encoders: Encoders, said: str) -> None:
        self.encoders, self.count = encoders, len(steps)
        self.images = np.stack([clip.image(int(i)) for i in steps])
        self.masks = [np.stack([clip.mask(kind, int(i)) for i in steps]) for kind in (FACE_MASKS, LIP_MASKS)]
        self.valid = clip.valid()[steps]
        pipeline = encoders.pipeline
        sound = read_audio(clip.sound, rate=RATE, mono=True).samples[:, 0]
        # all of the clip at once, as inference normalises and hears the whole file
        self.audio = pipeline.encode_audio(sound).bucket(0, FPS, self.count)
        self.text = pipeline.encode_prompt(said)[0].float().cpu()

    @torch.no_grad()
    def tensors(self, size: tuple[int, int], segment: Segment, inpaint: bool = False) -> dict[str, Tensor]:
        """The tensors of one sample; see `training.loop.step.train_step`."""
        faces = self.masks[0][self.valid]
        window = window_about(np.max(faces, axis=0, initial=0) > 127, *size)
        inside = range(segment.start, segment.start + segment.frames)
        codec, device = LatentCodec(self.encoders.pipeline.vae), self.encoders.device
        # the picture is another moment of the clip than the segment begins with
        reference = self._pixels([(segment.start + self.count // 2) % self.count], window, size)
        found = {"reference": codec.encode(reference, device)}
        if segment.continued:
            before = range(segment.start - MOTION_FRAMES, segment.start)
            latents = codec.encode(self._pixels([*before, *inside], window, size), device)
            found["motion"], found["target"] = latents[:, :, :MOTION_LATENTS], latents[:, :, MOTION_LATENTS:]
        else:
            latents = codec.encode(torch.cat([reference, self._pixels(inside, window, size)], dim=2), device)
            found["target"] = latents[:, :, 1:]
        if inpaint:
            # all that the face comes to in this clip is to be made: its outline would tell what the mouth does
            somewhere = np.max(faces, axis=0, keepdims=True, initial=0 if len(faces) else 255)
            given = (self._grey(somewhere, window, size) == 0).float().expand(1, 1, len(inside), -1, -1)
            found["inpaint"] = encode_given(codec, self._pixels(inside, window, size), given, device)
        kept = {name: latents[0].float().cpu() for name, latents in found.items()}
        frames = slice(segment.start, segment.start + segment.frames)
        for name, masks in zip(("face", "lip"), self.masks, strict=True):
            kept[name] = latent_masks(self._grey(masks[frames], window, size)[None])[0]
        kept["valid"] = latent_validity(torch.from_numpy(self.valid[frames])[None])[0]
        kept["audio"], kept["text"] = self.audio[..., frames], self.text
        return kept

    def _pixels(self, frames: Sequence[int], window: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
        """Frames [1, 3, F, H, W] in [-1, 1]."""
        levels = np.stack([np.asarray(image) for image in self._resized(self.images[list(frames)], window, size)])
        return torch.from_numpy(levels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1

    def _grey(self, masks: NDArray[np.uint8], window: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
        """Masks [F, H, W] in 0..1."""
        levels = np.stack([np.asarray(image) for image in self._resized(masks, window, size)])
        return torch.from_numpy(levels).float() / 255

    def _resized(
        self, pictures: NDArray[np.uint8], window: tuple[int, int, int, int], size: tuple[int, int]
    ) -> Iterator[Image.Image]:
        for picture in pictures:
            # reducing by area, which PIL calls a box, where it is reduced
            smaller = size[0] < window[2] - window[0]
            how = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
            yield Image.fromarray(picture).resize(size, how, box=window)


def _digest(clip: ClipFolder, encoders: Encoders, said: str) -> str:
    """A hash of all that a clip's samples are made of, but for the window and the segment."""
    digest = hashlib.sha256(f"{FORMAT} {encoders.made_of} {said} {clip.fps}".encode())
    files = [path for kind in (IMAGES, FACE_MASKS, LIP_MASKS) for path in sorted((clip.path / kind).iterdir())]
    for path in (*files, clip.sound, clip.path / "valid.json"):
        digest.update(path.name.encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _divided(clips: list[ClipFolder], listed: Path) -> tuple[list[ClipFolder], list[ClipFolder]]:
    """Clips to train on, and those that a list says are held out.

    A folder that was made elsewhere has no such list, and then its last clip is held out, so that training can be
    watched. An empty list holds out none.
    """
    if listed.is_file():
        return clips, read_clips(listed) if listed.read_text(encoding="utf-8-sig").strip() else []
    if len(clips) == 1:
        return clips, []
    print(f"There is no {listed.name}, so {clips[-1].path.name} is held out.")
    return clips[:-1], clips[-1:]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.encode", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="video_path.txt, a clip's folder a line")
    parser.add_argument("--held-out", type=Path, help="another such list, for validation; beside --data if it is there")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--aspects", default="rec,square,vec", help="by commas")
    parser.add_argument("--prompt", default=SpeechToVideo.model_fields["prompt"].default)
    parser.add_argument("--frames", type=int, default=LONGEST, help="of a segment, at most")
    parser.add_argument("--inpaint", action="store_true", help="for a network that paints the face into a clip")
    parser.add_argument("--device")
    arguments = parser.parse_args(argv)
    listed = arguments.held_out or arguments.data.with_name("held_out_path.txt")
    shapes = ASPECTS[arguments.profile]
    try:
        unknown = [name for name in arguments.aspects.split(",") if name not in shapes]
        if unknown:
            raise LabError(f"There is no aspect {unknown[0]!r}; there are {', '.join(shapes)}.")
        clips = read_clips(arguments.data)
        clips, held_out = _divided(clips, listed)
        device = arguments.device or choose_device(read_settings().device)
        encoders = Encoders.load(arguments.profile, device)
        aspects = {name: shapes[name] for name in arguments.aspects.split(",")}
        entries = encode(
            clips, held_out, arguments.out, encoders, aspects, arguments.prompt, arguments.frames, arguments.inpaint
        )
    except LabError as error:
        raise SystemExit(str(error)) from error
    trained = sum(not entry.held_out for entry in entries)
    print(f"{trained} samples to train on and {len(entries) - trained} held out, in {arguments.out}")


if __name__ == "__main__":
    main()
