"""Encode clip folders into samples: latents, audio features, text embeddings and masks, each precomputed once.

    python -m training.encode --data DATA/processed/video_path.txt --out DATA/samples --profile pocket

A sample's name has a hash of everything that it was encoded from: the clip's files, the window, the segment, the prompt
and the weights. So the same command again encodes only what is new, and removes samples that are no longer needed.
"""

import argparse
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data.masks import latent_masks, latent_validity
from training.data.sample_list import Entry, listed_in
from training.data.samples import NO_TEXT, write_list, write_sample
from training.data.segments import ASPECTS, LONGEST, Segment, checked_longest, segments_of, window_about
from training.launch.folder_locks import changing, encoding_in
from training.prepare.clip_folder import FACE_MASKS, FPS, IMAGES, LIP_MASKS, RATE, ClipFolder, read_clips
from wanavatar_lab.errors import INTERRUPTED, LabError, WeightsError
from wanavatar_lab.files import remove, report_write_errors
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
from wanavatar_lab.weights.safetensors_header import read_header
from wanavatar_lab.worker.execute import choose_device

FORMAT = 3  # of the samples' files; a new number encodes every sample again
SOUND_ENDS = ".wav"  # of the file beside a held-out sample
# files that are removed when no clip needs them; any other was put there by somebody
_OURS = re.compile(rf".+-\d{{4,}}-(?:first|next)-[0-9a-f]{{12}}(?:\.safetensors|{re.escape(SOUND_ENDS)})")
MOTION_LATENTS = (MOTION_FRAMES + 3) // 4


@dataclass(frozen=True)
class Encoders:
    """The models that encode samples: an S2V pipeline without its transformer.

    Attributes:
        pipeline: VAE, text encoder and audio encoder.
        device: of the pipeline.
        made_of: a hash of their weights.
        negative_prompt: of a request for these models.
    """

    pipeline: WanSpeechToVideoPipeline
    device: torch.device
    made_of: str
    negative_prompt: str

    @classmethod
    def load(cls, profile: str, device: str) -> "Encoders":
        """Those of a profile.

        Raises:
            WeightsError: they are not installed.
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
        negative_prompt = SpeechToVideo(profile=profile, image="any", audio="any").negative_prompt
        return cls(WanSpeechToVideoPipeline(**components), torch.device(device), made_of, negative_prompt)


def encode(
    clips: Sequence[ClipFolder],
    held_out: Sequence[ClipFolder],
    folder: Path,
    encoders: Encoders,
    aspects: dict[str, tuple[int, int]],
    prompt: str,
    longest: int = LONGEST,
    inpaint: bool = False,
    say: Callable[[str], None] = print,
) -> list[Entry]:
    """Encode clips into `folder` and write its list; samples that exist under their hash are kept.

    Args:
        clips, held_out: for training, and for validation only.
        aspects: width and height in pixels, by name.
        prompt: of clips without a caption.
        longest: frames of a segment, at most.
        inpaint: add inpainting latents, with which `patch_embedding` is trained to paint a face into a clip.
        say: called with a line for each clip, once its samples are there.

    Raises:
        LabError: no clip is long enough for a segment, one is to be trained on and held out, a caption is not UTF-8, or
            a training reads the samples in `folder` that would change, or another process encodes into it.
    """
    if both := {clip.path.resolve() for clip in clips} & {clip.path.resolve() for clip in held_out}:
        raise LabError(
            f"{min(both)} is among the clips to train on and among those held out, so that its errors would say "
            "nothing of other clips. Leave it out of one of the two lists."
        )
    with encoding_in(folder):
        entries: list[Entry] = []
        used = [*((clip, False) for clip in clips), *((clip, True) for clip in held_out)]
        for number, (clip, is_held_out) in enumerate(used, 1):
            text = clip.caption() or prompt
            digest, steps, opened = _digest(clip, encoders, text), clip.steps(), None
            for (aspect, size), segment in itertools.product(aspects.items(), segments_of(len(steps), longest)):
                source = f"{digest} {size} {asdict(segment)}{' inpaint' if inpaint else ''}"
                hashed = hashlib.sha256(source.encode()).hexdigest()[:12]
                kind = "next" if segment.continued else "first"
                name = f"{clip.path.name}-{aspect}-{segment.start:04d}-{kind}-{hashed}"
                tensors: dict[str, Tensor] | None = None
                if not _is_whole(folder / f"{name}.safetensors"):
                    # a clip's frames are read only if one of its samples is new
                    opened = opened or _Opened(clip, steps, encoders, text)
                    tensors = opened.tensors(size, segment, inpaint)
                entries.append(write_sample(folder, name, tensors, clip.path.name, is_held_out))
                sound = folder / f"{name}{SOUND_ENDS}"
                if is_held_out and not segment.continued and not sound.is_file():  # for sample clips
                    samples, per_frame = read_audio(clip.sound, rate=RATE, mono=True).samples, RATE // FPS
                    part = slice(segment.start * per_frame, (segment.start + segment.frames) * per_frame)
                    write_audio(sound, Audio(samples[part], RATE))
            say(f"{clip.path.name}: {number} of {len(used)}")
        if all(entry.held_out for entry in entries):
            raise LabError("No clip is as long as a second, so there is nothing to train on. Prepare longer ones.")
        _update_list(folder, entries, encoders)
    return entries


def _update_list(folder: Path, entries: list[Entry], encoders: Encoders) -> None:
    """Bring the list of samples up to date, and remove those of ours that are not in it."""
    try:
        texts = read_header(folder / NO_TEXT).shapes if (folder / NO_TEXT).is_file() else {}
        is_listed = "negative" in texts and listed_in(folder) == entries
    except LabError:  # a damaged list is written again
        is_listed = False
    if not is_listed:
        known = {f"{entry.name}.safetensors" for entry in entries}
        with changing(folder):
            prompts = ("", encoders.negative_prompt)
            write_list(folder, entries, *(encoders.pipeline.encode_prompt(text)[0].float().cpu() for text in prompts))
            for file in (*folder.glob("*.safetensors"), *folder.glob(f"*{SOUND_ENDS}")):
                if _OURS.fullmatch(file.name) and file.with_suffix(".safetensors").name not in known:
                    remove(file)


def _is_whole(sample: Path) -> bool:
    """Whether a sample's file is there, and was not cut short, as by a copy of the folder that broke off."""
    try:
        read_header(sample)
    except WeightsError:
        return False
    return True


def _digest(clip: ClipFolder, encoders: Encoders, text: str) -> str:
    """A hash of all that a clip's samples are encoded from, but for the window and the segment."""
    digest = hashlib.sha256(f"{FORMAT} {encoders.made_of} {text} {clip.fps}".encode())
    files = [path for kind in (IMAGES, FACE_MASKS, LIP_MASKS) for path in sorted((clip.path / kind).iterdir())]
    for path in (*files, clip.sound, clip.path / "valid.json"):
        digest.update(path.name.encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


class _Opened:
    """A clip in memory: frames, masks, audio features and text embedding."""

    def __init__(self, clip: ClipFolder, steps: NDArray[np.int64], encoders: Encoders, text: str) -> None:
        self.encoders, self.count = encoders, len(steps)
        self.images = np.stack([clip.image(int(i)) for i in steps])
        self.masks = [np.stack([clip.mask(kind, int(i)) for i in steps]) for kind in (FACE_MASKS, LIP_MASKS)]
        self.valid = clip.valid()[steps]
        pipeline = encoders.pipeline
        sound = read_audio(clip.sound, rate=RATE, mono=True).samples[:, 0]
        # the whole clip at once, since inference too normalises and encodes a whole file
        self.audio = pipeline.encode_audio(sound).bucket(0, FPS, self.count)
        self.text = pipeline.encode_prompt(text)[0].float().cpu()

    @torch.no_grad()
    def tensors(self, size: tuple[int, int], segment: Segment, inpaint: bool = False) -> dict[str, Tensor]:
        """The tensors of one sample; see `training.loop.step.train_step`."""
        faces = self.masks[0][self.valid]
        window = window_about(np.max(faces, axis=0, initial=0) > 127, *size)
        inside = range(segment.start, segment.start + segment.frames)
        codec, device = LatentCodec(self.encoders.pipeline.vae), self.encoders.device
        # half a clip away from the segment's start, so that the reference does not show its first frame
        reference = self._pixels([(segment.start + self.count // 2) % self.count], window, size)
        found = {"reference": codec.encode(reference, device)}
        if segment.continued:
            before = range(max(0, segment.start - MOTION_FRAMES), segment.start)
            # grey, as in inference before the first frame that was generated
            missing = torch.zeros(1, 3, MOTION_FRAMES - len(before), size[1], size[0])
            pixels = torch.cat([missing, self._pixels([*before, *inside], window, size)], dim=2)
            latents = codec.encode(pixels, device)
            found["motion"], found["target"] = latents[:, :, :MOTION_LATENTS], latents[:, :, MOTION_LATENTS:]
        else:
            latents = codec.encode(torch.cat([reference, self._pixels(inside, window, size)], dim=2), device)
            found["target"] = latents[:, :, 1:]
        if inpaint:
            # painted is all that the face covers in any frame: the outline of one frame would reveal its mouth
            somewhere = np.max(faces, axis=0, keepdims=True, initial=0 if len(faces) else 255)
            given = (_resized(somewhere, window, size) == 0).float().expand(1, 1, len(inside), -1, -1)
            found["inpaint"] = encode_given(codec, self._pixels(inside, window, size), given, device)
        kept = {name: latents[0].float().cpu() for name, latents in found.items()}
        frames = slice(segment.start, segment.start + segment.frames)
        for name, masks in zip(("face", "lip"), self.masks, strict=True):
            kept[name] = latent_masks(_resized(masks[frames], window, size)[None] / 255)[0]
        kept["valid"] = latent_validity(torch.from_numpy(self.valid[frames])[None])[0]
        kept["audio"], kept["text"] = self.audio[..., frames], self.text
        return kept

    def _pixels(self, frames: Sequence[int], window: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
        """Frames [1, 3, F, H, W] in [-1, 1]."""
        return _resized(self.images[list(frames)], window, size).permute(3, 0, 1, 2)[None] / 127.5 - 1


def _resized(pictures: NDArray[np.uint8], window: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """A window of each picture [F, H, W] or [F, H, W, 3] at another size; 0 to 255, as float32."""
    # smaller by averaging areas (PIL's box filter), which keeps the area of a mask; larger by bicubic interpolation
    filter = Image.Resampling.BOX if size[0] < window[2] - window[0] else Image.Resampling.BICUBIC
    resized = [np.asarray(Image.fromarray(picture).resize(size, filter, box=window)) for picture in pictures]
    return torch.from_numpy(np.stack(resized)).float()


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.encode", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="video_path.txt: one clip folder per line")
    parser.add_argument("--held-out", type=Path, help="for validation; default: held_out_path.txt beside --data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument(
        "--aspects", default="rec,square,vec", help="comma-separated: rec (landscape), square, vec (portrait)"
    )
    spoken = SpeechToVideo.model_fields["prompt"].default
    parser.add_argument("--prompt", default=spoken, help="prompt of clips that have none")
    parser.add_argument("--frames", type=int, default=LONGEST, help="maximum frames of a sample, 4n or 4n + 1")
    parser.add_argument("--inpaint", action="store_true", help="add the masked latents that inpainting is trained on")
    parser.add_argument("--device")
    arguments = parser.parse_args(argv)
    shapes = ASPECTS[arguments.profile]
    say = partial(print, flush=True)  # at once, also where a notebook or a file reads it
    try:
        unknown = [name for name in arguments.aspects.split(",") if name not in shapes]
        if unknown:
            raise LabError(f"There is no aspect {unknown[0]!r}; there are {', '.join(shapes)}.")
        longest = checked_longest(arguments.frames)
        if longest != arguments.frames:
            say(f"--frames {arguments.frames} is {longest}, since the reference takes the place of a first frame.")
        clips = read_clips(arguments.data)
        listed = arguments.held_out or arguments.data.with_name("held_out_path.txt")
        if arguments.held_out and not listed.is_file():
            raise LabError(f"There is no list of held-out clips at {listed}. Correct --held-out, or leave it out.")
        if listed.is_file():
            # an empty list holds out none
            held_out = read_clips(listed) if listed.read_text(encoding="utf-8-sig").strip() else []
        else:
            # folders of other tools have no such list; the last clip makes it possible to watch their training
            clips, held_out = (clips[:-1], clips[-1:]) if len(clips) > 1 else (clips, [])
            if held_out:
                say(f"There is no {listed.name}, so {held_out[0].path.name} is held out.")
        encoders = Encoders.load(arguments.profile, arguments.device or choose_device())
        aspects = {name: shapes[name] for name in arguments.aspects.split(",")}
        with report_write_errors(settings={"--out": arguments.out}):
            told = arguments.prompt, longest, arguments.inpaint
            entries = encode(clips, held_out, arguments.out, encoders, aspects, *told, say)
    except LabError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt as interrupt:
        print("Interrupted. The same command encodes what is missing.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from interrupt
    trained = sum(not entry.held_out for entry in entries)
    samples = f"{trained} sample{'s' * (trained != 1)} to train on"
    say(f"{samples} and {len(entries) - trained} held out, in {arguments.out}")


if __name__ == "__main__":
    main()
