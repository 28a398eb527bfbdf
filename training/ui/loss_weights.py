"""How much each place of a picture counts in the loss: a map over a frame, and the shares of lips, face and rest."""

import io
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.config import TrainingConfig
from training.config.training_config import SHARES
from training.data.sample_list import Entry, entries_of
from training.data.segments import window_about
from training.prepare.clip_folder import FACE_MASKS, ClipFolder, read_clip
from training.ui.person import Person
from training.ui.run_module import run_module
from wanavatar_lab.errors import LabError
from wanavatar_lab.media.embed import data_url
from wanavatar_lab.ui.plots import BLUE, GREY, RED

CELL, FRAMES = 8, 4  # of a latent's place: pixels along a side, and frames; see `training.data.masks`
LEAST, SMALLEST_MOST = 0.1, 10.0  # of the scale, as multiples of the mean place; its end is a power of ten
COLOURS, OPACITY = "inferno", 0.7
TALL = 320  # height of a picture in pixels, shown at half of it for dense displays
PARTS = (("lips", RED), ("rest of the face", BLUE), ("rest of the picture", GREY))
TITLES = ("full: the whole picture", "face", "lip", "all branches together")


@dataclass(frozen=True)
class LossWeights:
    """The maps of one sample.

    Attributes:
        sample: its name.
        frame: that of the latent in its middle, RGB [H, W, 3].
        maps: gradient at each place of that latent as a multiple of the mean place's, [4, h, w]: for each branch and
            for all of them, each as often as it is drawn.
        shares: of lips, rest of the face and rest of the picture in each map of the whole sample, [4, 3].
        area: of these parts in the picture, [3].
    """

    sample: str
    frame: NDArray[np.uint8]
    maps: NDArray[np.float64]
    shares: NDArray[np.float64]
    area: NDArray[np.float64]

    def _repr_html_(self) -> str:
        said = [f"{share:.0%} of the samples" for share in SHARES] + ["as often as each is drawn"]
        figures = [_figure(self.frame, "the frame", "share of the area", self.area)]
        most = max(SMALLEST_MOST, 10.0 ** np.ceil(np.log10(self.maps.max())))
        for values, title, how, shares in zip(self.maps, TITLES, said, self.shares, strict=True):
            figures.append(_figure(coloured(self.frame, values, most), title, how, shares))
        marks = "".join(
            f'<span style="display: inline-flex; align-items: center; gap: 5px"><span style="background: {colour}; '
            f'width: 10px; height: 10px; border-radius: 2px"></span>{words}</span>'
            for words, colour in PARTS
        )
        return (
            '<div style="font: 13px/1.4 system-ui, sans-serif; max-width: 960px">'
            '<div style="display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 14px">'
            f"{''.join(figures)}</div>"
            '<div style="display: flex; flex-wrap: wrap; gap: 6px 18px; margin-top: 10px; align-items: center">'
            f'{marks}<span style="flex: 1"></span>{_scale(most)}</div>'
            f'<div style="opacity: 0.7; font-size: 12px; margin-top: 6px">{escape(self.sample)}</div></div>'
        )


async def loss_weights(person: Person, config: TrainingConfig, sample: str = "") -> LossWeights:
    """Measure what the loss of a run gives to each place of one of its samples, in a process of its own.

    Args:
        person: whose clips the samples are.
        config: of the run.
        sample: its name; empty takes the first one to train on.

    Raises:
        LabError: there is no such sample, or its clip is gone.
    """
    entries = entries_of(config.samples)
    found = [entry for entry in entries if sample in ("", entry.name)]
    if not found:
        there = ", ".join(entry.name for entry in entries[:3]) or "none"
        raise LabError(f"There is no sample {sample} to train on in {config.samples}; there are {there}.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "maps.npz"
        words: list[str | Path] = ["--samples", config.samples, "--sample", found[0].name, "--save", file]
        words += ["--loss", config.loss, "--loss_floor", str(config.loss_floor)]
        await run_module("training.loop.loss_shares", words)
        with np.load(file) as saved:
            maps, shares, area = (saved[name].astype(np.float64) for name in ("maps", "shares", "area"))
    latent = maps.shape[1] // 2
    clip = read_clip(person.data / "processed" / found[0].clip)
    frame = frame_of(clip, found[0], latent, (maps.shape[3] * CELL, maps.shape[2] * CELL))
    return LossWeights(found[0].name, frame, maps[:, latent], shares, area)


def frame_of(clip: ClipFolder, entry: Entry, latent: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame of a latent of a sample, RGB [H, W, 3], cut out of its clip as `training.encode` does.

    Args:
        latent: its number in the sample.
        size: (width, height) of the sample's frames.
    """
    steps, valid = clip.steps(), clip.valid()
    start = int(entry.name.rsplit("-", 3)[1])  # of the sample in the clip, see `training.encode`
    faces = [clip.mask(FACE_MASKS, int(frame)) for frame in steps if valid[frame]]
    covered = np.max(faces, axis=0) > 127 if faces else np.zeros((clip.height, clip.width), np.bool_)
    frame = int(steps[start + latent * FRAMES + FRAMES // 2])
    return np.asarray(Image.fromarray(clip.image(frame)).resize(size, box=window_about(covered, *size)))


def coloured(frame: NDArray[np.uint8], values: NDArray[np.float64], most: float) -> NDArray[np.uint8]:
    """A frame [H, W, 3] in grey under a map [h, w] in colours up to `most`, each of whose places is a square of it."""
    level = np.log(np.clip(values, LEAST, most) / LEAST) / np.log(most / LEAST)
    colours = matplotlib.colormaps[COLOURS](level)[..., :3] * 255
    large = colours.repeat(frame.shape[0] // len(level), axis=0).repeat(frame.shape[1] // level.shape[1], axis=1)
    grey = frame.astype(np.float64).mean(axis=2, keepdims=True)
    return (grey * (1 - OPACITY) + large * OPACITY).round().astype(np.uint8)


def _figure(picture: NDArray[np.uint8], title: str, how: str, shares: NDArray[np.float64]) -> str:
    image, stream = Image.fromarray(picture), io.BytesIO()
    image.resize((max(1, round(image.width * TALL / image.height)), TALL), Image.Resampling.NEAREST).save(
        stream, "WEBP", quality=88
    )
    source = data_url(stream.getvalue(), "image/webp")
    said = ", ".join(f"{words} {share:.1%}" for (words, _), share in zip(PARTS, shares, strict=True))
    bar = "".join(
        f'<span style="width: {share:.2%}; background: {colour}"></span>'
        for (_, colour), share in zip(PARTS, shares, strict=True)
    )
    numbers = " · ".join(
        f'<span style="color: {colour}; font-weight: 600">{share:.1%}</span>'
        for (_, colour), share in zip(PARTS, shares, strict=True)
    )
    return (
        f'<figure style="margin: 0; min-width: 0"><img src="{source}" '
        f'alt="{escape(title)}: {said}" style="display: block; width: 100%; height: auto; border-radius: 6px">'
        f'<div aria-hidden="true" style="display: flex; height: 8px; border-radius: 4px; overflow: hidden; '
        f'margin: 6px 0 3px">{bar}</div><figcaption><b>{escape(title)}</b><br>{escape(how)}<br>{numbers}</figcaption>'
        "</figure>"
    )


def _scale(most: float) -> str:
    """What the colours mean."""
    stops = [matplotlib.colors.to_hex(matplotlib.colormaps[COLOURS](at)) for at in np.linspace(0, 1, 9)]
    ramp = f"linear-gradient(to right, {', '.join(stops)})"
    return (
        f'<span>a place counts {LEAST:g} ×</span><span style="background: {ramp}; width: 160px; height: 10px; '
        f'border-radius: 3px"></span><span>{most:g} × the mean</span>'
    )
