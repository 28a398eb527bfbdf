"""The coordinate frames of a figure, and the transforms between them and the picture.

    picture  pixels; the centre of the first one is (0.5, 0.5)
    world    the shorter side of the picture spans -1..1 around its centre, y points down
    body     the world moved and scaled with the figure
    head     moves and rolls about the neck; the centre of the face is the origin
    face     the head's front seen straight on: features drawn in it turn with the head

The head turns in 2.5-D: its front is modelled as a ball, whose turn moves a point at x = R sin(a) to R sin(a + yaw), so
that features foreshorten and shift, nearer ones further. All transforms have a closed form in both directions: drawing
maps pixels from the picture to the face, landmarks map from the face to the picture.

Signs: yaw > 0 turns to the right of the picture, pitch > 0 down, roll > 0 clockwise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.pocket.world.sheet import Sheet

HEAD_CENTRE = -0.08
HEAD_SCALE = 1.16
NECK_PIVOT = 0.44
BALL_X, BALL_Y = 0.52, 0.66
# Share of a tall picture's extra height that is added above the figure; portraits show more below it.
TALL_LIFT = 0.42


Frame = Literal["body", "head", "face"]


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture of `height` x `width` pixels; rows `top`..`bottom`, columns `left`..`right`."""

    height: int
    width: int
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, height: int, width: int) -> "Window":
        """The whole picture."""
        return cls(height, width, 0, height, 0, width)


@dataclass(frozen=True)
class Field:
    """Coordinates of every pixel of a window in one frame: x, y, and the pixel size there, [M, H, W] each."""

    x: Tensor
    y: Tensor
    pixel: Tensor


class Rig:
    """The coordinate frames of M rendered frames."""

    def __init__(self, sheet: Sheet, height: int, width: int) -> None:
        """Read pose and body measures of every row of `sheet`, for pictures of `height` x `width` pixels."""
        self.sheet = sheet
        self.height, self.width = height, width
        short = min(height, width)
        self.half = short / 2
        self.centre = (width / 2, height / 2 - TALL_LIFT * max(0.0, height - width) / 2)
        self.sin_roll, self.cos_roll = torch.sin(sheet["roll"]), torch.cos(sheet["roll"])
        self.sin_yaw, self.cos_yaw = torch.sin(sheet["yaw"]), torch.cos(sheet["yaw"])
        self.sin_pitch, self.cos_pitch = torch.sin(sheet["pitch"]), torch.cos(sheet["pitch"])
        self.scale = sheet["figure_scale"]
        self.head_scale = HEAD_SCALE * sheet["head_scale"]
        self.body_x = sheet["figure_x"] + 0.5 * sheet["x"]
        self.body_y = sheet["figure_y"] + 0.5 * sheet["y"]
        self.head_x = 0.5 * sheet["x"] + 0.035 * self.sin_yaw
        self.head_y = 0.5 * sheet["y"] + 0.06 * self.sin_pitch + sheet["head_drop"]

    def world(self, window: Window) -> Field:
        """World coordinates of the pixels of `window`."""
        device = self.scale.device
        columns = torch.arange(window.left, window.right, device=device, dtype=torch.float32) + 0.5
        rows = torch.arange(window.top, window.bottom, device=device, dtype=torch.float32) + 0.5
        zoom = self.sheet["zoom"] * self.half
        x = (columns[None, None, :] - self.centre[0]) / zoom + self.sheet["pan_x"]
        y = (rows[None, :, None] - self.centre[1]) / zoom + self.sheet["pan_y"]
        return Field(x.expand(-1, len(rows), -1), y.expand(-1, -1, len(columns)), 1 / zoom)

    def body(self, world: Field) -> Field:
        """Body coordinates of the same pixels."""
        return Field(
            (world.x - self.body_x) / self.scale, (world.y - self.body_y) / self.scale, world.pixel / self.scale
        )

    def head(self, body: Field) -> Field:
        """Head coordinates of the same pixels."""
        x, y = body.x - self.head_x, body.y - NECK_PIVOT - self.head_y
        turned_x = self.cos_roll * x + self.sin_roll * y
        turned_y = self.cos_roll * y - self.sin_roll * x
        return Field(
            turned_x / self.head_scale,
            (turned_y + NECK_PIVOT - HEAD_CENTRE) / self.head_scale,
            body.pixel / self.head_scale,
        )

    def face(self, head: Field, *, size: float = 1.0) -> Field:
        """Face coordinates of the same pixels; `size` > 1 uses a larger ball, for hair in front of the face."""
        u = (head.x / (BALL_X * size)).clamp(-1, 1)
        v = (head.y / (BALL_Y * size)).clamp(-1, 1)
        depth_u, depth_v = torch.sqrt(1 - u * u), torch.sqrt(1 - v * v)
        x = (u * self.cos_yaw - depth_u * self.sin_yaw) * (BALL_X * size)
        y = (v * self.cos_pitch - depth_v * self.sin_pitch) * (BALL_Y * size)
        # Towards the edge of the ball, a pixel spans more of the face.
        stretch = (self.cos_yaw + u / (depth_u + 0.15) * self.sin_yaw).clamp(1.0, 3.0)
        return Field(x, y, head.pixel * stretch)

    def bounds(self, left: float, right: float, top: float, bottom: float, *, frame: Frame) -> Window:
        """The smallest window that contains a rectangle of a coordinate frame in all M frames, plus a margin.

        It reads tensor values, so the sheet must be on the CPU to avoid a device sync.
        """
        device = self.scale.device
        x = torch.tensor([[left, right, left, right, left, right]], device=device).expand(len(self.scale), -1)
        middle = (top + bottom) / 2
        y = torch.tensor([[top, top, bottom, bottom, middle, middle]], device=device).expand(len(self.scale), -1)
        if frame == "face":
            x, y = self.face_to_head(x, y)
        x, y = self.body_to_picture(x, y) if frame == "body" else self.head_to_picture(x, y)
        return Window(
            self.height,
            self.width,
            max(0, min(self.height - 1, int(y.min()) - 2)),
            min(self.height, max(1, int(y.max()) + 3)),
            max(0, min(self.width - 1, int(x.min()) - 2)),
            min(self.width, max(1, int(x.max()) + 3)),
        )

    def face_to_head(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map points [M, K] from the face's to the head's frame."""
        u, v = (x / BALL_X).clamp(-1, 1), (y / BALL_Y).clamp(-1, 1)
        sin_yaw, cos_yaw, sin_pitch, cos_pitch = (
            part[:, :, 0] for part in (self.sin_yaw, self.cos_yaw, self.sin_pitch, self.cos_pitch)
        )
        return (
            (u * cos_yaw + torch.sqrt(1 - u * u) * sin_yaw) * BALL_X,
            (v * cos_pitch + torch.sqrt(1 - v * v) * sin_pitch) * BALL_Y,
        )

    def head_to_picture(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map points [M, K] from the head's frame to pixels of the picture."""
        sin_roll, cos_roll, head_scale = self.sin_roll[:, :, 0], self.cos_roll[:, :, 0], self.head_scale[:, :, 0]
        x, y = x * head_scale, y * head_scale - (NECK_PIVOT - HEAD_CENTRE)
        body_x = cos_roll * x - sin_roll * y + self.head_x[:, :, 0]
        body_y = sin_roll * x + cos_roll * y + self.head_y[:, :, 0] + NECK_PIVOT
        return self.body_to_picture(body_x, body_y)

    def body_to_picture(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map points [M, K] from the body's frame to pixels of the picture."""
        scale, zoom = self.scale[:, :, 0], self.sheet["zoom"][:, :, 0] * self.half
        x = (x * scale + self.body_x[:, :, 0] - self.sheet["pan_x"][:, :, 0]) * zoom + self.centre[0]
        y = (y * scale + self.body_y[:, :, 0] - self.sheet["pan_y"][:, :, 0]) * zoom + self.centre[1]
        return x, y
