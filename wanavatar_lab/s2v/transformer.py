"""The Wan2.2-S2V network as a diffusers model (Wan-S2V, https://huggingface.co/papers/2508.18621).

The embedders that S2V has beyond Wan's: causal audio encoder and packed motion latents.

Step caches of diffusers on the S2V network: what they need to be told, and where one cannot be used.

`from_official` and `from_pretrained` of the S2V network: our folders, the published one and its conversions.
"""

import math
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from diffusers.utils.peft_utils import apply_lora_scale
from huggingface_hub import snapshot_download
from torch import nn

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.s2v.block import (
    MOTION_BUCKETS,
    BlockMemory,
    Conditions,
    SegmentMemory,
    TokenLayout,
    WanS2VRotaryPosEmbed,
    WanS2VTransformerBlock,
)
from wanavatar_lab.s2v.check_inputs import TEXT_LENGTH, check_shapes
from wanavatar_lab.s2v.checkpoint import WEIGHTS_STEM, load_transformer, read_config, read_headers
from wanavatar_lab.s2v.inpaint import WanS2VInpaintPatchEmbedding, inpaint_channels
from wanavatar_lab.s2v.key_names import is_foreign


class CausalConv1d(nn.Module):
    """1-D convolution that sees only the past; the first sample is repeated before the start."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size=3, stride=stride)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, C_in] -> [B, ceil(T / stride), C_out]."""
        return self.conv(F.pad(states.transpose(1, 2), (2, 0), mode="replicate")).transpose(1, 2)


class WanS2VCausalAudioEncoder(nn.Module):
    """Weighs the hidden layers of wav2vec2 and turns every four video frames into a handful of tokens.

    Args:
        audio_dim: width of wav2vec2's hidden states.
        dim: width of the tokens.
        num_layers: hidden states per frame (wav2vec2-large: 25, the embedding included).
        num_tokens: audio tokens per latent frame; one learnt padding token is added to them.
        with_global: whether a summary per latent frame is made as well, for AdaIN.
    """

    def __init__(self, audio_dim: int, dim: int, num_layers: int = 25, num_tokens: int = 4, with_global: bool = True):
        super().__init__()
        self.num_tokens = num_tokens
        self.weights = nn.Parameter(torch.full((1, num_layers, 1, 1), 0.01))
        self.conv1_local = CausalConv1d(audio_dim, dim // 4 * num_tokens)
        self.conv1_global = CausalConv1d(audio_dim, dim // 4) if with_global else None
        self.conv2 = CausalConv1d(dim // 4, dim // 2, stride=2)
        self.conv3 = CausalConv1d(dim // 2, dim, stride=2)
        self.final_linear = nn.Linear(dim, dim) if with_global else None
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, audio_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode [B, layers, audio_dim, T].

        Returns:
            tokens [B, ceil(T/4), num_tokens + 1, dim], and the summary [B, ceil(T/4), dim] or None.
        """
        audio_embeds = audio_embeds.to(self.weights.dtype)
        weights = F.silu(self.weights)
        mixed = ((audio_embeds * weights) / weights.sum(dim=1, keepdim=True)).sum(dim=1).transpose(1, 2)

        local = self.conv1_local(mixed).unflatten(2, (self.num_tokens, -1)).transpose(1, 2).flatten(0, 1)
        local = self._downsample(local).unflatten(0, (-1, self.num_tokens)).transpose(1, 2)
        padding = self.padding_tokens.expand(local.shape[0], local.shape[1], 1, -1)
        tokens = torch.cat([local, padding], dim=2)
        if self.conv1_global is None or self.final_linear is None:
            return tokens, None
        return tokens, self.final_linear(self._downsample(self.conv1_global(mixed)))

    def _downsample(self, states: torch.Tensor) -> torch.Tensor:
        for conv in (None, self.conv2, self.conv3):
            if conv is not None:
                states = conv(states)
            states = F.silu(F.layer_norm(states, states.shape[-1:], eps=1e-6))
        return states


class WanS2VFramePacker(nn.Module):
    """Packs motion latents by age: the older, the fewer tokens.

    Args:
        in_channels: latent channels.
        dim: width of the tokens.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.proj_2x = nn.Conv3d(in_channels, dim, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.proj_4x = nn.Conv3d(in_channels, dim, kernel_size=(4, 8, 8), stride=(4, 8, 8))

    def forward(self, motion_latents: torch.Tensor) -> torch.Tensor:
        """[B, C, T, h, w], oldest first -> tokens [B, L, dim], newest first; missing old latents count as zeros."""
        total = sum(MOTION_BUCKETS)
        latents = motion_latents[:, :, -total:]
        latents = F.pad(latents, (0, 0, 0, 0, total - latents.shape[2], 0))
        oldest, middle, newest = latents.split(MOTION_BUCKETS[::-1], dim=2)
        packed = (self.proj(newest), self.proj_2x(middle), self.proj_4x(oldest))
        return torch.cat([tokens.flatten(2).transpose(1, 2) for tokens in packed], dim=1)


# The patterns that TaylorSeer comes with look for modules called "attn". Here that is the audio's cross-attention: it
# alone would be foretold, which saves nothing and costs the lips. So the audio is heard in every step, and the rest is
# foretold.
FORETOLD = [r"blocks\.\d+\.attn1", r"blocks\.\d+\.attn2", r"blocks\.\d+\.ffn"]


class StepCacheMixin(CacheMixin):
    """`CacheMixin` for a network that hears."""

    def enable_cache(self, config: Any) -> None:
        """Enable a step cache; a `TaylorSeerCacheConfig` that names no modules gets `FORETOLD`.

        Raises:
            ValueError: a cache is enabled already, or the config is of no known kind.
        """
        if isinstance(config, TaylorSeerCacheConfig) and config.cache_identifiers is None and not config.use_lite_mode:
            config = replace(config, cache_identifiers=FORETOLD)
        super().enable_cache(config)

    def check_cache(self, ranks: int) -> None:
        """Check that the enabled cache can be used by `ranks` processes that share a sequence.

        Raises:
            ValueError: it cannot.
        """
        if ranks > 1 and isinstance(self._cache_config, FirstBlockCacheConfig):
            raise ValueError(
                "FirstBlockCache decides by the tokens of one rank, and ranks that decide differently wait for each "
                "other for ever. With context parallel use MagCache, which decides by the step."
            )


_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# with these, what lies in our folder is not what the model will hold, or lies under other file names
_UNCHECKED = ("variant", "quantization_config", "use_flashpack", "ignore_mismatched_sizes")
# values that hold anyway when a conversion is read, since that streams safetensors only
_GRANTED = {"low_cpu_mem_usage": (True, False, None), "use_safetensors": (True, None)}
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_SAVE_FIRST = "Load it without, call save_pretrained(<new folder>), and load that folder."


class FromPublishedMixin(ModelMixin):
    """A diffusers model that also loads what others have published."""

    @classmethod
    def from_official(
        cls,
        folder: str | os.PathLike[str],
        torch_dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read a checkpoint folder in the published layout; see `load_transformer`."""
        return load_transformer(cls, folder, torch_dtype=torch_dtype, device=device)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read one of our folders, or one of the two conversions published in diffusers layout.

        What `config.json` and the tensors are called says which it is. Our folders go through diffusers' own loader,
        once their headers are seen to fit: diffusers would draw at random what is missing, and only warn. A
        conversion is read as `load_transformer` does, into weights that can be trained, as diffusers leaves them.

        Args:
            pretrained_model_name_or_path: a folder, or the id of a repository on the Hub, of which only what the
                network needs is fetched.
            kwargs: those of diffusers' `from_pretrained`, `subfolder` and `torch_dtype` among them.

        Raises:
            WeightsError: a file is missing or damaged, or a tensor is missing, left over or of another shape.
            ValueError: an option that a conversion cannot be read with.
        """
        root = _local_root(pretrained_model_name_or_path, kwargs)
        folder = root / (kwargs.get("subfolder") or "")
        config = read_config(folder)
        foreign = is_foreign(config)
        if not foreign and not config.get("quantization_config") and not any(map(kwargs.get, _UNCHECKED)):
            checkpoint = read_headers(cls, folder)
            checkpoint.check()
            foreign = checkpoint.foreign
        if not foreign:
            return super().from_pretrained(str(root), **kwargs)
        dtype, device = _conversion_options(folder, kwargs)
        return load_transformer(cls, folder, torch_dtype=dtype, device=device).requires_grad_(True)


def _local_root(name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> Path:
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if not _HUB_ID.match(str(name_or_path)):
        raise WeightsError(f"{name_or_path} is neither a folder here nor the id of a repository, <owner>/<name>.")
    options = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
    prefix = f"{kwargs['subfolder']}/" if kwargs.get("subfolder") else ""
    wanted = [f"{prefix}config.json", f"{prefix}{WEIGHTS_STEM}*"]
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=wanted, **options))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name_or_path} is no folder here, and the Hub did not give it: {error}") from error


def _conversion_options(folder: Path, kwargs: Mapping[str, Any]) -> tuple[torch.dtype, torch.device]:
    """Dtype and device that diffusers' options ask for; an option that would not be honoured is refused."""
    options = {name: value for name, value in kwargs.items() if name not in (*_HUB_OPTIONS, "subfolder")}
    newer, older = options.pop("dtype", None), options.pop("torch_dtype", None)
    dtype = newer or older or torch.float32  # float32 is diffusers' own default
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch_dtype is {dtype!r}; need a torch.dtype such as torch.bfloat16.")
    place = options.pop("device_map", None)
    if isinstance(place, Mapping) and list(place) == [""]:
        place = place[""]
    place = "cpu" if place is None else place
    if isinstance(place, Mapping) or (isinstance(place, str) and place.partition(":")[0] not in _DEVICES):
        raise ValueError(f"{folder} is a conversion and goes to one device; device_map is {place!r}. {_SAVE_FIRST}")
    refused = [f"{name}={value!r}" for name, value in options.items() if value and value not in _GRANTED.get(name, ())]
    if options.get("use_safetensors") is False:
        refused.append("use_safetensors=False")
    if refused:
        raise ValueError(f"{folder} is a conversion, which cannot be read with {', '.join(refused)}. {_SAVE_FIRST}")
    return dtype, torch.device(place)


VIDEO, REFERENCE, MOTION = 0, 1, 2  # rows of `token_kind_embedding`
PUBLISHED_INJECT_LAYERS = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39)


class WanS2VTransformer3DModel(
    FromPublishedMixin, ModelMixin, ConfigMixin, PeftAdapterMixin, StepCacheMixin, AttentionMixin
):
    """A video diffusion transformer that hears: it moves a reference picture to speech, segment by segment.

    Args:
        patch_size: latent (frames, rows, columns) of one token.
        num_attention_heads, attention_head_dim: the width is their product.
        in_channels: latent channels, or of a network for inpainting those of what is given as well; see `inpaint`.
        out_channels: latent channels.
        text_dim: width of the text encoder.
        freq_dim: width of the sinusoidal time embedding.
        ffn_dim: inner width of the feed-forward.
        num_layers: number of blocks.
        cross_attn_norm: norm with weights before the text cross-attention.
        eps: epsilon of the norms.
        audio_dim: width of the audio encoder's hidden states.
        num_audio_layers: how many hidden states it gives per frame.
        num_audio_tokens: audio tokens per latent frame.
        audio_inject_layers: blocks that hear the audio.
        audio_adain: whether a summary of the audio sets scale and shift before the injection.
        pose_channels: latent channels of the pose video.
        zero_timestep: whether reference and motion tokens are modulated as clean ones (timestep 0).
        image_dim, added_kv_proj_dim: always None; LoRA loading of the Wan family asks for them. S2V has no CLIP image
            branch, unlike Wan2.1-I2V: the reference picture is seen as latents.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = [
        "patch_embedding",
        "pose_embedding",
        "frame_packer",
        "condition_embedder",
        "token_kind_embedding",
        "causal_audio_encoder",
        "norm",
    ]
    _no_split_modules = ["WanS2VTransformerBlock"]
    _keep_in_fp32_modules = [
        "time_embedder",
        "time_proj",
        "causal_audio_encoder",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
    ]
    _repeated_blocks = ["WanS2VTransformerBlock"]
    _cp_plan = {
        "rope": {
            0: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True),
            1: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True),
        },
        "sequence": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        audio_dim: int = 1024,
        num_audio_layers: int = 25,
        num_audio_tokens: int = 4,
        audio_inject_layers: tuple[int, ...] = PUBLISHED_INJECT_LAYERS,
        audio_adain: bool = True,
        pose_channels: int = 16,
        zero_timestep: bool = True,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
    ) -> None:
        super().__init__()
        beyond = [layer for layer in audio_inject_layers if not 0 <= layer < num_layers]
        if beyond:
            raise ValueError(f"audio_inject_layers names blocks {beyond}, but there are only {num_layers} blocks.")
        dim = num_attention_heads * attention_head_dim

        self.rope = WanS2VRotaryPosEmbed(attention_head_dim)
        if in_channels == out_channels:
            self.patch_embedding: nn.Conv3d = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        elif in_channels == out_channels + inpaint_channels(out_channels):
            self.patch_embedding = WanS2VInpaintPatchEmbedding(out_channels, dim, patch_size)
        else:
            raise ValueError(
                f"in_channels is {in_channels} and out_channels {out_channels}; need as many, or for inpainting "
                f"{out_channels + inpaint_channels(out_channels)}."
            )
        self.pose_embedding = nn.Conv3d(pose_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.frame_packer = WanS2VFramePacker(out_channels, dim)
        self.token_kind_embedding = nn.Embedding(3, dim)
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=dim, time_freq_dim=freq_dim, time_proj_dim=dim * 6, text_embed_dim=text_dim
        )
        self.causal_audio_encoder = WanS2VCausalAudioEncoder(
            audio_dim, dim, num_audio_layers, num_audio_tokens, with_global=audio_adain
        )
        # where context parallel cuts the sequence: before the first block, whose step caches have to see the cut one
        self.sequence = nn.Identity()
        self.blocks = nn.ModuleList(
            [
                WanS2VTransformerBlock(
                    dim, ffn_dim, num_attention_heads, cross_attn_norm, eps, i in audio_inject_layers, audio_adain
                )
                for i in range(num_layers)
            ]
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.gradient_checkpointing = False

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        ref_latents: torch.Tensor,
        audio_embeds: torch.Tensor,
        motion_latents: torch.Tensor | None = None,
        pose_latents: torch.Tensor | None = None,
        inpaint_latents: torch.Tensor | None = None,
        motion_frames: int = 73,
        drop_motion_frames: bool = False,
        memory: SegmentMemory | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the flow of one segment.

        Args:
            hidden_states: noisy video latents [B, out_channels, F, h, w]; h and w even.
            timestep: [B], 0 to 1000.
            encoder_hidden_states: text embeddings [B, up to 512, text_dim]; shorter ones are filled with zeros.
            ref_latents: latents of the reference picture [B, out_channels, 1, h, w].
            audio_embeds: hidden states at the video's frame rate [B, num_audio_layers, audio_dim, 4·F].
            motion_latents: latents of the frames before this segment [B, out_channels, T, h, w], oldest first.
                Not looked at when `drop_motion_frames`.
            pose_latents: latents of the pose video [B, pose_channels, F, h, w]; None counts as zeros.
            inpaint_latents: what is given of the frames [B, in_channels - out_channels, F, h, w], see
                `inpaint.encode_given`; None, where nothing is, counts as zeros.
            motion_frames: how many frames the motion latents stand for; the first audio frame is repeated as often
                before the segment, so that the causal audio encoder starts settled.
            drop_motion_frames: leave the motion tokens out (the first segment of a clip).
            memory: keeps what does not change between the steps of a segment; see `SegmentMemory`.
            attention_kwargs: `{"scale": s}` scales all adapters.
            return_dict: return a `Transformer2DModelOutput` instead of a tuple.

        Raises:
            ValueError: shapes that do not belong together; the text names them.
        """
        if drop_motion_frames:
            motion_latents = None
        elif motion_latents is None:
            raise ValueError("motion_latents is None: pass them, or drop_motion_frames=True for a first segment.")
        frames, height, width = grid = check_shapes(
            self.config,
            hidden_states,
            timestep,
            encoder_hidden_states,
            ref_latents,
            audio_embeds,
            motion_latents,
            pose_latents,
            inpaint_latents,
        )
        rank, ranks = self._sequence_rank()
        self.check_cache(ranks)

        filling = memory is not None and memory.conditions is None
        if memory is None or memory.conditions is None:
            conditions = self._embed_conditions(
                encoder_hidden_states, ref_latents, motion_latents, audio_embeds, motion_frames, grid
            )
            if memory is not None:
                memory.conditions = conditions
                memory.blocks = [BlockMemory() for _ in self.blocks]
        else:
            conditions = memory.conditions

        video = self._embed_patches(hidden_states, inpaint_latents)
        if pose_latents is None:  # one patch of zeros broadcasts to the whole grid
            pose_latents = hidden_states.new_zeros(1, self.config.pose_channels, *self.config.patch_size)
        video = video + self.pose_embedding(pose_latents.to(video.dtype))
        video = video.flatten(2).transpose(1, 2) + conditions.video_kind
        video_tokens = video.shape[1]
        whole = torch.cat([video, conditions.tokens], dim=1)
        layout = TokenLayout.shard(whole.shape[1], video_tokens, height * width, rank, ranks)
        tokens = self.sequence(whole)
        temb, modulation = self._embed_time(timestep)

        # one step in many fills the memory; compiled, it would cost every kind of block a second graph
        eager = filling and not torch.compiler.is_compiling()
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            for i, block in enumerate(self.blocks):
                arguments = (
                    tokens,
                    conditions.encoder_hidden_states,
                    modulation,
                    conditions.rotary_emb,
                    layout,
                    conditions.audio_tokens,
                    conditions.audio_global,
                )
                if torch.is_grad_enabled() and self.gradient_checkpointing:
                    tokens = self._gradient_checkpointing_func(block, *arguments)
                else:
                    tokens = block(*arguments, memory=memory.blocks[i] if memory is not None else None)

        if ranks == 1:
            tokens = tokens[:, :video_tokens]
        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        # on several ranks `proj_out` gathers the whole sequence, and only then can the video be cut out
        sample = self._unpatchify(self.proj_out(tokens)[:, :video_tokens], frames, height, width)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _embed_patches(self, latents: torch.Tensor, inpaint_latents: torch.Tensor | None = None) -> torch.Tensor:
        """[B, out_channels, F, h, w] -> [B, C, F, h/2, w/2], in the network's dtype."""
        # not the patch embedding's own: while it is trained, its weights are in float32
        latents = latents.to(self.pose_embedding.weight.dtype)
        further = self.config.in_channels - latents.shape[1]
        if further:
            if inpaint_latents is None:
                inpaint_latents = latents.new_zeros(latents.shape[0], further, *latents.shape[2:])
            latents = torch.cat([latents, inpaint_latents.to(latents.dtype)], dim=1)
        return self.patch_embedding(latents)

    def _embed_conditions(
        self,
        encoder_hidden_states: torch.Tensor,
        ref_latents: torch.Tensor,
        motion_latents: torch.Tensor | None,
        audio_embeds: torch.Tensor,
        motion_frames: int,
        grid: tuple[int, int, int],
    ) -> Conditions:
        dtype = self.pose_embedding.weight.dtype
        text = encoder_hidden_states.to(dtype)
        text = nn.functional.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1]))

        # through the module and not its weight: offload brings weights to the device when a module is called
        kinds = self.token_kind_embedding(torch.arange(3, device=text.device)).to(dtype)
        tokens = [self._embed_patches(ref_latents).flatten(2).transpose(1, 2) + kinds[REFERENCE]]
        if motion_latents is not None:
            tokens.append(self.frame_packer(motion_latents.to(dtype)) + kinds[MOTION])

        settled = audio_embeds[..., :1].expand(-1, -1, -1, motion_frames)
        audio_tokens, audio_global = self.causal_audio_encoder(torch.cat([settled, audio_embeds], dim=-1))
        first = (motion_frames + 3) // 4
        return Conditions(
            encoder_hidden_states=self.condition_embedder.text_embedder(text),
            tokens=torch.cat(tokens, dim=1),
            video_kind=kinds[VIDEO],
            rotary_emb=self.rope(*grid, motion_latents is not None, text.device),
            audio_tokens=audio_tokens[:, first:].to(dtype),
            audio_global=None if audio_global is None else audio_global[:, first:].to(dtype),
        )

    def _embed_time(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Time embedding [B, C] and block modulation [B, 2, 6, C] (noisy, clean), both in float32."""
        embedder = self.condition_embedder
        clean = torch.zeros_like(timestep) if self.config.zero_timestep else timestep
        both = torch.cat([timestep, clean])
        temb = embedder.time_embedder(embedder.timesteps_proj(both).to(embedder.time_embedder.linear_1.weight.dtype))
        modulation = embedder.time_proj(embedder.act_fn(temb)).unflatten(1, (6, -1)).unflatten(0, (2, -1))
        return temb[: timestep.shape[0]].float(), modulation.transpose(0, 1).float()

    def _sequence_rank(self) -> tuple[int, int]:
        """This process's place among those that share the sequence, and how many they are."""
        config = getattr(self._parallel_config, "context_parallel_config", None)
        if config is None:
            return 0, 1
        mesh = config._flattened_mesh
        return torch.distributed.get_rank(mesh.get_group()), mesh.size()

    def _unpatchify(self, tokens: torch.Tensor, frames: int, height: int, width: int) -> torch.Tensor:
        patches = tokens.reshape(tokens.shape[0], frames, height, width, *self.config.patch_size, -1)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
