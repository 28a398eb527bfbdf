"""Untrained networks of the true classes, small enough that a test builds and runs them in a second."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from training.pocket.saving import save_all_parts
from wanavatar_lab import media
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline

WORDS = ["<pad>", "</s>", "<unk>", "a", "person", "speaks", "to", "the", "camera"]


def s2v_transformer(seed: int = 0, **changes: object) -> WanS2VTransformer3DModel:
    """Two blocks, one of which hears; no weight is zero."""
    torch.manual_seed(seed)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "audio_dim": 16,
        "num_audio_layers": 3,
        "num_audio_tokens": 2,
        "audio_inject_layers": (1,),
    }
    model = WanS2VTransformer3DModel(**config | changes)
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def wan_vae(seed: int = 0) -> AutoencoderKLWan:
    """The Wan VAE, four channels wide."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1, temperal_downsample=[False, True, True]).eval()


def text_encoder(seed: int = 0) -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """One layer of UMT5, and a tokenizer that knows nine words."""
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), **sizes)).eval()
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    return encoder, tokenizer


def audio_encoder(seed: int = 0) -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]:
    """Two layers of wav2vec2 over the true feature encoder's strides: 50 frames a second."""
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    return Wav2Vec2Model(config).eval(), Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)


def s2v_pipeline(seed: int = 0) -> WanSpeechToVideoPipeline:
    """All of it."""
    text, tokenizer = text_encoder(seed)
    audio, processor = audio_encoder(seed)
    return WanSpeechToVideoPipeline(
        transformer=s2v_transformer(seed),
        vae=wan_vae(seed),
        text_encoder=text,
        tokenizer=tokenizer,
        audio_encoder=audio,
        audio_processor=processor,
    )


def pocket_weights(folder: Path) -> Path:
    """A weights folder whose pocket speech_to_video is the toy pipeline; returns it, for WANAVATAR_WEIGHTS."""
    save_all_parts(s2v_pipeline(), "speech_to_video", folder)
    return folder


def picture(path: Path, size: tuple[int, int] = (80, 96)) -> Path:
    """A picture with a different colour at every pixel."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    levels = np.stack([rows * 255 // size[1], columns * 255 // size[0], (rows + columns) % 256], axis=-1)
    Image.fromarray(levels.astype(np.uint8)).save(path)
    return path


def voice(path: Path, seconds: float = 1.0, rate: int = 16_000) -> Path:
    """A tone that swells and fades four times a second."""
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * 220 * time) * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * time))
    media.write_audio(path, media.Audio(samples.astype(np.float32)[:, None], rate))
    return path
