"""Closed-form signed distances, batched: negative inside, in the units of the given coordinates.

Functions take coordinate fields [M, H, W] and parameters that broadcast against them ([M, 1, 1] or numbers).
Distances are exact where that is cheap and first-order (value / gradient norm) elsewhere, which is enough to antialias
an edge of one pixel. Based on I. Quilez, "2D distance functions".
"""

import math

import torch
from torch import Tensor

Number = Tensor | float


def ellipse(x: Tensor, y: Tensor, radius_x: Number, radius_y: Number) -> Tensor:
    """Signed distance to an axis-aligned ellipse around the origin, first order."""
    u, v = x / radius_x, y / radius_y
    # The small constant keeps the centre inside, where both lengths are 0.
    length = torch.sqrt(u * u + v * v + 1e-6)
    slope = torch.sqrt((u / radius_x) ** 2 + (v / radius_y) ** 2 + 1e-6)
    return length * (length - 1) / slope


def circle(x: Tensor, y: Tensor, radius: Number) -> Tensor:
    """Signed distance to a circle around the origin."""
    return torch.sqrt(x * x + y * y) - radius


def box(x: Tensor, y: Tensor, half_x: Number, half_y: Number, corner: Number = 0.0) -> Tensor:
    """Signed distance to a rectangle around the origin with corners of radius `corner`."""
    u = x.abs() - half_x + corner
    v = y.abs() - half_y + corner
    return _corner(u, v) - corner


def segment(x: Tensor, y: Tensor, start: tuple[Number, Number], end: tuple[Number, Number], radius: Number) -> Tensor:
    """Signed distance to a line segment with round ends of `radius`, from `start` to `end`."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    u, v = x - start[0], y - start[1]
    share = ((u * along_x + v * along_y) / (along_x * along_x + along_y * along_y + 1e-8)).clamp(0, 1)
    u, v = u - share * along_x, v - share * along_y
    return torch.sqrt(u * u + v * v) - radius


def half_plane(x: Tensor, y: Tensor, point: tuple[Number, Number], normal: tuple[float, float]) -> Tensor:
    """Signed distance to the half plane through `point` with outward `normal` (of any length)."""
    length = math.hypot(*normal)
    return ((x - point[0]) * normal[0] + (y - point[1]) * normal[1]) / length


def arch(x: Tensor, y: Tensor, half_width: Number, top: Number, shoulder: Number) -> Tensor:
    """Signed distance to an arch open downwards: half an ellipse from `top` to `shoulder`, straight sides below."""
    return ellipse(x, torch.clamp(y - shoulder, max=0.0), half_width, shoulder - top)


def egg(
    x: Tensor,
    y: Tensor,
    half_width: Number,
    top: Number,
    bottom: Number,
    *,
    square: Number = 0.0,
    square_top: Number = 0.0,
    taper: Number = 0.0,
) -> Tensor:
    """Signed distance to an egg around the origin, `top` above and `bottom` below it (both positive).

    `square` and `square_top` (0..1) morph its lower and upper half from an ellipse to a quartic superellipse, `taper`
    (0..1) narrows it towards the bottom. First order. `egg_outline` gives the same curve as points.
    """
    v = y / torch.where(y > 0, bottom, top)
    width = half_width * (1 - taper * v.clamp(0, 1) ** 2)
    u = x / width
    uu, vv = u * u, v * v
    round_ = torch.sqrt(uu + vv + 1e-6)
    quartic = torch.sqrt(torch.sqrt(uu * uu + vv * vv + 1e-12))
    tilt = 1.5 * v / round_
    radius = round_ + (quartic - round_) * (square * tilt.clamp(0, 1) + square_top * (-tilt).clamp(0, 1))
    height = torch.where(y > 0, bottom, top)
    slope = torch.sqrt((u / width) ** 2 + (v / height) ** 2 + 1e-6)
    return (radius - 1) * round_ / slope


def egg_outline(
    angle: Tensor, half_width: Tensor, top: Tensor, bottom: Tensor, *, square: Tensor, taper: Tensor
) -> tuple[Tensor, Tensor]:
    """Points of the outline of `egg` at `angle` (radians, clockwise from the top, broadcast against the rest)."""
    u, v = torch.sin(angle), -torch.cos(angle)
    quartic = (u**4 + v**4) ** 0.25
    radius = 1 / (1 + (quartic - 1) * square * (1.5 * v).clamp(0, 1))
    u, v = u * radius, v * radius
    y = v * torch.where(v > 0, bottom, top)
    return u * half_width * (1 - taper * v.clamp(0, 1) ** 2), y


def bump(x: Tensor, half_width: Number, fullness: Number) -> tuple[Tensor, Tensor]:
    """Value and slope of a bump, 1 at 0 and 0 at ±`half_width`: the profile of eyelids and lips.

    `fullness` (0..1) morphs from a parabola to a broad curve.
    """
    t = (x / half_width).clamp(-1, 1)
    tt = t * t
    return (1 - tt) * (1 + fullness * tt), 2 * t * (fullness - 1 - 2 * fullness * tt) / half_width


def lens(x: Tensor, y: Tensor, half_width: Number, up: Number, down: Number, fullness: Number) -> Tensor:
    """Signed distance to a lens with corners at (±`half_width`, 0), `up` above and `down` below, first order."""
    height, slope = bump(x, half_width, fullness)
    above = (-up * height - y) / torch.sqrt(1 + (up * slope) ** 2)
    below = (y - down * height) / torch.sqrt(1 + (down * slope) ** 2)
    past = x.abs() - half_width
    return torch.where(past > 0, torch.sqrt(past * past + y * y), torch.maximum(above, below))


def _corner(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the quadrant where both `u` and `v` are negative."""
    outside = torch.sqrt(u.clamp(min=0) ** 2 + v.clamp(min=0) ** 2)
    return outside + torch.maximum(u, v).clamp(max=0)
