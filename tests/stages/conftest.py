"""What tests of several stages share."""

import numpy as np
import pytest

from wanavatar_lab import media


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The frames that are written, before they are encoded."""
    frames: list[np.ndarray] = []
    write = media.VideoWriter.write

    def watched(writer: media.VideoWriter, frame: np.ndarray) -> None:
        frames.append(frame)
        write(writer, frame)

    monkeypatch.setattr(media.VideoWriter, "write", watched)
    return frames
