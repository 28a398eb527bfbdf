"""The toy world: what it promises to those who train on it, seen through its pictures, its truth and its words."""

import pytest
import torch
from torch import Tensor

from training.pocket.world import palette
from training.pocket.world.attributes import AMOUNTS, CHOICES, Attributes, is_held_out, sample_attributes, usual
from training.pocket.world.captions import SAYABLE, caption, visible
from training.pocket.world.figure import draw, render, sheet_of
from training.pocket.world.motion import ACTIONS, sample_actions, sample_motion
from training.pocket.world.pose import MOUTH, REST, Pose
from training.pocket.world.truth import Truth, landmarks_of, masks_of, opening_of, truth
from training.pocket.world.visemes import FPS, NAMES, Sound, mouth_track, shape


def lively(n: int, seed: int = 0) -> tuple[Attributes, Pose]:
    """`n` avatars in poses that use every track."""
    generator = torch.Generator().manual_seed(seed)
    reach = {"zoom": 0.3, "yaw": 0.4, "pitch": 0.25, "roll": 0.2, "x": 0.1, "y": 0.05, "pan_x": 0.1, "pan_y": 0.1}
    signed = {"wide", "gaze_x", "gaze_y", "brow", "smile", *reach}
    tracks: dict[str, Tensor | float] = {}
    for name, rest in REST.items():
        share = torch.rand(n, 1, generator=generator)
        tracks[name] = rest + reach.get(name, 1.0) * (2 * share - 1 if name in signed else share)
    return sample_attributes(n, seed), Pose.of(n, 1, tracks)


def one(attributes: Attributes, pose: Pose | None = None, size: tuple[int, int] = (96, 96)) -> Tensor:
    """The single frame of a single avatar, [3, H, W]."""
    return render(attributes, pose or Pose.rest(1, 1), size)[0, 0]


def changed(first: Tensor, second: Tensor, by: float = 0.04) -> Tensor:
    """Which pixels of two pictures [3, H, W] differ, bool [H, W]."""
    return (first - second).abs().amax(dim=0) > by


def test_a_seed_gives_the_same_bytes() -> None:
    pictures = []
    for _ in range(2):
        attributes = sample_attributes(3, seed=11)
        pose = sample_motion(3, 2, seed=12, actions=sample_actions(3, seed=13))
        pictures.append(render(attributes, pose, (64, 64)).numpy().tobytes())
    assert pictures[0] == pictures[1]
    other = render(sample_attributes(3, seed=14), Pose.rest(3, 1), (64, 64))
    assert changed(other[0, 0], other[1, 0]).float().mean() > 0.2


def test_a_batch_draws_what_its_members_draw_alone() -> None:
    attributes, pose = lively(12)
    together = render(attributes, pose, (64, 80))
    assert together.shape == (12, 1, 3, 64, 80)
    assert together.min() >= 0 and together.max() <= 1
    for i in range(12):
        alone = render(attributes.select(slice(i, i + 1)), Pose(pose.values[i : i + 1]), (64, 80))
        torch.testing.assert_close(alone[0], together[i], atol=2e-4, rtol=0)


def test_windows_and_absent_parts_change_no_pixel() -> None:
    attributes, pose = lively(12, seed=1)
    everything = draw(sheet_of(attributes, pose), 80, 64)
    torch.testing.assert_close(render(attributes, pose, (80, 64))[:, 0], everything, atol=2e-4, rtol=0)


def test_the_drawing_stays_on_its_device_and_waits_for_no_value() -> None:
    # Tensors on "meta" have no values and mix with no other device's: reading one, or making one elsewhere, raises.
    attributes, pose = lively(2)
    away = sheet_of(attributes, pose).to("meta")
    assert draw(away, 32, 48).shape == (2, 3, 32, 48)
    assert masks_of(away, 32, 48)[1].shape == (2, 32, 48)
    assert opening_of(away).shape == (2,)
    assert landmarks_of(away, 32, 48)["face_oval"].shape == (2, 36, 2)


@pytest.mark.parametrize("size", [(96, 96), (64, 112), (128, 72)])
def test_a_small_picture_is_a_large_one_seen_from_afar(size: tuple[int, int]) -> None:
    attributes, pose = lively(4, seed=2)
    height, width = size
    large = render(attributes, pose, (4 * height, 4 * width))[:, 0]
    small = render(attributes, pose, size)[:, 0]
    difference = (torch.nn.functional.avg_pool2d(large, 4) - small).abs()
    assert difference.mean() < 0.004
    assert difference.flatten().quantile(0.995) < 0.12


def test_edges_are_smooth_at_one_pixel() -> None:
    # Above the head is nothing but a disc and what is behind it: two colours, and mixtures of them along the edge.
    above = one(usual(hair="bald", background="circle", background_colour="green"))[0, :10]
    levels = above.unique()
    between = (above > levels[0] + 0.01) & (above < levels[-1] - 0.01)
    assert len(levels) > 12
    assert 20 < int(between.sum()) < 200
    # A mixture never lies beside another one on both sides: the edge is no wider than a pixel or two.
    assert not (between[:-2] & between[1:-1] & between[2:]).any()


@pytest.mark.parametrize("name", CHOICES)
def test_every_word_of_every_choice_is_seen(name: str) -> None:
    # What something else must be for the choice to show.
    needs = {
        "glasses_colour": {"glasses": "round"},
        "hat_colour": {"hat": "beanie"},
        "beard": {"person": "man"},
        "lipstick": {"person": "woman"},
    }
    look = {"hair_colour": "brown", "skin": "light", "background_colour": "teal", "fringe": "side parting"}
    sheets = [usual().having(**{**look, **needs.get(name, {}), name: word}) for word in CHOICES[name]]
    everyone = Attributes(torch.cat([sheet.chosen for sheet in sheets]), torch.cat([sheet.amounts for sheet in sheets]))
    pictures = render(everyone, Pose.rest(len(everyone), 1), (128, 128))[:, 0]
    for i in range(len(pictures)):
        for j in range(i):
            pixels = int(changed(pictures[i], pictures[j]).sum())
            assert pixels >= 12, f"{name}: {CHOICES[name][i]} and {CHOICES[name][j]} differ in {pixels} pixels"


@pytest.mark.parametrize("name", AMOUNTS)
def test_every_amount_is_seen(name: str) -> None:
    look = usual(hair="short" if name == "ear_size" else "bob", skin="light")
    less, more = (one(look.having(**{name: amount})) for amount in (-1.0, 1.0))
    assert (less - more).abs().sum() > 3


def test_colours_are_measurable_and_clearly_apart() -> None:
    for listed in (palette.HAIR, palette.SKIN, palette.CLOTHES, palette.BACKGROUND):
        colours = palette.colours(listed)
        apart = torch.cdist(colours, colours) + 10 * torch.eye(len(colours))
        assert apart.min() > 0.1
    look = usual(hair="bob", hair_colour="green", clothes_colour="purple", background_colour="orange", skin="tan")
    picture = (one(look, size=(128, 128)) * 255).round()
    for rgb, at_least in (
        (palette.HAIR["green"], 800),
        (palette.CLOTHES["purple"], 500),
        (palette.BACKGROUND["orange"], 4000),
        (palette.SKIN["tan"], 800),
    ):
        near = (picture - torch.tensor(rgb)[:, None, None]).abs().amax(dim=0) <= 2
        assert int(near.sum()) >= at_least


def test_training_never_sees_a_held_out_pair() -> None:
    train, held = sample_attributes(4000, seed=5), sample_attributes(400, seed=5, split="held_out")
    assert not is_held_out(train).any()
    assert is_held_out(held).all()

    def pairs(attributes: Attributes, first: str, second: str) -> set[tuple[int, int]]:
        return set(zip(attributes[first].tolist(), attributes[second].tolist(), strict=True))

    new = 0
    for first, second in (("hair", "hair_colour"), ("clothes", "clothes_colour")):
        unseen = pairs(held, first, second) - pairs(train, first, second)
        new += len(unseen)
        for name in (first, second):
            # Every word by itself is known from training: only its company is new.
            assert set(train[name].tolist()) == set(range(len(CHOICES[name])))
    assert new >= 12
    with pytest.raises(ValueError, match="'test'"):
        sample_attributes(1, seed=0, split="test")  # type: ignore[arg-type]


def test_people_are_plausible() -> None:
    drawn = sample_attributes(2000, seed=6)
    beard, hair = drawn["beard"] > 0, drawn["hair"]
    person = drawn["person"]
    men = (person == CHOICES["person"].index("man")) | (person == CHOICES["person"].index("old man"))
    assert beard[men].any() and not beard[~men].any()
    bald = hair == CHOICES["hair"].index("bald")
    assert not (bald & (drawn["hat"] == CHOICES["hat"].index("headband"))).any()
    for name, words in CHOICES.items():
        assert len(drawn[name].unique()) == len(words), name
    assert drawn.amounts.abs().max() <= 1


def test_unknown_words_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="mohawk"):
        usual(hair="mohawk")
    with pytest.raises(KeyError, match="wings"):
        usual(wings="large")
    with pytest.raises(KeyError, match="XX"):
        mouth_track([Sound(0, 1, "XX")], 4)
    with pytest.raises(ValueError, match="before its start"):
        mouth_track([Sound(1, 0.5, "AA")], 4)
    with pytest.raises(KeyError, match="cartwheel"):
        sample_motion(1, 4, seed=0, actions=[("cartwheel",)])
    with pytest.raises(ValueError, match="2 avatars and 3 poses"):
        render(usual(2), Pose.rest(3, 1), (16, 16))


def faces(seed: int, n: int = 6) -> tuple[Attributes, Pose, Tensor, Truth]:
    """Faces that nothing covers, in lively poses, with their pictures [N, 3, 128, 128] and truth."""
    attributes, pose = lively(n, seed)
    attributes = attributes.having(hair="bald", hat="none", glasses="none", beard="none", background="plain")
    return attributes, pose, render(attributes, pose)[:, 0], truth(attributes, pose)


def test_the_lip_mask_is_where_a_mouth_that_moves_changes_the_picture() -> None:
    attributes, pose, before, _ = faces(seed=3)
    pose = pose.having(open=0.5, press=0.0, tuck=0.0)
    before, first = render(attributes, pose)[:, 0], truth(attributes, pose)
    moved = pose.having(round=1.0 - pose["round"].round(), teeth=0.8, tongue=0.9, wide=-0.4)
    after, second = render(attributes, moved)[:, 0], truth(attributes, moved)
    for i in range(len(attributes)):
        change = (after[i] - before[i]).abs().sum(dim=0)
        lips = torch.maximum(first.lip_mask[i, 0], second.lip_mask[i, 0]) > 0
        assert change[lips].sum() > 0.85 * change.sum()
        assert change.sum() > 5


def test_the_face_mask_is_where_the_skin_of_the_face_is() -> None:
    attributes, pose, pictures, known = faces(seed=4)
    # The same faces with other skin: what changes is skin, and above the neck it lies in the mask or is an ear.
    other = attributes.having(skin="olive")
    for i, picture in enumerate(render(other, pose)[:, 0]):
        oval = known.landmarks["face_oval"][i, 0]
        top, bottom = int(oval[:, 1].min().clamp(0, 127)), int(oval[:, 1].max().clamp(1, 128))
        left, right = int(oval[:, 0].min().clamp(0, 127)), int(oval[:, 0].max().clamp(1, 128))
        if attributes.word("skin", i) == "olive":
            continue
        skin = changed(picture, pictures[i])
        mask = known.face_mask[i, 0] > 0.5
        within = torch.zeros_like(mask)
        within[top : (top + 2 * bottom) // 3, left:right] = True
        assert (skin & mask & within).sum() > 0.75 * (mask & within).sum()
        assert (skin & within & ~mask).sum() < 0.12 * (skin & within).sum()


def test_the_face_oval_and_the_lips_lie_on_the_edges_of_their_masks() -> None:
    _, _, _, known = faces(seed=5, n=8)
    assert known.face_mask.shape == known.lip_mask.shape == (8, 1, 128, 128)
    assert known.landmarks["face_oval"].shape == (8, 1, 36, 2)
    assert known.landmarks["lips_outer"].shape == known.landmarks["lips_inner"].shape == (8, 1, 20, 2)
    for mask, points in (
        (known.face_mask, known.landmarks["face_oval"]),
        (known.lip_mask, known.landmarks["lips_outer"]),
    ):
        place = points[:, 0] / 64 - 1
        seen = (place.abs() < 0.95).all(dim=-1)
        found = torch.nn.functional.grid_sample(mask, place[:, None], align_corners=False)[:, 0, 0]
        # On an edge a soft mask is about a half; a pixel to either side it is 0 or 1.
        assert ((found - 0.5).abs() < 0.45)[seen].float().mean() > 0.9
        assert (found[seen].mean() - 0.5).abs() < 0.15


def test_landmarks_are_ordered_as_in_the_face_mesh() -> None:
    known = truth(usual(), Pose.of(1, 1, {"open": 0.8}), (128, 128))
    mark = {name: points[0, 0] for name, points in known.landmarks.items()}
    oval, outer, inner = mark["face_oval"], mark["lips_outer"], mark["lips_inner"]
    assert oval[:, 1].argmin() == 0 and oval[:, 1].argmax() == 18
    assert 7 <= int(oval[:, 0].argmax()) <= 11 and 25 <= int(oval[:, 0].argmin()) <= 29
    for lips in (outer, inner):
        assert lips[:, 0].argmin() == 0 and lips[:, 0].argmax() == 10
        assert lips[5, 1] > lips[15, 1] + 8
    assert inner[5, 1] < outer[5, 1] and inner[15, 1] > outer[15, 1]
    assert torch.equal(mark["mouth_corners"], outer[[0, 10]])
    for side, sign in (("left", -1), ("right", 1)):
        eye = mark[f"{side}_eye"]
        assert (eye[0, 0] - eye[8, 0]) * sign > 5
        assert eye[4, 1] > eye[12, 1]
        assert (mark[f"{side}_iris"][0] - eye.mean(dim=0)).abs().max() < 2
        assert mark[f"{side}_brow"][:, 1].max() < eye[:, 1].min()
    assert eye[:, 1].max() < mark["nose_tip"][0, 1] < outer[:, 1].min()


def test_landmarks_turn_and_zoom_with_the_head() -> None:
    straight = truth(usual(), Pose.rest(1, 1)).landmarks
    turned = truth(usual(), Pose.of(1, 1, {"yaw": 0.4})).landmarks
    oval_shift = (turned["face_oval"] - straight["face_oval"])[..., 0].mean()
    nose_shift = (turned["nose_tip"] - straight["nose_tip"])[..., 0].mean()
    assert nose_shift > oval_shift + 4
    near = truth(usual(), Pose.of(1, 1, {"zoom": 2.0})).landmarks
    torch.testing.assert_close(near["face_oval"] - 64, 2 * (straight["face_oval"] - 64), atol=0.01, rtol=0)
    large = truth(usual(), Pose.rest(1, 1), (256, 256)).landmarks
    torch.testing.assert_close(large["lips_outer"], 2 * straight["lips_outer"], atol=0.01, rtol=0)


def test_the_opening_is_what_the_picture_shows() -> None:
    attributes, _, _, _ = faces(seed=6, n=4)
    steps = torch.linspace(0, 1, 6).expand(4, 6)
    pose = Pose.of(4, 6, {"open": steps})
    known = truth(attributes, pose)
    assert (known.opening[:, 0] < 0.02).all() and ((known.opening[:, -1] - 1).abs() < 0.1).all()
    assert (known.opening.diff(dim=1) > 0.1).all()
    inner = known.landmarks["lips_inner"]
    gap = inner[:, :, 5, 1] - inner[:, :, 15, 1]
    assert (gap[:, -1] > 14).all() and (gap[:, 0] < 1.5).all()
    # Nothing but the inside of a mouth is so dark and red, and it grows with the opening.
    pictures = render(attributes, pose)
    dark = (pictures - torch.tensor([76, 15, 23])[:, None, None] / 255).abs().amax(dim=2) < 0.06
    area = dark.sum(dim=(2, 3)).float()
    assert (area[:, -1] > area[:, 2]).all() and (area[:, 2] > area[:, 0]).all()


def test_visemes_look_different() -> None:
    mouths = torch.stack([shape(name) for name in NAMES])[:, None]
    look = Attributes(usual().chosen.repeat(len(NAMES), 1), usual().amounts.repeat(len(NAMES), 1))
    pictures = render(look, Pose.rest(len(NAMES), 1).speaking(mouths))[:, 0]
    for i in range(len(NAMES)):
        for j in range(i):
            assert (pictures[i] - pictures[j]).abs().sum() > 8, f"{NAMES[i]} looks like {NAMES[j]}"


def test_a_mouth_track_reaches_its_targets_and_rests_in_silence() -> None:
    sounds = [Sound(0.5, 1.0, "AA"), Sound(1.0, 1.09, "M"), Sound(1.09, 1.6, "UW")]
    track = mouth_track(sounds, 32)
    assert track.mouth.shape == (32, len(MOUTH)) and track.weights.shape == (32, len(NAMES))
    torch.testing.assert_close(track.weights.sum(dim=1), torch.ones(32))
    opening, rounding = track.mouth[:, 0], track.mouth[:, MOUTH.index("round")]
    assert opening[:5].max() < 0.02 and opening[-3:].max() < 0.02
    assert opening[12] > 0.9 and rounding[22] > 0.9
    # The closure between two vowels is seen although it is hardly longer than a frame, and it holds the vowels' lips
    # apart from each other only so far: rounding begins before its own vowel does.
    assert opening[16] < 0.45 * opening[12]
    assert rounding[16] > 0.1


def test_quiet_sounds_open_less_and_keep_their_shape() -> None:
    loud, quiet = (mouth_track([Sound(0.2, 1.0, "OH", loudness)], 16).mouth[10] for loudness in (1.0, 0.3))
    assert quiet[0] < 0.4 * loud[0]
    torch.testing.assert_close(quiet[1:], loud[1:])


def test_tracks_go_on_from_one_segment_to_the_next() -> None:
    sounds = [Sound(0.1 * i, 0.1 * i + 0.1, NAMES[i % len(NAMES)]) for i in range(60)]
    whole = mouth_track(sounds, 80)
    later = mouth_track(sounds, 40, start=40 / FPS)
    torch.testing.assert_close(later.mouth, whole.mouth[40:])
    actions = sample_actions(5, seed=1)
    moving = sample_motion(5, 80, seed=2, actions=actions)
    going_on = sample_motion(5, 40, seed=2, actions=actions, start=40 / FPS, duration=80 / FPS)
    torch.testing.assert_close(going_on.values, moving.values[:, 40:])


def test_idle_motion_is_smooth_alive_and_blinks() -> None:
    pose = sample_motion(16, 10 * FPS, seed=3)
    for name in ("yaw", "pitch", "roll", "x", "y"):
        track = pose[name]
        assert track.diff(dim=1).abs().max() < 0.06
        assert (track.amax(dim=1) - track.amin(dim=1)).min() > 0.005
    blinks = (pose["blink"] > 0.6).float().diff(dim=1).clamp(min=0).sum(dim=1)
    assert blinks.min() >= 1 and blinks.max() <= 6
    assert (pose["blink"].mean() < 0.15) and (pose["open"] == 0).all()


@pytest.mark.parametrize("name", ACTIONS)
def test_every_movement_moves_what_it_names(name: str) -> None:
    pose = sample_motion(8, 33, seed=4, actions=[(name,)] * 8)
    last, first = pose.values[:, -1] - pose.values[:, 0], list(REST)
    ends = {
        "turn left": ("yaw", -0.3),
        "turn right": ("yaw", 0.3),
        "look up": ("pitch", -0.2),
        "look down": ("pitch", 0.2),
        "glance left": ("gaze_x", -0.3),
        "glance right": ("gaze_x", 0.3),
        "tilt left": ("roll", -0.2),
        "tilt right": ("roll", 0.2),
        "close eyes": ("blink", 0.6),
        "raise brows": ("brow", 0.6),
        "smile": ("smile", 0.6),
        "open mouth": ("open", 0.6),
        "zoom in": ("zoom", 0.3),
        "zoom out": ("zoom", -0.2),
        "pan left": ("pan_x", -0.3),
        "pan right": ("pan_x", 0.3),
        "pan up": ("pan_y", -0.2),
        "pan down": ("pan_y", 0.2),
    }
    swings = {"nod": ("pitch", 0.2), "shake head": ("yaw", 0.4), "blink": ("blink", 0.9), "sway": ("x", 0.2)}
    if name in ends:
        track, least = ends[name]
        assert (last[:, first.index(track)] / least).median() > 1
    else:
        track, least = swings[name]
        values = pose[track]
        assert (values.amax(dim=1) - values.amin(dim=1)).min() > least
    still = render(usual(8), Pose(pose.values[:, :1]), (64, 64))
    furthest = int((pose.values - pose.values[:, :1]).abs().amax(dim=(0, 2)).argmax())
    moved = render(usual(8), Pose(pose.values[:, furthest : furthest + 1]), (64, 64))
    assert (still - moved).abs().sum(dim=(1, 2, 3, 4)).min() > 5


def test_captions_say_what_is_seen_and_only_that() -> None:
    attributes = sample_attributes(150, seed=8)
    texts = set()
    for i in range(len(attributes)):
        text = caption(attributes, i, seed=9, must=SAYABLE)
        look, shown = attributes.describe(i), visible(attributes, i)
        texts.add(text)
        assert f"{look['background_colour']} background" in text or f"{look['background_colour']} wall" in text
        if "hair" in shown and look["hair"] != "bald":
            assert look["hair_colour"] in text
        assert f"{look['skin']} skin" in text
        assert f"{look['clothes_colour']} " in text and look["clothes"] in text
        assert ("glasses" in text) == (look["glasses"] != "none")
        assert ("earrings" in text) == ("earrings" in shown)
        assert ("freckles" in text) == (look["freckles"] != "none")
        assert (look["hat"] in text) == (look["hat"] != "none")
        assert " a orange" not in text and "{" not in text and "  " not in text
    assert len(texts) == 150
    assert caption(attributes, 0, seed=9) == caption(attributes, 0, seed=9)
    assert len({caption(attributes, 0, seed=seed) for seed in range(30)}) > 25
    with pytest.raises(KeyError, match="shoes"):
        caption(attributes, 0, seed=0, must=["shoes"])


@pytest.mark.parametrize("name", ACTIONS)
def test_captions_name_every_movement(name: str) -> None:
    she, he = usual(person="woman"), usual(person="old man")
    word = {"shake head": "shak", "raise brows": "eyebrows", "sway": ("sway", "dance", "rock"), "glance left": "left"}
    word |= {"glance right": "right", "turn left": "left", "turn right": "right", "tilt left": "left"}
    word |= {
        "tilt right": "right",
        "zoom in": ("zoom in", "zooms in", "closer"),
        "zoom out": ("zoom out", "zooms out", "back"),
    }
    expected = word.get(name, name.split()[-1])
    for seed in range(12):
        text = caption(she, 0, seed, actions=[name], brief=True)
        assert any(part in text for part in ([expected] if isinstance(expected, str) else expected)), text
        if "camera" not in text and "zoom" not in text:
            assert text.startswith("she ") and " his " not in text
            assert caption(he, 0, seed, actions=[name], brief=True).startswith("he ")
        assert text in caption(she, 0, seed, actions=[name])


def test_actions_drawn_together_go_together() -> None:
    drawn = sample_actions(300, seed=10)
    assert {name for names in drawn for name in names} == set(ACTIONS)
    assert () in drawn and max(map(len, drawn)) == 2
    assert not any({"turn left", "turn right"} <= set(names) for names in drawn)
