"""The canvas: layers are painted back to front onto a batch of pictures."""

from torch import Tensor

from training.pocket.world.rig import Window


def coverage(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """Antialiased coverage of each pixel by a shape, 0..1, from its signed distance and the pixel size there.

    A pixel size larger than the true one gives a soft edge of that width.
    """
    return (0.5 - distance / pixel).clamp(0, 1)


class Canvas:
    """M pictures [M, 3, H, W], painted in place."""

    def __init__(self, rgb: Tensor) -> None:
        """Paint on `rgb`."""
        self.rgb = rgb

    def paint(self, colour: Tensor, cover: Tensor, opacity: Tensor | float = 1.0) -> None:
        """Blend `colour` ([M, 3, 1, 1] or [M, 3, H, W]) over the pictures with alpha `cover` [M, H, W] in 0..1."""
        weight = cover if isinstance(opacity, float) and opacity == 1.0 else cover * opacity
        self.rgb.lerp_(colour, weight.unsqueeze(1))

    def within(self, window: Window) -> "Canvas":
        """A view of the pictures cropped to `window`; painting on it changes these pictures."""
        return Canvas(self.rgb[:, :, window.top : window.bottom, window.left : window.right])
