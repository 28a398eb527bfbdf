"""Every notebook and the page by plain papermill on pocket: as it is committed, with other parameters, and with what it
has to refuse; and what the gallery copies of a run of each stage.

It takes minutes, so that pytest finds it only where it is named: `make notebooks`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.exported import exported
from tests.browser.served import launched_chromium
from tests.notebooks import test_copies
from tests.notebooks.papermill_lines import papermill, queue_of
from tests.queue_for_tests import REPOSITORY
from wanavatar_lab import media
from wanavatar_lab.jobs import list_jobs

SAMPLES = REPOSITORY / "data" / "samples"


@dataclass(frozen=True)
class Case:
    """What a notebook is tried with.

    Attributes:
        given: other parameters.
        made: the stages of the runs that it makes, as it is committed and with these.
        found: what it prints then.
        seen: the request of the last run then, in part.
        mistyped: a name that it does not have, and the one that is meant.
        wrong: a parameter with a value of another kind, and what is to be given.
        drawn: pictures, and clips with a poster, that its HTML shows at least, as it is committed.
    """

    given: dict[str, str]
    made: tuple[str, ...]
    found: str
    seen: dict[str, object]
    mistyped: tuple[str, str]
    wrong: tuple[str, str, str]
    drawn: tuple[int, int] = (0, 0)


STAGES = ("text_to_image", "upscale", "image_to_video", "speech_to_video")
CASES: dict[str, Case] = {
    "00_check": Case(
        given={"profile": "full"},
        made=(),
        found=r"wanavatar-lab weights download Wan2\.2-S2V-14B",
        seen={},
        mistyped=("profil", "profile"),
        wrong=("interactive", "7", "True or False"),
    ),
    "01_text_to_image": Case(
        given={"prompt": "a man with a black moustache", "seed": "7", "num_inference_steps": "2", "upscale": "False"},
        made=("text_to_image",),
        found=r"^Text to image: succeeded in \d+:\d\d$",
        seen={"seed": 7, "num_inference_steps": 2, "upscale": False},
        mistyped=("num_inference_step", "num_inference_steps"),
        wrong=("seed", "half", "an integer"),
        drawn=(5, 0),
    ),
    "02_upscale": Case(
        given={"image": str(SAMPLES / "avatar_man.png"), "tile": "64"},
        made=("upscale",),
        found=r"^Upscale: succeeded in \d+:\d\d$",
        seen={"tile": 64},
        mistyped=("tiles", "tile"),
        wrong=("tile", "large", "0, or an integer"),
        drawn=(2, 0),
    ),
    "03_image_to_video": Case(
        given={"prompt": "he nods", "frame_num": "9", "num_inference_steps": "2", "resolution": "96x96", "seed": "3"},
        made=("image_to_video",),
        found=r"^Image to video: succeeded in [\s\S]*^prompt \[1, 512, 128\] · latents \[1, 16, 5, 16, 16\]",
        seen={"prompt": "he nods", "frame_num": 9, "resolution": "96x96"},
        mistyped=("frames_num", "frame_num"),
        wrong=("flow_shift", "much", "a number"),
        drawn=(3, 1),
    ),
    "03b_text_to_speech": Case(
        given={"text": "Good morning", "voice": "man", "speaking_rate": "1.5", "seed": "3"},
        made=("text_to_speech",),
        found=r"^Text to speech: succeeded in \d+:\d\d$",
        seen={"voice": "man", "speaking_rate": 1.5, "seed": 3},
        mistyped=("speking_rate", "speaking_rate"),
        wrong=("speaking_rate", "quick", "a number"),
        drawn=(1, 0),
    ),
    "04_speech_to_video": Case(
        given={"audio": str(SAMPLES / "korean.wav"), "audio_duration": "1.5", "num_inference_steps": "2", "seed": "3"},
        made=("speech_to_video",),
        found=r"^Speech to video: succeeded in [\s\S]*^WanSpeechToVideoPipeline · prompt \[1, \d+, 128\]",
        seen={"audio_duration": 1.5, "num_inference_steps": 2},
        mistyped=("guidance_scal", "guidance_scale"),
        wrong=("start_from_image", "perhaps", "true or false"),
        drawn=(2, 1),
    ),
    "05_pipeline": Case(
        given={"audio": str(SAMPLES / "korean.wav"), "audio_duration": "1.0", "seed": "2"},
        made=STAGES,
        found=r"^lips against loudness: ",
        seen={"audio_duration": 1.0, "seed": 2},
        mistyped=("motion_promt", "motion_prompt"),
        wrong=("audio_duration", "long", "a number"),
        drawn=(3, 4),
    ),
    "06_gallery": Case(
        given={"kind": "talking", "query": "speaks"},
        made=(),
        found=r"talking\.mp4$",
        seen={},
        mistyped=("kinds", "kind"),
        wrong=("kind", "7.5", "text"),
        drawn=(8, 0),
    ),
    "10_prepare": Case(
        given={"person": "other", "clips": "3", "seconds": "4"},
        made=(),
        found=r"^3 clips, 12 s; 0 of them flagged$",
        seen={},
        mistyped=("holdout", "hold_out"),
        wrong=("clips", "many", "an integer"),
        drawn=(6, 0),
    ),
    "11_train": Case(
        given={
            "person": "other",
            "steps": "2",
            "rank": "4",
            "sample_every": "0",
            "validate_every": "0",
            "launcher": "ddp",
            "machines": "localhost slots=1, localhost slots=1",
        },
        made=(),
        found=r"^finished: step 2 of 2, in .*other/training$",
        seen={},
        mistyped=("learn_rate", "learning_rate"),
        wrong=("processes", "two", "an integer"),
    ),
    "12_results": Case(
        given={"person": "other"},
        made=(),
        found=r"^rank 4, alpha 16, [\s\S]*^held-out lip error [+-]\d+\.\d% against the base$",
        seen={},
        mistyped=("persons", "person"),
        wrong=("person", "7.5", "text"),
        drawn=(5, 4),
    ),
    "13_use": Case(
        given={"person": "other", "lora_name": "somebody", "lora_strength": "1.0", "seed": "3"},
        made=("speech_to_video", "speech_to_video"),
        found=r"^strength 1 × alpha 16 / rank 4 = effective scale 4 ",
        seen={"loras": [{"name": "somebody", "high_weight": 1.0, "low_weight": 1.0}], "seed": 3},
        mistyped=("lora_strenght", "lora_strength"),
        wrong=("lora_strength", "much", "a number"),
        drawn=(0, 2),
    ),
    "14_evaluate": Case(
        given={"faces": "pocket"},
        made=(),
        found=r"^lip_r: -?0\.\d+\nlip_lag_ms: -?\d+\.\d+\nface_found: 100\.0$",
        seen={},
        mistyped=("references", "reference"),
        wrong=("other", "7.5", "text"),
        drawn=(0, 1),
    ),
    "app": Case(
        given={"profile": "full"},
        made=(),
        found=r"^$",
        seen={},
        mistyped=("profiles", "profile"),
        wrong=("profile", "7.5", "text"),
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with queue_of(tmp_path_factory.mktemp("every")) as folder, pytest.MonkeyPatch.context() as patch:
        # a folder of its own, since a trained LoRA is put there
        (folder / "weights").mkdir()
        (folder / "weights" / "pocket").symlink_to(REPOSITORY / "weights" / "pocket")
        patch.setenv("WANAVATAR_WEIGHTS", str(folder / "weights"))
        yield folder


def words(**given: str) -> list[str]:
    """Parameters as a line has them."""
    return [word for parameter, value in {"interactive": "False", **given}.items() for word in ("-p", parameter, value)]


def made_since(before: int) -> list[str]:
    return [job.run.stage for job in reversed(list_jobs()[: len(list_jobs()) - before])]


def test_every_notebook_has_a_case() -> None:
    assert {path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")} == set(CASES)


# in the order of their numbers, so that the gallery finds what the others made, and a training what was prepared
@pytest.mark.parametrize("name", CASES)
def test_as_it_is_committed(name: str, place: Path) -> None:
    before = len(list_jobs())
    done = papermill(name, place / "committed", *words())
    assert done.code == 0, done.told
    assert made_since(before) == list(CASES[name].made)
    assert all(job.status().state == "succeeded" for job in list_jobs())


@pytest.mark.chromium
@pytest.mark.parametrize("name", CASES)
def test_its_html_shows_its_results_without_a_server(name: str, place: Path) -> None:
    with launched_chromium() as browser:
        found = exported(place / "committed" / f"{name}.ipynb", browser.new_page())
    pictures, posters = CASES[name].drawn
    assert len(found["pictures"]) >= pictures and len(found["posters"]) >= posters, found


@pytest.mark.parametrize("name", CASES)
def test_with_other_parameters(name: str, place: Path) -> None:
    case, before = CASES[name], len(list_jobs())
    done = papermill(name, place / "changed", *words(**case.given))
    assert done.code == 0, done.told
    assert re.search(case.found, done.said.strip(), re.MULTILINE), done.said
    assert made_since(before) == list(case.made)
    if case.made:
        newest = list_jobs()[0]
        asked = newest.run.request().to_json()
        assert {field: asked[field] for field in case.seen} == case.seen
        info = media.probe(newest.run.path(newest.artifacts()[0]))
        kinds = {"to_video": "video", "to_speech": "audio"}
        assert info.kind == next((kind for end, kind in kinds.items() if newest.run.stage.endswith(end)), "picture")


@pytest.mark.parametrize("name", CASES)
def test_a_name_that_it_does_not_have(name: str, place: Path) -> None:
    before, (mistyped, meant) = len(list_jobs()), CASES[name].mistyped
    done = papermill(name, place / "refused", *words(**{mistyped: "1"}))
    assert done.code != 0
    assert f"{mistyped}: this notebook has no such parameter; did you mean {meant!r}?" in done.told
    assert len(list_jobs()) == before


@pytest.mark.parametrize("name", CASES)
def test_a_value_of_another_kind(name: str, place: Path) -> None:
    before, (parameter, value, allowed) = len(list_jobs()), CASES[name].wrong
    done = papermill(name, place / "refused", *words(**{parameter: value}))
    assert done.code != 0
    assert re.search(rf"RequestError: {parameter}: must be {allowed}.* \(got '?{value}'?\)", done.told), done.told
    assert len(list_jobs()) == before


@pytest.mark.parametrize("stage", [stage for stage in test_copies.REQUESTS if stage != "text_to_image"])
def test_what_the_gallery_copies(stage: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (place / "notebooks").exists():
        (place / "notebooks").symlink_to(REPOSITORY / "notebooks")
    test_copies.makes_the_same_again(stage, place, monkeypatch)
