"""Measure the judge's own accuracy on held-out avatars, motions and speech.

    python -m training.pocket.judge.evaluate --clips 24 --action-clips 352

The last line is one JSON: for the mouth, correlation and error against the truth, on drawn frames and after the VAE;
for colours, the error of the measured CIEDE2000, with unchanged and with changed colours; for actions, how often each
is detected when it happens (`seen`) and when it does not (`imagined`).
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
_SEED = 9_000_000  # far from the training seeds


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--vae", type=Path, default=Path("weights/pocket/video_vae"))
    parser.add_argument("--clips", type=int, default=24, help="number of talking clips")
    parser.add_argument("--frames", type=int, default=81, help="frames per talking clip, 4n + 1")
    parser.add_argument("--action-clips", type=int, default=352, help="number of clips with actions")
    parser.add_argument("--action-frames", type=int, default=49, help="frames per such clip, 4n + 1")
    parser.add_argument("--soften-actions", action="store_true", help="pass the clips with actions through the VAE too")
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
    """Per track on talking avatars: Pearson's r within a clip (median, 10th percentile) and mean error."""
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
    """Error of the measured colour difference per region, in CIEDE2000.

    Each clip is compared with a still of the same avatar, once with unchanged colours and once with one region's
    colours changed by 2 to 40; the true differences come from the drawing.
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
    """Per action: the share of its clips in which it is detected (`seen`), and of all others (`imagined`)."""
    names = list(ACTIONS)
    others = sample_actions(clips, _SEED, most=2)
    scores: list[tuple[tuple[str, ...], dict[str, float]]] = []
    for number in range(clips):
        seed = _SEED + number
        actions: tuple[str, ...] = (names[number % len(names)],)
        if number % 3 == 0:
            # add a second, compatible action
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
    """Render a sheet, uint8 [M, SIZE, SIZE, 3], passed through a VAE if given (then M = 4n + 1)."""
    pixels = render_sheet(sheet, SIZE, SIZE)
    if vae is not None:
        pixels = decode(vae, encode(vae, pixels[None]))[0]
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


class _Truth:
    """A `RegionSource` with a drawing's true regions: of the still on the first call, then of the clip."""

    def of(self, still: Sheet, clip: Sheet) -> "_Truth":
        self.masks = [regions_of(sheet, REGION_SIZE, REGION_SIZE).double().numpy() for sheet in (still, clip)]
        return self

    def regions(self, frames: Frames) -> dict[str, NDArray[np.float64]]:
        masks = next(masks for masks in self.masks if len(masks) == len(frames))
        return {name: masks[:, i] for i, name in enumerate(FAMILIES)}


def _goes_with(first: str, second: str) -> bool:
    """Whether two actions move different parts of the body or the camera."""
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
