"""What is measured of a clip, which clips are the same, which are held out; and folders that appear whole."""

import errno
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.faces import face
from training.data.whole_folder import is_temporary, replace_folder, whole_folder
from training.loop.loss import SMALLEST
from training.prepare.clip_folder import FPS, RATE
from training.prepare.draw_masks import Dilation, MaskMaker
from training.prepare.measures import FOLLOWS, SMALL_LIPS, Measures, Observer, perceptual_hash, sharpness
from training.prepare.report import assess, divide, duplicates, report_json, report_lines
from wanavatar_lab.errors import DiskFull, LabError
from wanavatar_lab.files import report_write_errors


def babble(frames: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Sound at 16 kHz that goes up and down, and by how much in every frame."""
    generator = np.random.default_rng(seed)
    level = generator.random(frames) ** 2
    sound = np.repeat(level, RATE // FPS) * generator.choice([-0.5, 0.5], frames * RATE // FPS)
    return sound.astype(np.float32), level


def observed(
    frames: int = 64, seed: int = 0, *, late: int = 0, gain: float = 1.0, offset: int = 0, picture_seed: int = 0
) -> Measures:
    """A picture that stays the same, under a mouth that goes with the sound or is `late`."""
    sound, level = babble(frames + offset, seed)
    sound, level = sound[offset * RATE // FPS :], level[offset:]
    picture = np.random.default_rng(picture_seed).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    observer, maker = Observer(frames), MaskMaker((64, 64), Dilation(), "invalid")
    shown = face(32, 30, 20)
    for k in range(frames):
        inner = shown.lips_outer.copy()
        assert shown.lips_inner is not None
        inner[:, 1] = 50 + (inner[:, 1] - 50) * level[(k - late) % frames]
        now = replace(shown, lips_inner=inner)
        observer.see(picture, now, maker.of(now))
    return observer.measures((sound * gain).astype(np.float32))


def clip(name: str, measures: Measures) -> tuple[str, tuple[Path, dict[str, Any]]]:
    facts: dict[str, Any] = {
        "video": f"{name}.mp4",
        "start": 0.0,
        "frames": 64,
        "hash": name,
        "source": name,
        "notes": [],
    }
    facts["measures"] = measures.written()
    return name, (Path(name), facts)


def test_measures_of_a_clip_by_hand() -> None:
    found = observed()
    assert found.face_found == 1 and found.face_width == pytest.approx(40, abs=0.5)
    assert found.lag == 0 and found.lag_r == pytest.approx(1, abs=0.01) and found.problems == []
    assert len(found.opening) == len(found.level) == 64 and len(found.hashes) == 4
    assert found.face_area == pytest.approx(np.pi * 20.8**2 / 64**2, rel=0.08)
    assert Measures(**found.written()) == found


@pytest.mark.parametrize(("late", "gain", "problem"), [(5, 1, "out of sync"), (0, 0.005, "quiet"), (0, 3, "clipped")])
def test_what_is_wrong_is_said(late: int, gain: float, problem: str) -> None:
    (said,) = observed(late=late, gain=gain).problems
    assert said.startswith(problem)


def test_lips_that_are_too_small_to_be_learnt_from_are_flagged() -> None:
    assert SMALL_LIPS == SMALLEST
    maker, shown = MaskMaker((1280, 1280), Dilation(), "invalid"), face(32, 30, 20)
    observer = Observer(48)
    for _ in range(48):
        observer.see(np.zeros((1280, 1280, 3), np.uint8), shown, maker.of(shown))
    found = observer.measures(babble(48, 0)[0])
    assert found.lip_area is not None and found.lip_area < SMALL_LIPS
    assert f"small lips: {found.lip_area:.2%} of the picture" in found.problems[0]


def test_a_still_mouth_cannot_be_compared() -> None:
    observer, maker = Observer(48), MaskMaker((64, 64), Dilation(), "invalid")
    for _ in range(48):
        observer.see(np.zeros((64, 64, 3), np.uint8), face(32, 30, 20), maker.of(face(32, 30, 20)))
    found = observer.measures(babble(48, 0)[0])
    assert (found.lag, found.r, found.problems) == (None, None, ["its mouth cannot be compared with its sound"])


def test_hashes_and_sharpness() -> None:
    generator = np.random.default_rng(3)
    picture = np.kron(generator.integers(0, 255, (9, 9, 1)), np.ones((10, 10, 3))).astype(np.uint8)
    lighter = np.clip(picture.astype(int) + generator.integers(-3, 30, picture.shape), 0, 255).astype(np.uint8)
    same, other = (
        int(perceptual_hash(each), 16) ^ int(perceptual_hash(picture), 16) for each in (lighter, 255 - picture)
    )
    assert same.bit_count() < 8 < 40 < other.bit_count()
    assert len(perceptual_hash(picture)) == 16
    blurred = (picture[1:] // 2 + picture[:-1] // 2).astype(np.uint8)
    assert sharpness(blurred) < sharpness(picture) and sharpness(picture[:2]) == 0


def test_the_same_sound_and_picture_twice_are_duplicates_even_when_shifted() -> None:
    clips = {
        "first": observed(seed=1),
        "other words": observed(seed=2),
        "shifted": observed(60, seed=1, offset=4),
        "other picture": observed(seed=1, picture_seed=9),
    }
    # the generator draws levels before signs, so that of 64 frames in all the first ones differ by the shift alone
    found = duplicates({name: (clip(name, each)[1][1], each) for name, each in clips.items()})
    assert found == {"first": ["shifted"], "other words": [], "shifted": ["first"], "other picture": []}


def test_the_same_passage_of_the_same_file_is_a_duplicate_whatever_it_shows() -> None:
    facts = {name: clip(name, observed(seed=seed))[1][1] for seed, name in enumerate("abc")}
    facts["b"] |= {"source": "a", "start": 63 / FPS}
    facts["c"] |= {"source": "a", "start": 64 / FPS}
    found = duplicates({name: (each, Measures(**each["measures"])) for name, each in facts.items()})
    assert found == {"a": ["b"], "b": ["a", "c"], "c": ["b"]}


def test_what_is_out_of_sync_or_held_out_too_is_left_out_of_training() -> None:
    twin = observed(60, seed=1, offset=4)
    measures = [observed(seed=1), observed(seed=2), twin, observed(seed=3, late=5), observed(seed=4, late=-3)]
    clips = assess(dict(clip(str(i), each) for i, each in enumerate(measures)))
    held_out, left_out = divide(clips, 1)
    assert [each.name for each in held_out] == ["1"], "the last without a problem"
    assert left_out == {"3": "out of sync by +5 frames", "4": "out of sync by -3 frames"}
    # the first and its twin: one held out, the other in neither
    held_out, left_out = divide(clips, 2, keep_out_of_sync=True)
    assert [each.name for each in held_out] == ["0", "1"] and left_out == {
        "2": "it is the same as 0, which is held out"
    }
    lines = report_lines(clips, held_out, left_out, [])
    assert lines[:2] == ["5 clips, 20 s; 3 of them flagged", "2 to train on, 2 held out, 1 left out"]
    assert "left out: it is the same as 0, which is held out" in lines[4]
    report = report_json(clips, held_out, left_out, [], {})
    assert [each["left_out"] for each in report["clips"]] == [None, None, left_out["2"], None, None]


def test_a_mouth_that_says_something_else_and_a_clip_without_a_face_are_left_out() -> None:
    dubbed = replace(observed(seed=2), lag=3, lag_r=FOLLOWS - 0.01)
    faceless = replace(observed(seed=3), face_found=0.0, lag=None, lag_r=None)
    clips = assess(dict(clip(str(i), each) for i, each in enumerate([observed(seed=1), dubbed, faceless])))
    words = {"1": "its mouth does not follow its sound (r = 0.29 at best)", "2": "no face was found"}
    assert divide(clips, 0)[1] == words
    assert divide(clips, 0, keep_out_of_sync=True)[1] == {"2": words["2"]}
    # `--landmarks none` finds no face anywhere
    assert divide(clips[2:], 0)[1] == {}
    with pytest.raises(LabError, match=r"What helps: `--keep-out-of-sync` to use them, or give more video\.$"):
        divide(clips[1:2], 0)


def test_no_clip_left_to_train_on_is_told_with_what_to_do() -> None:
    late = [observed(seed=seed, late=5) for seed in (2, 3)]
    clips = assess(dict(clip(str(i), each) for i, each in enumerate([observed(seed=1), *late])))
    with pytest.raises(LabError) as told:
        divide(clips, 1)
    assert str(told.value) == (
        "There are 3 clips and 1 to be held out, left out are 1 (out of sync by +5 frames); 2 (out of sync by +5 "
        "frames), which leaves none to train on. What helps: `--align` to shift their sound by the measured lag, or "
        "`--keep-out-of-sync` to use them, or give more video, or hold out fewer (`--hold-out 0` is none)."
    )
    assert [each.name for each in divide(clips, 1, keep_out_of_sync=True)[0]] == ["0"]


def test_blurred_clips_are_flagged_and_sound_ones_held_out() -> None:
    good = [observed(seed=seed) for seed in range(4)]
    blurred = replace(observed(seed=8), sharpness=good[0].sharpness / 9)
    clips = assess(dict([clip(str(i), each) for i, each in enumerate([*good, blurred])]))
    assert [bool(each.problems) for each in clips] == [False] * 4 + [True]
    assert "blurred" in clips[4].problems[0]
    assert [each.name for each in divide(clips, 2)[0]] == ["2", "3"]
    assert [each.name for each in divide(clips[3:], 1)[0]] == ["3"]
    with pytest.raises(LabError, match="There are 5 clips and 5 to be held out, which leaves none to train on"):
        divide(clips, 5)
    held, left_out = divide(clips, 1)
    report = report_json(clips, held, left_out, [], {})
    assert report["flagged"] == ["4"] and report["seconds"] == 20 and report["face_found"] == 1
    lines = report_lines(clips, held, left_out, [])
    assert "5 clips, 20 s; 1 of them flagged" in lines[0] and "held out" in lines[5]


# --- folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as inside:
        (inside / "one").write_text("1")
        assert is_temporary(inside) and not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a") as inside:
        (inside / "two").write_text("2")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "one"]
    with whole_folder(tmp_path / "a") as inside:
        (inside / "three").write_text("3")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "three"]
    (tmp_path / "b").mkdir()
    replace_folder(tmp_path / "b", tmp_path / "a")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"] and not is_temporary(tmp_path / "a")


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (PermissionError(errno.EACCES, "no", "/data/video_000/images"), "/data/video_000/images: Permission denied"),
        (OSError(errno.EROFS, "no", "/data/.list.0123456789ab.txt"), "/data: Read-only file system"),
        (
            RuntimeError('I/O error: Permission denied (os error 13) at path "/data/.tmpAb1"'),
            "/data: Permission denied",
        ),
    ],
)
def test_a_path_that_may_not_be_used_is_named(refused: Exception, named: str) -> None:
    settings = {"--videos": Path("/videos"), "--out": Path("/data")}
    said = f"^{named}. Change its permissions, or set --out to another folder"
    with pytest.raises(LabError, match=said), report_write_errors(settings=settings):
        raise refused
    with pytest.raises(LabError, match=f"^{named}. Change its permissions.$"), report_write_errors(settings={}):
        raise refused
    with pytest.raises(FileNotFoundError), report_write_errors():
        raise FileNotFoundError(errno.ENOENT, "gone", "/data")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskFull, match="There is no room for a in"), whole_folder(tmp_path / "a") as inside:
            (inside / "large").write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert not list(tmp_path.iterdir())
