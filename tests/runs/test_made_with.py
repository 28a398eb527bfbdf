"""A file says how it was made, whatever the request has in it, and says nothing of the machine that made it."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import wanavatar_lab
from wanavatar_lab import media
from wanavatar_lab.cli import main
from wanavatar_lab.errors import MediaError
from wanavatar_lab.requests import Request, SpeechToVideo, TextToImage
from wanavatar_lab.runs.inputs import InputFile
from wanavatar_lab.runs.made_with import describe, read_settings

WEIGHTS = {"transformer/a.safetensors": "ab12"}
LORAS = [{"name": "mov/ann", "high_weight": 1.0, "files": {"both": {"name": "ann.safetensors", "sha256": "cd"}}}]


def made(folder: Path, request: Request, kind: str = ".mp4", **given: Any) -> Path:
    entries = describe(request, given.get("seed", 7), given.get("inputs", {}), WEIGHTS, LORAS)
    path = folder / f"made{kind}"
    if kind == ".mp4":
        with media.VideoWriter(path, fps=16, metadata=entries) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
    else:
        media.write_picture(path, Image.new("RGB", (8, 8)), metadata=entries)
    return path


@pytest.mark.parametrize("kind", [".mp4", ".png", ".jpg", ".webp"])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    request = SpeechToVideo(
        image="/home/ann/사진.png", audio="/data/v.wav", prompt='그녀가 "말한다" 😀\n<b>', seed=-1, loras=["mov/ann"]
    )
    given = InputFile(name="v.wav", bytes=3, sha256="ef", state=(3, 0, 0, 0), copied=False)
    path = made(tmp_path, request, kind, seed=2**32 - 1, inputs={"audio": given})
    found = wanavatar_lab.read_settings(path)
    assert found.to_request() == request.changed(image="사진.png", audio="v.wav", seed=2**32 - 1)
    assert (found.weights, found.loras) == (WEIGHTS, LORAS)
    assert found.inputs == {"audio": {"name": "v.wav", "sha256": "ef"}}
    assert found.version == version("wanavatar-lab")
    assert b"/home" not in path.read_bytes() and b"/data" not in path.read_bytes()


def test_such_a_clip_is_whole_to_a_player(tmp_path: Path) -> None:
    path = made(tmp_path, TextToImage(prompt="가" * 10_000))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 1
        assert json.loads(json.loads(container.metadata["comment"])["Request"])["prompt"] == "가" * 10_000
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat"), "it plays before it is loaded"


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=200).filter(lambda text: text.strip()))
def test_any_prompt_is_read_back(tmp_path_factory: pytest.TempPathFactory, prompt: str) -> None:
    try:
        request = TextToImage(prompt=prompt)
    except ValueError:
        return
    for kind in (".png", ".jpg"):
        assert read_settings(made(tmp_path_factory.mktemp("made"), request, kind)).to_request().prompt == prompt  # type: ignore[attr-defined]


def test_a_file_name_in_other_bytes_is_escaped(tmp_path: Path) -> None:
    name = os.fsdecode("가.wav".encode("cp949"))
    found = read_settings(made(tmp_path, SpeechToVideo(image="a.png", audio=f"/x/{name}")))
    assert found.request["audio"] == r"\udcb0\udca1.wav"


def test_a_file_of_another_program_does_not_say(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"a\.png does not say how it was made"):
        read_settings(tmp_path / "a.png")
    with media.VideoWriter(tmp_path / "a.mp4", fps=16, metadata={"Software": "WanAvatar Lab"}) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(MediaError, match=r"a\.mp4 does not say how it was made"):
        read_settings(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="There is no file"):
        read_settings(tmp_path / "none.png")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(made(tmp_path, SpeechToVideo(image="/x/a.png", audio="v.wav", profile="pocket", prompt="she speaks")))
    assert main(["settings", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"made with WanAvatar Lab {version('wanavatar-lab')}"
    assert {"seed: 7", "image: a.png"} < set(lines)
    assert lines[-1] == (
        "wanavatar-lab speech-to-video --profile=pocket --image=a.png --audio=v.wav '--prompt=she speaks' --seed=7"
    )
    assert main(["settings", path, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["request"]["seed"] == 7 and said["weights"] == WEIGHTS
    assert main(["settings", str(tmp_path / "none.png")]) == 1
    assert "There is no file" in capsys.readouterr().err
