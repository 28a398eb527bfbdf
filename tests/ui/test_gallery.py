"""The gallery: what it lists, finds, hands on, copies and deletes."""

import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import papermill.cli
import pytest
from PIL import Image

from tests.stages_for_tests import Relax
from tests.ui import made_runs, measure_gallery
from wanavatar_lab.cli.arguments import read_arguments
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import Request, SpeechToVideo, TextToImage, Upscale, parse
from wanavatar_lab.runs.run import Run, list_runs
from wanavatar_lab.runs.status import Status
from wanavatar_lab.ui.copy_request import as_command, as_papermill, as_python
from wanavatar_lab.ui.gallery import Catalogue, Gallery
from wanavatar_lab.ui.gallery_panel import GalleryPanel
from wanavatar_lab.ui.history import History
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.listing import PAGE
from wanavatar_lab.ui.widget import LabWidget


@pytest.fixture(autouse=True)
def served(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(queue_settings.parent))
    return queue_settings.parent


@pytest.fixture
def family(served: Path) -> list[Run]:
    """A picture, the larger one made of it, and the clip made of that."""
    face = made_runs.picture(served / "made.png", side=64)
    voice = made_runs.sound(served / "voice.wav")
    first = made_runs.ended_run(TextToImage(prompt="An old sailor"), [("picture", face)], ago=30)
    second = made_runs.ended_run(Upscale(image=str(first.folder / "made.png")), [("picture", face)], ago=20)
    clip = made_runs.clip(served / "talking.mp4", 0.5, side=64)
    third = made_runs.ended_run(
        SpeechToVideo(image=str(second.folder / "made.png"), audio=str(voice), prompt="he speaks"),
        [("talking", clip)],
        ago=10,
    )
    return [first, second, third]


def shown(gallery: Gallery) -> list[str]:
    return [entry["id"] for entry in gallery.entries]


def test_runs_are_listed_newest_first_with_their_pictures(family: list[Run]) -> None:
    gallery = Gallery()
    assert shown(gallery) == [run.id for run in reversed(family)]
    clip, _, face = gallery.entries
    assert clip["picture"] == {"path": f"runs/{family[2].id}/talking.mp4", "kind": "video"}
    assert (face["title"], face["state"]) == ("An old sailor", "succeeded")
    assert gallery.kinds == ["picture", "talking"]


def test_kinds_and_words_are_found(family: list[Run]) -> None:
    gallery = Gallery()
    gallery.kind = "picture"
    assert shown(gallery) == [family[1].id, family[0].id]
    gallery.kind = ""
    gallery.query = "SAILOR old"
    assert shown(gallery) == [family[0].id]
    gallery.query = "nobody"
    assert (shown(gallery), gallery.total) == ([], 0)


def test_parents_and_children(family: list[Run]) -> None:
    gallery = Gallery()
    assert [(entry["parents"], entry["children"]) for entry in gallery.entries] == [(1, 0), (1, 1), (0, 1)]
    gallery.family = family[0].id
    assert shown(gallery) == [family[1].id, family[0].id]
    catalogue = Catalogue()
    catalogue.refresh()
    assert catalogue.parents(family[2].id) == [family[1].id] == family[2].manifest()["parents"]


def test_a_refresh_sees_what_came_changed_and_went(family: list[Run]) -> None:
    gallery = Gallery()
    new = Run.create(TextToImage(prompt="new"))
    gallery.refresh()
    assert gallery.entries[0]["state"] == "queued" and not gallery.entries[0]["ended"]
    new.write_status(new.status().model_copy(update={"state": "failed"}))
    gallery.refresh()
    assert gallery.entries[0]["state"] == "failed"


def test_a_damaged_run_is_said(family: list[Run]) -> None:
    (family[0].folder / "status.json").write_text("{")
    (family[1].folder / "request.json").write_text("[]")
    damaged = {entry["id"]: entry for entry in Gallery().entries if entry["state"] == "damaged"}
    assert set(damaged) == {family[0].id, family[1].id}
    assert "is not the status of a run" in damaged[family[0].id]["title"]
    assert not any(entry["known"] for entry in damaged.values())


def test_events_hand_on_files_and_requests(family: list[Run]) -> None:
    gallery = Gallery()
    got: list[Any] = []
    assert gallery.actions == []
    gallery.on("use", lambda path, kind: got.append((path, kind)))
    gallery.on("again", got.append)
    assert gallery.actions == ["use", "again"]
    gallery.receive({"kind": "use", "run": family[2].id})
    gallery.receive({"kind": "again", "run": family[0].id})
    gallery.receive({"kind": "new_seed", "run": family[0].id})
    again = TextToImage(prompt="An old sailor", seed=7)  # as was drawn
    assert got == [(family[2].folder / "talking.mp4", "talking"), again, TextToImage(prompt="An old sailor")]
    assert [entry["seeded"] for entry in gallery.entries] == [True, False, True]


def test_of_a_picture_in_two_sizes_the_larger_is_used(served: Path) -> None:
    small, large = (made_runs.picture(served / name, side=side) for name, side in (("picture.png", 32), ("up.png", 64)))
    run = made_runs.ended_run(TextToImage(prompt="a cat"), [("picture", small), ("picture", large)])
    status = run.status()
    made = [status.artifacts[0], status.artifacts[1].model_copy(update={"role": "upscaled"})]
    run.write_status(status.model_copy(update={"artifacts": made}))
    gallery, used = Gallery(), list[Path]()
    gallery.on("use", lambda path, _: used.append(path))
    gallery.receive({"kind": "use", "run": run.id})
    assert used == [run.folder / "up.png"]


@pytest.mark.parametrize("action", ["again", "change"])
def test_a_run_whose_input_has_changed_since_says_so(served: Path, action: str) -> None:
    given = made_runs.picture(served / "given.png", side=64)
    run = made_runs.ended_run(Upscale(image=str(given)), [("picture", given)])
    gallery = Gallery()
    gallery.on(action, lambda request: None)
    gallery.receive({"kind": action, "run": run.id})
    assert gallery.notice == ""
    made_runs.picture(given, side=64, hair="green")
    gallery.receive({"kind": action, "run": run.id})
    assert gallery.notice == "Changed since that run: given.png. The file is used as it is now."


def test_delete_and_undo(family: list[Run]) -> None:
    gallery = Gallery()
    gallery.receive({"kind": "delete", "run": family[1].id})
    assert (gallery.undo, gallery.notice) == (family[1].id, "")
    assert shown(gallery) == [family[2].id, family[0].id] == [run.id for run in list_runs()]
    gallery.receive({"kind": "undo"})
    assert (gallery.undo, len(shown(gallery))) == ("", 3)
    assert (family[1].folder / "made.png").is_file()
    gallery.receive({"kind": "undo"})
    assert "There is no deleted run" in gallery.notice


def test_a_run_that_has_not_ended_is_not_deleted(family: list[Run]) -> None:
    run = Run.create(TextToImage(prompt="new"))
    gallery = Gallery()
    gallery.receive({"kind": "delete", "run": run.id})
    assert "cancel it before deleting" in gallery.notice
    with pytest.raises(RunError, match="has not ended"):
        gallery.delete(run.id)


def test_words_follow_the_language(family: list[Run]) -> None:
    gallery = Gallery()
    language.code = "zh"
    assert gallery.words["undo"] == "撤销"
    assert gallery.entries[-1]["stage"] == TextToImage.labels["zh"]


def requests(served: Path) -> list[Request]:
    face, voice = (made_runs.picture(served / "a face's.png", side=32), made_runs.sound(served / "v.wav"))
    return [
        TextToImage(prompt="--odd \"one\" 'with' $HOME\n한국어", profile="pocket", guidance_scale=3.5),
        Upscale(image=str(face), profile="pocket"),
        SpeechToVideo(
            image=str(face),
            audio=str(voice),
            profile="pocket",
            prompt="007",
            flow_shift=4.0,
            start_from_image=True,
            loras=[{"name": "smile", "high_weight": 0.5, "low_weight": 1.25}],
        ),
    ]


@pytest.mark.parametrize("index", range(3))
def test_a_copy_makes_the_same_request(
    served: Path, index: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = requests(served)[index]
    seeded = request.changed(seed=41) if "seed" in type(request).model_fields else request

    made: list[Request] = []
    code = as_python(request, 41).replace("artifacts = await job.result()\n", "")
    monkeypatch.setattr("wanavatar_lab.jobs.submit", made.append)
    exec(compile(code, "cell", "exec"), {})
    assert made == [seeded]

    program, *words = shlex.split(as_command(request, 41))
    assert program == "wanavatar-lab"
    arguments = read_arguments(words)
    assert parse(arguments.stage, arguments.values) == seeded

    given: dict[str, Any] = {}
    monkeypatch.setattr(papermill.cli, "execute_notebook", lambda **values: given.update(values))
    program, *words = shlex.split(as_papermill(request, 41))
    papermill.cli.papermill(words, standalone_mode=False)
    assert given["parameters"].pop("interactive") is False
    assert parse(request.stage, given["parameters"]) == seeded
    assert Path(given["input_path"]).name.endswith(f"_{request.stage}.ipynb")


def test_a_stage_without_a_notebook_has_no_line_for_papermill() -> None:
    with pytest.raises(LabError, match="The stage relax has no notebook"):
        as_papermill(Relax(profile="pocket"))


def test_a_copy_is_sent_with_the_seed_that_was_used(family: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery()
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(gallery, "send", lambda content, *_: sent.append(content))
    gallery.receive({"kind": "copy", "run": family[0].id, "how": "python"})
    assert "seed=7" in sent[0]["text"]


def test_many_runs_are_read_once_and_listed_page_by_page(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_gallery.make_runs(served / "runs", 120)
    read: list[str] = []
    status = Run.status

    def note(run: Run) -> Status:
        read.append(run.id)
        return status(run)

    monkeypatch.setattr(Run, "status", note)
    gallery = Gallery()
    assert (len(gallery.entries), gallery.total, len(set(read)), len(read)) == (PAGE, 120, 120, 120)
    gallery.refresh()
    gallery.query = "LIGHT 119"
    assert [entry["title"] for entry in gallery.entries] == [
        "a portrait of face number 119 in the light of a window, painted"
    ]
    gallery.query, gallery.family = "", gallery.entries[0]["id"]
    assert [(entry["parents"], entry["children"]) for entry in gallery.entries] == [(1, 0), (1, 1)]
    assert len(read) == 120  # a run that has ended does not change


def test_the_benchmark_says_its_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", "")  # which the benchmark sets, and the test puts back
    assert measure_gallery.main(["--runs", "12"]) == 0
    figures = {line[:26].strip(): float(line[26:]) for line in capsys.readouterr().out.splitlines()}
    assert figures["runs"] == 12 and figures["kilobytes sent"] > 1
    assert {"listed", "searched", "refreshed, nothing new"} <= set(figures)


def test_favourites_and_tags_are_kept_filter_and_are_seen_by_another_page(family: list[Run]) -> None:
    gallery, other = Gallery(), Gallery()
    gallery.receive({"kind": "star", "run": family[0].id, "on": True})
    gallery.receive({"kind": "tag", "run": family[1].id, "tags": " Ann,  lips， ann,"})
    other.refresh()
    for each in (gallery, other, Gallery()):
        assert each.tags == ["Ann", "lips"]
        assert [(entry["favourite"], entry["tags"]) for entry in each.entries] == [
            (False, []),
            (False, ["Ann", "lips"]),
            (True, []),
        ]
    gallery.favourites = True
    assert shown(gallery) == [family[0].id] == [path.parent.name for path in gallery.files()]
    gallery.favourites, gallery.tag = False, "lips"
    assert shown(gallery) == [family[1].id]
    gallery.tag, gallery.query = "", "ANN"
    assert shown(gallery) == [family[1].id]
    other.receive({"kind": "star", "run": family[0].id, "on": False})
    gallery.query, gallery.favourites = "", True
    gallery.refresh()
    assert shown(gallery) == []
    gallery.receive({"kind": "tag", "run": family[1].id, "tags": "x" * 41})
    assert gallery.notice == "A tag has at most 40 characters (got 41)."
    gallery.receive({"kind": "tag", "run": family[1].id, "tags": ""})
    assert gallery.tags == []


def test_damaged_marks_are_not_overwritten(family: list[Run], caplog: pytest.LogCaptureFixture) -> None:
    (family[0].folder / "marks.json").write_text("{")
    gallery = Gallery()
    assert "Shown without its marks" in caplog.text and not gallery.entries[-1]["favourite"]
    gallery.receive({"kind": "star", "run": family[0].id, "on": True})
    assert "does not hold marks of a run" in gallery.notice
    assert (family[0].folder / "marks.json").read_text() == "{"


def test_several_runs_are_marked_deleted_and_brought_back_at_once(family: list[Run]) -> None:
    gallery, ids = Gallery(), [run.id for run in family[:2]]
    gallery.receive({"kind": "tag", "run": ids[0], "tags": "old"})
    gallery.receive({"kind": "each", "act": "tag", "runs": ids, "tags": "both, old"})
    gallery.receive({"kind": "each", "act": "star", "runs": ids, "on": True})
    marks = {entry["id"]: (entry["favourite"], entry["tags"]) for entry in gallery.entries}
    assert [marks[each] for each in ids] == [(True, ["old", "both"]), (True, ["both", "old"])]
    unfinished = Run.create(TextToImage(prompt="new"))
    gallery.receive({"kind": "each", "act": "delete", "runs": [unfinished.id, *ids]})
    assert gallery.undo.split() == ids and "cancel it before deleting" in gallery.notice
    assert shown(gallery) == [unfinished.id, family[2].id]
    gallery.receive({"kind": "undo"})
    assert len(shown(gallery)) == 4 and gallery.undo == ""
    assert {entry["id"] for entry in gallery.entries if entry["favourite"]} == set(ids)


def test_what_lies_outside_of_the_root_is_sent_when_it_is_asked_for(
    family: list[Run], served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(served / "notebooks"))
    gallery, history = Gallery(), History("text_to_image")
    assert [entry["picture"] for entry in gallery.entries] == [
        {"path": "", "kind": "video"},
        {"path": "", "kind": "picture"},
        {"path": "", "kind": "picture"},
    ]
    assert [(item["path"], item["kind"], item["file"]) for item in history.items] == [("", "picture", "made.png")]
    gallery.notice = "kept"

    def asked(widget: LabWidget, **content: Any) -> tuple[dict[str, Any], bytes]:
        sent: list[tuple[dict[str, Any], bytes]] = []
        monkeypatch.setattr(widget, "send", lambda content, data=None: sent.append((content, (data or [b""])[0])))
        widget.receive(content)
        return sent[0]

    for widget, index in ((gallery, 0), (gallery, 2), (history, 0)):
        run = family[0] if index == 0 else family[2]
        message, data = asked(widget, kind="thumbnail", id=run.id)
        assert message == {"kind": "thumbnail", "id": run.id, "type": "image/jpeg"}
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
        drawn = np.asarray(made_runs.face(0.0 if index == 2 else 0.2, side=64), np.float32)
        assert shown.shape == (64, 64, 3) and abs(shown - drawn).mean() < 12
    message, data = asked(gallery, kind="clip", id=family[2].id)
    assert message["type"] == "video/mp4" and data == (family[2].folder / "talking.mp4").read_bytes()
    (family[0].folder / "made.png").write_bytes(b"damaged")
    assert asked(gallery, kind="thumbnail", id=family[0].id) == (
        {"kind": "thumbnail", "id": family[0].id, "type": "image/jpeg"},
        b"",
    )
    assert asked(gallery, kind="thumbnail", id="../x")[1] == b"" and gallery.notice == "kept"
    assert str(family[1].folder / "made.png") in GalleryPanel().listing()
