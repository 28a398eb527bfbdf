"""How good an instrument the judge is: on avatars, motions and speech that it was not trained on.

    python -m training.pocket.judge.evaluate --clips 24 --action-clips 352

The last line is one JSON: of the mouth, r and error against the truth, of drawn frames and of what the VAE makes of
them; of colours, how far the measured CIEDE2000 is from the true one, for colours left alone and for changed ones; of
movements, how often each is seen when it happens (`seen`) and when it does not (`imagined`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray

from training.pocket.judge.actions import movements
from training.pocket.judge.network import REGION_SIZE, REGIONS, SIZE, TRACKS
from training.pocket.judge.pictures import FAMILIES, decode, encode, regions_of, render_sheet, shifted, tracks_of
from training.pocket.judge.reading import WEIGHTS, Reader
from training.pocket.video_vae.clips import babble
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.figure import sheet_of
from training.pocket.world.motion import ACTIONS, sample_actions, sample_motion
from training.pocket.world.sheet import Sheet
from training.pocket.world.visemes import FPS, mouth_track
from wanavatar_lab import metrics

Frames = NDArray[np.uint8]
_SEED = 9_000_000  # far from what training drew


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--vae", type=Path, default=Path("weights/pocket/video_vae"))
    parser.add_argument("--clips", type=int, default=24, help="talking clips")
    parser.add_argument("--frames", type=int, default=81, help="of a talking clip, 4n + 1")
    parser.add_argument("--action-clips", type=int, default=352, help="clips in which something moves")
    parser.add_argument("--action-frames", type=int, default=49, help="of such a clip, 4n + 1")
    parser.add_argument("--soften-actions", action="store_true", help="send the moving clips through the VAE too")
    arguments = parser.parse_args(argv)

    reader = Reader.load(arguments.judge)
    vae = AutoencoderKLWan.from_pretrained(arguments.vae, torch_dtype=torch.float32).eval().requires_grad_(False)
    found = {
        "drawn": reading_figures(reader, arguments.clips, arguments.frames, None),
        "softened": reading_figures(reader, arguments.clips, arguments.frames, vae),
        "colours": colour_figures(reader, arguments.clips),
        "movements": movement_figures(
            reader, arguments.action_clips, arguments.action_frames, vae if arguments.soften_actions else None
        ),
    }
    print(json.dumps(found))


def reading_figures(reader: Reader, clips: int, frames: int, vae: AutoencoderKLWan | None) -> dict[str, Any]:
    """Pearson's r within a clip (median and lowest tenth) and the mean error of every track, of talking avatars."""
    agreement: dict[str, list[float]] = {name: [] for name in TRACKS}
    error: dict[str, list[float]] = {name: [] for name in TRACKS}
    for number in range(clips):
        seed = _SEED + number
        sounds = babble(frames / FPS, torch.Generator().manual_seed(seed))
        pose = sample_motion(1, frames, seed, sample_actions(1, seed) if number % 2 else None)
        sheet = sheet_of(sample_attributes(1, seed, "held_out"), pose.speaking(mouth_track(sounds, frames).mouth))
        true = tracks_of(sheet).double().numpy()
        read = reader.read(drawn(sheet, vae)).tracks
        for i, name in enumerate(TRACKS):
            error[name].append(float(np.abs(read[name] - true[:, i]).mean()))
            if true[:, i].std() > 0:
                agreement[name].append(metrics.correlation(read[name], true[:, i]))
    return {
        name: {
            "r": _rounded(np.median(agreement[name])),
            "r_low": _rounded(np.quantile(agreement[name], 0.1)),
            "error": _rounded(np.mean(error[name])),
        }
        for name in TRACKS
        if agreement[name]
    }


def colour_figures(reader: Reader, clips: int, frames: int = 9) -> dict[str, dict[str, float]]:
    """By region, how far the difference that is measured is from the true one, in CIEDE2000.

    Each clip is measured against a still of the same avatar, once with the colours as they are and once with those of
    one region changed, by 2 to 40; what is true comes from the drawing itself.
    """
    found: dict[str, dict[str, list[float]]] = {name: {"same": [], "changed": []} for name in REGIONS}
    truth = _Truth()
    for number in range(clips):
        seed = _SEED + number
        attributes = sample_attributes(1, seed, "held_out")
        still = sheet_of(attributes, sample_motion(1, 1, seed, start=60.0))
        moving = sheet_of(attributes, sample_motion(1, frames, seed, sample_actions(1, seed), fps=4))
        offset = 0.3 * (torch.rand(3, generator=torch.Generator().manual_seed(seed)) - 0.5)
        cases: list[tuple[str, Sheet, tuple[str, ...]]] = [("same", moving, REGIONS)]
        cases += [("changed", shifted(moving, region, torch.ones(3), offset), (region,)) for region in REGIONS]
        reference = drawn(still, None)[0]
        for kind, sheet, regions in cases:
            clip = drawn(sheet, None)
            measured = metrics.likeness(reference, clip, reader).worst
            known = metrics.likeness(reference, clip, truth.of(still, sheet)).worst
            for name in measured.keys() & known.keys() & set(regions):
                found[name][kind].append(abs(min(measured[name], 100.0) - min(known[name], 100.0)))
    return {
        name: {
            f"{kind}_{word}": _rounded(function(values))
            for kind, values in kinds.items()
            for word, function in (("median", np.median), ("most", max))
        }
        for name, kinds in found.items()
    }


def movement_figures(
    reader: Reader, clips: int, frames: int, vae: AutoencoderKLWan | None
) -> dict[str, dict[str, float]]:
    """For every movement: in how many of its clips it is `seen`, and in how many of the others it is `imagined`."""
    names = list(ACTIONS)
    others = sample_actions(clips, _SEED, most=2)
    scores: list[tuple[tuple[str, ...], dict[str, float]]] = []
    for number in range(clips):
        seed = _SEED + number
        actions: tuple[str, ...] = (names[number % len(names)],)
        if number % 3 == 0:
            # and something else at the same time, if it goes with it
            actions += tuple(name for name in others[number][:1] if _goes_with(name, actions[0]))
        elif number % 13 == 0:
            actions = ()
        sheet = sheet_of(sample_attributes(1, seed, "held_out"), sample_motion(1, frames, seed, [actions]))
        scores.append((actions, movements(reader.read(drawn(sheet, vae)).tracks)))
    found = {}
    for name in names:
        there = [score[name] >= 1 for actions, score in scores if name in actions]
        absent = [score[name] >= 1 for actions, score in scores if name not in actions]
        found[name] = {"seen": _rounded(np.mean(there)), "imagined": _rounded(np.mean(absent)), "clips": len(there)}
    return found


def drawn(sheet: Sheet, vae: AutoencoderKLWan | None) -> Frames:
    """The frames of a sheet as pictures, uint8 [M, SIZE, SIZE, 3], through a VAE if one is given (then M = 4n + 1)."""
    pixels = render_sheet(sheet, SIZE, SIZE)
    if vae is not None:
        pixels = decode(vae, encode(vae, pixels[None]))[0]
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


class _Truth:
    """A `RegionSource` that knows where the regions of a drawing are: first of a still, then of the clip."""

    def of(self, still: Sheet, clip: Sheet) -> "_Truth":
        self.masks = [regions_of(sheet, REGION_SIZE, REGION_SIZE).double().numpy() for sheet in (still, clip)]
        return self

    def regions(self, frames: Frames) -> dict[str, NDArray[np.float64]]:
        masks = next(masks for masks in self.masks if len(masks) == len(frames))
        return {name: masks[:, i] for i, name in enumerate(FAMILIES)}


def _goes_with(first: str, second: str) -> bool:
    """Whether two movements use different parts of the body or the camera."""
    parts = (
        ("nod", "shake head", "look", "turn", "tilt", "sway"),
        ("smile", "open mouth"),
        ("blink", "close eyes", "glance"),
        ("raise brows",),
        ("zoom",),
        ("pan",),
    )
    return not any(first.startswith(part) and second.startswith(part) for part in parts)


def _rounded(value: Any) -> float:
    return round(float(value), 3)


if __name__ == "__main__":
    main()
