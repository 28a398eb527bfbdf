"""The LoRA of a run is added to the list, under a name of its own."""

import asyncio
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.training.ui.made_run import write_checkpoint, write_run
from tests.ui.looking import named, text
from training.ui.publish import find_published, publish
from training.ui.tryout import TryOut
from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.language import language


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", tmp_path / "samples")
    return tmp_path / "run"


def test_the_newest_checkpoint_is_in_the_list_byte_by_byte(weights: Path, run: Path, tmp_path: Path) -> None:
    newest = write_checkpoint(run, 10)
    Image.new("RGB", (8, 8)).save(tmp_path / "face.png")
    published = publish(run, "ann", tmp_path / "face.png")
    file = weights / "loras" / "mov" / "character" / "ann.safetensors"
    assert (published.names, published.file, published.step) == (("ann",), file, 10)
    assert file.read_bytes() == (newest / "lora_weights.safetensors").read_bytes()
    (found,) = describe(find_adapters(weights), weights)
    assert (found.name, found.kind, found.rank, found.alpha) == ("ann", "character", (4, 4), (2.0, 2.0))
    assert "10 steps" in found.description and found.preview == str(file.with_suffix(".png"))


def test_a_weights_folder_that_is_none_is_named_with_its_setting(weights: Path, run: Path) -> None:
    weights.mkdir()
    (weights / "loras").touch()
    with pytest.raises(LabError, match=r"loras is no folder\. Move it away, or set WANAVATAR_WEIGHTS"):
        publish(run, "ann")


def test_the_scale_is_strength_times_alpha_by_rank(weights: Path, run: Path) -> None:
    published = publish(run, "ann")
    assert published.scale(0.5) == 0.25
    assert "strength 0.5 × alpha 2 / rank 4 = effective scale 0.25" in published.scale_in_words(0.5)
    assert published.choices(0.7) == [{"name": "ann", "high_weight": 0.7, "low_weight": 0.7}]
    assert "<b>ann</b>" in published._repr_html_() and "<b>alpha / rank = 0.5</b>" in published._repr_html_()


def test_the_same_run_replaces_its_own_and_nobody_elses(weights: Path, run: Path, tmp_path: Path) -> None:
    publish(run, "ann")
    write_checkpoint(run, 4)
    assert publish(run, "ann").step == 4
    write_run(tmp_path / "other", tmp_path / "samples")
    with pytest.raises(RequestError, match=r"lora_name: 'ann' is taken: .* belongs to something else"):
        publish(tmp_path / "other", "ann")
    notes = weights / "loras" / "mov" / "character" / "ann.json"
    notes.write_text(json.dumps(["somebody else's"]))
    with pytest.raises(RequestError, match="belongs to something else"):
        publish(run, "ann")


def test_parts_that_were_trained_in_full_come_with_it(weights: Path, run: Path) -> None:
    lora = run / "checkpoint-2" / "lora_weights.safetensors"
    (run / "checkpoint-2" / "audio_modules.safetensors").write_bytes(lora.read_bytes())
    assert publish(run, "ann").names == ("ann", "ann_audio")


def test_parts_of_an_earlier_training_do_not_stay_in_the_list(weights: Path, run: Path) -> None:
    lora, parts = (run / "checkpoint-2" / f"{name}.safetensors" for name in ("lora_weights", "audio_modules"))
    parts.write_bytes(lora.read_bytes())
    publish(run, "ann")
    parts.unlink()
    assert publish(run, "ann").names == ("ann",)
    assert sorted(path.name for path in (weights / "loras" / "mov" / "character").iterdir()) == [
        "ann.json",
        "ann.safetensors",
    ]


def test_a_name_that_was_given_up_may_become_somebody_elses(weights: Path, run: Path, tmp_path: Path) -> None:
    lora, parts = (run / "checkpoint-2" / f"{name}.safetensors" for name in ("lora_weights", "audio_modules"))
    parts.write_bytes(lora.read_bytes())
    publish(run, "ann")
    parts.unlink()
    publish(run, "ann")
    write_run(tmp_path / "other", tmp_path / "samples")
    theirs = publish(tmp_path / "other", "ann_audio").file
    assert publish(run, "ann").names == ("ann",) and theirs.is_file()
    found = find_published(run, "ann")
    assert found is not None and found.names == ("ann",)


def test_one_of_before_its_files_were_noted_is_replaced(weights: Path, run: Path) -> None:
    notes = publish(run, "ann").file.with_suffix(".json")
    noted = json.loads(notes.read_text())
    del noted["files"]
    notes.write_text(json.dumps(noted))
    write_checkpoint(run, 4)
    assert publish(run, "ann").step == 4


@pytest.mark.parametrize("taken", ["ann.safetensors", "ann_audio.safetensors", "ann.png"])
def test_nothing_of_somebody_elses_is_replaced(weights: Path, run: Path, tmp_path: Path, taken: str) -> None:
    lora = run / "checkpoint-2" / "lora_weights.safetensors"
    (run / "checkpoint-2" / "audio_modules.safetensors").write_bytes(lora.read_bytes())
    Image.new("RGB", (8, 8)).save(tmp_path / "face.png")
    theirs = weights / "loras" / "mov" / "character" / taken
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(RequestError, match=f"lora_name: 'ann' is taken: .*{taken} belongs to something else"):
        publish(run, "ann", tmp_path / "face.png")
    assert theirs.read_bytes() == b"theirs" and list(theirs.parent.iterdir()) == [theirs]


@pytest.mark.parametrize("name", ["", "../ann", "a:b", "ann_high_noise"])
def test_a_name_that_a_request_cannot_use_is_refused(weights: Path, run: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"lora_name: must be letters"):
        publish(run, name)
    assert not weights.exists()


def test_a_run_without_a_checkpoint_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="has no checkpoint yet"):
        publish(tmp_path / "none", "ann")


def test_one_click_adds_it_to_the_list(weights: Path, run: Path) -> None:
    request = SpeechToVideo(profile="pocket", image="a.png", audio="a.wav", seed=1)
    tryout = TryOut(run, request, name="ann", strength=0.5)
    assert tryout.summary().startswith("The LoRA is not in the list yet")
    named(tryout, "Add to the LoRA list").click()
    assert "ann, trained for 2 steps, is in the LoRA list" in text(tryout)
    assert "effective scale 0.25" in text(tryout) and "effective scale 0.25" in tryout.summary()
    tryout.close()
    (found,) = describe(find_adapters(weights), weights)
    assert "Usual strength: 0.5" in found.description and found.usual_weight == 0.5


def test_a_lora_in_the_list_is_shown_when_the_notebook_is_opened_again(weights: Path, run: Path) -> None:
    request = SpeechToVideo(profile="pocket", image="a.png", audio="a.wav", seed=1)
    file = publish(run, "ann").file
    tryout = TryOut(run, request, name="ann", strength=1.0)
    assert "effective scale 0.5" in text(tryout)
    language.code = "ko"
    assert "유효 스케일 0.5" in text(tryout)
    language.code = "en"
    tryout.close()
    file.write_bytes(b"damaged")
    again = TryOut(run, request, name="ann")
    assert again.published is None and "effective scale" not in text(again)
    again.close()
    other = TryOut(run.parent, request, name="ann")
    assert other.published is None
    other.close()


def test_parts_that_were_trained_in_full_are_tried_at_full_strength(
    weights: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = run / "checkpoint-2" / "lora_weights.safetensors"
    (run / "checkpoint-2" / "audio_modules.safetensors").write_bytes(lora.read_bytes())
    submitted: list[SpeechToVideo] = []

    def refuse_the_second(request: SpeechToVideo) -> jobs.Job:
        submitted.append(request)
        if len(submitted) == 2:
            raise LabError("enough")
        return jobs.Job(Run.create(request, runs_dir=run.parent / "runs"))

    monkeypatch.setattr(jobs, "submit", refuse_the_second)
    request = SpeechToVideo(profile="pocket", image="a.png", audio="a.wav", seed=1)
    tryout = TryOut(run, request, name="ann", strength=0.25)
    with pytest.raises(LabError, match="enough"):
        asyncio.run(tryout.run())
    tryout.close()
    weights_of = [[(lora.name, lora.high_weight, lora.low_weight) for lora in each.loras] for each in submitted]
    assert weights_of == [[], [("ann", 0.25, 0.25), ("ann_audio", 1.0, 1.0)]]


def test_a_refusal_is_shown_under_the_buttons(weights: Path, run: Path) -> None:
    request = SpeechToVideo(profile="pocket", image="a.png", audio="a.wav", seed=1)
    tryout = TryOut(run, request, name="a/b")
    named(tryout, "Add to the LoRA list").click()
    assert "lora_name: must be letters" in text(tryout)
    tryout.close()


def test_the_newest_the_best_or_a_named_checkpoint_is_taken(weights: Path, run: Path) -> None:
    write_checkpoint(run, 4)
    newest = publish(run, "ann")
    assert (newest.step, newest.best) == (4, (2, "validation/lip"))
    assert newest.said() == (
        'Taken from checkpoint-4. The best by validation/lip is checkpoint-2, which checkpoint = "best" takes.'
    )
    assert "best by validation/lip" in newest._repr_html_()
    for wanted in ("best", "checkpoint-2"):
        taken = publish(run, "ann", checkpoint=wanted)
        assert (taken.step, taken.best, taken.said()) == (2, None, "Taken from checkpoint-2.")
        assert taken.file.read_bytes() == (run / "checkpoint-2" / "lora_weights.safetensors").read_bytes()
    assert find_published(run, "ann") == taken
    with pytest.raises(RequestError, match="checkpoint: must be newest or best or checkpoint-2 or checkpoint-4"):
        publish(run, "ann", checkpoint="checkpoint-3")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RequestError, match="checkpoint: must be newest or checkpoint-2 or checkpoint-4"):
        publish(run, "ann", checkpoint="best")
