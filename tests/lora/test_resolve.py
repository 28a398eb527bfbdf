"""What a request names is looked for before anything loads: unknown names, other models, damaged files."""

from pathlib import Path
from typing import Any

import pytest

from tests import toys
from tests.lora.files import save, tiny
from wanavatar_lab import jobs
from wanavatar_lab.errors import RequestError
from wanavatar_lab.lora import check_loras, with_usual_weights
from wanavatar_lab.lora.base_model import base_of
from wanavatar_lab.requests import ImageToVideo, TextToImage
from wanavatar_lab.worker import model_cache

WAN = "diffusion_model.blocks.0.self_attn.q"
FLUX2 = "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    for name in ("smile", "smirk", "walk"):
        save(tmp_path / f"loras/mov/move/{name}.safetensors", tiny(WAN))
    save(tmp_path / "loras/mov/character/Annabel.safetensors", tiny(WAN))
    save(tmp_path / "loras/img/freckles.safetensors", tiny(FLUX2))
    return tmp_path


def said(request: Any) -> str:
    with pytest.raises(RequestError) as caught:
        check_loras(request)
    return str(caught.value)


def video(*names: str, **fields: Any) -> ImageToVideo:
    return ImageToVideo(profile="pocket", image="a.png", loras=list(names), **fields)


def test_names_that_are_there_are_fine() -> None:
    check_loras(video("smile", "Annabel:0.5"))
    check_loras(TextToImage(profile="pocket", prompt="a woman", loras=["freckles"]))
    check_loras(video())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("smil", "did you mean 'smile'"),
        ("annabel", "'Annabel'"),
        ("anna", "'Annabel'"),
        ("freckles", "it is among the LoRAs for pictures"),
        ("zzzz", "there are Annabel, smile, smirk, walk"),
    ],
)
def test_an_unknown_name_is_said_with_the_nearest(name: str, advice: str) -> None:
    text = said(video("smile", name))
    assert text.startswith(f"loras[1].name: {name!r} is not there; ") and advice in text


def test_all_unknown_names_are_said_at_once() -> None:
    text = said(video("smille", "wolk"))
    assert "'smile'" in text and "'walk'" in text


def test_the_folder_is_said_where_there_are_none(weights: Path) -> None:
    (weights / "loras/img/freckles.safetensors").unlink()
    assert str(weights / "loras/img") in said(TextToImage(prompt="a woman", loras=["freckles"]))


def test_a_damaged_file_is_said(weights: Path) -> None:
    (weights / "loras/mov/move/smile.safetensors").write_bytes(b"no")
    assert "smile.safetensors" in said(video("smile"))


# what files for other models have in them: an example each, as they are published
OTHERS = {
    "FLUX.1": tiny("lora_unet_double_blocks_0_img_mod_lin", "lora_unet_single_blocks_37_linear1", inputs=3072),
    "FLUX.1 ": tiny("transformer.single_transformer_blocks.37.proj_mlp", inputs=3072),
    "FLUX.1  ": tiny("lora_unet_double_blocks_18_img_attn_qkv", inputs=3072),
    "HunyuanVideo": tiny("diffusion_model.double_blocks.19.img_attn.qkv", inputs=3072),
    "Stable Diffusion": tiny("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", inputs=320),
    "Qwen-Image": tiny("transformer.transformer_blocks.0.img_mlp.net.2", inputs=3072),
    "LTX-Video": tiny("transformer.transformer_blocks.0.attn1.to_q", inputs=2048),
    "Z-Image or Lumina": tiny("diffusion_model.layers.0.attention.qkv", inputs=3840),
    "the image branch of Wan2.1-I2V": tiny("lora_unet_img_emb_proj_1", "lora_unet_blocks_0_cross_attn_v_img"),
    "Wan2.2-Animate": tiny(WAN, "diffusion_model.face_adapter.fuser_blocks.0.linear1_kv", inputs=5120),
    "Wan2.1-VACE": tiny(WAN, "diffusion_model.vace_blocks.0.self_attn.q", inputs=5120),
}


@pytest.mark.parametrize("model", OTHERS)
def test_a_lora_for_another_model_is_refused_by_its_name(weights: Path, model: str) -> None:
    save(weights / "loras/mov/move/smile.safetensors", OTHERS[model])
    assert f"'smile' is for {model.strip()}, not for Wan2.2-I2V" in said(video("smile"))


def test_each_stage_has_its_models(weights: Path) -> None:
    save(weights / "loras/mov/move/voice.safetensors", tiny("diffusion_model.audio_injector.injector.0.q"))
    assert "is for Wan2.2-S2V, not for Wan2.2-I2V" in said(video("voice"))
    save(weights / "loras/mov/move/paint.safetensors", tiny(FLUX2, inputs=4096))
    assert "is for FLUX.2-klein-9B, not for Wan2.2-I2V" in said(video("paint"))
    save(weights / "loras/img/ann.safetensors", tiny(WAN, inputs=5120))
    assert "is for Wan-14B, not for FLUX.2-klein" in said(TextToImage(prompt="a", loras=["ann"]))


def test_the_same_model_in_another_size_is_refused_by_its_widths(weights: Path) -> None:
    save(weights / "loras/mov/move/smile.safetensors", tiny(WAN, inputs=1536))
    text = said(video("smile").model_copy(update={"profile": "full"}))
    assert "'smile' is for Wan2.1-1.3B (1536 wide), not for Wan2.2-I2V (5120 wide)" in text
    save(weights / "loras/mov/move/smile.safetensors", tiny(WAN, inputs=5120))
    check_loras(video("smile").model_copy(update={"profile": "full"}))


@pytest.mark.parametrize(
    ("names", "inputs", "base"),
    [
        (("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj",), 6144, "FLUX.2-dev"),
        (("lora_unet_double_blocks_4_img_attn_qkv", "lora_unet_single_blocks_19_linear1"), 3072, "FLUX.2-klein-4B"),
        (("diffusion_model.double_blocks.7.img_attn.qkv",), 4096, "FLUX.2-klein-9B"),
        (("lora_unet_blocks_0_self_attn_q",), 1536, "Wan2.1-1.3B"),
        (("lora_transformer__blocks_0_self_attn_q",), 5120, "Wan-14B"),
        (("blocks.0.attn1.to_q",), 3072, "Wan2.2-TI2V-5B"),
        ((WAN, "diffusion_model.blocks.0.cross_attn.k_img"), 5120, "Wan2.1-I2V-14B"),
        (("transformer.blocks.0.attn1.to_q", "transformer.blocks.0.attn2.add_v_proj"), 5120, "Wan2.1-I2V-14B"),
        (("something.else",), 8, "unknown"),
    ],
)
def test_models_are_told_by_names_and_widths(names: tuple[str, ...], inputs: int, base: str) -> None:
    state = tiny(*names, inputs=inputs)
    assert base_of({key: tuple(tensor.shape) for key, tensor in state.items()}).name == base


def test_a_weight_that_is_not_given_is_the_usual_one(weights: Path) -> None:
    (weights / "loras/mov/move/walk.json").write_text('{"usual_weight": 0.5}')
    request = with_usual_weights(video("walk", "smile", "Annabel:0.7"))
    assert [(one.name, one.high_weight, one.low_weight) for one in request.loras] == [
        ("walk", 0.5, 0.5),
        ("smile", 1.0, 1.0),
        ("Annabel", 0.7, 0.7),
    ]
    (one,) = with_usual_weights(video("walk:auto:0.25")).loras
    assert (one.high_weight, one.low_weight) == (0.5, 0.25)
    save(weights / "loras/img/freckles.safetensors", tiny(FLUX2), usual_weight="-1.5")
    (image,) = with_usual_weights(TextToImage(prompt="a woman", loras=["freckles"])).loras
    assert image.weight == -1.5
    assert with_usual_weights(request) is request


def test_submitting_writes_the_usual_weight_down(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "start_supervisor", lambda queue, lock: None)
    (weights / "loras/mov/move/walk.json").write_text('{"usual_weight": 0.5}')
    request = video("walk").model_copy(update={"image": str(toys.picture(weights / "a.png"))})
    (lora,) = jobs.submit(request).run.read_json("request.json")["loras"]
    assert lora == {"name": "walk", "high_weight": 0.5, "low_weight": 0.5}


def test_submitting_refuses_before_a_run_exists(weights: Path) -> None:
    request = video("smil", resolution="64x64").model_copy(update={"image": str(toys.picture(weights / "a.png"))})
    with pytest.raises(RequestError, match="smile"):
        jobs.submit(request)
    assert not list((weights / "runs").glob("*/request.json"))


def test_a_run_of_an_unknown_name_loads_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(model_cache.ModelCache, "models", lambda *given: loaded.append(given))
    request = video("smil").model_copy(update={"image": str(toys.picture(weights / "a.png"))})
    status = jobs.run_here(request).status()
    assert status.state == "failed" and "did you mean 'smile'" in (status.error or "")
    assert not loaded
