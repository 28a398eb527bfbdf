"""Ground truth of drawn frames: face and lip masks, the mouth's opening, landmarks.

Landmarks follow the order of MediaPipe's face mesh, so that code written for MediaPipe can be tested on them: the face
oval clockwise from the top of the forehead (36), the lips from the corner on the left of the picture along the lower
lip to the right and back along the upper one (20 outer, 20 inner), each eye from its outer corner along the lower lid
and back along the upper one (16). "left" and "right" are those of the picture.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.pocket.world import shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.canvas import coverage
from training.pocket.world.eyes import FULLNESS, GAZE_X, GAZE_Y, IRIS, IRIS_LIFT, brow_middle, lids
from training.pocket.world.face import face_outline, nose_tip, outline_points
from training.pocket.world.figure import CHUNK_CPU, CHUNK_GPU, sheet_of
from training.pocket.world.mouth import DOWN, UP, Lips, corner_lift, lip_outline, mouth_frame
from training.pocket.world.pose import Pose
from training.pocket.world.rig import Rig, Window
from training.pocket.world.sheet import Sheet

Points = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Truth:
    """Ground truth of N figures over F frames.

    `face_mask` and `lip_mask` (0..1, soft at the edge, hair and glasses not cut out) are [N, F, H, W]; `opening`
    [N, F] is the distance of the lips, 0 when they touch and 1 when the mouth is fully open; `landmarks` are pixels,
    (x, y) with the centre of the first pixel at (0.5, 0.5), [N, F, K, 2] each: face_oval, lips_outer, lips_inner,
    left_eye, right_eye, left_iris, right_iris, left_brow, right_brow, nose_tip, mouth_corners.
    """

    face_mask: Tensor
    lip_mask: Tensor
    opening: Tensor
    landmarks: dict[str, Tensor]


def truth(
    attributes: Attributes, pose: Pose, size: tuple[int, int] = (128, 128), device: torch.device | str = "cpu"
) -> Truth:
    """Ground truth of the frames that `render` draws from the same attributes and pose at the same size.

    Raises:
        ValueError: the numbers of avatars and poses differ.
    """
    height, width = size
    n, frames = len(pose), pose.frames
    sheet = sheet_of(attributes, pose).to(device)
    masks = masks_of(sheet, height, width)
    landmarks = landmarks_of(sheet, height, width)
    return Truth(
        face_mask=masks[0].reshape(n, frames, height, width),
        lip_mask=masks[1].reshape(n, frames, height, width),
        opening=opening_of(sheet).reshape(n, frames),
        landmarks={name: points.reshape(n, frames, -1, 2) for name, points in landmarks.items()},
    )


def opening_of(sheet: Sheet) -> Tensor:
    """Opening of the mouth in every frame, [M]: 0 when the lips touch, 1 at the widest vowel."""
    lips = Lips.of(sheet)
    gap = (lips.up + lips.down - 2 * Lips.CLOSED) / (UP + DOWN)
    return gap.clamp(min=0)[:, 0, 0]


def masks_of(sheet: Sheet, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Soft masks of the face and of the lips including the opening between them, [M, height, width] each."""
    total = sheet.values.shape[0]
    chunk = max(1, (CHUNK_CPU if sheet.values.device.type == "cpu" else CHUNK_GPU) // (height * width))
    faces, mouths = [], []
    for start in range(0, total, chunk):
        rows = sheet.rows(start, min(start + chunk, total))
        rig = Rig(rows, height, width)
        head = rig.head(rig.body(rig.world(Window.whole(height, width))))
        faces.append(coverage(face_outline(rows, rig, head), head.pixel))
        face = rig.face(head)
        lips = Lips.of(rows)
        mouths.append(coverage(lip_outline(lips, *mouth_frame(rows, lips, face)) - Lips.LINE, face.pixel))
    return torch.cat(faces), torch.cat(mouths)


def landmarks_of(sheet: Sheet, height: int, width: int) -> dict[str, Tensor]:
    """Landmarks of every frame in pixels, [M, K, 2] each, by the names listed in `Truth`."""
    rig = Rig(sheet, height, width)
    lips = Lips.of(sheet)
    angle = torch.arange(36, device=sheet.values.device) * (2 * math.pi / 36)
    on_face = {
        "lips_outer": _lip_points(
            sheet, lips, lips.half_outer + Lips.LINE, lips.up_outer + Lips.LINE, lips.down_outer + Lips.LINE, lips.bow
        ),
        "lips_inner": _lip_points(sheet, lips, lips.half, lips.up, lips.down, torch.zeros_like(lips.bow)),
        "nose_tip": nose_tip(sheet, rig),
    }
    for name, side in (("left", -1.0), ("right", 1.0)):
        on_face[f"{name}_eye"] = _eye_points(sheet, side)
        on_face[f"{name}_iris"] = _iris_points(sheet, side)
        on_face[f"{name}_brow"] = _brow_points(sheet, side)
    placed = {name: rig.face_to_head(x.flatten(1), y.flatten(1)) for name, (x, y) in on_face.items()}
    placed["face_oval"] = outline_points(sheet, rig, angle)
    landmarks = {name: torch.stack(rig.head_to_picture(*points), dim=-1) for name, points in placed.items()}
    landmarks["mouth_corners"] = landmarks["lips_outer"][:, [0, 10]]
    return landmarks


def _lip_points(sheet: Sheet, lips: Lips, half: Tensor, up: Tensor, down: Tensor, bow: Tensor) -> Points:
    """20 points around one edge of the lips in the face's frame, x and y [M, 20, 1] each."""
    t = -torch.cos(torch.arange(11, device=half.device) * (math.pi / 10))[None, :, None]
    x = t * half
    rise, _ = shapes.bump(x, half, lips.fullness)
    lower = down * rise
    upper = (bow / (1 + (x / Lips.BOW) ** 2) - up * rise).clamp(max=0)
    line = sheet["mouth_y"] - corner_lift(x, lips)
    back = list(range(9, 0, -1))
    return torch.cat([x, x[:, back]], dim=1), torch.cat([line + lower, (line + upper)[:, back]], dim=1)


def _eye_points(sheet: Sheet, side: float) -> Points:
    """16 points around an eye's opening in the face's frame."""
    lid = lids(sheet)
    t = torch.cos(torch.arange(9, device=lid["half"].device) * (math.pi / 8))[None, :, None]
    x = t * lid["half"]
    rise, _ = shapes.bump(x, lid["half"], FULLNESS)
    lower, upper = lid["down"] * rise, -lid["up"] * rise
    back = list(range(7, 0, -1))
    x = torch.cat([x, x[:, back]], dim=1)
    y = torch.cat([lower, upper[:, back]], dim=1)
    return side * (x + sheet["eye_x"]), y + sheet["eye_y"] + lid["tilt"] * x


def _iris_points(sheet: Sheet, side: float) -> Points:
    """The middle of an iris, then its right, top, left and bottom, in the face's frame."""
    radius = IRIS * sheet["eye_size"] * sheet["person_eyes"]
    device = radius.device
    x = side * GAZE_X * sheet["gaze_x"] + radius * torch.tensor([0.0, 1, 0, -1, 0], device=device)[None, :, None] * side
    y = GAZE_Y * sheet["gaze_y"] - IRIS_LIFT + radius * torch.tensor([0.0, 0, -1, 0, 1], device=device)[None, :, None]
    return side * (x + sheet["eye_x"]), y + sheet["eye_y"] + sheet["lid_tilt"] * x


def _brow_points(sheet: Sheet, side: float) -> Points:
    """5 points along the centre line of a brow, from the nose outwards, in the face's frame."""
    half = sheet["brow_width"]
    x = torch.linspace(-1, 1, 5, device=half.device)[None, :, None] * half
    return side * (x + 1.02 * sheet["eye_x"]), brow_middle(sheet, x)
