"""Previews from latents: what they show, what they cost, and that no run fails of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.queue_for_tests import REPOSITORY
from wanavatar_lab import jobs, media
from wanavatar_lab.errors import DiskFull
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage
from wanavatar_lab.runs.run import PREVIEW, Run
from wanavatar_lab.stages import latent_preview
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.latent_preview import SHARE, LatentPreview, draw, fit_colours

SAMPLES = REPOSITORY / "data" / "samples"
CHANNELS = 4


def mixed(pixels: torch.Tensor) -> torch.Tensor:
    """An encoder whose latents are the colours of 8 × 8 pixels, mixed and moved."""
    mix = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(3)))[0][:, :3]
    return torch.einsum("kc,bchw->bkhw", mix, torch.nn.functional.avg_pool2d(pixels, 8)) + 0.5


@pytest.fixture(scope="module")
def colours() -> torch.Tensor:
    fitted = fit_colours(mixed)
    assert fitted is not None
    return fitted


@dataclass
class Clock:
    """Seconds that go on only when a test says so."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def context(folder: Path) -> StageContext:
    return StageContext(folder, seed=0)


def flat(*colour: float) -> torch.Tensor:
    """Latents [C, 2, 3] of one colour."""
    return mixed(torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 16, 24))[0]


@pytest.mark.parametrize("colour", [(1.0, -1.0, -1.0), (-1.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_the_map_gives_back_the_colours_that_were_encoded(colours: torch.Tensor, colour: tuple[float, ...]) -> None:
    picture = draw(flat(*colour), colours)
    assert picture.size == (24, 16)  # small ones are enlarged
    wanted = (np.array(colour) / 2 + 0.5) * 255
    assert np.abs(np.asarray(picture, float) - wanted).max() < 2


def test_an_encoder_that_cannot_be_fitted_gives_none(caplog: pytest.LogCaptureFixture) -> None:
    def fail(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    assert fit_colours(fail) is None
    assert "Runs will have no previews: no memory" in caplog.text


def test_they_take_no_more_than_their_share(
    tmp_path: Path, colours: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, drawn = Clock(), 0
    preview = LatentPreview(context(tmp_path), colours, clock)
    step, cost, steps = 0.3, 0.05, 400

    def latents() -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        return flat(0.5, 0.5, 0.5)

    def slow_draw(latents: torch.Tensor, colours: torch.Tensor) -> Image.Image:
        clock.now += cost
        return draw(latents, colours)

    monkeypatch.setattr(latent_preview, "draw", slow_draw)
    begun = clock.now
    for _ in range(steps):
        clock.now += step
        preview.offer(latents)
    assert drawn * cost <= SHARE * (clock.now - begun)
    assert drawn * cost > 0.8 * SHARE * (clock.now - begun)


def test_a_preview_is_whole_and_leaves_nothing_beside_it(tmp_path: Path, colours: torch.Tensor) -> None:
    clock = Clock()
    preview = LatentPreview(context(tmp_path), colours, clock)
    preview.offer(lambda: flat(1.0, 0.0, 0.0))
    assert list(tmp_path.iterdir()) == []  # too soon
    for _ in range(3):
        clock.now += 60
        preview.offer(lambda: flat(1.0, 0.0, 0.0))
        assert [path.name for path in tmp_path.iterdir()] == [PREVIEW]
        assert Image.open(tmp_path / PREVIEW).size == (24, 16)
    (tmp_path / PREVIEW).unlink()
    clock.now += 60
    preview.offer(lambda: None)  # nothing is known yet
    assert list(tmp_path.iterdir()) == []


def raises() -> torch.Tensor:
    raise RuntimeError("the device has gone")


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (lambda: torch.zeros(7, 2, 2), "latents are [7, 2, 2]; need [4, h, w]"),
        (lambda: torch.full((CHANNELS, 2, 2), float("nan")), "values that are not finite"),
        (raises, "the device has gone"),
    ],
)
def test_what_goes_wrong_is_said_once_and_ends_them(
    tmp_path: Path, colours: torch.Tensor, latents: Callable[[], torch.Tensor], words: str
) -> None:
    clock = Clock()
    preview = LatentPreview(context(tmp_path), colours, clock)
    for _ in range(3):
        clock.now += 60
        preview.offer(latents)
    log = (tmp_path / "log.txt").read_text()
    assert log.count("There will be no more previews") == 1 and words in log
    assert not (tmp_path / PREVIEW).exists()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path, colours: torch.Tensor) -> None:
    (tmp_path / f".{PREVIEW}").mkdir()
    clock = Clock()
    preview = LatentPreview(context(tmp_path), colours, clock)
    clock.now += 60
    preview.offer(lambda: flat(1.0, 0.0, 0.0))
    assert "There will be no more previews" in (tmp_path / "log.txt").read_text()


def test_a_full_disk_is_left_to_the_run_to_tell(tmp_path: Path, colours: torch.Tensor) -> None:
    class Full(StageContext):
        def log(self, text: str) -> None:
            raise DiskFull("There is no room for log.txt.")

    clock = Clock()
    preview = LatentPreview(Full(tmp_path, seed=0), colours, clock)
    clock.now += 60
    preview.offer(raises)
    clock.now += 60
    preview.offer(lambda: flat(1.0, 0.0, 0.0))
    assert list(tmp_path.iterdir()) == []  # the first that went wrong was the last


REQUESTS: dict[str, Request] = {
    "text_to_image": TextToImage(
        profile="pocket", prompt="a man with a black moustache", num_inference_steps=2, seed=1, upscale=False
    ),
    "image_to_video": ImageToVideo(
        profile="pocket", image=str(SAMPLES / "avatar_woman.png"), frame_num=9, num_inference_steps=2, seed=1
    ),
    "speech_to_video": SpeechToVideo(
        profile="pocket",
        image=str(SAMPLES / "avatar_woman.png"),
        audio=str(SAMPLES / "english_female.wav"),
        audio_duration=0.5,
        frames_per_segment=8,
        num_inference_steps=2,
        seed=1,
    ),
}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Image.Image]]:
    """Every step draws one; what each step's report found in the run's folder."""
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(REPOSITORY / "weights"))
    monkeypatch.setattr(latent_preview, "FIRST_AFTER", 0.0)
    monkeypatch.setattr(latent_preview, "SHARE", 1e9)
    seen: list[Image.Image] = []
    report = StageContext.check

    def look(self: StageContext) -> None:
        if (self.folder / PREVIEW).exists():
            seen.append(Image.open(self.folder / PREVIEW).convert("RGB"))
        report(self)

    monkeypatch.setattr(StageContext, "check", look)
    yield seen


@pytest.mark.parametrize("stage", REQUESTS)
def test_a_stage_shows_what_it_is_making(stage: str, often: list[Image.Image]) -> None:
    run = jobs.run_here(REQUESTS[stage])
    status = run.status()
    assert status.state == "succeeded", status.error
    assert "previews" not in run.log_tail()
    made = run.path(status.artifacts[0])
    assert len(often) >= 1
    if stage == "text_to_image":
        result = media.read_picture(made)
    else:
        frames = list(media.read_frames(made))
        result = Image.fromarray(frames[len(frames) // 2])
    small = np.asarray(result.convert("RGB").resize((16, 16), Image.Resampling.BOX), float)
    shown = np.asarray(often[-1].resize((16, 16), Image.Resampling.BOX), float)
    assert np.corrcoef(small.ravel(), shown.ravel())[0, 1] > 0.8
    assert not (run.folder / PREVIEW).exists()  # it is no result


def test_a_run_that_shows_them_makes_the_same(often: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> bytes:
        run: Run = jobs.run_here(REQUESTS["text_to_image"])
        return run.path(run.status().artifacts[0]).read_bytes()

    with_them = made()
    assert often
    monkeypatch.setattr(latent_preview, "FIRST_AFTER", 1e9)
    assert made() == with_them
