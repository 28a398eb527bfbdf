"""What the demonstration is made of: the control with the wrong sound, the person, and the speech that ships."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.toy import write_samples
from training.data.samples import Samples
from training.loop.run_log import Log
from training.pocket.drawn_person import STYLES
from training.pocket.drawn_speech import SHIPPED, SHIPPED_SECONDS, utterances
from training.pocket.train_demo import TOLD, change_of, exchange_sound, few_samples
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.pose import MOUTH
from training.prepare.clip_folder import FPS, RATE
from wanavatar_lab.errors import LabError


def test_the_wrong_sound_is_another_clips_and_what_is_held_out_stays_right(tmp_path: Path) -> None:
    write_samples(tmp_path / "right", count=8, held_out=2)
    out = exchange_sound(tmp_path / "right", tmp_path / "wrong")
    for held_out in (False, True):
        right, wrong = Samples(tmp_path / "right", held_out), Samples(out, held_out)
        assert [entry.name for entry in right.entries] == [entry.name for entry in wrong.entries]
        for entry in right.entries:
            before, after = (load_file(folder / f"{entry.name}.safetensors") for folder in (tmp_path / "right", out))
            alike = {name: torch.equal(before[name], after[name]) for name in before}
            # a sample that is alone in its shape has no other sound
            alone = right.buckets.count(entry.bucket) == 1
            assert alike.pop("audio") == (held_out or alone)
            assert all(alike.values())


def test_few_samples_are_one_of_each_shape_and_none_held_out(tmp_path: Path) -> None:
    write_samples(tmp_path / "all", count=8, held_out=2)
    few = few_samples(tmp_path / "all", tmp_path / "few")
    assert sorted(Samples(few).buckets) == sorted(set(Samples(tmp_path / "all").buckets))
    assert len(Samples(few, held_out=True)) == 0


def test_changes_are_fractions_of_the_base(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    log.write("base", 0, {"lip": 0.5, "face": 0.2, "background": 0.1})
    log.write("validation", 3, {"lip": 0.9, "face": 0.9, "background": 0.9})
    log.write("validation", 6, {"lip": 0.4, "face": 0.2, "background": 0.11})
    log.close()
    assert change_of(tmp_path) == pytest.approx({"lip": -0.2, "face": 0.0, "background": 0.1})


def test_speech_that_ships_is_whole(tmp_path: Path) -> None:
    said = utterances(SHIPPED, SHIPPED_SECONDS, source="shipped")
    frames = round(SHIPPED_SECONDS * FPS)
    assert len({each.name for each in said}) == SHIPPED
    for each in said:
        assert each.mouth.shape == (frames, len(MOUTH)) and each.sound.shape == (frames * RATE // FPS,)
        # the mouth belongs to the sound: it is open where that is loud
        loud = np.abs(each.sound).reshape(frames, -1).mean(axis=1)
        assert np.corrcoef(loud, each.mouth[:, MOUTH.index("open")])[0, 1] > 0.6
    with pytest.raises(LabError, match="15 utterances ship, not 16"):
        utterances(16, SHIPPED_SECONDS, source="shipped")


def test_the_unusual_person_looks_like_others_and_moves_otherwise() -> None:
    style = STYLES["unusual"]
    person = style.attributes(sample_attributes(1, 0, "held_out"))
    assert float(person.amounts.abs().max()) <= 1
    (said,) = utterances(1, SHIPPED_SECONDS, source="shipped")
    usual = STYLES["usual"].mouth(said.mouth, len(said.mouth), FPS)
    unusual = style.mouth(said.mouth, len(said.mouth), FPS)
    tracks = {name: (usual[:, i], unusual[:, i]) for i, name in enumerate(MOUTH)}
    assert tracks["open"][1].max() > 1.2 * tracks["open"][0].max()
    assert tracks["round"][1].max() < 0.3 * tracks["round"][0].max()
    # in time with the sound, so that what is learnt is which mouth a sound has
    assert np.corrcoef(*tracks["open"])[0, 1] > 0.99
    assert TOLD["profile"] == "pocket"
