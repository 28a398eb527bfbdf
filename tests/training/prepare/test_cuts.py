"""Where recordings are cut: lengths, silences, and that nothing is said twice."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.prepare.clip_folder import FPS, RATE
from training.prepare.cuts import LONGEST, SHORTEST, Span, cut_at_silences

STEP = RATE // FPS


def speech(*parts: tuple[bool, int], level: float = 0.3, noise: float = 0.0) -> NDArray[np.float32]:
    """Sound of (is it speech, how many 1/16 s) after each other."""
    generator = np.random.default_rng(0)
    loud = np.concatenate([np.full(steps * STEP, level if said else 0.0) for said, steps in parts])
    carrier = generator.standard_normal(len(loud))
    return (loud * np.clip(carrier, -2, 2) / 2 + noise * carrier).astype(np.float32)


def test_a_long_recording_is_cut_in_its_pauses() -> None:
    sound = speech((False, 10), (True, 120), (False, 6), (True, 130), (False, 8), (True, 110), (False, 10))
    cuts = cut_at_silences(sound)
    assert [span.through_speech for span in cuts.spans] == [False] * 3 and not cuts.too_short
    # every cut is inside a pause: frames 130 to 136, 266 to 274
    (first, second, third) = cuts.spans
    assert (first.start, third.end) == (10 - 4, 384 + 4)
    assert first.end == second.start and 131 <= first.end <= 135
    assert second.end == third.start and 267 <= second.end <= 273
    assert third.seconds == third.start / 16


def test_long_pauses_are_left_out() -> None:
    cuts = cut_at_silences(speech((True, 60), (False, 64), (True, 60)))
    assert cuts.spans == (Span(0, 64), Span(120, 184))


def test_noise_in_the_room_hides_no_pause() -> None:
    sound = speech((True, 100), (False, 8), (True, 100), noise=0.01)
    assert cut_at_silences(sound).spans[0].end in range(101, 108)


def test_speech_without_a_pause_is_cut_all_the_same_and_says_so() -> None:
    cuts = cut_at_silences(speech((True, 400)))
    assert len(cuts.spans) == 3 and all(span.through_speech for span in cuts.spans)
    assert sum(span.frames for span in cuts.spans) == 400


def test_no_clip_is_across_a_change_of_scene() -> None:
    sound = speech((False, 10), (True, 120), (False, 6), (True, 130), (False, 8), (True, 110), (False, 10))
    # in speech, in a pause, and too near to the end for a clip
    cuts = cut_at_silences(sound, [45, 133, 370])
    assert [(scene.start, scene.end) for scene in cuts.scenes] == [(0, 45), (45, 133), (133, 370), (370, 394)]
    for span in cuts.spans:
        scene = cuts.scene_of(span)
        assert scene.start <= span.start and span.end <= scene.end
    assert [(span.start, span.end) for span in cuts.too_short] == [(0, 45), (370, 394)]
    first, second, third = cuts.spans
    # at a change of scene somebody speaks on, but not in the pause
    assert (first.start, first.end, first.through_speech) == (45, 133, True)
    assert second.start == 133 and not second.through_speech and 267 <= second.end <= 273
    assert third.end == 370 and third.through_speech


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 90)), min_size=1, max_size=6),
    st.lists(st.integers(0, 400), max_size=5),
)
def test_clips_stay_inside_of_scenes_and_apart(parts: list[tuple[bool, int]], changes: list[int]) -> None:
    cuts = cut_at_silences(speech(*parts), changes)
    for span in cuts.spans:
        assert SHORTEST <= span.frames <= LONGEST
        assert not any(span.start < change < span.end for change in changes)
    for one, other in pairwise(cuts.spans):
        assert one.end <= other.start


def test_a_short_sentence_gets_the_silence_about_it() -> None:
    (span,) = cut_at_silences(speech((False, 20), (True, 30), (False, 40))).spans
    assert span.frames == SHORTEST and span.start <= 16 and span.end >= 54
    # at the beginning of the recording, all of it comes from behind
    assert cut_at_silences(speech((True, 30), (False, 40))).spans == (Span(0, SHORTEST),)
    # between two others there is none to have
    cuts = cut_at_silences(speech((True, 60), (False, 17), (True, 10), (False, 17), (True, 60)))
    assert [span.frames for span in cuts.too_short] == [27] and len(cuts.spans) == 2


def test_silence_gives_nothing() -> None:
    assert cut_at_silences(np.zeros(10 * RATE, np.float32)).spans == ()
    assert cut_at_silences(speech((True, 100), level=0.001)).spans == ()
    assert cut_at_silences(np.zeros(0)).spans == ()
    assert cut_at_silences(np.full(STEP - 1, 0.5)).spans == ()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 150)), min_size=1, max_size=8), st.sampled_from([0.0, 0.003]))
def test_whatever_is_said_clips_have_their_lengths_and_do_not_overlap(
    parts: list[tuple[bool, int]], noise: float
) -> None:
    cuts = cut_at_silences(speech(*parts, noise=noise))
    total = sum(steps for _, steps in parts)
    spans = sorted([*cuts.spans, *cuts.too_short], key=lambda span: span.start)
    assert all(SHORTEST <= span.frames <= LONGEST for span in cuts.spans)
    assert all(span.frames < SHORTEST for span in cuts.too_short)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert not spans or (spans[0].start >= 0 and spans[-1].end <= total)
    if noise == 0:
        # all that is said is in one of them
        covered = np.zeros(total, dtype=bool)
        for span in spans:
            covered[span.start : span.end] = True
        said = np.repeat([said for said, _ in parts], [steps for _, steps in parts])
        assert covered[said].all()
