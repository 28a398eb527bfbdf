"""What the toy I2V is trained on is what the pipeline will show it, and what it becomes runs through the stage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from PIL import Image

from tests.toy_i2v import i2v_pipeline
from training.model.flow import flow_sigmas
from training.pocket.image_to_video import evaluate, train
from training.pocket.image_to_video.clips import MotionBank, balanced_actions, draw_motions
from training.pocket.image_to_video.evaluate import EXPERTS, asked_clips, make, summary
from training.pocket.judge.network import Judge
from training.pocket.saving import save_all_parts
from training.pocket.text import Words, build_text_encoder, load_words, train_tokenizer
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.figure import render
from training.pocket.world.motion import ACTIONS, sample_motion
from wanavatar_lab import jobs, media
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.stages import image_to_video
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

# the weights that ship are rarely trained again, and test_upscale_training.py has the loop
pytestmark = pytest.mark.slow

VAE = Path(__file__).resolve().parents[2] / "weights" / "pocket" / "video_vae"
SIZE, FRAMES = 64, 13
POCKET = PROFILES["pocket"]


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(VAE, torch_dtype=torch.float32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text models before training, where the profile looks for them."""
    weights = tmp_path_factory.mktemp("weights")
    folder = POCKET.shared_parts("image_to_video", weights)["tokenizer"].parent
    train_tokenizer().save_pretrained(folder / "tokenizer")
    build_text_encoder().save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def words(text: Path) -> Words:
    return load_words(text)


@pytest.fixture(scope="module")
def bank(vae: AutoencoderKLWan, words: Words) -> MotionBank:
    return draw_motions(6, vae, words, seed=0, size=SIZE, frames=FRAMES)


def test_the_network_is_shown_what_the_pipeline_shows_it(vae: AutoencoderKLWan, words: Words, bank: MotionBank) -> None:
    experts = train.Experts(num_layers=1)
    pipeline = train.assembled(experts, vae, words)
    rows = torch.tensor([4, 1])
    batch = bank.batch(rows, torch.tensor([False, True]))
    picture = first_frame(4)
    _, condition = pipeline.prepare_latents(picture, 1, 16, SIZE, SIZE, FRAMES, torch.float32, torch.device("cpu"))
    assert batch["condition"].shape == (2, 20, (FRAMES + 3) // 4, SIZE // 8, SIZE // 8)
    # drawn and encoded in bfloat16 on the way
    assert torch.allclose(batch["condition"][:1], condition, atol=0.15)
    assert (batch["condition"][:1] - condition).square().mean().sqrt() < 0.02
    embedded, unconditional = pipeline.encode_prompt(bank.captions[4], "", max_sequence_length=TEXT_LENGTH)
    assert torch.allclose(batch["text"], torch.cat([embedded, unconditional]), atol=0.05)
    hidden = torch.cat([batch["target"], batch["condition"]], dim=1)
    assert hidden.shape[1] == experts.high.config.in_channels


def first_frame(row: int) -> torch.Tensor:
    """The first frame of a clip of the bank, drawn again."""
    actions = balanced_actions(6, 0)
    pose = sample_motion(6, FRAMES, 0, actions)
    return render(sample_attributes(6, 0, "train"), pose, (SIZE, SIZE), "cpu")[row : row + 1, 0] * 2 - 1


def test_every_movement_is_as_frequent_as_any_other() -> None:
    drawn = balanced_actions(10 * (len(ACTIONS) + 1), seed=3)
    first = [names[0] if names else "" for names in drawn]
    assert {name: first.count(name) for name in set(first)} == dict.fromkeys(["", *ACTIONS], 10)
    assert any(len(names) == 2 for names in drawn)
    assert drawn != balanced_actions(len(drawn), seed=4)


def test_captions_say_what_is_done_and_half_of_them_nothing_else(bank: MotionBank) -> None:
    actions = balanced_actions(6, 0)
    for i, (names, said) in enumerate(zip(actions, bank.captions, strict=True)):
        if names and i % 2 == 0:
            assert len(said.split()) < 9 * len(names)
            assert "wearing" not in said


def test_noise_levels_stay_on_their_side_of_the_boundary() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = (flow_sigmas(20_000, generator, 5.0, between) for between in ((0.0, 0.9), (0.9, 1.0)))
    assert low.min() >= 0 and low.max() <= 0.9 <= high.min() and high.max() <= 1
    # together they are as dense as over the whole range: 5·½ / (1 + 4·½) halves it, and lies below the boundary
    below = (low < 5 / 6).float().mean().item()
    assert below == pytest.approx(0.5 / (0.9 / 1.4), abs=0.01)


def test_a_step_trains_one_expert(bank: MotionBank) -> None:
    experts = train.Experts(num_layers=1)
    for step, trained, other in ((0, "high", "low"), (1, "low", "high")):
        batch = train.draw_batch(bank, 2, step, train.SIDES[trained])
        losses = train.expert_loss(getattr(experts, trained), trained, batch)
        assert trained in losses and other not in losses
        losses["loss"].backward()
        assert all(p.grad is None for p in getattr(experts, other).parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(experts, trained).parameters())
        experts.zero_grad(set_to_none=True)


def test_each_expert_fits_its_share_of_the_budget() -> None:
    with torch.device("meta"):
        expert = WanTransformer3DModel(**train.CONFIG)
    assert 2 * sum(p.numel() for p in expert.parameters()) < 8 << 20


def test_training_lowers_the_loss_and_the_stage_runs_what_is_saved(
    text: Path, bank: MotionBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = text.parents[1]
    places = POCKET.shared_parts("image_to_video", weights)
    places["vae"].symlink_to(VAE)
    out = POCKET.weights("image_to_video", weights)
    words = f"--vae {VAE} --text {text} --run {tmp_path / 'training'} --out {out} --steps 40 --clips 8 --frames 5"
    train.main([*words.split(), "--pixels", "64", "--batch", "4", "--layers", "1", "--device", "cpu"])

    pipeline = image_to_video.load_pipeline(out, torch.float32, places)
    before, after = train.Experts(num_layers=1), train.Experts(num_layers=1)
    after.high, after.low = pipeline.transformer, pipeline.transformer_2
    for name, side in train.SIDES.items():
        batch = train.draw_batch(bank, 6, 1000, side)
        with torch.no_grad():
            losses = [
                float(train.expert_loss(getattr(experts, name), name, batch)["loss"]) for experts in (before, after)
            ]
        assert losses[1] < 0.95 * losses[0]

    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    asked = next(asked_clips(1, 5, SIZE))
    media.write_picture(tmp_path / "picture.png", Image.fromarray(asked.drawn[0]))
    request = ImageToVideo(
        profile="pocket",
        image=str(tmp_path / "picture.png"),
        prompt=asked.prompt,
        resolution="64x64",
        frame_num=5,
        num_inference_steps=3,
        seed=1,
    )
    run = jobs.run_here(request)
    assert run.status().state == "succeeded", run.status().error
    assert media.probe(run.path(run.status().artifacts[0])).frames == 5


def test_a_lone_expert_does_the_work_of_both_and_only_then(tmp_path: Path) -> None:
    save_all_parts(i2v_pipeline(), "image_to_video", tmp_path)
    models = image_to_video.Models(
        POCKET.weights("image_to_video", tmp_path),
        POCKET.shared_parts("image_to_video", tmp_path),
        torch.float32,
        "cpu",
    )
    calls = {"transformer": 0, "transformer_2": 0}

    def count(name: str) -> None:
        getattr(models.pipeline, name).register_forward_hook(lambda *_: calls.update({name: calls[name] + 1}))

    for name in calls:
        count(name)
    asked = next(asked_clips(1, 5))
    seen = {}
    for experts in EXPERTS:
        calls.update(dict.fromkeys(calls, 0))
        frames = make(asked, models, tmp_path / experts, {"num_inference_steps": 6, "guidance_scale": 1.0}, experts)
        assert frames.shape == asked.drawn.shape
        seen[experts] = tuple(calls.values())
    # of six shifted noise levels three are above the boundary
    assert seen == {"both": (3, 3), "high_alone": (6, 0), "low_alone": (0, 6)}


def test_what_was_asked_is_told_from_what_else_happened() -> None:
    def clip(movement: str, **found: float) -> dict[str, object]:
        return {
            "movement": movement,
            "number": 0,
            "found": {"nod": 0.0, "smile": 0.0} | found,
            "error": 2.0,
            "first_db": 30.0,
        }

    figures = summary([clip("nod", nod=1.2), clip("nod", smile=3.0), clip("smile", smile=1.0), clip("smile")])
    assert figures == {"happened": 0.5, "others": 0.25, "error": 2.0, "first_db": 30.0}


def test_every_movement_is_asked_of_everyone() -> None:
    asked = list(asked_clips(2, 2, SIZE))
    assert [(one.movement, one.number) for one in asked] == [(name, n) for name in ACTIONS for n in range(2)]
    assert all(one.drawn.shape == (2, SIZE, SIZE, 3) and one.drawn.dtype == np.uint8 for one in asked)
    assert len({one.prompt for one in asked}) > len(ACTIONS)


def test_the_figures_are_printed_as_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_all_parts(i2v_pipeline(), "image_to_video", tmp_path)
    Judge().save(tmp_path / "judge.safetensors")
    monkeypatch.setattr(evaluate, "ACTIONS", {"nod": ACTIONS["nod"]})
    given = f"--weights {tmp_path} --judge {tmp_path / 'judge.safetensors'} --run-dir {tmp_path / 'run'} --device cpu"
    evaluate.main([*given.split(), *"--people 2 --alone 1 --frames 33 --steps 1 --guidance 1".split()])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {"drawn", *EXPERTS, "both_where_compared", "by_movement"}
    assert set(figures["by_movement"]) == {"nod"}
    assert figures["drawn"]["error"] == 0 < figures["both"]["error"]
    made = tmp_path / "run" / "both" / "nod-1" / "moving.mp4"
    assert media.probe(made).frames == 33
