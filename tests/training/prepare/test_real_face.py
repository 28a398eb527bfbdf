"""The whole preparation on a real face, by MediaPipe: from videos as cameras write them to clips, masks and the report.

Without the face landmarker, which set-up fetches, all of this is skipped; see `tests/real_face.py`. Faces are sought in
all of a frame and again where they are, so two people take twice as long: `make test-slow` follows them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tests.media.samples import mux
from tests.real_face import HEAD, SEAM, head, in_room, openings, talking_video, voice
from tests.training.prepare.test_prepare import LAGS, by_video, sound_is_shifted
from training.prepare.clip_folder import FACE_MASKS, FPS, LIP_MASKS, RATE, read_clip
from training.prepare.clips import FINEST, Options
from training.prepare.prepare import Outcome, prepare
from wanavatar_lab.metrics.landmarks import Face
from wanavatar_lab.metrics.mediapipe_landmarks import TILE, MediaPipeLandmarks, tile_sizes

Frame = NDArray[np.uint8]
SOUND = voice(3.4)
STEPS = len(SOUND) * FPS // RATE
MOUTH = openings(SOUND, STEPS)
# centre of the seam of the lips and outline of the face in `head`, as shares of its side
LIPS = (SEAM.mean(axis=0) - HEAD[:2]) / HEAD[2]


@pytest.fixture(scope="module")
def source(face_landmarker: Path) -> MediaPipeLandmarks:
    return MediaPipeLandmarks(face_landmarker)


@pytest.fixture
def prepared(tmp_path: Path, source: MediaPipeLandmarks) -> Callable[..., Outcome]:
    def run(**options: Any) -> Outcome:
        chosen = Options(hold_out=0, workers=1, **options)
        return prepare(tmp_path / "videos", tmp_path / "data", source, chosen, lambda line: None)

    (tmp_path / "videos").mkdir()
    return run


def filmed(path: Path, frames: Iterable[Frame], **given: Any) -> Path:
    """A video of frames at 16 fps with the sound."""
    coding: dict[str, Any] = {"video": "libx264", "video_options": {"crf": "16", "preset": "ultrafast"}}
    coding |= {"audio": "aac", "samples": SOUND[:, None], "rate": RATE}
    return mux(path, frames=list(frames), **(coding | given))


def test_the_lag_is_found_to_the_frame_whatever_the_file(tmp_path: Path, prepared: Callable[..., Outcome]) -> None:
    videos = tmp_path / "videos"
    steps = np.cumsum(np.random.default_rng(1).integers(2, 9, 200))
    talking_video(videos / "constant.mp4", SOUND)
    talking_video(videos / "variable.mkv", SOUND, fps=100, times=[0, *steps[steps < 330].tolist()])
    talking_video(videos / "turned.mp4", SOUND, turned=90)
    stereo = soxr.resample(SOUND, RATE, 44_100).astype(np.float32)
    talking_video(videos / "stereo.mp4", stereo, rate=44_100, channels=2, late=4 / FPS)
    outcome = prepared(keep_out_of_sync=True)
    lags = {name: clip.measures.lag for name, clip in by_video(outcome).items()}
    assert lags == {"constant": 0, "variable": 0, "turned": 0, "stereo": 4}
    for clip in outcome.clips:
        assert clip.measures.face_found == 1 and (clip.measures.lag_r or 0) > 0.9
        assert clip.measures.face_width == pytest.approx(0.58 * 192, rel=0.03)
    assert not outcome.left_out
    # masks are where the photograph has its lips, which are parted most in the middle of the seam
    folder = read_clip(by_video(outcome)["turned"].path)
    for index in (0, 20, 40):
        lips, face = (folder.mask(kind, index) > 0 for kind in (LIP_MASKS, FACE_MASKS))
        rows, columns = np.nonzero(lips)
        assert columns.mean() / 192 == pytest.approx(LIPS[0], abs=0.02)
        assert -0.01 < rows.mean() / 192 - LIPS[1] < 0.06
        assert columns.min() / 192 == pytest.approx((SEAM[0, 0] - HEAD[0]) / HEAD[2], abs=0.03)
        assert columns.max() / 192 == pytest.approx((SEAM[-1, 0] - HEAD[0]) / HEAD[2], abs=0.03)
        assert face[lips].all() and 0.2 < face.mean() < 0.4 and 0.01 < lips.mean() < 0.05


@pytest.mark.slow  # `test_prepare.py` has the same of a drawn face
def test_sound_is_shifted_by_the_lag_and_what_stays_late_is_left_out(
    tmp_path: Path, prepared: Callable[..., Outcome]
) -> None:
    # long enough to lose five frames
    sound = voice(4.0)
    for name, lag in LAGS.items():
        talking_video(tmp_path / f"videos/{name}.mp4", sound, late=lag / FPS, side=128)
    sound_is_shifted(tmp_path, prepared)


@pytest.mark.slow  # full HD
def test_a_small_face_in_full_hd_is_found_and_zoomed_to(tmp_path: Path, prepared: Callable[..., Outcome]) -> None:
    # the frames are as large as the claim
    width = 100
    side = round(width / 0.58)
    filmed(tmp_path / "videos/far.mp4", (in_room([(head(o, side), 1300, 300)]) for o in MOUTH))
    (clip,) = prepared().clips
    assert clip.measures.face_found == 1 and clip.measures.lag == 0 and (clip.measures.lag_r or 0) > 0.9
    left, top, right, bottom = clip.facts["window"]
    assert right - left == bottom - top == 2 * round(FINEST / 2)
    assert any(f"zoomed to {right - left}×{right - left} at ({left}, {top})" in note for note in clip.facts["notes"])
    folder = read_clip(clip.path)
    assert (folder.width, folder.height) == (right - left, bottom - top)
    rows, columns = np.nonzero(folder.mask(LIP_MASKS, 20))
    assert columns.mean() + left == pytest.approx(1300 + LIPS[0] * side, abs=0.03 * width)
    assert rows.mean() + top == pytest.approx(300 + LIPS[1] * side, abs=0.06 * width)


@pytest.mark.parametrize("width", [60, 120, 240])
def test_a_face_of_any_size_is_followed_through_full_hd(source: MediaPipeLandmarks, width: int) -> None:
    side, seen = round(width / 0.58), []
    with source.everyone(Path("any.mp4")) as faces_in:
        for k, opening in enumerate(MOUTH[8:24]):
            (face,) = faces_in(in_room([(head(opening, side), 700 + 12 * k, 430)]), k / FPS)
            seen.append(face.opening)
            assert face.width == pytest.approx(width, rel=0.1)
            off = face.lips_outer.mean(axis=0) - (700 + 12 * k, 430) - LIPS * side
            assert np.linalg.norm(off) < 0.1 * width
    assert np.corrcoef(seen, MOUTH[8:24])[0, 1] > 0.95


def somebody_else(picture: Frame) -> Frame:
    """Another person: the other way round, with darker skin and clothes."""
    return np.ascontiguousarray(picture[:, ::-1] * np.array([0.62, 0.5, 0.42])).astype(np.uint8)


@pytest.mark.slow  # `test_people.py` has the choice between faces that are known
def test_of_two_people_the_one_who_speaks_is_taken_before_and_after_a_cut(
    tmp_path: Path, prepared: Callable[..., Outcome]
) -> None:
    # the listener is the larger one, and after the cut they have changed places
    sound = np.concatenate([SOUND, SOUND])
    before = [in_room([(somebody_else(head(0, 300)), 60, 60), (head(o, 220), 400, 100)], 400, 640) for o in MOUTH]
    after = [in_room([(head(o, 220), 20, 100), (somebody_else(head(0, 300)), 320, 60)], 400, 640) for o in MOUTH]
    filmed(tmp_path / "videos/two.mp4", before + after, samples=sound[:, None])
    first, second = prepared().clips
    edge = len(MOUTH) / FPS
    assert first.facts["start"] + first.seconds <= edge <= second.facts["start"]
    for clip, left in ((first, 400), (second, 20)):
        assert clip.measures.lag == 0 and clip.measures.face_found == 1
        assert clip.facts["notes"][0].startswith("2 people in view: the one who speaks is taken, at x = ")
        columns = np.nonzero(read_clip(clip.path).mask(LIP_MASKS, 20))[1]
        assert columns.mean() == pytest.approx(left + LIPS[0] * 220, abs=8)


@pytest.mark.slow  # `test_people.py` has the choice between faces that are known
def test_the_person_of_the_other_scenes_is_taken_where_nobody_clearly_speaks(
    tmp_path: Path, prepared: Callable[..., Outcome]
) -> None:
    sound = np.concatenate([SOUND, SOUND])
    alone = [in_room([(head(o, 220), 200, 100)], 400, 640) for o in MOUTH]
    both = [in_room([(somebody_else(head(o, 300)), 20, 60), (head(o, 220), 400, 100)], 400, 640) for o in MOUTH]
    filmed(tmp_path / "videos/two.mp4", alone + both, samples=sound[:, None])
    first, second = prepared().clips
    assert first.facts["chosen_by"] == "alone" and first.facts["notes"] == []
    assert second.facts["notes"][0].startswith("2 people in view: the one of the other clips is taken")
    columns = np.nonzero(read_clip(second.path).mask(LIP_MASKS, 20))[1]
    assert columns.mean() == pytest.approx(400 + LIPS[0] * 220, abs=8)
    assert prepared().made == 0


def test_two_people_are_seen(source: MediaPipeLandmarks) -> None:
    with source.everyone(Path("any.mp4")) as faces_in:
        room = in_room([(somebody_else(head(0, 300)), 60, 60), (head(0.5, 220), 400, 100)], 400, 640)
        seen = sorted(faces_in(room, 0.0), key=lambda face: face.centre[0])
    assert [face.width for face in seen] == pytest.approx([0.58 * 300, 0.58 * 220], rel=0.05)
    assert seen[1].lips_outer.mean(axis=0) == pytest.approx((400, 100) + LIPS * 220, abs=8)


def test_a_jump_that_changes_little_of_the_picture_is_a_cut_too(
    tmp_path: Path, prepared: Callable[..., Outcome]
) -> None:
    frames = [in_room([(head(o, 150), 60 if k < 3 else 400, 100)], 400, 1280) for k, o in enumerate(MOUTH)]
    filmed(tmp_path / "videos/jump.mp4", frames)
    (clip,) = prepared().clips
    assert "the face jumps at 0.19 s: the longest part without a jump is kept" in clip.facts["notes"][0]
    assert clip.facts["start"] >= 3 / FPS and clip.measures.face_found == 1


def test_ten_bit_hdr_is_read_and_its_face_found(tmp_path: Path, prepared: Callable[..., Outcome]) -> None:
    options = {"x265-params": "log-level=error:colorprim=9:transfer=18:colormatrix=9", "preset": "ultrafast"}
    frames = [head(o, 192) for o in MOUTH]
    coding: dict[str, Any] = {"video": "libx265", "pixels": "yuv420p10le", "video_options": options}
    filmed(tmp_path / "videos/phone.mov", frames, **coding)
    (clip,) = prepared().clips
    assert clip.measures.face_found == 1 and clip.measures.lag == 0


def test_a_video_without_sound_is_refused_in_words(tmp_path: Path, prepared: Callable[..., Outcome]) -> None:
    filmed(tmp_path / "videos/mute.mp4", [head(0)] * 64, audio=None)
    filmed(tmp_path / "videos/said.mp4", [head(o) for o in MOUTH])
    outcome = prepared()
    assert [(each.video, each.why[:18]) for each in outcome.refused] == [("mute.mp4", "it has no sound, a")]


def test_the_followed_person_is_taken_up_again_after_a_jump(source: MediaPipeLandmarks) -> None:
    places = [100] * 4 + [900] * 14
    found: list[Face | None] = []
    with source.follow(Path("any.mp4")) as face_in:
        for k, left in enumerate(places):
            found.append(face_in(in_room([(head(0.5, 200), left, 100)], 400, 1280), k / FPS))
    lost = [k for k, face in enumerate(found) if face is None]
    assert lost == list(range(4, 12)), "half a second, in which they might come back"
    last = found[-1]
    assert last is not None and last.centre[0] == pytest.approx(900 + 100, abs=15)


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (3840, 2160), (640, 360), (600, 100)])
def test_tiles_cover_a_frame_and_overlap(width: int, height: int) -> None:
    for tiles in tile_sizes(width, height):
        covered = np.zeros((height, width), np.int16)
        for left, top, broad, tall in tiles:
            assert broad <= width - left and tall <= height - top and max(broad, tall) >= min(TILE, broad)
            covered[top : top + tall, left : left + broad] += 1
        assert covered.min() >= 1
    assert not list(tile_sizes(TILE, TILE))
