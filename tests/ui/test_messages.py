"""Errors in the language shown: those of every field, of files and of runs, as they are really raised."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ui.looking import alerts, named
from wanavatar_lab.errors import NotFinite, RequestError
from wanavatar_lab.media import probe
from wanavatar_lab.requests import STAGE_REQUESTS, SpeechToVideo, TextToImage, fields_of, parse
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.weights.table import missing_weights
from wanavatar_lab.worker.child_process import how_it_ended
from wanavatar_lab.worker.error_messages import explain, worker_died

# values, names of fields and of models, which are the same in every language
SAME = re.compile(
    r"'[^']*'|（当前值：.*|입력값: .*|사용 가능: .*|可用的有 .*|/\S+|[.](?:safetensors|pth)|[A-Za-z]+_[A-Za-z_]+|"
    r"(?<![A-Za-z])(?:auto|true|false|LoRAs?|RRDBNet|width|height|frame|fourth|NAME|WEIGHT)(?![A-Za-z])"
)
LETTERS = re.compile("[A-Za-z]{3,}")


def wrong(stage: str, **values: Any) -> list[str]:
    """What is said of these values."""
    with pytest.raises(RequestError) as caught:
        parse(stage, values)
    return [message for _, message in caught.value.problems]


def of_fields() -> set[str]:
    """Every message about every field that is missing, empty, of another kind, or outside its range."""
    said: set[str] = set()
    for stage, kind in STAGE_REQUESTS.items():
        views = fields_of(kind)
        said |= {*wrong(stage, **dict.fromkeys(views, object()), no_such_field=1), *wrong(stage, promt="x")}
        for value in ("", "-77"):
            said |= {*wrong(stage, **dict.fromkeys(views, value), no_such_field=1)}
    said |= {*wrong("speech_to_video", loras=["a:b", "c:1:2:3", "a:9"]), *wrong("text_to_image", width=128)}
    said |= {*wrong("speech_to_video", resolution="100x5000"), *wrong("text_to_image", prompt="x", loras=["a", "a"])}
    voice = {"image": "a.png", "audio": "a.wav"}
    said |= {*wrong("speech_to_video", **voice, pose_start=0.5, pose_end=0.1)}
    said |= {*wrong("speech_to_video", **voice, inpaint_mask="m.png")}
    said |= {*wrong("extract_frame", video="c.mp4", frame=3, time=1.0)}
    said |= {*wrong("concatenate", first="a.wav", second="b.wav", fourth="d.wav")}
    return said


@pytest.mark.parametrize(("code", "script"), [("ko", "[가-힣]"), ("zh", "[一-鿿]")])
def test_every_message_about_a_field_is_translated(code: str, script: str) -> None:
    said = of_fields()
    assert len(said) > 40
    language.code = code
    for message in said:
        found = in_language(message)
        assert re.search(script, found), message
        assert not LETTERS.search(SAME.sub("", found)), (message, found)


def test_a_prompt_that_is_empty_says_so_in_each_language() -> None:
    (said,) = wrong("text_to_image", prompt=" ")
    assert said == "is empty; give text of 1 to 10000 characters"
    form = Form(TextToImage)
    form.request()
    language.code = "ko"
    assert "비어 있습니다. 1~10000자의 글을(를) 입력하세요" in alerts(form)
    language.code = "zh"
    assert "不能为空，请填写1 到 10000 个字符的文字" in alerts(form)
    named(form, "提示词").value = "a cat"
    assert alerts(form) == ""


def test_values_and_names_stay_as_they_are() -> None:
    language.code = "zh"
    assert in_language("must be an integer from 1 to 12 (got 'text')") == "应为1 到 12 的整数（当前值：'text'）"
    several = "[0].weight: must be a number from -5 to 5, or 'auto' (got 9); [1].name: 'a' is not there; there are b"
    assert in_language(several) == (
        "[0].weight: 应为-5 到 5 的数值，或 'auto'（当前值：9）; [1].name: 找不到 'a'；可用的有 b"
    )
    assert in_language("something that nobody has translated") == "something that nobody has translated"
    language.code = "en"
    assert in_language(several) == several


@given(st.text())
def test_any_text_is_answered(message: str) -> None:
    language.code = "zh"
    assert isinstance(in_language(message), str)


def test_errors_of_files_and_runs(tmp_path: Path) -> None:
    run = Run.create(TextToImage(prompt="a cat"), runs_dir=tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "empty.wav").touch()
    request = SpeechToVideo(image=str(tmp_path / "no.png"), audio=str(tmp_path / "empty.wav"))
    errors: list[str] = [
        explain(MemoryError(), run),
        explain(RuntimeError("CUDA out of memory"), run),
        explain(RuntimeError("can't start new thread"), run),
        explain(OSError(errno.ENOSPC, "No space left on device"), run),
        explain(ZeroDivisionError("division by zero"), run),
        explain(NotFinite("Text to image: the latents after step 1 of 4"), run),
        explain(missing_weights("speech_to_video", Path("/weights/Wan2.2-S2V-14B")), run),
        worker_died(how_it_ended(-9)),
        worker_died(how_it_ended(1)),
    ]
    for path in (tmp_path / "a.png", tmp_path / "empty.wav", tmp_path / "none.wav", tmp_path):
        with pytest.raises(Exception) as caught:
            probe(path)
        errors.append(str(caught.value))
    with pytest.raises(RequestError) as refused:
        super(SpeechToVideo, request).check_inputs()
    errors += [message for _, message in refused.value.problems]
    for code, script in (("ko", "[가-힣]"), ("zh", "[一-鿿]")):
        language.code = code
        for error in errors:
            found = in_language(error)
            assert re.search(script, found), error
            assert "again" not in found and " is " not in found.partition(": ")[0], found


def test_a_card_shows_its_error_in_the_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path))
    run = Run.create(TextToImage(prompt="a cat"))
    run.write_status(run.status().model_copy(update={"state": "failed", "error": worker_died("exit code 3")}))
    (run.folder / "log.txt").touch()
    card = JobCard(run.id)
    assert card.error == worker_died("exit code 3")
    language.code = "zh"
    assert card.error == "工作进程已退出（退出码 3）。请查看 log.txt 后重新提交，届时会启动新的工作进程。"
    language.code = "en"
    assert card.error == worker_died("exit code 3")
