"""The list of LoRAs: what is found where, and what headers and sidecars tell."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.lora.files import NETWORKS, own_layers, random_layers, save, tiny, written
from wanavatar_lab.cli import main
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.lora.find import noise_of

WAN = "diffusion_model.blocks.0.self_attn.q"


def put(folder: Path, *places: str) -> None:
    for place in places:
        save(folder / f"{place}.safetensors", tiny(WAN))


def found(folder: Path) -> dict[str, tuple[str, list[str]]]:
    return {adapter.name: (adapter.kind, sorted(adapter.files)) for adapter in find_adapters(folder)}


def test_folders_give_the_kinds_and_the_older_name_counts_too(tmp_path: Path) -> None:
    put(tmp_path, "loras/img/paint", "loras/mov/character/ann", "loras/mov/move/wave", "loras/mov/camera/pan")
    put(tmp_path, "loras/mov/loose", "lora_adpts/mov/character/bob", "lora_adpts/img/style/ink", "loras/elsewhere/no")
    kinds = {name: kind for name, (kind, _) in found(tmp_path).items()}
    assert kinds == {
        "paint": "img",
        "ink": "img",
        "ann": "character",
        "bob": "character",
        "wave": "move",
        "pan": "camera",
        "loose": "mov",
    }


def test_nothing_is_there_to_begin_with(tmp_path: Path) -> None:
    assert find_adapters(tmp_path) == []


def test_names_are_as_long_as_tells_them_apart(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/character/ann", "loras/mov/move/ann", "loras/img/ann", "lora_adpts/mov/move/ann")
    put(tmp_path, "loras/mov/camera/pan")
    assert set(found(tmp_path)) == {"ann", "character/ann", "loras/mov/move/ann", "lora_adpts/mov/move/ann", "pan"}


@pytest.mark.parametrize(
    ("high", "low", "name"),
    [
        ("wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise", "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise",
         "wan2.2_i2v_lightx2v_4steps_lora_v1"),
        ("orbit-high-noise-v2", "orbit-low-noise-v2", "orbit-v2"),
        ("high_noise_orbit", "low_noise_orbit", "orbit"),
        ("orbit_HighNoise", "orbit_LowNoise", "orbit"),
        ("OrbitHighNoise", "OrbitLowNoise", "Orbit"),
        ("orbit.HIGH NOISE", "orbit.LOW NOISE", "orbit"),
        ("Relight_I2V_high", "Relight_I2V_low", "Relight_I2V"),
        ("Relight_HIGH_14B", "Relight_LOW_14B", "Relight_14B"),
        ("RelightHigh", "RelightLow", "Relight"),
        ("DANCE-22-H-e8", "DANCE-22-L-e8", "DANCE-22-e8"),
        ("walk_HN", "walk_LN", "walk"),
    ],
)  # fmt: skip
def test_two_files_are_one_adapter(tmp_path: Path, high: str, low: str, name: str) -> None:
    put(tmp_path, f"loras/mov/move/{high}", f"loras/mov/move/{low}")
    assert found(tmp_path) == {name: ("move", ["high", "low"])}
    (adapter,) = find_adapters(tmp_path)
    assert (adapter.files["high"].stem, adapter.files["low"].stem) == (high, low)


def test_a_folder_of_two_models_is_called_by_its_name(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/move/Seko-V1/high_noise_model", "loras/mov/move/Seko-V1/low_noise_model")
    assert found(tmp_path) == {"Seko-V1": ("move", ["high", "low"])}


def test_words_that_only_look_like_noise_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/move/high_heels", "loras/mov/move/low_angle", "loras/mov/move/flow", "loras/mov/move/glow")
    assert found(tmp_path) == {name: ("move", ["both"]) for name in ("high_heels", "low_angle", "flow", "glow")}
    assert noise_of("highest_noise") is None


def test_half_a_pair_is_for_its_side_only(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/move/orbit_high_noise")
    assert found(tmp_path) == {"orbit": ("move", ["high"])}


def test_two_spellings_of_one_file_both_stay(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/move/orbit_high_noise", "loras/mov/move/orbit_highnoise", "loras/mov/move/orbit_low_noise")
    files = [file for adapter in find_adapters(tmp_path) for file in adapter.files.values()]
    assert len(files) == len(set(files)) == 3


def test_a_pair_that_says_noise_comes_before_one_that_does_not(tmp_path: Path) -> None:
    put(tmp_path, *(f"loras/mov/move/orbit_{end}" for end in ("high_noise", "low_noise", "high", "low")))
    assert {name: files for name, (_, files) in found(tmp_path).items()} == {
        "orbit": ["high", "low"],
        "orbit_high": ["both"],
        "orbit_low": ["both"],
    }


def test_headers_tell_rank_alpha_base_and_what_it_fits(tmp_path: Path) -> None:
    network = NETWORKS["wan"]()
    layers = random_layers(network, own_layers(network))
    state = written(layers, lambda name: f"transformer.{name}", "lora_down", "lora_up", "alpha")
    file = save(tmp_path / "loras/mov/character/ann.safetensors", state)
    config = {"num_attention_heads": 2, "attention_head_dim": 12}
    for stage, more in {"image_to_video": {}, "speech_to_video": {"attention_head_dim": 20}}.items():
        folder = tmp_path / "pocket" / stage / "transformer"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config | more))
    (one,) = describe(find_adapters(tmp_path), tmp_path)
    assert one.rank == (min(layer.rank for layer in layers), max(layer.rank for layer in layers))
    assert one.rank[0] < one.rank[1]
    assert one.alpha == (min(layer.alpha for layer in layers), max(layer.alpha for layer in layers))
    assert (one.base, one.fits) == ("Wan", ["image_to_video/pocket"])
    assert one.bytes == file.stat().st_size
    assert one.files == {"both": "loras/mov/character/ann.safetensors"}
    assert one.problem == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_alphas_are_read_in_every_type(tmp_path: Path, dtype: torch.dtype) -> None:
    state = tiny(WAN) | {f"{WAN}.alpha": torch.tensor(16, dtype=dtype)}
    save(tmp_path / "loras/mov/ann.safetensors", state)
    assert describe(find_adapters(tmp_path), tmp_path)[0].alpha == (16.0, 16.0)


def test_metadata_tells_alpha_too(tmp_path: Path) -> None:
    save(tmp_path / "loras/mov/ann.safetensors", tiny(WAN), ss_network_alpha="8.0")
    save(
        tmp_path / "loras/mov/bob.safetensors",
        tiny(WAN),
        lora_adapter_metadata=json.dumps({"transformer.lora_alpha": 4}),
    )
    assert [one.alpha for one in describe(find_adapters(tmp_path), tmp_path)] == [(8.0, 8.0), (4.0, 4.0)]


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".json", json.dumps({"trainedWords": ["ann", "red scarf"], "modelId": 7})),
        (".civitai.info", json.dumps({"trainedWords": ["ann, red scarf"], "modelId": 7})),
        (".metadata.json", json.dumps({"civitai": {"trainedWords": ["ann", "red scarf"], "modelId": 7}})),
        (".json", json.dumps({"activation text": "ann, red scarf", "modelId": 7})),
        (".json", json.dumps({"modelId": 7, "modelVersions": [{"trainedWords": ["ann", "red scarf"]}]})),
    ],
)
def test_what_lies_beside_is_read(tmp_path: Path, ending: str, text: str) -> None:
    put(tmp_path, "loras/mov/ann")
    (tmp_path / f"loras/mov/ann{ending}").write_text(text)
    Image.new("RGB", (8, 8)).save(tmp_path / "loras/mov/ann.webp")
    (one,) = describe(find_adapters(tmp_path), tmp_path)
    assert one.trigger_words == ["ann", "red scarf"]
    assert one.preview == str(tmp_path / "loras/mov/ann.webp")
    assert one.link == "https://civitai.com/models/7"


@pytest.mark.parametrize(
    ("noted", "usual"),
    [
        ({"preferred weight": 0.8}, 0.8),
        ({"preferred weight": 0, "usual_weight": "0.5"}, 0.5),
        ({"preferred weight": "much"}, None),
        ({"usual_weight": 2.5}, 2.5),
        ({"usual_weight": "-0.5"}, -0.5),
        ({"usual_weight": 40}, None),
        ({"usual_weight": True}, None),
        ({"usual_weight": 10**400}, None),
    ],
)
def test_the_usual_weight_is_read_if_a_request_allows_it(
    noted: dict[str, object], usual: float | None, tmp_path: Path
) -> None:
    put(tmp_path, "loras/mov/ann")
    (tmp_path / "loras/mov/ann.json").write_text(json.dumps(noted))
    save(tmp_path / "loras/mov/bob.safetensors", tiny(WAN), usual_weight="0.7")
    weights = {one.name: one.usual_weight for one in describe(find_adapters(tmp_path), tmp_path)}
    assert weights == {"ann": usual, "bob": 0.7}


def test_text_files_and_metadata_tell_trigger_words(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/ann_high_noise", "loras/mov/ann_low_noise")
    (tmp_path / "loras/mov/ann.txt").write_text("ann\nred scarf\n")
    save(tmp_path / "loras/mov/bob.safetensors", tiny(WAN), **{"modelspec.trigger_phrase": "bob"})
    words = {one.name: one.trigger_words for one in describe(find_adapters(tmp_path), tmp_path)}
    assert words == {"ann": ["ann", "red scarf"], "bob": ["bob"]}


def with_header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 64, id="huge header"),
        pytest.param(with_header(b"[]"), id="list"),
        pytest.param(with_header(b"{")[:-1], id="cut"),
        pytest.param(with_header(b'{"a.alpha":' * 50_000), id="nested"),
        pytest.param(
            with_header(b'{"a.alpha":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'), id="negative offset"
        ),
    ],
)
def test_a_damaged_file_is_listed_with_its_problem(tmp_path: Path, damage: bytes) -> None:
    put(tmp_path, "loras/mov/ann")
    (tmp_path / "loras/mov/broken.safetensors").write_bytes(damage)
    by_name = {one.name: one for one in describe(find_adapters(tmp_path), tmp_path)}
    assert by_name["ann"].problem == ""
    assert "broken.safetensors" in by_name["broken"].problem


def test_what_is_no_file_is_listed_with_its_problem_and_never_opened(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/ann")
    os.mkfifo(tmp_path / "loras/mov/pipe.safetensors")
    (tmp_path / "loras/mov/self.safetensors").symlink_to("self.safetensors")
    problems = {one.name: one.problem for one in describe(find_adapters(tmp_path), tmp_path)}
    assert problems["ann"] == ""
    assert "pipe.safetensors cannot be read: it is not a regular file" in problems["pipe"]
    assert "self.safetensors cannot be read (" in problems["self"]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    put(tmp_path / "other", "loras/mov/people/ann")
    (tmp_path / "weights/loras").mkdir(parents=True)
    (tmp_path / "weights/loras/mov").symlink_to(tmp_path / "other/loras/mov")
    (tmp_path / "other/loras/mov/again").symlink_to(".")
    found = describe(find_adapters(tmp_path / "weights"), tmp_path / "weights")
    assert [(one.name, one.kind, one.problem) for one in found] == [("ann", "people", "")]
    assert [one.name for one in find_adapters(tmp_path / "other")] == ["ann"]


@pytest.mark.parametrize("alpha", [torch.ones(2), torch.ones(0)])
def test_an_alpha_that_is_no_single_number_is_a_problem(tmp_path: Path, alpha: torch.Tensor) -> None:
    put(tmp_path, "loras/mov/ann")
    save(tmp_path / "loras/mov/bob.safetensors", tiny(WAN) | {f"{WAN}.alpha": alpha})
    ann, bob = describe(find_adapters(tmp_path), tmp_path)
    assert ann.problem == "" and "bob.safetensors" in bob.problem and "need one number" in bob.problem


@pytest.mark.parametrize("text", ["{", "[" * 100_000], ids=["cut", "nested"])
def test_a_damaged_sidecar_is_a_problem_and_no_end(tmp_path: Path, text: str) -> None:
    put(tmp_path, "loras/mov/ann")
    (tmp_path / "loras/mov/ann.json").write_text(text)
    (one,) = describe(find_adapters(tmp_path), tmp_path)
    assert "ann.json" in one.problem and one.rank == (2, 2)


def test_metadata_and_sidecars_of_another_shape_are_no_end(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/ann")
    (tmp_path / "loras/mov/ann.json").write_text(json.dumps({"trainedWords": 7, "description": [], "modelVersions": 1}))
    os.mkfifo(tmp_path / "loras/mov/ann.txt")
    save(tmp_path / "loras/mov/bob.safetensors", tiny(WAN), lora_adapter_metadata="[" * 100_000)
    ann, bob = describe(find_adapters(tmp_path), tmp_path)
    assert (ann.trigger_words, ann.problem) == ([], "") and "bob.safetensors notes its alpha" in bob.problem


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_not_finite_is_a_problem(tmp_path: Path, alpha: float) -> None:
    save(tmp_path / "loras/mov/ann.safetensors", tiny(WAN) | {f"{WAN}.alpha": torch.tensor(alpha)})
    save(tmp_path / "loras/mov/bob.safetensors", tiny(WAN), ss_network_alpha=str(alpha))
    ann, bob = describe(find_adapters(tmp_path), tmp_path)
    assert f"NaN or infinite values in 1 of its 3 keys: {WAN}.alpha" in ann.problem
    assert f"alpha is {alpha}" in bob.problem


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["loras", *words]) == 0
    return capsys.readouterr().out


def test_the_command_line_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    assert listed(capsys) == ""
    noted = {"ss_network_alpha": "1", "usual_weight": "0.6"}
    save(tmp_path / "loras/mov/character/ann.safetensors", tiny(WAN, inputs=5120), **noted)
    (tmp_path / "loras/mov/character/ann.txt").write_text("ann")
    image_branch = [f"diffusion_model.{name}" for name in ("blocks.0.cross_attn.k_img", "img_emb.proj.1")]
    save(tmp_path / "loras/mov/move/walk.safetensors", tiny(WAN, *image_branch, inputs=5120))
    text = listed(capsys)
    assert "ann  character" in text and "rank 2, alpha 1" in text and "trigger words: ann" in text
    assert "usual weight: 0.6" in text
    assert "Wan-14B; fits image_to_video/full, speech_to_video/full" in text
    told: list[dict[str, Any]] = json.loads(listed(capsys, "--json"))
    assert "Wan2.1-I2V-14B; fits image_to_video/full, speech_to_video/full" in text
    assert text.count("left out: 4 keys for the image branch of Wan2.1-I2V (2 k_img, 2 img_emb)") == 1
    assert [one["left_out"] for one in told] == [{}, {"k_img": 2, "img_emb": 2}]
    assert told[0]["name"] == "ann" and told[0]["rank"] == [2, 2] and told[0]["fits"]


def test_listing_needs_no_torch(tmp_path: Path) -> None:
    put(tmp_path, "loras/mov/ann")
    code = (
        "import sys; from wanavatar_lab.cli import main\n"
        "assert main(['loras', '--json']) == 0\n"
        "sys.exit(str([name for name in ('torch', 'safetensors', 'numpy') if name in sys.modules]) if 'torch' in "
        "sys.modules else 0)"
    )
    environment = {**os.environ, "WANAVATAR_WEIGHTS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["name"] == "ann"
