"""Faces of circles, as the tests of the preparation use them."""

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.metrics.landmarks import Face


def circle(x: float, y: float, radius: float, count: int = 36) -> NDArray[np.float64]:
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([x + radius * np.sin(angle), y - radius * np.cos(angle)], axis=1)


def lips(x: float, y: float, radius: float) -> NDArray[np.float64]:
    """20 points in MediaPipe's order: from the left corner by the bottom to the right one and back by the top."""
    return circle(x, y, radius, 20)[[(15 - k) % 20 for k in range(20)]]


def face(x: float = 64, y: float = 64, radius: float = 40) -> Face:
    return Face(circle(x, y, radius), lips(x, y + 20, 12), lips(x, y + 20, 8))
