"""Parts of stages by themselves: what is counted, what it is compared with, and what the tables say of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import AutoencoderKLFlux2, AutoencoderKLWan
from torch import nn

from wanavatar_lab.bench.__main__ import main
from wanavatar_lab.bench.floor import Ceilings, Operations, counted, read_bytes
from wanavatar_lab.bench.parts import PARTS, choose_parts, kernel_seconds, kinds_of
from wanavatar_lab.bench.random_models import SIZES
from wanavatar_lab.bench.table import tables
from wanavatar_lab.bench.targets import TARGETS, figure_of, targets_table
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import estimate_time


class Toy(nn.Module):
    """A layer of each kind, whose operations can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 12)
        self.linear = nn.Linear(12, 24)
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, tokens: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        states = self.linear(self.words(tokens)).unflatten(-1, (4, 6)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(states, states, states)
        return attended.sum() + self.conv(picture).sum()


def test_operations_are_those_that_one_counts_by_hand() -> None:
    toy = Toy()
    tokens, picture = torch.empty(1, 7, dtype=torch.long, device="meta"), torch.empty(1, 3, 10, 9, device="meta")
    found = counted(toy, lambda it: it(tokens, picture))
    # a multiply-add is two; queries with keys and scores with values; a 3x3 kernel fits 8 x 7 times
    assert found == Operations(
        products=2 * 7 * 12 * 24, attention=2 * 2 * 7 * 7 * 24, convolutions=2 * 8 * 7 * 3 * 5 * 9
    )
    assert all(parameter.device.type == "cpu" for parameter in toy.parameters()), "the network itself stays as it is"
    assert read_bytes(toy) == 4 * (12 * 24 + 24 + 3 * 5 * 9 + 5), "rows of an embedding are looked up"


def test_the_estimated_work_of_decoders_is_what_is_counted() -> None:
    with init_empty_weights(include_buffers=True):
        wan = AutoencoderKLWan(**SIZES["published"]["wan_vae"])
        flux = AutoencoderKLFlux2(**SIZES["published"]["flux_vae"])

    def decoding(network: nn.Module, *latents: int) -> Operations:
        return counted(network, lambda it: it.decode(torch.empty(latents, device="meta")))

    # the first latents of a clip are decoded to fewer frames
    four_frames = decoding(wan, 1, 16, 4, 60, 104).without(decoding(wan, 1, 16, 3, 60, 104))
    assert sum(four_frames) / 2 / (4 * 480 * 832 * 96**2) == pytest.approx(estimate_time._WAN_DECODER, rel=0.02)
    picture = decoding(flux, 1, 32, 90, 160)
    assert sum(picture) / 2 / (720 * 1280 * 128**2) == pytest.approx(estimate_time._FLUX_DECODER, rel=0.02)


def test_the_floor_is_operations_by_their_rates_or_the_reading_of_weights() -> None:
    ceilings = Ceilings(torch.device("cpu"))
    ceilings.measured = {
        "matrix": {"float32": 100.0},
        "convolution": {"float32": 50.0},
        "attention": {"7x4x6 float32": {"backend": "sdpa", "rate": 20.0}},
        "copy": 10.0,
    }
    work = Operations(products=200.0, attention=60.0, convolutions=25.0)
    assert ceilings.floor(work, torch.float32, 0, (7, 4, 6)) == pytest.approx(2 + 3 + 0.5)
    assert ceilings.floor(work, torch.float32, 0) == pytest.approx(2 + 0.6 + 0.5), "short attention counts as products"
    assert ceilings.floor(work, torch.float32, 80) == pytest.approx(8), "weights are read once"
    assert Ceilings(torch.device("cpu")).attention(torch.float32, 8, 2, 4) > 0


def test_kernels_are_told_apart_by_their_names() -> None:
    names = {
        "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16": "attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
        "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc": "convolutions",
        "aten::mkldnn_convolution": "convolutions",
        "nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_bias_TNT": "products",
        "aten::addmm": "products",
        "triton_tem_fused_mm_3": "products",
        "triton_poi_fused_addmm_gelu_view_7": "everything else",
        "triton_red_fused__scaled_dot_product_attention_native_layer_norm_1": "everything else",
        "void at::native::elementwise_kernel<128, 4>": "everything else",
        "Memcpy DtoH (Device -> Pageable)": "everything else",
    }
    for name, kind in names.items():
        assert [each for each, seconds in kinds_of({name: 1.0}).items() if seconds] == [kind], name


def test_the_profile_names_what_was_computed() -> None:
    given = torch.ones(64, 64)
    found = kernel_seconds(lambda: (given @ given).exp())
    assert found["aten::mm"] > 0 and found["aten::exp"] > 0
    assert kinds_of(found)["products"] == found["aten::mm"]
    assert all(seconds >= 0 for seconds in found.values()), "what an operator calls does not count as its own"


def test_every_part_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parts.json"
    cases = ["text-to-image:32x32", "upscale:32x32", "image-to-video:64x64x5", "speech-to-video:64x64x4"]
    words = ["--size", "tiny", "--device", "cpu", "--repeats", "1", "--json", str(file)]
    assert main(["parts", *cases, *words]) == 0
    figures = json.loads(file.read_text())
    rows = figures["rows"]
    assert [(row["stage"], row["part"]) for row in rows] == [(key, part) for key in PARTS for part in PARTS[key]]
    for row in rows:
        assert row["seconds"] >= row["least_seconds"] > 0 and row["floor_seconds"] > 0
        assert row["of_floor"] == pytest.approx(row["floor_seconds"] / row["seconds"])
        assert sum(row["kernels"].values()) > 0 and len(row["largest_kernels"]) <= 8
        assert "peak_bytes" not in row, "the memory of a CPU is not measured"
    (ours_pass,) = [row for row in rows if row["part"] == "transformer" and row["stage"] == "speech_to_video"]
    assert (ours_pass["attention"], ours_pass["compiled"]) == ("sdpa", False)
    said = capsys.readouterr().out
    assert "| speech to video, vae.decode | 64×64×4 | this package |" in said
    assert "| kernels of a pass |" in said and "`aten::addmm`" in said
    assert main(["compare", str(file), str(file)]) == 0
    assert "| upscale, network, 32×32, this package | time |" in capsys.readouterr().out


def test_peers_compute_the_same_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parts.json"
    words = ["--parts", "transformer", "vae.encode", "--size", "tiny", "--device", "cpu", "--repeats", "1", "--peers"]
    assert main(["parts", "image-to-video:64x64x5", *words, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["part"], row["by"]) for row in rows] == [
        (part, by) for part in ("vae.encode", "transformer") for by in ("this package", "diffusers")
    ]
    assert rows[0]["operations"] == rows[1]["operations"]
    assert "--reference" not in capsys.readouterr().err, "only the S2V network has that peer"
    assert main(["parts", "speech-to-video:64x64x4", "--parts", "transformer", *words[3:]]) == 0
    assert "not installed here: --reference" in capsys.readouterr().err


def test_parts_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    whole = choose_parts([], [], "published")
    assert [(case.stage, case.width) for case, _ in whole] == [
        ("text_to_image", 720),
        ("upscale", 720),
        ("image_to_video", 480),
        ("speech_to_video", 480),
    ]
    assert whole[2][1] == ("transformer",), "its other networks are those of speech to video"
    ((case, parts),) = choose_parts(["speech-to-video:720x1280x80"], ["vae.decode"], "published")
    assert (case.height, parts) == (1280, ("vae.decode",))
    assert [case.stage for case, _ in choose_parts([], ["vae.encode"], "tiny")] == ["image_to_video", "speech_to_video"]
    with pytest.raises(LabError, match=r"audio_encoder is no part of these stages; they have text_encoder"):
        choose_parts(["text-to-image"], ["audio_encoder"], "tiny")
    assert main(["parts", "--size", "tiny", "--reference", "/nowhere", "--device", "cpu"]) == 1
    assert "/nowhere has no wan/modules/s2v" in capsys.readouterr().err


def measured_pass(seconds: float, date: str, **changes: Any) -> dict[str, Any]:
    row = {"stage": "speech_to_video", "part": "transformer", "by": "this package", "width": 480, "height": 832}
    row |= {"frames": 80, "seconds": seconds} | changes
    return {"bench": "parts", "device": "NVIDIA H200", "date": date, "rows": [row]}


def test_targets_are_met_missed_or_not_measured() -> None:
    (target,) = [each for each in TARGETS if each["most"] == 2.85]

    def said(*measured: dict[str, Any]) -> str:
        return targets_table(measured, [target]).splitlines()[-1]

    assert "| not measured | – |" in said()
    assert "| 2.8 s | met |" in said(measured_pass(2.8, "2026-01-02"))
    assert "| 3.16 s | missed by 10.9% |" in said(measured_pass(3.16, "2026-01-02"))
    assert "| 2.8 s | met |" in said(measured_pass(2.8, "2026-02-01"), measured_pass(3.16, "2026-01-02")), "the newest"
    others: list[dict[str, Any]] = [{"by": "diffusers"}, {"width": 720}, {"error": "OutOfMemoryError"}]
    assert all("not measured" in said(measured_pass(1.0, "", **other)) for other in others)
    assert "not measured" in said({**measured_pass(1.0, ""), "device": "NVIDIA H100"})


def test_the_figures_of_a_target_of_several_parts_add_up() -> None:
    (target,) = [each for each in TARGETS if each["most"] == 0.3]
    text, audio = (measured_pass(0.1, "", part=part) for part in ("text_encoder", "audio_encoder"))
    assert figure_of(target, [text]) is None
    assert figure_of(target, [text, audio]) == pytest.approx(0.2)


def test_a_clip_of_a_speed_is_not_one_of_another() -> None:
    wanted = {each["most"]: each for each in TARGETS if each["bench"] == "stages" and "clip" in each["figure"]}
    row = {"stage": "speech_to_video", "width": 480, "height": 832, "frames": 80, "steps": 25, "was_warm": True}
    figures = {"bench": "stages", "device": "NVIDIA H200", "cases": [{**row, "passes": 2, "run_seconds": 160.0}]}
    assert [most for most, target in wanted.items() if figure_of(target, [figures])] == [150]
    figures["cases"] = [{**row, "passes": 2, "run_seconds": 40.0, "fields": {"speed": "fast"}}]
    assert [most for most, target in wanted.items() if figure_of(target, [figures])] == [45]
    figures["cases"] = [{**row, "was_warm": False, "run_seconds": 200.0}]
    assert not [most for most, target in wanted.items() if figure_of(target, [figures])], "its models were loaded first"


def test_targets_go_between_their_own_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, text = tmp_path / "parts.json", tmp_path / "text.md"
    file.write_text(json.dumps(measured_pass(2.8, "2026-01-02") | {"bench": "kernels", "rows": []}))
    marks = "<!-- {0} -->\nold\n<!-- end of {0} -->\n"
    text.write_text(marks.format("figures") + "between\n" + marks.format("targets"))
    assert main(["table", str(file), "--into", str(text)]) == 0
    made = text.read_text()
    assert "old" not in made and "between\n<!-- targets -->\n\n| figure | target |" in made
    assert main(["table", str(file), "--targets"]) == 0
    assert capsys.readouterr().out.strip() in made


def test_a_case_sets_fields_of_its_request(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = [
        "speech-to-video:64x64x4/2",
        "speech-to-video:64x64x4/2,guidance_scale=1",
        "speech-to-video:64x64x4/2,sped=1",
    ]
    assert main(["stages", *words, "--size", "tiny", "--device", "cpu", "--json", str(file)]) == 1
    first, second, third = json.loads(file.read_text())["cases"]
    assert (first["passes"], first["fields"]) == (2, {})
    assert (second["passes"], second["fields"]) == (1, {"guidance_scale": "1"})
    assert "sped" in third["error"]
    assert "| speech to video, guidance_scale 1 | 64×64×4 |" in tables([json.loads(file.read_text())])


def test_the_command_line_has_the_same_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wanavatar_lab.cli import main as command

    file = tmp_path / "parts.json"
    file.write_text(json.dumps(measured_pass(2.8, "2026-01-02")))
    assert command(["bench", "table", "--targets", str(file)]) == 0
    assert "| 2.8 s | met |" in capsys.readouterr().out
    assert command(["bench", "table", str(tmp_path / "none.json")]) == 1
