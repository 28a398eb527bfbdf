"""Samples that cannot be trained on are refused before the first step, with what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.s2v.toy import toy_model
from tests.training.toy import config_of, write_samples
from training.data.samples import NO_TEXT, Samples
from training.train import train
from wanavatar_lab.errors import LabError


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def without_valid(file: Path) -> None:
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "valid"}, file)


@pytest.mark.parametrize("name", ["sample-1.safetensors", "sample-5.safetensors", NO_TEXT])  # one of each is held out
@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_file_that_is_missing_or_damaged_is_one_to_encode_again(
    harm: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    write_samples(tmp_path / "samples")
    harm(tmp_path / "samples" / name)
    with pytest.raises(LabError, match=f"{name} cannot be read.* encode the data again") as raised:
        for held_out in (False, True):
            Samples(tmp_path / "samples", held_out)
    assert "ownload" not in str(raised.value)


def test_a_sample_of_another_release_is_one_to_encode_again(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    without_valid(tmp_path / "samples" / "sample-1.safetensors")
    with pytest.raises(LabError, match=r"The sample sample-1 in .* has no valid: another release"):
        Samples(tmp_path / "samples")


def test_samples_of_another_profile_are_named(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples")
    network = toy_model(audio_dim=16, text_dim=48)
    with pytest.raises(LabError, match=r"audio is \[3, 8\] and not \[3, 16\], text is \[24\].*--profile pocket"):
        train(config_of(tmp_path, profile="pocket"), network)


def test_no_network_is_loaded_for_samples_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.network_of", lambda _: pytest.fail("it loads the network"))
    with pytest.raises(LabError, match=r"There are no encoded samples in .*samples"):
        train(config_of(tmp_path))
