"""`Wan2.1_VAE.pth` as AutoencoderKLWan: every published name, the same pictures, and no pickle executed."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.s2v.published import GOLDEN, published_shapes
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.wan.checkpoint_files import compare_names, model_shapes, read_state_dict
from wanavatar_lab.wan.load import load_vae
from wanavatar_lab.wan.vae import make_fast

STEPS = 4  # of one stage of the decoder: three residual blocks and a resampler
IN_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}


def reference_name(name: str) -> str:
    """The reference's name for a tensor of AutoencoderKLWan: its sequences counted as its constructor builds them."""
    for ours, theirs in IN_RESIDUAL.items():
        name = re.sub(rf"(\.\d+)\.{ours}\.", rf"\1.{theirs}.", name)
    name = name.replace("conv_shortcut", "shortcut").replace("encoder.down_blocks.", "encoder.downsamples.")
    name = name.replace("mid_block.resnets.0.", "middle.0.").replace("mid_block.attentions.0.", "middle.1.")
    name = name.replace("mid_block.resnets.1.", "middle.2.")
    name = name.replace("conv_in.", "conv1.").replace("norm_out.", "head.0.").replace("conv_out.", "head.2.")
    name = re.sub("^quant_conv", "conv1", re.sub("^post_quant_conv", "conv2", name))
    if match := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)", name):
        step = int(match[3]) if match[2] == "resnets" else STEPS - 1
        name = f"decoder.upsamples.{int(match[1]) * STEPS + step}.{match[4]}"
    return name


def toy_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=2)
    for name, weight in vae.named_parameters():
        # norms and the last layers of attention start at one and zero, where a mix-up would not show
        torch.nn.init.normal_(weight, mean=1.0 if name.endswith("gamma") else 0.0, std=0.1)
    return vae.eval()


def stored(vae: AutoencoderKLWan) -> dict[str, torch.Tensor]:
    return {reference_name(name): tensor for name, tensor in vae.state_dict().items()}


def test_every_published_tensor_has_its_place() -> None:
    shapes = published_shapes("wan2.1_vae")
    assert len(shapes) == 194
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    renamed = convert_wan_vae_to_diffusers(shapes)
    assert len(renamed) == 194
    compare_names(renamed, model_shapes(vae), "Wan2.1_VAE.pth")


def test_the_published_names_are_told_apart_by_meaning() -> None:
    # shapes cannot tell these apart; read off the order of the reference's modules
    meanings = {
        "conv1.weight": "quant_conv.weight",
        "conv2.weight": "post_quant_conv.weight",
        "encoder.conv1.weight": "encoder.conv_in.weight",
        "encoder.middle.0.residual.2.weight": "encoder.mid_block.resnets.0.conv1.weight",
        "encoder.middle.1.to_qkv.weight": "encoder.mid_block.attentions.0.to_qkv.weight",
        "encoder.middle.2.residual.6.weight": "encoder.mid_block.resnets.1.conv2.weight",
        "encoder.downsamples.3.shortcut.bias": "encoder.down_blocks.3.conv_shortcut.bias",
        "encoder.downsamples.5.time_conv.weight": "encoder.down_blocks.5.time_conv.weight",
        "decoder.upsamples.0.residual.0.gamma": "decoder.up_blocks.0.resnets.0.norm1.gamma",
        "decoder.upsamples.2.residual.3.gamma": "decoder.up_blocks.0.resnets.2.norm2.gamma",
        "decoder.upsamples.3.resample.1.weight": "decoder.up_blocks.0.upsamplers.0.resample.1.weight",
        "decoder.upsamples.7.time_conv.bias": "decoder.up_blocks.1.upsamplers.0.time_conv.bias",
        "decoder.upsamples.14.residual.6.bias": "decoder.up_blocks.3.resnets.2.conv2.bias",
        "decoder.head.2.bias": "decoder.conv_out.bias",
    }
    assert convert_wan_vae_to_diffusers({name: name for name in meanings}) == {
        ours: theirs for theirs, ours in meanings.items()
    }


def test_a_file_of_the_reference_gives_the_pictures_of_the_reference() -> None:
    # vae.pth is the state_dict of the reference's own VAE at toy size; what it made of the inputs is in io.safetensors
    vae = load_vae(GOLDEN / "reference_parts" / "vae.pth")
    io = load_file(GOLDEN / "reference_parts" / "io.safetensors")
    with torch.no_grad():
        latents = vae.encode(io["clip"]).latent_dist.mode()
        video = vae.decode(io["noise"]).sample
    assert torch.linalg.norm(latents - io["latents"]) <= 1e-5 * torch.linalg.norm(io["latents"])
    assert torch.linalg.norm(video - io["video"]) <= 1e-5 * torch.linalg.norm(io["video"])


def test_a_stored_vae_encodes_and_decodes_as_before(tmp_path: Path) -> None:
    vae = make_fast(toy_vae())  # as what is loaded is, to the last digit
    torch.save(stored(vae), tmp_path / "vae.pth")
    loaded = load_vae(tmp_path / "vae.pth")
    video = torch.rand(1, 3, 5, 16, 24) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        assert latents.shape == (1, 16, 2, 2, 3)
        assert torch.equal(loaded.encode(video).latent_dist.mode(), latents)
        assert torch.equal(loaded.decode(latents).sample, vae.decode(latents).sample)
    assert loaded.config.latents_mean == vae.config.latents_mean
    assert (loaded.config.scale_factor_temporal, loaded.config.scale_factor_spatial) == (4, 8)
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())

    loaded.save_pretrained(tmp_path / "vae")
    again = load_vae(tmp_path / "vae")
    assert not again.training and not any(weight.requires_grad for weight in again.parameters())
    with torch.no_grad():
        assert torch.equal(again.decode(latents).sample, vae.decode(latents).sample)


def test_weights_come_in_the_dtype_asked_for_and_do_not_need_the_file(tmp_path: Path) -> None:
    file = tmp_path / "vae.pth"
    torch.save(stored(toy_vae()), file)
    loaded = load_vae(file, torch_dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    same = load_vae(file)
    file.write_bytes(bytes(file.stat().st_size))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), toy_vae().parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("decoder.middle.1.proj.bias"),
            r"1 tensor missing: decoder\.mid_block\.attentions\.0\.proj\.bias",
        ),
        (lambda t: t.update(extra=torch.ones(1)), "1 tensor left over: extra"),
        (lambda t: t.update({"conv2.bias": torch.ones(3)}), r"post_quant_conv\.bias is \[3\], need \[16\]"),
        (lambda t: t.pop("encoder.conv1.weight"), r"lacks encoder\.conv1\.weight; it is no Wan2\.1 VAE"),
        (
            lambda t: t.update({"conv2.weight": torch.ones(8, 8, 1, 1, 1)}),
            r"post_quant_conv\.weight is \[8, 8, 1, 1, 1\]",
        ),
        (
            lambda t: t.update({"decoder.upsamples.15.residual.6.bias": torch.ones(4)}),
            r"1 tensor left over: decoder\.upsamples\.15\.residual\.6\.bias",
        ),
        (lambda t: t.update(step=3), "entries that are no tensors: step"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    tensors: dict[str, Any] = stored(toy_vae())
    change(tensors)
    torch.save(tensors, tmp_path / "vae.pth")
    with pytest.raises(WeightsError, match=said):
        load_vae(tmp_path / "vae.pth")


def test_something_else_than_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list instead of named tensors"):
        load_vae(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"none\.pth is not there"):
        load_vae(tmp_path / "none.pth")


class Payload:
    """Writes a file when it is unpickled, as a hostile checkpoint would run a program."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"conv1.weight": torch.ones(1), "hostile": Payload(mark)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(WeightsError, match="more than tensors"):
        load_vae(tmp_path / "zip.pth")
    with pytest.raises(WeightsError, match="was not opened"):
        load_vae(tmp_path / "plain.pth")
    assert not mark.exists()

    # the payload is live: loaded carelessly, it runs
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert mark.exists()


@given(
    in_zip=st.booleans(),
    cut=st.floats(0, 0.999),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_ends_in_an_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, in_zip: bool, cut: float, flips: list[tuple[float, int]]
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "vae.pth"
    torch.save({"a": torch.arange(6.0), "b.c": torch.ones(2, 3)}, file, _use_new_zipfile_serialization=in_zip)
    whole = bytearray(file.read_bytes())
    file.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(WeightsError, match=str(file)):
        read_state_dict(file)

    for place, value in flips:
        whole[int(len(whole) * place)] = value
    file.write_bytes(whole)
    try:
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_state_dict(file).values())
    except WeightsError as error:
        assert str(file) in str(error)
