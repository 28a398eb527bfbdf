"""The pipelines of the stages with random weights: the classes and the arrangement that loading real files gives."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
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

from wanavatar_lab.bench.random_weights import random_network, random_tensor
from wanavatar_lab.bench.sizes import Sizes
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.frame_convolution import convolve_by_frames
from wanavatar_lab.s2v.solver import WanUniPCScheduler
from wanavatar_lab.stages.wan_folder import BOUNDARY, FLOW_SHIFT

_END = "<|endoftext|>"
_CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def random_pipeline(stage: str, sizes: Sizes, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of text_to_image, image_to_video or speech_to_video, in main memory.

    Args:
        stage: which.
        sizes: of its networks.
        dtype: of its weights, but for the parts that the stages load in float32.
    """
    build = {"text_to_image": _text_to_image, "image_to_video": _image_to_video, "speech_to_video": _speech_to_video}
    pipeline = build[stage](sizes, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_random_upscaler(file: Path, sizes: Sizes) -> None:
    """A weights file of the stage upscale: an x2 RRDBNet under the names that Real-ESRGAN publishes."""
    features, blocks, growth = sizes.upscaler
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


def _text_to_image(sizes: Sizes, dtype: torch.dtype) -> DiffusionPipeline:
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=letters | {_END: len(letters)}, merges=[], model_max_length=512)
    tokenizer.chat_template = _CHAT
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=random_network(lambda: AutoencoderKLFlux2(**sizes.flux_vae), dtype),
        text_encoder=random_network(lambda: Qwen3ForCausalLM(Qwen3Config(**sizes.flux_text)), dtype),
        tokenizer=tokenizer,
        transformer=random_network(lambda: Flux2Transformer2DModel(**sizes.flux), dtype),
        is_distilled=True,
    )


def _image_to_video(sizes: Sizes, dtype: torch.dtype) -> DiffusionPipeline:
    return WanImageToVideoPipeline(
        **_wan_parts(sizes, dtype),
        scheduler=WanUniPCScheduler.shifted(FLOW_SHIFT),
        transformer=random_network(lambda: WanTransformer3DModel(**sizes.expert), dtype),
        transformer_2=random_network(lambda: WanTransformer3DModel(**sizes.expert), dtype),
        boundary_ratio=BOUNDARY,
    )


def _speech_to_video(sizes: Sizes, dtype: torch.dtype) -> DiffusionPipeline:
    return WanSpeechToVideoPipeline(
        **_wan_parts(sizes, dtype),
        transformer=random_network(lambda: WanS2VTransformer3DModel(**sizes.s2v), dtype),
        audio_encoder=random_network(lambda: Wav2Vec2Model(Wav2Vec2Config(**sizes.audio)), torch.float32),
        audio_processor=Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False),
    )


def _wan_parts(sizes: Sizes, dtype: torch.dtype) -> dict[str, Any]:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return {
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
        ),
        "text_encoder": random_network(lambda: UMT5EncoderModel(UMT5Config(**sizes.text)), dtype),
        "vae": convolve_by_frames(random_network(lambda: AutoencoderKLWan(**sizes.wan_vae), torch.float32)),
    }
