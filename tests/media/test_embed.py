import base64
import re
from pathlib import Path

import numpy as np
import pytest

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, VideoWriter, write_audio
from wanavatar_lab.media.embed import embed


def test_a_clip_is_embedded_up_to_a_size_and_its_poster_always(tmp_path: Path) -> None:
    clip = tmp_path / 'a"b.mp4'
    with VideoWriter(clip, fps=16) as writer:
        for level in (40, 200):
            writer.write(np.full((96, 64, 3), level, np.uint8))
    small = embed(clip, largest=clip.stat().st_size)
    assert small.whole and small.facts == "64 × 96 · 0.12 s · 16 fps"
    source, poster = re.findall(r'(?:src|poster)="data:video/mp4;base64,([^"]*)"|poster="data:(image/webp)', small.html)
    assert {*source, *poster} >= {"image/webp", base64.b64encode(clip.read_bytes()).decode()}
    assert 'aria-label="a&quot;b.mp4"' in small.html
    large = embed(clip, largest=clip.stat().st_size - 1)
    assert not large.whole and large.html.startswith("<img") and large.still is not None
    assert np.asarray(large.still).mean() == pytest.approx(40, abs=4)  # the first frame
    assert large.width == small.width == 240  # a small clip is shown larger


def test_a_recording_has_no_picture(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", Audio(np.zeros((800, 1), np.float32), 16_000))
    assert embed(tmp_path / "a.wav").html.startswith("<audio controls") and embed(tmp_path / "a.wav").still is None
    assert not embed(tmp_path / "a.wav", largest=0).html
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.raises(MediaError):
        embed(tmp_path / "a.wav")
