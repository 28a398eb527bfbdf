"""The network of Wan2.2-S2V as a diffusers model (Wan-S2V, https://huggingface.co/papers/2508.18621)."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

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
from torch import nn

from wanavatar_lab.s2v.block import BlockMemory, WanS2VTransformerBlock
from wanavatar_lab.s2v.checkpoint import PublishedCheckpointMixin
from wanavatar_lab.s2v.inpaint import WanS2VInpaintPatchEmbedding, inpaint_channels
from wanavatar_lab.s2v.token_layout import TokenLayout, WanS2VFramePacker, WanS2VRotaryPosEmbed
from wanavatar_lab.wan.context_parallel import SharedSequence
from wanavatar_lab.wan.latents import MOTION_FRAMES
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

VIDEO, REFERENCE, MOTION = 0, 1, 2  # rows of `token_kind_embedding`
PUBLISHED_INJECT_LAYERS = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39)
# The patterns that TaylorSeer comes with look for modules called "attn". In this network that is the audio's
# cross-attention: predicting it alone saves nothing and costs lip sync. So the audio's is computed in every step, and
# the rest is predicted.
TAYLOR_SEER_MODULES = [r"blocks\.\d+\.attn1", r"blocks\.\d+\.attn2", r"blocks\.\d+\.ffn"]


@dataclass
class Conditions:
    """The embedded conditions of one segment.

    Args:
        text: projected [B, text_len, C].
        tokens: reference and motion tokens, their kind already added [B, Lc, C].
        video_kind: what is added to video tokens [C].
        rotary_emb: cosines and sines [1, L, 1, D/2] of the whole sequence (of this process's shard).
        audio_tokens: audio tokens per latent frame [B, F, N, C], N counts the padding token.
        audio_global: their summary, which sets scale and shift of the injection [B, F, C].
    """

    text: torch.Tensor
    tokens: torch.Tensor
    video_kind: torch.Tensor
    rotary_emb: tuple[torch.Tensor, torch.Tensor]
    audio_tokens: torch.Tensor
    audio_global: torch.Tensor


@dataclass
class SegmentMemory:
    """What stays the same between the denoising steps of one segment, kept so that it is computed once.

    Pass the same object to `WanS2VTransformer3DModel.forward` at every step of a segment, one per prompt. The first
    call fills it. It must not be reused with other text, audio, reference or motion. After adapters or their scales
    change, call `forget_projections`.
    """

    conditions: Conditions | None = None
    blocks: list[BlockMemory] = field(default_factory=list)

    def forget_projections(self) -> None:
        """Drop what depends on adapter weights; the next step computes it again."""
        self.conditions = None
        self.blocks = []


class WanS2VTransformer3DModel(
    PublishedCheckpointMixin, ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin
):
    """A video diffusion transformer that animates a reference picture to speech, segment by segment.

    Args:
        patch_size: latent (frames, rows, columns) of one token.
        num_attention_heads, attention_head_dim: the width is their product.
        in_channels: latent channels; for inpainting also those of the given frames, see `inpaint`.
        out_channels: latent channels.
        text_dim: width of the text encoder.
        freq_dim: width of the sinusoidal time embedding.
        ffn_dim: inner width of the feed-forward.
        num_layers: number of blocks.
        eps: epsilon of the norms.
        audio_dim: width of the audio encoder's hidden states.
        num_audio_layers: hidden states per frame.
        num_audio_tokens: audio tokens per latent frame.
        audio_inject_layers: blocks with an audio injection.
        pose_channels: latent channels of the pose video.
        cross_attn_norm, audio_adain, zero_timestep: always True, as in every published checkpoint, whose config.json
            has them: a norm with weights before the text cross-attention, scale and shift by the audio before the
            injection, and reference and motion tokens modulated as clean ones (timestep 0).
        image_dim, added_kv_proj_dim: always None; LoRA loading of the Wan family asks for them. S2V has no CLIP image
            branch, unlike Wan2.1-I2V: the reference picture enters as latents.

    Raises:
        ValueError: a layer or a number of channels that does not fit, or a variant that was never published.
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
        "proj_out",
    ]
    _repeated_blocks = ["WanS2VTransformerBlock"]
    _cp_plan = {
        # cosines and sines
        "rope": dict.fromkeys((0, 1), ContextParallelInput(split_dim=1, expected_dims=4, split_output=True)),
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
        off = [name for name in ("cross_attn_norm", "audio_adain", "zero_timestep") if not self.config[name]]
        if off:
            raise ValueError(f"{', '.join(off)} is false; only the published S2V network, which has it, can be built.")
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
        self.causal_audio_encoder = WanS2VCausalAudioEncoder(audio_dim, dim, num_audio_layers, num_audio_tokens)
        # where context parallel shards the sequence: before the first block, whose step caches have to get the shard
        self.sequence = nn.Identity()
        self.blocks = nn.ModuleList(
            WanS2VTransformerBlock(dim, ffn_dim, num_attention_heads, eps, i in audio_inject_layers)
            for i in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.gradient_checkpointing = False

    def enable_cache(self, config: Any) -> None:
        """Enable a step cache; a `TaylorSeerCacheConfig` that names no modules gets `TAYLOR_SEER_MODULES`.

        Raises:
            ValueError: a cache is enabled already, or the config is of no known kind.
        """
        if isinstance(config, TaylorSeerCacheConfig) and config.cache_identifiers is None and not config.use_lite_mode:
            config = replace(config, cache_identifiers=TAYLOR_SEER_MODULES)
        super().enable_cache(config)

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
        motion_frames: int = MOTION_FRAMES,
        drop_motion_frames: bool = False,
        memory: SegmentMemory | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the flow of one segment.

        Args:
            hidden_states: noisy video latents [B, out_channels, F, h, w]; h and w even.
            timestep: [B], 0 to 1000.
            encoder_hidden_states: text embeddings [B, up to 512, text_dim]; shorter ones are padded with zeros.
            ref_latents: latents of the reference picture [B, out_channels, 1, h, w].
            audio_embeds: hidden states at the video's frame rate [B, num_audio_layers, audio_dim, 4·F].
            motion_latents: latents of the frames before this segment [B, out_channels, T, h, w], oldest first.
                Ignored when `drop_motion_frames`.
            pose_latents: latents of the pose video [B, pose_channels, F, h, w]; None counts as zeros.
            inpaint_latents: the given parts of the frames [B, in_channels - out_channels, F, h, w], see
                `inpaint.encode_given`; None counts as zeros, nothing given.
            motion_frames: how many frames the motion latents represent; the first audio frame is repeated as often
                before the segment, so that the causal audio encoder starts in a steady state.
            drop_motion_frames: leave the motion tokens out (the first segment of a clip).
            memory: keeps what does not change between the steps of a segment; see `SegmentMemory`.
            attention_kwargs: `{"scale": s}` scales all adapters.
            return_dict: return a `Transformer2DModelOutput` instead of a tuple.

        Raises:
            ValueError: shapes that do not belong together; the text names them. Or a step cache that several processes
                sharing a sequence cannot use.
        """
        if drop_motion_frames:
            motion_latents = None
        elif motion_latents is None:
            raise ValueError("motion_latents is None: pass them, or drop_motion_frames=True for a first segment.")
        frames, height, width = grid = self._check_shapes(
            hidden_states=hidden_states,
            timestep=timestep,
            encoder_hidden_states=encoder_hidden_states,
            ref_latents=ref_latents,
            audio_embeds=audio_embeds,
            motion_latents=motion_latents,
            pose_latents=pose_latents,
            inpaint_latents=inpaint_latents,
        )
        rank, ranks = self._sequence_rank()
        agreed = isinstance(self._parallel_config, SharedSequence)
        if ranks > 1 and isinstance(self._cache_config, FirstBlockCacheConfig) and not agreed:
            raise ValueError(
                "FirstBlockCache decides by the tokens of one rank, and ranks that decide differently wait for each "
                "other for ever. With context parallel use MagCache, which decides by the step."
            )

        # 1. Conditions, which stay the same between the steps of a segment
        filling = memory is not None and memory.conditions is None
        conditions = memory.conditions if memory is not None else None
        if conditions is None:
            dtype = self.pose_embedding.weight.dtype
            text = encoder_hidden_states.to(dtype)
            text = F.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1]))

            # through the module and not its weight: offload brings weights to the device when a module is called
            kinds = self.token_kind_embedding(torch.arange(3, device=text.device)).to(dtype)
            condition_tokens = [self._embed_patches(ref_latents).flatten(2).transpose(1, 2) + kinds[REFERENCE]]
            if motion_latents is not None:
                condition_tokens.append(self.frame_packer(motion_latents.to(dtype)) + kinds[MOTION])

            before = audio_embeds[..., :1].expand(-1, -1, -1, motion_frames)
            audio_tokens, audio_global = self.causal_audio_encoder(torch.cat([before, audio_embeds], dim=-1))
            first = (motion_frames + 3) // 4  # latent frames of what was repeated before the segment
            conditions = Conditions(
                text=self.condition_embedder.text_embedder(text),
                tokens=torch.cat(condition_tokens, dim=1),
                video_kind=kinds[VIDEO],
                rotary_emb=self.rope(*grid, motion_latents is not None, text.device),
                audio_tokens=audio_tokens[:, first:].to(dtype),
                audio_global=audio_global[:, first:].to(dtype),
            )
            if memory is not None:
                memory.conditions = conditions
                memory.blocks = [BlockMemory() for _ in self.blocks]

        # 2. Patches of the video, behind them the conditions' tokens
        video = self._embed_patches(hidden_states, inpaint_latents)
        if pose_latents is None:  # one patch of zeros broadcasts to the whole grid
            pose_latents = hidden_states.new_zeros(1, self.config.pose_channels, *self.config.patch_size)
        video = video + self.pose_embedding(pose_latents.to(video.dtype))
        video = video.flatten(2).transpose(1, 2) + conditions.video_kind
        video_tokens = video.shape[1]
        whole = torch.cat([video, conditions.tokens], dim=1)
        layout = TokenLayout.shard(whole.shape[1], video_tokens, height * width, rank, ranks)
        # The reference adds up the blocks in float32, which halves the rounding error of a pass. Where blocks are
        # recomputed for a backward pass their inputs are kept, and keep the network's dtype: half the memory
        checkpointed = torch.is_grad_enabled() and self.gradient_checkpointing
        tokens = self.sequence(whole if checkpointed else whole.float())

        # 3. Time: of the video tokens, and timestep 0 of the clean reference and motion tokens
        embedder = self.condition_embedder
        both = embedder.timesteps_proj(torch.cat([timestep, torch.zeros_like(timestep)]))
        temb = embedder.time_embedder(both.to(embedder.time_embedder.linear_1.weight.dtype))
        modulation = embedder.time_proj(embedder.act_fn(temb)).unflatten(1, (6, -1)).unflatten(0, (2, -1))
        modulation = modulation.transpose(0, 1).float()  # [B, 2, 6, C]

        # 4. Blocks. Of a segment's steps only the first fills the memory: compiled too, it would cost every kind of
        # block a second graph
        eager = filling and not torch.compiler.is_compiling()
        # in the order of the block's `forward`, behind the tokens
        text, audio = conditions.text, (conditions.audio_tokens, conditions.audio_global)
        arguments = (text, modulation, conditions.rotary_emb, layout, *audio)
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            for i, block in enumerate(self.blocks):
                if checkpointed:
                    tokens = self._gradient_checkpointing_func(block, tokens, *arguments)
                else:
                    tokens = block(tokens, *arguments, memory=memory.blocks[i] if memory is not None else None)

        # 5. Output norm, projection and unpatchify; with several ranks `proj_out` gathers the whole sequence, so the
        # conditions' tokens can be dropped only behind it
        if ranks == 1:
            tokens = tokens[:, :video_tokens]
        shift, scale = (self.scale_shift_table + temb[: len(timestep), None].float()).chunk(2, dim=1)
        tokens = self.norm_out(tokens.float()) * (1 + scale) + shift
        tokens = self.proj_out(tokens.to(self.proj_out.weight.dtype))[:, :video_tokens]
        patches = tokens.reshape(len(tokens), frames, height, width, *self.config.patch_size, -1)
        sample = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
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

    def _sequence_rank(self) -> tuple[int, int]:
        """This process's rank among those that share the sequence, and their number."""
        if isinstance(self._parallel_config, SharedSequence):
            return self._parallel_config.rank, self._parallel_config.world
        config = getattr(self._parallel_config, "context_parallel_config", None)
        if config is None:
            return 0, 1
        mesh = config._flattened_mesh
        return torch.distributed.get_rank(mesh.get_group()), mesh.size()

    def _check_shapes(self, **inputs: torch.Tensor | None) -> tuple[int, int, int]:
        """The video's token grid (frames, rows, columns), if all shapes fit; arguments as in `forward`.

        Checked before anything runs: a pose of one frame or a reference of a batch of one would broadcast silently, and
        motion latents of another size would fail deep inside the first attention.
        """
        config, patch = self.config, tuple(self.config.patch_size)
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items() if tensor is not None}
        shape = shapes["hidden_states"]
        if len(shape) != 5 or any(size % step or not size for size, step in zip(shape[2:], patch, strict=True)):
            raise ValueError(f"hidden_states is {shape}; need [B, C, F, h, w] with F, h, w in multiples of {patch}.")
        batch, _, frames, height, width = shape
        text, motion = shapes["encoder_hidden_states"], shapes.get("motion_latents", ())
        length = text[1] if len(text) == 3 else TEXT_LENGTH
        if length > TEXT_LENGTH:
            raise ValueError(f"encoder_hidden_states has {length} tokens; at most {TEXT_LENGTH} are allowed.")
        channels, given = config.out_channels, config.in_channels - config.out_channels
        if "inpaint_latents" in shapes and not given:
            raise ValueError(
                f"inpaint_latents is given, but this network takes {channels} channels and no more. Load one that was "
                "trained for it, or widen it with wanavatar_lab.s2v.inpaint.widen_patch_embedding."
            )
        kept = max(1, motion[2]) if len(motion) == 5 else 1  # any number of motion latents, but not none
        needed: dict[str, tuple[int, ...]] = {
            "hidden_states": (batch, channels, frames, height, width),
            "timestep": (batch,),
            "encoder_hidden_states": (batch, length, config.text_dim),
            "ref_latents": (batch, channels, 1, height, width),
            "audio_embeds": (batch, config.num_audio_layers, config.audio_dim, 4 * frames),
            "motion_latents": (batch, channels, kept, height, width),
            "pose_latents": (batch, config.pose_channels, frames, height, width),
            "inpaint_latents": (batch, given, frames, height, width),
        }
        for name, found in shapes.items():
            if found != needed[name]:
                raise ValueError(f"{name} is {found}; need {needed[name]}, as hidden_states is {shape}.")
        return frames // patch[0], height // patch[1], width // patch[2]


class CausalConv1d(nn.Module):
    """1-D convolution over the past only; the first sample is repeated before the start."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size=3, stride=stride)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, C_in] -> [B, ceil(T / stride), C_out]."""
        return self.conv(F.pad(states.transpose(1, 2), (2, 0), mode="replicate")).transpose(1, 2)


class WanS2VCausalAudioEncoder(nn.Module):
    """Weighs the hidden layers of wav2vec2 and embeds every four video frames as a few tokens.

    Args:
        audio_dim: width of wav2vec2's hidden states.
        dim: width of the tokens.
        num_layers: hidden states per frame (wav2vec2-large: 25, the embedding included).
        num_tokens: audio tokens per latent frame; one learnt padding token is added to them.
    """

    def __init__(self, audio_dim: int, dim: int, num_layers: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.weights = nn.Parameter(torch.full((1, num_layers, 1, 1), 0.01))
        self.conv1_local = CausalConv1d(audio_dim, dim // 4 * num_tokens)
        self.conv1_global = CausalConv1d(audio_dim, dim // 4)
        self.conv2 = CausalConv1d(dim // 4, dim // 2, stride=2)
        self.conv3 = CausalConv1d(dim // 2, dim, stride=2)
        self.final_linear = nn.Linear(dim, dim)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, audio_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode [B, layers, audio_dim, T].

        Returns:
            tokens [B, ceil(T/4), num_tokens + 1, dim], and their summary per latent frame [B, ceil(T/4), dim].
        """
        audio_embeds = audio_embeds.to(self.weights.dtype)
        weights = F.silu(self.weights)
        mixed = ((audio_embeds * weights) / weights.sum(dim=1, keepdim=True)).sum(dim=1).transpose(1, 2)

        local = self.conv1_local(mixed).unflatten(2, (self.num_tokens, -1)).transpose(1, 2).flatten(0, 1)
        local = self._downsample(local).unflatten(0, (-1, self.num_tokens)).transpose(1, 2)
        padding = self.padding_tokens.expand(local.shape[0], local.shape[1], 1, -1)
        return torch.cat([local, padding], dim=2), self.final_linear(self._downsample(self.conv1_global(mixed)))

    def _downsample(self, states: torch.Tensor) -> torch.Tensor:
        states = F.silu(F.layer_norm(states, states.shape[-1:], eps=1e-6))
        for conv in (self.conv2, self.conv3):
            states = conv(states)
            states = F.silu(F.layer_norm(states, states.shape[-1:], eps=1e-6))
        return states
