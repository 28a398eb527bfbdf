"""Metrics: loudness and sync, colours, likeness, borders."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wanavatar_lab import metrics
from wanavatar_lab.metrics.lip_sync import FPS, RATE, silent_frames

# Sharma, Wu and Dalal (2005), table 1: two Lab colours and their CIEDE2000, chosen where implementations go wrong.
SHARMA = (
    ((50.0000, 2.6772, -79.7751), (50.0000, 0.0000, -82.7485), 2.0425),
    ((50.0000, 3.1571, -77.2803), (50.0000, 0.0000, -82.7485), 2.8615),
    ((50.0000, 2.8361, -74.0200), (50.0000, 0.0000, -82.7485), 3.4412),
    ((50.0000, -1.3802, -84.2814), (50.0000, 0.0000, -82.7485), 1.0000),
    ((50.0000, -1.1848, -84.8006), (50.0000, 0.0000, -82.7485), 1.0000),
    ((50.0000, -0.9009, -85.5211), (50.0000, 0.0000, -82.7485), 1.0000),
    ((50.0000, 0.0000, 0.0000), (50.0000, -1.0000, 2.0000), 2.3669),
    ((50.0000, -1.0000, 2.0000), (50.0000, 0.0000, 0.0000), 2.3669),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0009), 7.1792),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0010), 7.1792),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0011), 7.2195),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0012), 7.2195),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0009, -2.4900), 4.8045),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0010, -2.4900), 4.8045),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0011, -2.4900), 4.7461),
    ((50.0000, 2.5000, 0.0000), (50.0000, 0.0000, -2.5000), 4.3065),
    ((50.0000, 2.5000, 0.0000), (73.0000, 25.0000, -18.0000), 27.1492),
    ((50.0000, 2.5000, 0.0000), (61.0000, -5.0000, 29.0000), 22.8977),
    ((50.0000, 2.5000, 0.0000), (56.0000, -27.0000, -3.0000), 31.9030),
    ((50.0000, 2.5000, 0.0000), (58.0000, 24.0000, 15.0000), 19.4535),
    ((50.0000, 2.5000, 0.0000), (50.0000, 3.1736, 0.5854), 1.0000),
    ((50.0000, 2.5000, 0.0000), (50.0000, 3.2972, 0.0000), 1.0000),
    ((50.0000, 2.5000, 0.0000), (50.0000, 1.8634, 0.5757), 1.0000),
    ((50.0000, 2.5000, 0.0000), (50.0000, 3.2592, 0.3350), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((61.2901, 3.7196, -5.3901), (61.4292, 2.2480, -4.9620), 1.8731),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((36.4612, 47.8580, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
)


def said(seconds: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A sound that comes and goes, its last second silent, and the amplitude of its envelope in every frame."""
    generator = np.random.default_rng(seed)
    frames = round(seconds * FPS)
    envelope = generator.random(frames)
    envelope[-FPS:] = 0
    tone = np.sin(np.arange(frames * RATE // FPS) * 2 * np.pi * 200 / RATE)
    return envelope.repeat(RATE // FPS) * tone, envelope


def test_loudness_is_the_root_mean_square_of_each_frame() -> None:
    sound = np.concatenate([np.zeros(1000), 0.5 * np.sin(np.arange(1500) * np.pi / 4)])
    assert metrics.loudness(sound) == pytest.approx([0.0, 0.5 / np.sqrt(2), 0.5 / 2], abs=1e-3)
    assert metrics.loudness(sound, frames=5)[3:] == pytest.approx([0, 0])


def test_the_lag_of_a_late_mouth_is_found_and_constant_tracks_are_refused() -> None:
    track = np.random.default_rng(0).random(80)
    assert [metrics.best_lag(np.roll(track, shift), track) for shift in (-2, 0, 3)] == [-2, 0, 3]
    with pytest.raises(ValueError, match="does not change"):
        metrics.correlation(track, np.ones(80))
    with pytest.raises(ValueError, match="same length"):
        metrics.correlation(track, track[1:])


def test_a_mouth_that_follows_the_sound_correlates_with_it_alone() -> None:
    sound, envelope = said(6, seed=1)
    other, _ = said(5, seed=2)
    found = metrics.lip_sync(0.2 + 0.5 * envelope, sound, truth=envelope, other=other)
    assert found.r > 0.999 and found.lag == 0 and found.r_truth == pytest.approx(1)
    assert found.r_other is not None and abs(found.r_other) < 0.35
    assert found.silence == pytest.approx(0.2)
    late = metrics.lip_sync(np.roll(envelope, 3), sound)
    assert late.lag == 3 and late.r_at_lag > 0.99 > late.r + 0.5
    assert late.r_truth is None and late.r_other is None


def test_silence_keeps_clear_of_what_is_said() -> None:
    level = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1.0, 0.01])
    assert silent_frames(level, margin=1).tolist() == [True] * 3 + [False] * 4 + [True] * 3 + [False] * 3
    assert silent_frames(np.zeros(4)).all()
    assert silent_frames(np.zeros(0)).shape == (0,)
    assert silent_frames(np.ones(3), margin=5).tolist() == [False] * 3


@pytest.mark.parametrize(("first", "second", "difference"), SHARMA)
def test_ciede2000_gives_the_published_differences(
    first: tuple[float, ...], second: tuple[float, ...], difference: float
) -> None:
    assert metrics.delta_e2000(first, second) == pytest.approx(difference, abs=5e-5)
    assert metrics.delta_e2000(second, first) == pytest.approx(difference, abs=5e-5)


def test_lab_of_well_known_colours() -> None:
    colours = [(1, 1, 1), (0, 0, 0), (1, 0, 0), (0, 0, 1), (0.5, 0.5, 0.5)]
    wanted = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86), (53.39, 0, 0)]
    assert metrics.srgb_to_lab(colours) == pytest.approx(np.array(wanted), abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_difference_is_symmetric_and_never_negative(channels: list[float]) -> None:
    first, second = metrics.srgb_to_lab(channels[:3]), metrics.srgb_to_lab(channels[3:])
    assert metrics.delta_e2000(first, second) == pytest.approx(float(metrics.delta_e2000(second, first)))
    assert metrics.delta_e2000(first, second) >= 0
    assert metrics.delta_e2000(first, first) == pytest.approx(0, abs=1e-9)


class Known:
    """A source of masks that are known already."""

    def __init__(self, known: Mapping[str, NDArray[np.float64]]) -> None:
        self.known = known

    def regions(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]:
        return {name: np.broadcast_to(mask, (len(frames), *mask.shape)) for name, mask in self.known.items()}


def halves(left: tuple[int, ...], right: tuple[int, ...], frames: int = 4) -> NDArray[np.uint8]:
    """Frames whose left half has one colour and whose right half has another."""
    picture = np.empty((frames, 8, 16, 3), np.uint8)
    picture[:, :, :8], picture[:, :, 8:] = left, right
    return picture


LEFT = np.concatenate([np.ones((4, 4)), np.zeros((4, 4))], axis=1)
SIDES = Known({"hair": LEFT, "skin": 1 - LEFT})


def test_likeness_tells_how_far_a_colour_has_gone_and_in_which_segment() -> None:
    brown, light, red = (102, 64, 40), (243, 200, 168), (200, 72, 36)
    reference = halves(brown, light)[0]
    clip = np.concatenate([halves(brown, light, 6), halves(red, light, 4)])
    found = metrics.likeness(reference, clip, SIDES, borders=[6])
    expected = float(metrics.delta_e2000(*(metrics.srgb_to_lab(np.array(colour) / 255) for colour in (brown, red))))
    assert found.segments[0] == pytest.approx({"hair": 0, "skin": 0}, abs=1e-6)
    assert found.worst == pytest.approx({"hair": expected, "skin": 0}, abs=1e-6)
    assert found.reference["skin"] == pytest.approx(np.array(light) / 255)


def test_a_region_that_is_gone_is_not_near() -> None:
    class Vanishing(Known):
        def regions(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]:
            masks = super().regions(frames)
            return masks if len(frames) == 1 else {"skin": masks["skin"]}

    reference = halves((9, 9, 9), (250, 250, 250))
    found = metrics.likeness(reference[0], reference, Vanishing(SIDES.known))
    assert found.worst["hair"] == math.inf
    assert found.worst["skin"] == pytest.approx(0, abs=1e-6)


def test_likeness_refuses_what_cannot_be_compared() -> None:
    frames = halves((9, 9, 9), (250, 250, 250))
    with pytest.raises(ValueError, match="no frames"):
        metrics.likeness(frames[0], frames[:0], SIDES)
    with pytest.raises(ValueError, match="no hair, skin"):
        metrics.likeness(frames[0], frames, Known({"hair": np.zeros((4, 8))}))
    with pytest.raises(ValueError, match="3 x 8 does not divide"):
        metrics.likeness(frames[0], frames, Known({"hair": np.ones((3, 8))}))


def test_a_jump_at_a_border_is_seen_against_the_usual_change() -> None:
    steps = np.ones(240)
    steps[157 - 1] = 7
    levels = np.concatenate([[0], np.cumsum(steps)])[:240]
    clip = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (240, 4, 4, 3))
    assert metrics.segment_borders(240) == [77, 157, 237]
    assert metrics.segment_borders(240, first=80) == [80, 160]
    found = metrics.border_jumps(clip, metrics.segment_borders(240))
    assert list(found.at_borders) == [1, 7, 1]
    assert found.median == 1
    assert metrics.frame_differences(clip) == pytest.approx(np.abs(np.diff(levels)))


def test_borders_outside_of_the_clip_and_still_clips_are_refused() -> None:
    still = np.zeros((20, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="not all within a clip of 20 frames"):
        metrics.border_jumps(still, [20])
    with pytest.raises(ValueError, match="not all within"):
        metrics.border_jumps(still, [])
    with pytest.raises(ValueError, match="equal the one before"):
        metrics.border_jumps(still, [10])
