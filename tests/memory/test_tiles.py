"""Autoencoders in tiles: what they make, and what is planned for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from tests import toy_flux
from tests.memory.machines import FULL
from tests.wan.test_vae import operations
from wanavatar_lab.memory import Workload, activation_bytes, stage_components
from wanavatar_lab.memory.activations import FLUX_TILES, WAN_TILES, set_tiling
from wanavatar_lab.wan.latents import LatentCodec, picture_to_pixels
from wanavatar_lab.wan.load import load_model
from wanavatar_lab.wan.vae import make_fast

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 256, 320  # two tiles side by side, the blend from 192 to 256, and 64 pixels beyond
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return make_fast(load_model(AutoencoderKLWan, ROOT / "weights/pocket/video_vae", torch.float32)).eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    picture = Image.open(ROOT / "data/samples/avatar_woman.png").convert("RGB")
    return torch.cat([picture_to_pixels(picture.rotate(3 * turn), HEIGHT, WIDTH) for turn in range(5)], dim=2)


@pytest.fixture(autouse=True)
def whole_again(vae: AutoencoderKLWan) -> Iterator[None]:
    yield
    set_tiling(vae, False)


@torch.no_grad()
def test_tiles_differ_little_and_have_no_seams(vae: AutoencoderKLWan, pixels: torch.Tensor) -> None:
    codec = LatentCodec(vae)
    latents = codec.encode(pixels, CPU)
    whole = codec.decode(latents)
    set_tiling(vae, True)
    cut = codec.encode(pixels, CPU)
    tiled = codec.decode(latents)
    assert cut.shape == latents.shape and tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert (cut - latents).abs().mean() < 0.02 * latents.abs().mean()
    assert (tiled - whole).abs().mean() * 127.5 < 1
    for edge in (WAN_TILES.stride, WAN_TILES.side):
        steps = [(clip[..., edge] - clip[..., edge - 1]).abs().mean() * 127.5 for clip in (tiled, whole)]
        assert steps[0] < steps[1] + 1, edge
    set_tiling(vae, False)
    assert torch.equal(codec.decode(latents), whole)


@torch.no_grad()
def test_tiles_go_the_fast_way_on_a_cpu(vae: AutoencoderKLWan, pixels: torch.Tensor) -> None:
    set_tiling(vae, True)
    codec = LatentCodec(vae)
    latents = torch.zeros(1, 16, 2, 8, 40)
    used = operations(lambda: (codec.encode(pixels[:, :, :, :64], CPU), codec.decode(latents)))
    assert "aten::slow_conv3d_forward" not in used
    assert "aten::conv2d" in used


def test_what_is_no_larger_than_a_tile_stays_whole(vae: AutoencoderKLWan, pixels: torch.Tensor) -> None:
    codec, small = LatentCodec(vae), pixels[:, :, :1, :64, :64]
    with torch.no_grad():
        whole = codec.encode(small, CPU)
        set_tiling(vae, True)
        assert torch.equal(codec.encode(small, CPU), whole)
    assert WAN_TILES.overlap(256, 256) == FLUX_TILES.overlap(512, 96) == 1


@torch.no_grad()
def test_fluxs_autoencoder_takes_tiles_of_its_own() -> None:
    vae = toy_flux.vae()
    pixels = torch.rand(1, 3, 16, FLUX_TILES.side + 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shapes: list[tuple[int, ...]] = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape[2:])))
    latents = vae.encode(pixels).latent_dist.mode()
    for tiled in (True, False):
        set_tiling(vae, tiled)
        assert vae.decode(latents).sample.shape == pixels.shape
    hook.remove()
    shrink = pixels.shape[3] // latents.shape[3]
    columns = [size[1] * shrink for size in shapes]
    assert columns == [*FLUX_TILES.widths(FLUX_TILES.side + 64), FLUX_TILES.side + 64]


@pytest.mark.parametrize(("width", "height"), [(480, 832), (720, 1280), (240, 832)])
def test_tiles_are_counted_as_diffusers_cuts_them(vae: AutoencoderKLWan, width: int, height: int) -> None:
    set_tiling(vae, True)
    made: list[int] = []

    def decoder(tile: torch.Tensor, **_: object) -> torch.Tensor:
        made.append(64 * tile.shape[3] * tile.shape[4])
        return torch.zeros(1, 3, 1, 8 * tile.shape[3], 8 * tile.shape[4])

    forward, vae.decoder.forward = vae.decoder.forward, decoder
    try:
        with torch.no_grad():
            decoded = vae.decode(torch.zeros(1, 16, 1, height // 8, width // 8)).sample
    finally:
        vae.decoder.forward = forward
    assert decoded.shape[3:] == (height, width)
    assert sum(made) == pytest.approx(WAN_TILES.overlap(width, height) * width * height)


def test_the_need_grows_with_the_tile_and_with_what_is_joined() -> None:
    components = stage_components(FULL, "image_to_video", Path("nowhere"), "cuda")
    small, large = (Workload("image_to_video", *size, frames=81) for size in ((256, 256), (720, 1280)))
    needs = [
        [activation_bytes(workload, components, tiled)["vae"] for tiled in (False, True)] for workload in (small, large)
    ]
    # one tile is the whole, and what tiles take more was measured
    assert 1 < needs[0][1] / needs[0][0] < 1.25
    # nine hundred megabytes of colours four to five times, and not fourteen pictures' worth of feature maps
    assert 4 * 720 * 1280 * 81 * 12 < needs[1][1] < 0.2 * needs[1][0]
