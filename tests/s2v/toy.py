"""A toy S2V network, a toy pipeline around it and what they are fed, for the tests of this folder."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import nn

from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.s2v.block import WanS2VTransformerBlock
from wanavatar_lab.stages import kernels

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

# 6 heads can be shared by 2 and by 3 processes
CONFIG: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 12,
    "ffn_dim": 96,
    "num_layers": 4,
    "freq_dim": 32,
    "text_dim": 24,
    "audio_dim": 8,
    "num_audio_layers": 3,
    "num_audio_tokens": 2,
    "audio_inject_layers": (0, 2, 3),
}


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖; shapes must be equal."""
    assert found.shape == wanted.shape, f"{tuple(found.shape)} is not {tuple(wanted.shape)}"
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def toy_model(seed: int = 0, **config: Any) -> WanS2VTransformer3DModel:
    """A network whose every weight is random; the same seed and config give the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WanS2VTransformer3DModel(**{**CONFIG, **config})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def toy_inputs(
    seed: int = 1, batch: int = 1, frames: int = 3, height: int = 8, width: int = 8, motion: bool = True
) -> dict[str, Any]:
    """Arguments of `forward` for the toy network; height and width count latents."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return {
        "hidden_states": random(16, frames, height, width),
        "timestep": torch.full((batch,), 700),
        "encoder_hidden_states": random(7, CONFIG["text_dim"]),
        "ref_latents": random(16, 1, height, width),
        "audio_embeds": random(CONFIG["num_audio_layers"], CONFIG["audio_dim"], 4 * frames),
        "pose_latents": random(16, frames, height, width),
        "motion_latents": random(16, 19, height, width) if motion else None,
        "drop_motion_frames": not motion,
    }


def blocks(model: WanS2VTransformer3DModel) -> list[WanS2VTransformerBlock]:
    return [cast(WanS2VTransformerBlock, block) for block in model.blocks]


@torch.no_grad()
def flow(model: nn.Module, inputs: dict[str, Any], **more: Any) -> torch.Tensor:
    """What the network predicts, without gradients."""
    result: torch.Tensor = model(**{**inputs, **more}, return_dict=False)[0]
    return result


def compile_without_inductor() -> None:
    """Let this process compile without inductor's code, as far as inductor takes a graph apart.

    torch 2.15 compiles toys of odd sizes for a CPU to code that writes beyond its memory.
    """
    parts = "aot_eager_decomp_partition"
    torch.compile, kernels.BACKEND = partial(torch.compile, backend=parts), parts


def at_step(inputs: dict[str, Any], step: int) -> dict[str, Any]:
    """The same segment at another step: other latents and another time."""
    noise = torch.randn(inputs["hidden_states"].shape, generator=torch.Generator().manual_seed(100 + step))
    return {**inputs, "hidden_states": noise, "timestep": inputs["timestep"] - 50 * step}


@contextmanager
def count_calls(modules: dict[str, nn.Module]) -> Iterator[Counter[str]]:
    """Count how often each module's forward runs."""
    calls: Counter[str] = Counter(dict.fromkeys(modules, 0))

    def counter(name: str) -> Any:
        return lambda *_: calls.update([name])

    hooks = [module.register_forward_hook(counter(name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@cache
def toy_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(GOLDEN / "s2v_loop_a" / "vae").eval()


def golden_model(name: str) -> WanS2VTransformer3DModel:
    return WanS2VTransformer3DModel.from_official(GOLDEN / name, torch_dtype=torch.float32)


def golden_tensors(path: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(GOLDEN / path)
    return tensors
