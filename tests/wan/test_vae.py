"""The VAE computes as diffusers' does, to rounding: no convolution is slow, and no frame is decoded in vain."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tests import toys
from wanavatar_lab.wan import vae as wan_vae
from wanavatar_lab.wan.latents import LatentCodec
from wanavatar_lab.wan.vae import FastCausalConv3d, make_fast, only_last_frames

POCKET = Path(__file__).resolve().parents[2] / "weights/pocket/video_vae"
CASES = {
    # name: kernel, stride, padding
    "space and time": ((3, 3, 3), 1, (1, 1, 1)),
    "space alone": ((1, 3, 3), 1, (0, 1, 1)),
    "time alone": ((3, 1, 1), 1, (1, 0, 0)),
    "half the frames": ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    "channels alone": ((1, 1, 1), 1, 0),
}


def conv(case: str, forgotten: tuple[int, ...] = ()) -> WanCausalConv3d:
    torch.manual_seed(0)
    kernel, stride, padding = CASES[case]
    made = WanCausalConv3d(5, 7, kernel, stride, padding)
    with torch.no_grad():
        made.weight[:, :, list(forgotten)] = 0
    return made


def by_frames(conv: WanCausalConv3d) -> WanCausalConv3d:
    """The same convolution over frames as pictures, with the same parameters."""
    other = copy.copy(conv)
    other.__class__ = FastCausalConv3d
    return other


@pytest.mark.parametrize("forgotten", [(), (0, 1), (1,)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_convolution_is_the_same(case: str, forgotten: tuple[int, ...], kept: int) -> None:
    if conv(case).kernel_size[0] == 1:
        forgotten, kept = (), 0
    true = conv(case, forgotten)
    x = torch.randn(2, 5, 5, 6, 8, generator=torch.Generator().manual_seed(1))
    cache = torch.randn(2, 5, kept, 6, 8) if kept and true._padding[4] else None
    with torch.no_grad():
        expected, found = true(x, cache), by_frames(true)(x, cache)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_it_learns_as_the_other_does() -> None:
    x = torch.randn(1, 5, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    gradients = []
    for change in (lambda conv: conv, by_frames):
        made = conv("space and time", (0, 1))
        change(made)(x).square().sum().backward()
        assert made.weight.grad is not None
        gradients.append(made.weight.grad)  # of taps that are zero too
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)


@pytest.fixture
def vae() -> AutoencoderKLWan:
    return toys.wan_vae().eval()


def test_a_vae_codes_as_before_and_keeps_its_names(vae: AutoencoderKLWan, tmp_path: Path) -> None:
    pixels = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = set(vae.state_dict())
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        decoded = vae.decode(latents).sample
        assert make_fast(vae) is vae
        assert any(isinstance(module, FastCausalConv3d) for module in vae.modules())
        torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), latents, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(vae.decode(latents).sample, decoded, atol=1e-4, rtol=1e-4)
    assert set(vae.state_dict()) == names
    vae.save_pretrained(tmp_path)
    again = AutoencoderKLWan.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.decode(latents).sample, decoded, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_frames_that_are_wanted_do_not_depend_on_those_left_out(
    vae: AutoencoderKLWan, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(1, 16, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    decoded, pixels = vae.decode(latents).sample, torch.rand(1, 3, 21, 32, 32)
    encoded = vae.encode(pixels).latent_dist.mode()
    make_fast(vae)
    monkeypatch.setitem(wan_vae._LATENTS_AT_ONCE, torch.float32, at_once)
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), encoded, atol=1e-4, rtol=1e-4)
    for wanted in (1, 2, 3, 4, 5, 12, 24, 44, 45, 99, None):
        with only_last_frames(vae, wanted):
            found = vae.decode(latents).sample
        torch.testing.assert_close(found, decoded[:, :, -(wanted or 99) :], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_coarse_latents_are_left_out_of_fine_layers(vae: AutoencoderKLWan) -> None:
    passed: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            passed[name] = passed.get(name, 0) + given[0].shape[2]

        return hook

    make_fast(vae)
    layers = [vae.decoder.mid_block.resnets[0], *(block.resnets[0] for block in vae.decoder.up_blocks)]
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(count(f"layer {number}"))
    with only_last_frames(vae, 8):
        vae.decode(torch.zeros(1, 16, 30, 2, 2))
    # Two residual blocks have two convolutions each, which look back 2 frames each. In the last layer that takes 8 for
    # 8 + 2 frames, in the one before 8 more. Half of those 26, 2 for doubling them and 8 are 23, and so on
    assert list(passed.values()) == [30, 22, 23, 26, 18]


@torch.no_grad()
def test_values_beyond_float16_are_computed_in_float32(vae: AutoencoderKLWan, caplog: pytest.LogCaptureFixture) -> None:
    latents = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    make_fast(vae).half()
    vae.decoder.conv_in.weight.fill_(6e4)
    found = LatentCodec(vae).decode(latents)
    assert "in float32" in caplog.text and vae.dtype == torch.float16
    torch.testing.assert_close(found, LatentCodec(vae.float()).decode(latents))


def bring_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let group offload bring copies of weights, as it does from the memory that it has pinned for a GPU's stream."""
    begin = ModuleGroup.__init__

    def keep(group: ModuleGroup, *arguments: Any, **options: Any) -> None:
        begin(group, *arguments, **options)
        held = [*group.parameters, *group.buffers]
        held += [each for part in group.modules for each in (*part.parameters(), *part.buffers())]
        group.cpu_param_dict = {each: each.data for each in held}

    def bring(group: ModuleGroup) -> None:
        for each, copied in group.cpu_param_dict.items():
            each.data = copied

    monkeypatch.setattr(ModuleGroup, "__init__", keep)
    for call in ("onload_", "offload_"):
        monkeypatch.setattr(ModuleGroup, call, bring)


@torch.no_grad()
def test_values_beyond_float16_are_computed_in_float32_layer_by_layer(
    vae: AutoencoderKLWan, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_copies(monkeypatch)
    latents = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    make_fast(vae).decoder.conv_in.weight.fill_(6e4)
    wanted = LatentCodec(vae.half().float()).decode(latents)
    vae.half().enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    for _ in range(2):
        caplog.clear()
        torch.testing.assert_close(LatentCodec(vae).decode(latents), wanted)
        assert "in float32" in caplog.text and vae.dtype == torch.float16


def operations(call: Callable[[], object]) -> set[str]:
    """The names of what PyTorch computes in `call`."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("tiled", [False, True])
@torch.no_grad()
def test_a_clip_that_is_not_finished_leaves_no_frames_in_memory(vae: AutoencoderKLWan, tiled: bool) -> None:
    make_fast(vae)
    if tiled:
        vae.enable_tiling(32, 32, 16, 16)
    clip = torch.zeros(1, 3, 5, 48, 48)
    for half, code, given in (("encoder", vae.encode, clip), ("decoder", vae.decode, torch.zeros(1, 16, 2, 6, 6))):

        def stop(*_: Any) -> None:
            raise InterruptedError

        with vae.get_submodule(half).mid_block.register_forward_hook(stop), pytest.raises(InterruptedError):
            code(given)
        assert not [kept for kept in (*vae._feat_map, *vae._enc_feat_map) if kept is not None], half


@torch.no_grad()
def test_no_convolution_is_slow(vae: AutoencoderKLWan) -> None:
    slow, latents = "aten::slow_conv3d_forward", torch.randn(1, 16, 2, 4, 4)
    assert slow in operations(lambda: vae.decode(latents)), "PyTorch has got faster: this module may have no use left"
    make_fast(vae)
    assert slow not in operations(lambda: vae.decode(latents))
    assert slow not in operations(lambda: vae.encode(torch.zeros(1, 3, 5, 32, 32)))


@torch.no_grad()
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_a_large_convolution_is_left_to_pytorch() -> None:
    true = WanCausalConv3d(32, 8, 3, padding=1)
    x = torch.randn(1, 32, 4, 200, 20)
    assert "aten::slow_conv3d_forward" not in operations(lambda: true(x))
    torch.testing.assert_close(by_frames(true)(x), true(x), atol=0, rtol=0)


@torch.no_grad()
def test_weights_that_change_are_seen() -> None:
    made = by_frames(conv("space and time", (0, 1)))
    x = torch.randn(1, 5, 3, 8, 8)
    torch.testing.assert_close(made(x)[:, :, 2:], made(x[:, :, 2:]))
    made.weight[:, :, 0] = 1
    assert not torch.allclose(made(x)[:, :, 2:], made(x[:, :, 2:]))


@pytest.mark.gpu
@torch.no_grad()
def test_a_gpu_decodes_in_float16_as_nearly_as_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = AutoencoderKLWan.from_pretrained(POCKET).eval().cuda()
    drawn = torch.randn(1, plain.config.z_dim, 9, 30, 52, generator=torch.Generator().manual_seed(0)).cuda()
    latents = plain.encode(plain.decode(drawn).sample).latent_dist.mode()  # of something like pictures
    fast = make_fast(AutoencoderKLWan.from_pretrained(POCKET).eval().half().cuda())
    with only_last_frames(fast, 12):
        found = fast.decode(latents.half()).sample.float()
    assert found.shape[2] == 12
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    usual = plain.decode(latents).sample[:, :, -12:]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    wanted = plain.decode(latents).sample[:, :, -12:]
    nearness = [float(10 * torch.log10(4 / (each - wanted).square().mean())) for each in (found, usual)]
    print(f"float16 {nearness[0]:.1f} dB, TF32 {nearness[1]:.1f} dB")
    assert min(nearness) > 65


def test_kernels_compute_as_the_modules() -> None:
    """On a CPU, in Triton's interpreter, which has to be asked for before Triton is imported."""
    pytest.importorskip("triton")
    code = """
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm
from wanavatar_lab.wan import vae
from wanavatar_lab.wan.vae_kernels import add, norm_silu

for channels, shape in ((96, (2, 5, 7)), (5, (1, 3, 3)), (384, (3, 2, 1))):
    norm, x = WanRMS_norm(channels, images=False), torch.randn(2, channels, *shape)
    norm.gamma.data.uniform_(0.5, 2.0)
    x[:, :, 0, 0, 0] = 0
    made = norm_silu(x, norm.gamma.detach())
    assert made.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(made, torch.nn.functional.silu(norm(x)).detach(), atol=1e-5, rtol=1e-5)
    bias, other = torch.randn(channels), torch.randn_like(x)
    biased = x + bias.view(-1, 1, 1, 1)
    made = norm_silu(x, norm.gamma.detach(), bias)
    torch.testing.assert_close(made, torch.nn.functional.silu(norm(biased)).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(add(x, other, bias), biased + other, atol=1e-5, rtol=1e-5)
    assert add(x, other, bias).is_contiguous(memory_format=torch.channels_last_3d)

torch.manual_seed(0)
vae._has_kernels = lambda *_: True
for channels in ((6, 6), (6, 10)):
    block = WanResidualBlock(*channels).requires_grad_(False)
    found, wanted = [], []
    for kept, kind in ((wanted, WanResidualBlock), (found, vae.FastResidualBlock)):
        for module in block.modules():
            if isinstance(module, WanCausalConv3d) and kind is vae.FastResidualBlock:
                module.__class__ = vae.FastCausalConv3d
        block.__class__, cache = kind, [None] * 2
        generator = torch.Generator().manual_seed(1)
        for frames in (1, 2, 4):
            x = torch.randn(1, channels[0], frames, 4, 3, generator=generator)
            kept.append(block(x, cache, [0]))
        kept.append(block(x))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
"""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(POCKET.parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
