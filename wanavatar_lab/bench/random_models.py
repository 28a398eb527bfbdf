"""Pipelines of random weights: the classes and layout that loading real files gives, at published size or tiny.

Weights are made in host memory, or on a GPU, about as fast as it can be written.
"""

import math
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    ModelMixin,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.machine import free_host_bytes
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline
from wanavatar_lab.wan.load import BOUNDARY, FLOW_SHIFT
from wanavatar_lab.wan.scheduler import WanUniPCScheduler
from wanavatar_lab.wan.vae import make_fast
from wanavatar_lab.weights.table import amount

Network = TypeVar("Network", bound=nn.Module)
CPU = torch.device("cpu")

# configs of each network by size, in the words of its class
SIZES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def random_pipeline(stage: str, size: str, dtype: torch.dtype, device: torch.device = CPU) -> DiffusionPipeline:
    """A pipeline in host memory, or on a device.

    Args:
        stage: text_to_image, image_to_video or speech_to_video.
        size: a name in `SIZES`.
        dtype: of its weights, but for the networks that the stages load in float32.
        device: where its weights are made.
    """
    configs = SIZES[size]

    def made(build: Callable[[], Network], in_dtype: torch.dtype = dtype) -> Network:
        return random_network(build, in_dtype, device)

    if stage == "text_to_image":
        letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Qwen2Tokenizer(vocab=letters | {"<|endoftext|>": len(letters)}, merges=[], model_max_length=512)
        tokenizer.chat_template = (
            "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
        pipeline: DiffusionPipeline = Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=made(lambda: AutoencoderKLFlux2(**configs["flux_vae"])),
            text_encoder=made(lambda: Qwen3ForCausalLM(Qwen3Config(**configs["flux_text"]))),
            tokenizer=tokenizer,
            transformer=made(lambda: Flux2Transformer2DModel(**configs["flux"])),
            is_distilled=True,
        )
    elif stage == "image_to_video":
        pipeline = WanImageToVideoPipeline(
            **_parts_of_both_video_stages(configs, made),
            scheduler=WanUniPCScheduler.shifted(FLOW_SHIFT),
            transformer=made(lambda: WanTransformer3DModel(**configs["expert"])),
            transformer_2=made(lambda: WanTransformer3DModel(**configs["expert"])),
            boundary_ratio=BOUNDARY,
        )
    else:
        pipeline = WanSpeechToVideoPipeline(
            **_parts_of_both_video_stages(configs, made),
            transformer=made(lambda: WanS2VTransformer3DModel(**configs["s2v"])),
            audio_encoder=made(lambda: Wav2Vec2Model(Wav2Vec2Config(**configs["audio"])), torch.float32),
            audio_processor=Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _parts_of_both_video_stages(configs: dict[str, Any], made: Callable[..., Any]) -> dict[str, Any]:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return {
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
        ),
        "text_encoder": made(lambda: UMT5EncoderModel(UMT5Config(**configs["text"]))),
        "vae": make_fast(made(lambda: AutoencoderKLWan(**configs["wan_vae"]), torch.float32)),
    }


def write_random_upscaler(file: Path, size: str) -> None:
    """Write a weights file of the stage upscale: an x2 RRDBNet under the names that Real-ESRGAN publishes."""
    features, blocks, growth = (SIZES[size]["upscaler"][name] for name in ("features", "blocks", "growth"))
    shapes: dict[str, tuple[int, int]] = {"conv_first": (features, 12)}
    for block in range(blocks):
        for dense in range(1, 4):
            for layer in range(1, 6):
                given = features + (layer - 1) * growth
                shapes[f"body.{block}.rdb{dense}.conv{layer}"] = (growth if layer < 5 else features, given)
    shapes |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (features, features))
    shapes["conv_last"] = (3, features)
    state = {f"{name}.weight": random_tensor((*shape, 3, 3), torch.float32) for name, shape in shapes.items()}
    state |= {f"{name}.bias": random_tensor(shape[:1], torch.float32) for name, shape in shapes.items()}
    torch.save({"params_ema": state}, file)


def random_network(build: Callable[[], Network], dtype: torch.dtype, device: torch.device = CPU) -> Network:
    """A network in evaluation mode, its weights frozen and none of them zero.

    Args:
        build: makes it, under a context in which parameters take no memory.
        dtype: of its weights, but for those that its class keeps in float32.
        device: where its weights are made.

    Raises:
        LabError: main memory, on a CPU, does not hold them.
    """
    with init_empty_weights():
        network = build()
    check_host_memory(network, dtype, device)
    if hasattr(network, "tie_weights"):
        network.tie_weights()  # type: ignore[operator]
    # transformers keeps them in float32 only where the others are in float16
    in_float32 = set(network._keep_in_fp32_modules or ()) if isinstance(network, ModelMixin) else set()
    drawn: dict[int, nn.Parameter] = {}
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if id(parameter) not in drawn:
            own_dtype = torch.float32 if in_float32 & set(name.split(".")) else dtype
            values = random_tensor(tuple(parameter.shape), own_dtype, device)
            drawn[id(parameter)] = nn.Parameter(values, requires_grad=False)
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, drawn[id(parameter)])
    for module in network.modules():
        # the statistics of batch norms have the dtype of the weights; other buffers, such as positions, stay exact
        if isinstance(module, nn.BatchNorm2d):
            module.to(dtype)
    # only buffers are still elsewhere
    return network.eval() if device == CPU else network.to(device).eval()


def check_host_memory(network: nn.Module, dtype: torch.dtype, device: torch.device, copies: int = 1) -> None:
    """Refuse networks that would fill main memory, for which the system ends processes; a GPU says what it lacks.

    Args:
        network: its weights may take no memory yet.
        dtype: of its weights.
        device: where they are to be.
        copies: of them.

    Raises:
        LabError: there is less free memory.
    """
    needed = copies * dtype.itemsize * sum(parameter.numel() for parameter in network.parameters())
    if device.type == "cpu" and needed > (free := free_host_bytes()):
        raise LabError(
            f"Random weights of {type(network).__name__} take {amount(needed)} of main memory for this, and "
            f"{amount(free)} are free. --size tiny runs anywhere."
        )


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = CPU) -> torch.Tensor:
    """Numbers of mean 0 and deviation 1 / √(numbers in a row), so that a product with a vector keeps its scale."""
    values = torch.empty(shape, dtype=dtype, device=device)
    row = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    flat, scale = values.view(-1), max(1, row) ** -0.5
    block = _drawn_numbers(dtype, device)
    for start in range(0, flat.numel(), block.numel()):
        part = flat[start : start + block.numel()]
        torch.mul(block[: part.numel()], scale, out=part)
    return values


@cache
def _drawn_numbers(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers that are repeated: to draw 16 billion would take minutes. A prime, so that rows of a matrix differ."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(16_777_259, generator=generator, device=device).to(dtype)
