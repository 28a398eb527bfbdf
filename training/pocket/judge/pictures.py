"""The judge's training data: drawn frames, many of them passed through the Wan VAE, with their ground truth."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.judge.network import REGION_SIZE, SIZE, TRACKS
from training.pocket.video_vae.clips import babble
from training.pocket.video_vae.together import decode_together, encode_together
from training.pocket.world.attributes import Split, sample_attributes
from training.pocket.world.figure import CHUNK_CPU, CHUNK_GPU, Windows, draw, sheet_of
from training.pocket.world.motion import sample_actions, sample_motion
from training.pocket.world.pose import MOUTH, REST, Pose
from training.pocket.world.sheet import Sheet
from training.pocket.world.truth import landmarks_of, opening_of
from training.pocket.world.visemes import FPS, mouth_track

# Colours of each of `network.REGIONS`, and the code colour with which a single drawing gives all region masks.
FAMILIES: dict[str, tuple[str, ...]] = {
    "hair": ("hair", "hair_dark", "hair_light"),
    "skin": ("skin", "skin_dark", "skin_light", "blush"),
    "clothes": ("cloth", "cloth_dark", "cloth_light", "cloth_pattern"),
    "background": ("background", "background_other"),
}
_CODES = {"hair": (1.0, 0.0, 0.0), "skin": (0.0, 1.0, 0.0), "clothes": (0.0, 0.0, 1.0), "background": (1.0, 1.0, 1.0)}
# the remaining colours, which belong to no region
_OTHER = (
    *("brow_colour", "collar_colour", "collar_edge", "eye_white", "frame", "gold", "hat", "hat_dark", "hat_light"),
    *(
        "inside",
        "iris",
        "iris_dark",
        "iris_light",
        "lips",
        "lips_dark",
        "lips_light",
        "teeth_white",
        "tie",
        "tongue_red",
    ),
)
_VAE_FRAMES = 9


@dataclass
class Pictures:
    """N frames with their ground truth.

    `pixels` uint8 [N, 3, SIZE, SIZE]; `tracks` [N, len(TRACKS)]; `points` [N, len(POINTS), 2], -1..1 across the picture
    (outside the picture beyond that); `regions` uint8 [N, len(REGIONS), REGION_SIZE, REGION_SIZE], 0..255.
    """

    pixels: Tensor
    tracks: Tensor
    points: Tensor
    regions: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def joined(self, other: "Pictures") -> "Pictures":
        """Concatenate two sets."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("pixels", "tracks", "points", "regions"))
        return Pictures(*(torch.cat(pair) for pair in pairs))


def draw_stills(count: int, seed: int, split: Split = "train") -> Pictures:
    """Draw `count` single frames, each of another avatar, in any pose that clips can have."""
    generator = torch.Generator().manual_seed(seed)
    attributes = sample_attributes(count, seed, split)
    named = sample_motion(
        count, 1, seed, sample_actions(count, seed, most=3), start=_random(generator, 0.0, 5.0), duration=5.0
    )
    free = _free_pose(count, generator)
    chosen = torch.rand(count, 1, 1, generator=generator) < 0.5
    pose = Pose(torch.where(chosen, named.values, free.values)).speaking(_mouths(count, generator))
    sheet = _recoloured(sheet_of(attributes, pose), 1, generator)
    return _pictures(sheet, render_sheet(sheet, SIZE, SIZE))


def draw_softened(count: int, seed: int, vae: AutoencoderKLWan, split: Split = "train") -> Pictures:
    """About `count` frames of talking clips through the VAE, some with noisy latents like those of a network."""
    clips = max(1, round(count / _VAE_FRAMES))
    generator = torch.Generator().manual_seed(seed)
    attributes = sample_attributes(clips, seed, split)
    actions = [names if i % 2 else () for i, names in enumerate(sample_actions(clips, seed))]
    pose = sample_motion(
        clips, _VAE_FRAMES, seed, actions, start=_random(generator, 0.0, 2.0), duration=_random(generator, 1.5, 5.0)
    )
    tracks = [mouth_track(babble(_VAE_FRAMES / FPS, generator), _VAE_FRAMES).mouth for _ in range(clips)]
    sheet = _recoloured(sheet_of(attributes, pose.speaking(torch.stack(tracks))), _VAE_FRAMES, generator)
    drawn = render_sheet(sheet, SIZE, SIZE).unflatten(0, (clips, _VAE_FRAMES))
    spread = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    softened = []
    for clip in drawn.split(4):
        latents = encode(vae, clip)
        level = 0.35 * (torch.rand(len(clip), generator=generator) - 0.5).clamp(min=0)
        noise = torch.randn(latents.shape, generator=generator) * spread * level.view(-1, 1, 1, 1, 1)
        softened.append(decode(vae, latents + noise))
    return _pictures(sheet, torch.cat(softened).flatten(0, 1))


@torch.no_grad()
def encode(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Encode clips [B, F, 3, H, W] in 0..1 to latents [B, z, T, h, w]; F = 4·T - 3."""
    pixels = (clips * 2 - 1).transpose(1, 2).to(vae.dtype)
    return encode_together(vae, pixels)[:, : vae.config.z_dim].float()


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents [B, z, T, h, w] to clips [B, F, 3, H, W] in 0..1."""
    return (decode_together(vae, latents.to(vae.dtype)).float() * 0.5 + 0.5).clamp(0, 1).transpose(1, 2)


def render_sheet(sheet: Sheet, height: int, width: int) -> Tensor:
    """Render the M frames of a sheet in chunks, [M, 3, height, width] in 0..1."""
    chunk = max(1, (CHUNK_CPU if sheet.values.device.type == "cpu" else CHUNK_GPU) // (height * width))
    return torch.cat([_drawn(rows, height, width) for rows in _chunks(sheet, chunk)])


def regions_of(sheet: Sheet, height: int, width: int) -> Tensor:
    """Coverage of each pixel by hair, skin, clothes and background, [M, len(REGIONS), height, width], 0..1."""
    coded = replace(sheet, values=sheet.values.clone())
    for name in _OTHER:
        coded.values[:, sheet.columns[name]] = 0.0
    for region, names in FAMILIES.items():
        for name in names:
            coded.values[:, sheet.columns[name]] = torch.tensor(_CODES[region])
    picture = render_sheet(coded, height, width)
    # the background is white; each region painted over it removes the other two channels
    background = picture.amin(dim=1, keepdim=True)
    return torch.cat([picture - background, background], dim=1)


def shifted(sheet: Sheet, region: str, gain: Tensor, offset: Tensor) -> Sheet:
    """Change every colour of one region: times `gain`, plus `offset`, each [M, 3] or [3]."""
    values = sheet.values.clone()
    for name in FAMILIES[region]:
        values[:, sheet.columns[name]] = (values[:, sheet.columns[name]] * gain + offset).clamp(0, 1)
    return replace(sheet, values=values)


def tracks_of(sheet: Sheet) -> Tensor:
    """Ground truth of `network.TRACKS`, [M, len(TRACKS)].

    `place_x`, `place_y` are the centre of the figure relative to the centre of the picture in half short sides, with
    the camera's motion; `zoom` is the logarithm of its size.
    """
    zoom, scale = sheet["zoom"], sheet["figure_scale"]
    known = {
        "opening": opening_of(sheet)[:, None, None],
        "place_x": (sheet["figure_x"] + 0.5 * sheet["x"] - sheet["pan_x"]) * zoom,
        "place_y": (sheet["figure_y"] + 0.5 * sheet["y"] - sheet["pan_y"]) * zoom,
        "zoom": torch.log(zoom * scale),
    }
    return torch.stack([(known[name] if name in known else sheet[name])[:, 0, 0] for name in TRACKS], dim=1)


def points_of(sheet: Sheet) -> Tensor:
    """Ground truth of `network.POINTS`, [M, len(POINTS), 2], -1..1 across the picture."""
    marks = landmarks_of(sheet, SIZE, SIZE)
    inner = marks["lips_inner"]
    named = [
        marks["mouth_corners"][:, 0],
        marks["mouth_corners"][:, 1],
        inner[:, 15],
        inner[:, 5],
        marks["left_eye"].mean(dim=1),
        marks["right_eye"].mean(dim=1),
        marks["left_iris"][:, 0],
        marks["right_iris"][:, 0],
        marks["nose_tip"][:, 0],
        marks["left_brow"][:, 2],
        marks["right_brow"][:, 2],
        marks["face_oval"][:, 18],
    ]
    return torch.stack(named, dim=1) * (2 / SIZE) - 1


def _pictures(sheet: Sheet, pixels: Tensor) -> Pictures:
    return Pictures(
        (pixels * 255).round().to(torch.uint8),
        tracks_of(sheet),
        points_of(sheet),
        (regions_of(sheet, REGION_SIZE, REGION_SIZE) * 255).round().to(torch.uint8),
    )


def _chunks(sheet: Sheet, chunk: int) -> Iterator[Sheet]:
    total = sheet.values.shape[0]
    return (sheet.rows(start, min(start + chunk, total)) for start in range(0, total, chunk))


def _drawn(rows: Sheet, height: int, width: int) -> Tensor:
    rows = rows.looked_through()
    return draw(rows, height, width, Windows.around(rows, height, width))


def _random(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _recoloured(sheet: Sheet, frames: int, generator: torch.Generator) -> Sheet:
    """Recolour half of the avatars beyond the palettes, so that regions are recognised by shape, not colour."""
    avatars = sheet.values.shape[0] // frames
    for region in FAMILIES:
        free = (torch.rand(avatars, 1, generator=generator) < 0.5).float()
        gain = 1 + free * 0.8 * (torch.rand(avatars, 3, generator=generator) - 0.5)
        offset = free * 0.5 * (torch.rand(avatars, 3, generator=generator) - 0.5)
        sheet = shifted(sheet, region, gain.repeat_interleave(frames, 0), offset.repeat_interleave(frames, 0))
    return sheet


def _mouths(count: int, generator: torch.Generator) -> Tensor:
    """Sample mouths [count, 1, len(MOUTH)]: of speech, of random shape, and shut ones."""
    # 0.8 s of sounds for each, sampled in the middle
    spoken = torch.stack([mouth_track(babble(0.8, generator), 1, start=0.4).mouth for _ in range(count)])
    free = torch.rand(count, 1, len(MOUTH), generator=generator)
    free = free * torch.rand(count, 1, len(MOUTH), generator=generator)
    free[..., MOUTH.index("wide")] = 1.3 * torch.rand(count, 1, generator=generator) - 0.3
    free[..., MOUTH.index("open")] = torch.rand(count, 1, generator=generator)
    kind = torch.rand(count, 1, 1, generator=generator)
    shut = free.clone()
    shut[..., MOUTH.index("open")] = 0.0
    return torch.where(kind < 0.45, spoken, torch.where(kind < 0.85, free, shut))


def _free_pose(count: int, generator: torch.Generator) -> Pose:
    """Sample poses over the full range of all motions, more densely near rest."""
    reach = {"yaw": 0.62, "pitch": 0.42, "roll": 0.45, "x": 0.2, "y": 0.08, "pan_x": 0.45, "pan_y": 0.36}
    signed = {**reach, "gaze_x": 1.0, "gaze_y": 1.0, "brow": 0.6, "smile": 0.6}
    extent = torch.rand(count, 1, generator=generator)

    def uniform() -> Tensor:
        return 2 * torch.rand(count, 1, generator=generator) - 1

    tracks = {name: most * extent * uniform() for name, most in signed.items()}
    # brows and smiles move further up than down
    tracks["brow"] = tracks["brow"] + 0.4 * torch.rand(count, 1, generator=generator)
    tracks["smile"] = tracks["smile"] + 0.4 * torch.rand(count, 1, generator=generator)
    tracks["zoom"] = torch.exp(math.log(1.5) * extent * uniform())
    blink = 2.0 * torch.rand(count, 1, generator=generator) - 0.5
    tracks["blink"] = blink.clamp(0, 1) * (torch.rand(count, 1, generator=generator) < 0.6)
    return Pose.of(count, 1, {name: track for name, track in tracks.items() if name in REST})
