"""The renderer: attributes and poses in, pictures out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.pocket.world.attributes import Attributes
from training.pocket.world.background import background_parameters, draw_background
from training.pocket.world.body import body_parameters, draw_collar, draw_neck, draw_torso
from training.pocket.world.build import build
from training.pocket.world.canvas import Canvas
from training.pocket.world.extras import (
    draw_beard,
    draw_earrings,
    draw_glasses,
    draw_hat,
    draw_temples,
    extra_parameters,
)
from training.pocket.world.eyes import draw_brows, draw_eyes, eye_parameters
from training.pocket.world.face import draw_ears, draw_face, draw_freckles, draw_nose, draw_wrinkles, face_parameters
from training.pocket.world.hair import draw_fringe_shadow, draw_hair_back, draw_hair_front, hair_parameters
from training.pocket.world.mouth import draw_lip_shadow, draw_mouth, mouth_parameters
from training.pocket.world.pose import REST, Pose
from training.pocket.world.rig import Field, Rig, Window
from training.pocket.world.sheet import Sheet

# Pixels drawn at once; about 30 float32 fields of this size are alive at a time, so 2**22 take 0.5 GB.
CHUNK_CPU, CHUNK_GPU = 1 << 17, 1 << 22
# Radius of the hair relative to the ball that models the face.
HAIR_BALL = 1.12


def render(
    attributes: Attributes, pose: Pose, size: tuple[int, int] = (128, 128), device: torch.device | str = "cpu"
) -> Tensor:
    """Render every frame of every avatar.

    Args:
        attributes: N avatars.
        pose: their motion over F frames, [N, F].
        size: (height, width) in pixels; the figure is scaled to the shorter side.
        device: device to render on.

    Returns:
        RGB in 0..1, float32 [N, F, 3, H, W] on `device`.

    Raises:
        ValueError: the numbers of avatars and poses differ.
    """
    height, width = size
    sheet = sheet_of(attributes, pose)
    device = torch.device(device)
    chunk = max(1, (CHUNK_CPU if device.type == "cpu" else CHUNK_GPU) // (height * width))
    total = len(pose) * pose.frames
    pictures = torch.empty(total, 3, height, width, device=device)
    for start in range(0, total, chunk):
        rows = sheet.rows(start, min(start + chunk, total)).looked_through()
        windows = Windows.around(rows, height, width)
        pictures[start : start + chunk] = draw(rows.to(device), height, width, windows)
    return pictures.reshape(len(pose), pose.frames, 3, height, width)


def sheet_of(attributes: Attributes, pose: Pose) -> Sheet:
    """All drawing parameters of all frames, [N * F, P], on the CPU.

    Raises:
        ValueError: the numbers of avatars and poses differ.
    """
    if len(attributes) != len(pose):
        raise ValueError(f"There are {len(attributes)} avatars and {len(pose)} poses; give one pose for each avatar.")
    parts = (
        build,
        background_parameters,
        body_parameters,
        face_parameters,
        eye_parameters,
        mouth_parameters,
        hair_parameters,
        extra_parameters,
    )
    look: dict[str, Tensor] = {}
    for part in parts:
        look.update(part(attributes))
    smiling = 0.55 * attributes["expression"].float()
    pose = pose.having(smile=(pose["smile"] + smiling[:, None]).clamp(-1, 1))
    frames = Sheet.of({name: pose[name].reshape(-1) for name in REST})
    return Sheet.of(look).repeated(pose.frames).joined(frames)


@dataclass(frozen=True)
class Windows:
    """Bounding windows of the parts of a figure, so that each part is drawn only where it can be."""

    body: Window
    head: Window
    face: Window
    eyes: Window
    mouth: Window

    @classmethod
    def whole(cls, height: int, width: int) -> "Windows":
        """Anywhere."""
        return cls(*(Window.whole(height, width) for _ in range(5)))

    @classmethod
    def around(cls, sheet: Sheet, height: int, width: int) -> "Windows":
        """The windows for the frames of `sheet`, which must be on the CPU, since their values are read."""
        rig = Rig(sheet, height, width)
        eye, mouth = float(sheet["eye_y"].mean()), float(sheet["mouth_y"].mean())
        low = max(0.75, float(sheet["hair_back"].max()) + 0.12, 0.75 * float(sheet["tail_shown"].max()))
        wide = max(0.70, float((sheet["hair_tail_x"] + 0.30 * sheet["tail_shown"]).max()))
        return cls(
            body=rig.bounds(-1.0, 1.0, 0.0, 9.0, frame="body"),
            head=rig.bounds(-wide, wide, -0.95, low, frame="head"),
            face=rig.bounds(-0.52, 0.52, -0.60, 0.74, frame="head"),
            eyes=rig.bounds(-0.48, 0.48, eye - 0.36, eye + 0.28, frame="face"),
            mouth=rig.bounds(-0.30, 0.30, mouth - 0.24, mouth + 0.34, frame="face"),
        )


def draw(sheet: Sheet, height: int, width: int, windows: Windows | None = None) -> Tensor:
    """Render the M frames of `sheet` on its device, [M, 3, height, width].

    Without `windows` and without `Sheet.looked_through`, which skips absent parts, it is a fixed sequence of operations
    on one tensor, suitable for `torch.compile` and CUDA graphs.
    """
    rig = Rig(sheet, height, width)
    places = windows or Windows.whole(height, width)
    canvas = Canvas(draw_background(sheet, rig.world(Window.whole(height, width))))

    def at(window: Window) -> tuple[Canvas, Field, Field]:
        body = rig.body(rig.world(window))
        return canvas.within(window), body, rig.head(body)

    on_body, body, head_there = at(places.body)
    on_head, _, head = at(places.head)
    hair = rig.face(head, size=HAIR_BALL)
    draw_hair_back(on_head, sheet, rig, head)
    draw_torso(on_body, sheet, body)
    draw_neck(on_body, sheet, rig, body, head_there)
    draw_collar(on_body, sheet, rig, body)
    draw_ears(on_head, sheet, rig, head)

    on_face, _, head_here = at(places.face)
    face = rig.face(head_here)
    cover = draw_face(on_face, sheet, rig, head_here, face)
    draw_fringe_shadow(on_face, sheet, cover, rig.face(head_here, size=HAIR_BALL))
    draw_freckles(on_face, sheet, face)
    draw_wrinkles(on_face, sheet, face)
    draw_lip_shadow(on_face, sheet, cover, face)
    draw_beard(on_face, sheet, rig, cover, head_here, face)
    draw_temples(on_face, sheet, cover, face)
    draw_nose(on_face, sheet, rig, face)

    on_mouth, _, head_here = at(places.mouth)
    face = rig.face(head_here)
    draw_mouth(on_mouth, sheet, face)

    on_eyes, _, head_here = at(places.eyes)
    face = rig.face(head_here)
    draw_eyes(on_eyes, sheet, face)
    draw_earrings(on_head, sheet, rig, head)
    draw_hair_front(on_head, sheet, rig, head, hair)
    draw_brows(on_eyes, sheet, face)
    draw_glasses(on_eyes, sheet, rig, face)
    draw_hat(on_head, sheet, rig, head, hair)
    return canvas.rgb
