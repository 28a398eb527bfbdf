"""The masks of frames against the drawn world, and what a frame without a face gets."""

import numpy as np

from tests.training.faces import face
from training.pocket.world.attributes import usual
from training.pocket.world.pose import Pose
from training.pocket.world.truth import truth
from training.prepare.draw_masks import Dilation, MaskMaker
from wanavatar_lab.metrics.landmarks import Face


def test_masks_are_those_of_the_drawn_world() -> None:
    pose = Pose.of(1, 1, {"open": 0.6, "yaw": 0.2, "roll": 0.15})
    known = truth(usual(), pose, (128, 128))
    points = {name: each[0, 0].double().numpy() for name, each in known.landmarks.items()}
    maker = MaskMaker((128, 128), Dilation(0, 0), "invalid")
    made = maker.of(Face(points["face_oval"], points["lips_outer"], points["lips_inner"]))
    for mask, soft in ((made.face, known.face_mask[0, 0]), (made.lips, known.lip_mask[0, 0])):
        inside, wanted = mask > 0, soft.numpy() > 0.5
        assert (inside & wanted).sum() / (inside | wanted).sum() > 0.93


def test_masks_grow_with_the_face() -> None:
    plain, grown = (MaskMaker((128, 128), dilation, "invalid").of(face()) for dilation in (Dilation(0, 0), Dilation()))
    # a fiftieth of 80 pixels is 1.6, and a disc of that reach takes in one pixel at every side
    assert np.ptp(np.argwhere(grown.face)[:, 0]) == np.ptp(np.argwhere(plain.face)[:, 0]) + 2
    assert (grown.lips[plain.lips > 0] == 255).all() and grown.valid


def test_a_frame_without_a_face_is_invalid() -> None:
    maker = MaskMaker((64, 48), Dilation(), "invalid")
    maker.of(face())
    missing = maker.of(None)
    assert not missing.valid and not missing.face.any() and not missing.lips.any()
    assert missing.face.shape == (64, 48)


def test_the_predecessors_rule_is_kept_where_it_is_asked_for() -> None:
    maker = MaskMaker((128, 128), Dilation(), "previous")
    first, seen, later = maker.of(None), maker.of(face()), maker.of(None)
    assert (first.face == 255).all() and (first.lips == 255).all() and first.valid
    assert (later.face == seen.face).all() and (later.lips == seen.lips).all() and later.valid
