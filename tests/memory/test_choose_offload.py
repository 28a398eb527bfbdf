"""Which offload mode is chosen, for the published models on machines of several sizes."""

import dataclasses

import pytest

from tests.memory.machines import GB, choice_for, machine
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.memory import Component, Machine, Workload, choose
from wanavatar_lab.memory.choose_offload import OFFLOAD_MODES, USABLE_SHARE

TABLE = [
    # stage, resolution, GB of a GPU, GPUs, what auto chooses
    ("text_to_image", None, 141, 1, "none"),
    ("text_to_image", None, 80, 1, "none"),
    ("text_to_image", None, 24, 1, "model"),
    ("text_to_image", None, 24, 2, "second_gpu"),
    ("text_to_image", None, 16, 1, "group"),
    ("text_to_image", None, 12, 1, "group"),
    ("upscale", None, 12, 1, "none"),
    ("image_to_video", "480x832", 141, 1, "none"),
    ("image_to_video", "720x1280", 141, 1, "none"),
    ("image_to_video", "480x832", 96, 1, "none"),
    ("image_to_video", "720x1280", 96, 1, "none, tiled"),
    ("image_to_video", "480x832", 80, 1, "none, tiled"),
    ("image_to_video", "720x1280", 80, 1, "model"),
    ("image_to_video", "720x1280", 80, 2, "second_gpu, tiled"),
    ("image_to_video", "480x832", 48, 1, "model"),
    ("image_to_video", "480x832", 24, 1, "fp8+model"),
    ("image_to_video", "720x1280", 32, 1, "fp8+model"),
    ("image_to_video", "720x1280", 24, 1, "group, tiled"),
    ("image_to_video", "720x1280", 16, 1, "group, tiled"),
    ("image_to_video", "720x1280", 12, 1, "group, tiled"),
    ("image_to_video", "480x832", 12, 1, "group"),
    ("image_to_video", "480x832", 8, 1, "group, tiled"),
    ("speech_to_video", "480x832", 141, 1, "none"),
    ("speech_to_video", "720x1280", 141, 1, "none"),
    ("speech_to_video", "480x832", 80, 1, "none"),
    ("speech_to_video", "720x1280", 80, 1, "none"),
    ("speech_to_video", "480x832", 56, 1, "none, tiled"),
    ("speech_to_video", "480x832", 48, 1, "model"),
    ("speech_to_video", "480x832", 41, 1, "fp8, tiled"),
    ("speech_to_video", "480x832", 32, 1, "fp8+model"),
    ("speech_to_video", "480x832", 24, 1, "group"),
    ("speech_to_video", "720x1280", 24, 1, "group, tiled"),
    ("speech_to_video", "480x832", 12, 1, "group"),
    ("speech_to_video", "720x1280", 16, 1, "group, tiled"),
    ("speech_to_video", "480x832", 9, 1, "group, tiled"),
]


@pytest.mark.parametrize(("stage", "resolution", "memory", "gpus", "mode"), TABLE)
def test_auto_takes_the_first_mode_that_fits(
    stage: str, resolution: str | None, memory: int, gpus: int, mode: str
) -> None:
    where = machine(memory, gpus)
    choice = choice_for(stage, where, resolution)
    assert choice.key + ", tiled" * choice.tiled == mode
    assert choice.tiled == ("works in tiles" in choice.reason)
    assert choice.peak_gpu_bytes is not None
    assert choice.peak_gpu_bytes <= USABLE_SHARE * where.gpus[0].free
    assert all(place.idle == place.active for place in choice.placements.values()) == (not choice.offloaded)


QUANTIZED = [
    # with products in float8: what auto chooses, and whether they are
    ("image_to_video", "720x1280", 80, "none", "fp8"),
    ("image_to_video", "480x832", 56, "none, tiled", "fp8"),
    ("image_to_video", "480x832", 24, "model", "fp8"),
    ("image_to_video", "720x1280", 24, "group, tiled", "none"),
    ("speech_to_video", "480x832", 48, "none", "fp8"),
    ("speech_to_video", "480x832", 32, "model", "fp8"),
    ("speech_to_video", "720x1280", 36, "fp8+model", "none"),
    ("speech_to_video", "480x832", 24, "group", "none"),
]


@pytest.mark.parametrize(("stage", "resolution", "memory", "mode", "quantization"), QUANTIZED)
def test_products_in_float8_take_less_memory(
    stage: str, resolution: str, memory: int, mode: str, quantization: str
) -> None:
    where = machine(memory)
    choice, exact = (choice_for(stage, where, resolution, quantization=kind) for kind in ("fp8", "none"))
    assert choice.key + ", tiled" * choice.tiled == mode
    assert choice.quantization == quantization and exact.quantization == "none"
    assert choice.peak_gpu_bytes is not None and exact.peak_gpu_bytes is not None
    assert choice.peak_gpu_bytes <= USABLE_SHARE * where.gpus[0].free
    assert choice.host_bytes >= exact.host_bytes, "the exact weights stay in main memory"
    assert ("Products are exact" in choice.reason) == (quantization == "none")
    if quantization == "none":
        assert dataclasses.replace(choice, reason=exact.reason) == exact


def test_a_mode_with_float8_that_does_not_fit_is_not_replaced() -> None:
    with pytest.raises(RequestError, match="offload: 'model' does not fit"):
        choice_for("speech_to_video", machine(24), "480x832", "model", "fp8")
    assert choice_for("speech_to_video", machine(80), "480x832", "none", "fp8").quantization == "fp8"
    assert choice_for("speech_to_video", Machine((), 256 * GB), quantization="fp8").quantization == "fp8"


def test_main_memory_that_cannot_hold_both_formats_is_refused() -> None:
    """It takes 46.3 GB of exact weights, and 12 GB in float8 where the network waits there."""
    with pytest.raises(LabError, match=r"both formats, 58\.2 GB, and 56\.0 GB are free\. Set quantization to none"):
        choice_for("speech_to_video", machine(32, host_gb=56), "480x832", quantization="fp8")
    assert choice_for("speech_to_video", machine(80, host_gb=56), "480x832", quantization="fp8").mode == "none"


@pytest.mark.parametrize(
    ("stage", "memory", "said"),
    [
        ("image_to_video", 10, r"needs 10\.3 GB, and 8\.9 GB can be used"),
        ("speech_to_video", 12, r"needs 14\.5 GB, and 10\.8 GB can be used"),
    ],
)
def test_what_fits_in_no_mode_is_refused_with_the_figures(stage: str, memory: int, said: str) -> None:
    with pytest.raises(LabError, match=rf"does not fit in any mode.*{said}") as caught:
        choice_for(stage, machine(memory), "720x1280")
    assert "smaller resolution" in str(caught.value)


def test_a_voice_that_does_not_fit_is_not_told_of_resolutions_and_frames() -> None:
    with pytest.raises(LabError, match=r"^Speech needs 5\.9 GB, and 3\.2 GB can be used .* WANAVATAR_DEVICE=cpu\.$"):
        choice_for("text_to_speech", machine(4))


@pytest.mark.parametrize("offload", OFFLOAD_MODES)
def test_a_mode_that_is_asked_for_is_taken_where_it_fits(offload: str) -> None:
    assert choice_for("speech_to_video", machine(141), "480x832", offload).mode == offload


@pytest.mark.parametrize(("offload", "memory"), [("none", 24), ("model", 24), ("fp8", 20), ("group", 6)])
def test_a_mode_that_is_asked_for_is_refused_where_it_does_not_fit(offload: str, memory: int) -> None:
    with pytest.raises(RequestError, match=rf"offload: '{offload}' does not fit: it needs .* GB, and .* can be used"):
        choice_for("speech_to_video", machine(memory), "480x832", offload)


def test_tiles_that_are_no_smaller_are_not_used() -> None:
    # up to 256 pixels one tile is the whole picture
    components = [Component(name, GB // 2, GB, None, width=96) for name in ("vae", "transformer")]
    small, large = (Workload("image_to_video", side, side, 5) for side in (256, 1280))
    needs = [choose(components, workload, machine(80), "none").peak_gpu_bytes for workload in (small, large)]
    for workload, needed, tiled in zip((small, large), needs, (False, True), strict=True):
        assert needed is not None
        where = machine((needed / USABLE_SHARE - 1e6) / GB + 0.6)
        assert choose(components, workload, where).tiled == tiled


def test_auto_leaves_out_excluded_modes() -> None:
    components = [
        Component(name, 10, 30 * GB, None, fp8_bytes=15 * GB, largest_layer=GB) for name in ("a", "transformer")
    ]
    workload = Workload("image_to_video", 64, 64)
    assert choose(components, workload, machine(24)).key == "fp8+model"
    assert choose(components, workload, machine(24), excluded=("fp8",)).key == "group"
    assert choose(components, workload, machine(24), "fp8", excluded=("fp8",)).mode == "fp8", "asked for by name"


def test_weights_that_main_memory_cannot_load_are_refused() -> None:
    with pytest.raises(LabError, match=r"need 46\.3 GB of it, and 32\.0 GB are free"):
        choice_for("speech_to_video", machine(80, host_gb=32))


def test_main_memory_is_of_no_account_for_what_is_loaded() -> None:
    where = dataclasses.replace(machine(80), host_free=None)
    assert choice_for("speech_to_video", where).mode == "none"


def test_where_the_cpu_computes_nothing_moves() -> None:
    choice = choice_for("speech_to_video", Machine((), 256 * GB), offload="none")
    assert (choice.mode, choice.peak_gpu_bytes, choice.offloaded) == ("none", None, False)


def test_a_second_gpu_that_is_full_is_left_alone() -> None:
    where = machine(24, 2)
    busy = dataclasses.replace(where.gpus[1], free=2 * GB)
    assert choice_for("text_to_image", Machine((where.gpus[0], busy), None)).mode == "model"


def test_a_single_network_cannot_be_offloaded() -> None:
    alone = [Component("network", 10, 20 * GB, None)]
    with pytest.raises(RequestError, match="does not apply to this stage"):
        choose(alone, Workload("upscale", 64, 64), machine(80), "model")


def test_the_measured_peak_of_a_forward_pass_is_met() -> None:
    # bench at 480x832x80: 38.4 GB with the network's weights; one pass, without guidance
    transformer = choice_for("speech_to_video", machine(141), "832x480", "model")
    assert transformer.peak_gpu_bytes is not None
    assert 38.4 * GB <= transformer.peak_gpu_bytes <= 1.05 * 38.4 * GB
