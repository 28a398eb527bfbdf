"""The picture being painted: layers go over it, back to front."""

from torch import Tensor

from training.pocket.world.rig import Window


def coverage(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """How much of each pixel a shape covers, 0..1, from its signed distance and the size of a pixel there.

    A pixel size larger than the true one gives a soft edge of that width.
    """
    return (0.5 - distance / pixel).clamp(0, 1)


class Canvas:
    """M pictures, [M, 3, H, W]; painting changes them in place."""

    def __init__(self, rgb: Tensor) -> None:
        """Paint on `rgb`."""
        self.rgb = rgb

    def paint(self, colour: Tensor, cover: Tensor, opacity: Tensor | float = 1.0) -> None:
        """Lay `colour` ([M, 3, 1, 1] or [M, 3, H, W]) over the pictures where `cover` [M, H, W] says, 0..1."""
        weight = cover if isinstance(opacity, float) and opacity == 1.0 else cover * opacity
        self.rgb.lerp_(colour, weight.unsqueeze(1))

    def within(self, window: Window) -> "Canvas":
        """The same pictures, cut to `window`: painting there paints here."""
        return Canvas(self.rgb[:, :, window.top : window.bottom, window.left : window.right])
