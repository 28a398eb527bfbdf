"""Two runs of the gallery beside each other: how they are chosen, what shows them, and what they are called."""

from pathlib import Path
from typing import Any

import pytest

from tests.ui import made_runs
from wanavatar_lab.requests import Request, SpeechToVideo, TextToImage, Upscale, fields_of
from wanavatar_lab.runs import trash
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.gallery import Gallery, pair_labels
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.player import Compare, Player


@pytest.fixture(autouse=True)
def served(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(queue_settings.parent))
    return queue_settings.parent


@pytest.fixture
def runs(served: Path) -> dict[str, Run]:
    """A picture, the larger one made of it, a wide picture, and two clips of the first that differ by their steps."""
    voice = made_runs.sound(served / "voice.wav", 0.5)
    first = made_runs.ended_run(TextToImage(prompt="An old sailor"), made(served, "made.png"), ago=50)
    picture = str(first.folder / "made.png")
    upscale = made_runs.ended_run(Upscale(image=picture), made(served, "large.png", side=128), ago=40)
    wide = made_runs.face(side=64).crop((0, 16, 64, 48))
    wide.save(served / "wide.png")
    other = made_runs.ended_run(TextToImage(prompt="A wide one"), [("picture", served / "wide.png")], ago=30)
    found = {"picture": first, "large": upscale, "wide": other}
    clip = made_runs.clip(served / "talking.mp4", 0.5, side=64)
    for steps in (4, 40):
        request = SpeechToVideo(image=picture, audio=str(voice), prompt="he speaks", num_inference_steps=steps)
        found[f"{steps} steps"] = made_runs.ended_run(request, [("talking", clip)], ago=steps / 4)
    return found


def made(folder: Path, name: str, *, side: int = 64) -> list[tuple[str, Path]]:
    return [("picture", made_runs.picture(folder / name, side=side))]


def press(gallery: Gallery, run: Run, **more: str) -> None:
    """What the page sends when the button of a card is pressed."""
    gallery.receive({"kind": "compare", "run": run.id, **more})


def chosen(gallery: Gallery) -> list[str]:
    return [facts["id"] for facts in gallery.compared]


def what_shows(gallery: Gallery) -> Any:
    return gallery.comparison


def card(gallery: Gallery, run: Run) -> dict[str, Any]:
    (found,) = [entry for entry in gallery.entries if entry["id"] == run.id]
    return found


def test_one_is_chosen_then_the_other_and_the_second_is_exchanged(runs: dict[str, Run]) -> None:
    gallery = Gallery()
    first, second = runs["4 steps"], runs["40 steps"]
    press(gallery, first)
    assert chosen(gallery) == [first.id]
    assert gallery.compared == [{"id": first.id, "title": "he speaks", "kind": "video"}]
    assert what_shows(gallery) is None
    press(gallery, second)
    assert chosen(gallery) == [first.id, second.id]
    shown = what_shows(gallery)
    assert isinstance(shown, Player)
    assert shown.paths == [f"runs/{run.id}/talking.mp4" for run in (first, second)]
    assert shown.labels == ["Steps 4", "Steps 40"]
    third = made_runs.ended_run(first.request().changed(seed=9), [("talking", first.folder / "talking.mp4")])
    gallery.refresh()
    press(gallery, third)
    assert chosen(gallery) == [first.id, third.id]
    assert gallery.comparison is not shown and shown.comm is None  # the one before is not kept
    press(gallery, first)  # whose button says to stop
    assert (gallery.compared, gallery.comparison, gallery.notice) == ([], None, "")


def test_escape_ends_a_choice_and_a_comparison(runs: dict[str, Run]) -> None:
    gallery = Gallery()
    for names in (["4 steps"], ["4 steps", "40 steps"]):
        for name in names:
            press(gallery, runs[name])
        gallery.receive({"kind": "stop"})
        assert (gallery.compared, gallery.comparison) == ([], None)


def test_pictures_of_one_shape_lie_over_one_another_and_others_beside(runs: dict[str, Run]) -> None:
    gallery = Gallery()
    assert card(gallery, runs["large"])["source"] == runs["picture"].id
    assert card(gallery, runs["picture"])["source"] == ""
    assert card(gallery, runs["4 steps"])["source"] == ""  # a clip and the picture it was made of are of two kinds
    press(gallery, runs["large"], **{"with": card(gallery, runs["large"])["source"]})
    shown = gallery.comparison
    assert isinstance(shown, Compare)
    assert (shown.before, shown.after) == (f"runs/{runs['picture'].id}/made.png", f"runs/{runs['large'].id}/large.png")
    assert shown.labels == ["Text to image", "Upscale"] and shown.sizes == ["64 × 64", "128 × 128"]
    gallery.compare(runs["picture"].id, runs["wide"].id)
    assert isinstance(gallery.comparison, Player) and gallery.comparison.kind == "picture"


def test_what_cannot_be_compared_is_said(runs: dict[str, Run]) -> None:
    gallery = Gallery()
    press(gallery, runs["picture"])
    press(gallery, runs["4 steps"])
    assert "are picture and video; give two of a kind" in gallery.notice
    assert (chosen(gallery), gallery.comparison) == ([runs["picture"].id], None)
    failed = made_runs.ended_run(TextToImage(prompt="nothing"), state="failed")
    gallery.refresh()
    assert card(gallery, failed)["compares"] == ""
    press(gallery, failed)
    assert f"The run {failed.id} has no result" in gallery.notice


def test_a_run_that_is_deleted_is_compared_no_more(runs: dict[str, Run]) -> None:
    gallery = Gallery()
    gallery.compare(runs["4 steps"].id, runs["40 steps"].id)
    gallery.delete(runs["40 steps"].id)
    assert (gallery.compared, gallery.comparison) == ([], None)
    press(gallery, runs["4 steps"])
    trash.discard(runs["4 steps"])  # from elsewhere
    gallery.refresh()
    assert gallery.compared == []


def test_names_follow_the_language(runs: dict[str, Run]) -> None:
    gallery = Gallery()
    gallery.compare(runs["4 steps"].id, runs["40 steps"].id)
    shown = gallery.comparison
    language.code = "zh"
    assert gallery.comparison is shown  # it plays on
    label = fields_of(SpeechToVideo)["num_inference_steps"].labels["zh"]
    assert shown.labels == [f"{label} 4", f"{label} 40"]


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (TextToImage(prompt="a"), TextToImage(prompt="b"), ("Prompt a", "Prompt b")),
        (
            TextToImage(prompt="a", guidance_scale=2.0),
            TextToImage(prompt="b"),
            ("Prompt a, Guidance scale 2.0", "Prompt b, Guidance scale 1.0"),
        ),
    ],
)
def test_what_differs_tells_them_apart(one: Request, other: Request, told: tuple[str, str]) -> None:
    first, second = (made_runs.ended_run(request) for request in (one, other))
    assert pair_labels(first, second) == told


def test_a_seed_that_was_drawn_tells_them_apart() -> None:
    runs = [made_runs.ended_run(TextToImage(prompt="a")) for _ in range(2)]
    for seed, run in enumerate(runs, start=3):
        run.write_status(run.status().model_copy(update={"seed": seed}))
    assert pair_labels(*runs) == ("Seed 3", "Seed 4")


def test_two_of_the_same_request_are_pair_labels_by_when_they_began() -> None:
    one, other = (made_runs.ended_run(TextToImage(prompt="a", seed=1), ago=ago) for ago in (100, 0))
    told = pair_labels(one, other)
    assert all(text.startswith("Text to image, 20") for text in told) and told[0] != told[1]
