"""Errors in the language shown: those of every field, of files and of runs, as they are really raised."""

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.machines import choice_for, machine
from tests.ui.looking import alerts, named
from wanavatar_lab.errors import LabError, NotFinite, RequestError
from wanavatar_lab.files import report_write_errors
from wanavatar_lab.media import VideoWriter, probe
from wanavatar_lab.memory.machine import this_machine
from wanavatar_lab.metrics.landmarks import NoLandmarks
from wanavatar_lab.pipeline import TalkingAvatar
from wanavatar_lab.requests import STAGE_REQUESTS, SpeechToVideo, TextToImage, fields_of, parse
from wanavatar_lab.runs.run import Run
from wanavatar_lab.stages.dubbing import Recording
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
    r"(?<![A-Za-z])(?:auto|true|false|full|pocket|LoRAs?|RRDBNet|width|height|frame|fourth|NAME|WEIGHT)(?![A-Za-z])"
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
    said |= {*wrong("speech_to_video", **voice, inpaint_mask="m.png"), *wrong("speech_to_video", audio="a.wav")}
    dubbed = {"video": "v.mp4", "inpaint_video": "w.mp4", "inpaint_mask": "m.png", "start_from_image": True}
    said |= {*wrong("speech_to_video", audio="a.wav", **dubbed)}
    said |= {*wrong("text_to_speech", text="!"), *wrong("text_to_speech", text="Hi", reference_text="Ho", manner="sad")}
    said |= {*wrong("text_to_speech", text="Hi", reference_recording="a.wav")}
    said |= {*wrong("text_to_speech", text="Hi", reference_recording="a.wav", profile="pocket")}
    both = {"prompt": "a man", "picture": "a.png", "script": "Hi", "audio": "a.wav"}
    for values in ({}, both):
        with pytest.raises(RequestError) as caught:
            TalkingAvatar(**values)
        said |= {message for _, message in caught.value.problems}
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


def test_a_video_without_a_face_is_said_in_each_language(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "wall.mp4", fps=16) as writer:
        for _ in range(3):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(LabError) as caught:
        Recording(str(tmp_path / "wall.mp4"), 64, 64).find_faces(NoLandmarks(), None, lambda: None)
    for language.code, said in (
        ("ko", "wall.mp4의 3개 프레임 어디에서도 얼굴을"),
        ("zh", "wall.mp4 的 3 帧中均未检测到面部"),
    ):
        assert said in in_language(str(caught.value))


def test_a_prompt_that_is_empty_says_so_in_each_language() -> None:
    (said,) = wrong("text_to_image", prompt=" ")
    assert said == "is empty; give text of 1 to 10000 characters"
    form = Form(TextToImage)
    form.request()
    language.code = "ko"
    assert "비어 있습니다. 입력할 값: 1~10000자의 텍스트" in alerts(form)
    language.code = "zh"
    assert "不能为空，请填写：1 到 10000 个字符的文本" in alerts(form)
    named(form, "提示词").value = "a cat"
    assert alerts(form) == ""


def test_values_and_names_stay_as_they_are() -> None:
    language.code = "zh"
    assert in_language("must be an integer from 1 to 12 (got 'text')") == "应为：1 到 12 的整数（当前值：'text'）"
    several = "[0].weight: must be a number from -5 to 5, or 'auto' (got 9); [1].name: 'a' is not there; there are b"
    assert in_language(several) == (
        "[0].weight: 应为：-5 到 5 的数值或 'auto'（当前值：9）; [1].name: 找不到 LoRA 'a'；可用的有 b"
    )
    assert in_language("something that nobody has translated") == "something that nobody has translated"
    language.code = "en"
    assert in_language(several) == several


def test_a_stage_and_a_format_are_named_in_the_language() -> None:
    unread = (
        "a.mp4 cannot be read as video or audio (broken). "
        "It is damaged or of another kind; export it again, for example as MP4 or WAV."
    )
    language.code = "ko"
    assert in_language(unread) == (
        "a.mp4 파일을 영상이나 오디오 파일로 읽을 수 없습니다(broken). 손상되었거나 다른 종류의 파일입니다. "
        "예를 들어 MP4 또는 WAV 형식으로 다시 내보내세요."
    )
    language.code = "zh"
    assert in_language(unread) == (
        "无法将 a.mp4 作为视频或音频读取（broken）。文件已损坏或类型不符，请重新导出，例如导出为 MP4 或 WAV。"
    )


def test_weights_that_are_missing_are_told_in_the_language_wherever_they_were_looked_for() -> None:
    language.code = "ko"
    known, own = Path("/weights/Wan2.2-S2V-14B"), ", or name a file of your own as weights"
    for folder in (known, Path("/weights/none")):
        said = in_language(str(missing_weights("speech_to_video", folder)))
        assert said.startswith(f"“음성으로 영상 만들기”의 가중치가 {folder}에 없습니다. ")
        assert ("다운로드" in said) == (folder == known)
        said = in_language(str(missing_weights("upscale", folder, own)))
        assert said.startswith(f"“업스케일”의 가중치가 {folder}에 없습니다. ")
        assert said.endswith("그 폴더로 지정하세요. 또는 가중치 파일을 직접 지정하세요.")
    language.code = "zh"
    said = in_language(str(missing_weights("upscale", Path("/none"), own)))
    advice = "如果在其他文件夹，请将 WANAVATAR_WEIGHTS 设为该文件夹，或自行指定权重文件。"
    assert said == f"/none 中没有“图片放大”的权重。{advice}"


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
        *(
            explain(error, Run(run.folder.with_name(f"20260101-120000-ab12-{stage}")))
            for stage in (*STAGE_REQUESTS, "relax")
            for error in (MemoryError(), RuntimeError("CUDA out of memory"))
        ),
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
    with pytest.raises(LabError) as no_gpu:
        this_machine("cuda:99")
    errors.append(str(no_gpu.value))
    with pytest.raises(RequestError) as refused:
        super(SpeechToVideo, request).check_inputs()
    errors += [message for _, message in refused.value.problems]
    with pytest.raises(LabError, match="Speech needs") as unfit:
        choice_for("text_to_speech", machine(4))
    errors.append(str(unfit.value))
    for code, script in (("ko", "[가-힣]"), ("zh", "[一-鿿]")):
        language.code = code
        for error in errors:
            found = in_language(error)
            assert re.search(script, found), error
            assert not re.search("again|Choose|End other", found) and " is " not in found.partition(": ")[0], found


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


@pytest.mark.parametrize("settings", [{"--run": Path("/")}, {}])
def test_errors_of_writing(settings: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for number, name in ((errno.ENOSPC, "a"), (errno.EACCES, "a"), (errno.EEXIST, "file"), (errno.EEXIST, "link")):
        with pytest.raises(LabError) as raised, report_write_errors(settings=settings):
            raise OSError(number, "no", str(tmp_path / name))
        assert ("set --run to" in str(raised.value)) == bool(settings)
        for code, script in (("ko", "[가-힣]"), ("zh", "[一-鿿]")):
            language.code = code
            found = in_language(str(raised.value))
            assert re.search(script, found) and str(tmp_path) in found and ("--run" in found) == bool(settings)
