"""One transformer block of Wan2.2-S2V, with the audio injection inside it.

The injection belongs to the block and not between blocks: step caches replay a block's residual, and what happens
between blocks would be applied a second time.

What stays the same between the denoising steps of one segment, kept so that it is computed once.

Where each token of the S2V sequence stands: in the sequence, in time and in the picture.

The sequence is [video | reference | motion]. Video tokens are frame-major. The reference picture stands at time 30.
Motion latents are packed by age (FramePack, https://huggingface.co/papers/2504.12626): the newest latent keeps the
video's token grid, the two before it are merged 2x4x4, the sixteen before those 4x8x8; their times are negative.
Follows `rope_precompute` and `FramePackMotioner` of Wan2.2 (commit 42bf4cf), in closed form.

Attention of the S2V blocks: rotary self-attention, and cross-attention whose keys and values can be kept.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.normalization import AdaLayerNorm, FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

KeyValue = tuple[torch.Tensor, torch.Tensor]


class BlockMemory:
    """Keys and values of one block's cross-attentions: of the text, and of the audio where the block hears it.

    A plain object rather than a dict: offload hooks rebuild containers on their way into a module, and what is
    written to the rebuilt one would be lost.
    """

    __slots__ = ("audio", "text")

    def __init__(self) -> None:
        self.text: KeyValue | None = None
        self.audio: KeyValue | None = None


@dataclass
class Conditions:
    """The embedded conditions of one segment.

    Args:
        encoder_hidden_states: projected text [B, text_len, C].
        tokens: reference and motion tokens, their kind already added [B, Lc, C].
        video_kind: what is added to video tokens [C].
        rotary_emb: cosines and sines [1, L, 1, D/2] of the whole sequence (of this process's shard).
        audio_tokens: [B, F, N, C] audio tokens per latent frame, N counts the padding token.
        audio_global: [B, F, C], the summary that sets scale and shift of the injection; None without AdaIN.
    """

    encoder_hidden_states: torch.Tensor
    tokens: torch.Tensor
    video_kind: torch.Tensor
    rotary_emb: tuple[torch.Tensor, torch.Tensor]
    audio_tokens: torch.Tensor
    audio_global: torch.Tensor | None


@dataclass
class SegmentMemory:
    """Hand the same object to `WanS2VTransformer3DModel.forward` at every step of a segment, one per prompt.

    The first call fills it. It must not be reused with other text, audio, reference or motion. After adapters or
    their scales change, call `forget_projections`.
    """

    conditions: Conditions | None = None
    blocks: list[BlockMemory] = field(default_factory=list)

    def forget_projections(self) -> None:
        """Drop what depends on adapter weights; the next step computes it again."""
        self.conditions = None
        self.blocks = []


REFERENCE_TIME = 30
MOTION_BUCKETS = (1, 2, 16)  # latents, newest first


@dataclass(frozen=True)
class TokenLayout:
    """The part of the sequence that this process holds.

    Plain integers, so that a block compiles without looking at data.

    Args:
        video_tokens: how many of the local tokens belong to the video; they come first.
        tokens_per_frame: video tokens of one latent frame.
        first_frame: latent frame of the first local token.
        lead: how many tokens of `first_frame` lie before the first local one (0 unless the sequence is sharded).
        frames: latent frames that the local video tokens touch.
    """

    video_tokens: int
    tokens_per_frame: int
    first_frame: int
    lead: int
    frames: int

    @classmethod
    def shard(
        cls, total: int, video_tokens: int, tokens_per_frame: int, rank: int = 0, world: int = 1
    ) -> "TokenLayout":
        """The layout of shard `rank` of `world` when `total` tokens are cut as `torch.tensor_split` cuts them."""
        size, longer = divmod(total, world)
        start = rank * size + min(rank, longer)
        stop = start + size + (rank < longer)
        local = max(0, min(stop, video_tokens) - start)
        first, lead = divmod(start, tokens_per_frame)
        frames = -(-(lead + local) // tokens_per_frame) if local else 0
        return cls(local, tokens_per_frame, first if local else 0, lead if local else 0, frames)


def _spread(stop: int, count: int, start: int = 0) -> np.ndarray:
    # the reference truncates to whole positions: a coarser grid still spans the finer one's range
    return np.linspace(start, stop, count).astype(np.int64)


def _grid(times: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    axes = np.meshgrid(times, rows, columns, indexing="ij")
    return np.stack([axis.reshape(-1) for axis in axes], axis=-1)


def token_positions(frames: int, height: int, width: int, motion: bool) -> np.ndarray:
    """Positions of all tokens, [L, 3] as (time, row, column).

    Args:
        frames: latent frames of the video.
        height, width: the patch grid (latent size / 2).
        motion: whether motion tokens follow the reference tokens.
    """
    rows, columns = np.arange(height), np.arange(width)
    parts = [
        _grid(np.arange(frames), rows, columns),
        _grid(np.array([REFERENCE_TIME]), rows, columns),
    ]
    if motion:
        newest, middle, _ = MOTION_BUCKETS
        oldest_time = sum(MOTION_BUCKETS)
        merged = [
            (np.array([-newest]), height, width),
            (np.array([-(newest + middle)]), height // 2, width // 2),
            (-_spread(newest + middle + 1, MOTION_BUCKETS[2] // 4, start=oldest_time), height // 4, width // 4),
        ]
        parts += [_grid(times, _spread(height - 1, h), _spread(width - 1, w)) for times, h, w in merged]
    return np.concatenate(parts)


class WanS2VRotaryPosEmbed(nn.Module):
    """Rotary tables for the whole sequence; no weights. A module of its own so that context parallel can shard it.

    Args:
        attention_head_dim: channels of a head; rows and columns take 2·(d // 6) each, time takes the rest.
        theta: base of the frequencies.
    """

    def __init__(self, attention_head_dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        side = 2 * (attention_head_dim // 6)
        self.axis_dims = (attention_head_dim - 2 * side, side, side)
        self.theta = theta

    def forward(
        self, frames: int, height: int, width: int, motion: bool, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, each [1, L, 1, attention_head_dim / 2] in float32."""
        return _rotary_tables(self.axis_dims, self.theta, (frames, height, width), motion, device)


# training asks for the same ones in every step, and a copy to the GPU makes the processor wait for it
@lru_cache(maxsize=2)
def _rotary_tables(
    axis_dims: tuple[int, int, int], theta: float, grid: tuple[int, int, int], motion: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    positions = token_positions(*grid, motion)
    # float64 here only: on the CPU, so that large positions keep their phase
    angles = np.concatenate(
        [
            positions[:, axis : axis + 1] * theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
            for axis, dim in enumerate(axis_dims)
        ],
        axis=1,
    )
    # kept tables may serve training after inference, which an inference tensor could not
    with torch.inference_mode(False):
        table = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)).to(device)
        return table[0][None, :, None], table[1][None, :, None]


def apply_rotary_emb(states: torch.Tensor, rotary_emb: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate neighbouring channel pairs of `states` [B, L, heads, D] by the tables [1, L, 1, D/2], in float32."""
    cosine, sine = rotary_emb
    even, odd = states.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    return rotated.flatten(-2).type_as(states)


def project_key_value(attn: WanAttention, states: torch.Tensor) -> KeyValue:
    """Keys and values [B, L, heads, D] of a cross-attention for the context `states` [B, L, C]."""
    if attn.fused_projections:
        key, value = attn.to_kv(states).chunk(2, dim=-1)
    else:
        key, value = attn.to_k(states), attn.to_v(states)
    return attn.norm_k(key).unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))


class WanS2VAttnProcessor:
    """Self-attention when `key_value` is None, else cross-attention to it."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        key_value: KeyValue | None = None,
    ) -> torch.Tensor:
        """Attend from `hidden_states` [B, L, C]; returns [B, L, C]."""
        if key_value is not None:
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
            key, value = key_value
        else:
            if attn.fused_projections:
                query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
            else:
                query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
            query = attn.norm_q(query).unflatten(2, (attn.heads, -1))
            key = attn.norm_k(key).unflatten(2, (attn.heads, -1))
            value = value.unflatten(2, (attn.heads, -1))
            if rotary_emb is not None:
                query, key = apply_rotary_emb(query, rotary_emb), apply_rotary_emb(key, rotary_emb)

        hidden_states = dispatch_attention_fn(
            query,
            key,
            value,
            backend=self._attention_backend,
            # the context of a cross-attention is whole on every rank: only self-attention is spread over ranks
            parallel_config=self._parallel_config if key_value is None else None,
        )
        hidden_states = hidden_states.flatten(2, 3).type_as(query)
        return attn.to_out[1](attn.to_out[0](hidden_states))


def _cross_attention(dim: int, num_heads: int, eps: float) -> WanAttention:
    head_dim = dim // num_heads
    return WanAttention(
        dim=dim,
        heads=num_heads,
        dim_head=head_dim,
        eps=eps,
        cross_attention_dim_head=head_dim,
        processor=WanS2VAttnProcessor(),
    )


def _modulate(states: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, boundary: int) -> torch.Tensor:
    # scale, shift [B, 2, C]: one row for the noisy video tokens, one for the clean ones after `boundary`
    parts = (states[:, :boundary], states[:, boundary:])
    return torch.cat([part * (1 + scale[:, i : i + 1]) + shift[:, i : i + 1] for i, part in enumerate(parts)], dim=1)


def _gated_add(states: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, boundary: int) -> torch.Tensor:
    halves = ((states[:, :boundary], update[:, :boundary]), (states[:, boundary:], update[:, boundary:]))
    return torch.cat(
        [(x.float() + y.float() * gate[:, i : i + 1]).type_as(states) for i, (x, y) in enumerate(halves)], dim=1
    )


class WanS2VAudioInjection(nn.Module):
    """Cross-attention from each video token to the audio tokens of its own latent frame.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        eps: epsilon of the query and key norms.
        adain: whether the frame's global audio feature sets scale and shift of the norm before it.
    """

    def __init__(self, dim: int, num_heads: int, eps: float, adain: bool) -> None:
        super().__init__()
        self.norm = AdaLayerNorm(dim, output_dim=2 * dim, chunk_dim=1) if adain else nn.LayerNorm(dim, eps, False)
        self.attn = _cross_attention(dim, num_heads, eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        audio_tokens: torch.Tensor,
        audio_global: torch.Tensor | None,
        layout: TokenLayout,
        memory: BlockMemory | None = None,
    ) -> torch.Tensor:
        """Add what is heard to the video tokens of `hidden_states` [B, L, C]; shapes as in `Conditions`."""
        batch, _, channels = hidden_states.shape
        if layout.frames == 0:  # a shard of reference and motion tokens only
            return hidden_states
        video = hidden_states[:, : layout.video_tokens]
        # a shard may begin and end inside a frame: fill up to whole frames, attend per frame, cut the filling off
        missing = layout.frames * layout.tokens_per_frame - layout.lead - layout.video_tokens
        whole = F.pad(video, (0, 0, layout.lead, missing)) if layout.lead or missing else video
        frames = slice(layout.first_frame, layout.first_frame + layout.frames)
        per_frame = whole.reshape(batch * layout.frames, layout.tokens_per_frame, channels)

        if audio_global is not None:
            normed = self.norm(per_frame, temb=audio_global[:, frames].reshape(batch * layout.frames, channels))
        else:
            normed = self.norm(per_frame)

        if memory is not None and memory.audio is not None:
            key_value = memory.audio
        else:
            key_value = project_key_value(self.attn, audio_tokens[:, frames].flatten(0, 1))
            if memory is not None:
                memory.audio = key_value
        heard = self.attn(normed, key_value=key_value).reshape(batch, -1, channels)
        heard = heard[:, layout.lead : layout.lead + layout.video_tokens]
        return torch.cat([video + heard, hidden_states[:, layout.video_tokens :]], dim=1)


class WanS2VTransformerBlock(nn.Module):
    """Self-attention, text cross-attention, feed-forward and, in some blocks, audio injection.

    Args:
        dim: width of the tokens.
        ffn_dim: inner width of the feed-forward.
        num_heads: attention heads.
        cross_attn_norm: whether the text cross-attention has a norm with weights before it.
        eps: epsilon of the norms.
        inject_audio: whether the block hears the audio.
        audio_adain: see `WanS2VAudioInjection`.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        inject_audio: bool = False,
        audio_adain: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = WanAttention(
            dim=dim, heads=num_heads, dim_head=dim // num_heads, eps=eps, processor=WanS2VAttnProcessor()
        )
        self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True) if cross_attn_norm else nn.Identity()
        self.attn2 = _cross_attention(dim, num_heads, eps)
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.audio_injection = WanS2VAudioInjection(dim, num_heads, eps, audio_adain) if inject_audio else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        layout: TokenLayout,
        audio_tokens: torch.Tensor,
        audio_global: torch.Tensor | None = None,
        memory: BlockMemory | None = None,
    ) -> torch.Tensor:
        """One block.

        Args:
            hidden_states: [B, L, C], video tokens first.
            encoder_hidden_states: projected text [B, text_len, C].
            temb: [B, 2, 6, C] in float32: modulation of the noisy tokens, and of the clean ones.
            rotary_emb: tables of the local tokens.
            layout: where the local tokens stand.
            audio_tokens, audio_global: see `Conditions`; used by blocks that hear the audio.
            memory: keeps cross-attention keys and values between steps; None computes them anew (training).
        """
        table = self.scale_shift_table.unsqueeze(1) + temb.float()
        shift_msa, scale_msa, gate_msa, shift_ffn, scale_ffn, gate_ffn = table.unbind(dim=2)
        boundary = layout.video_tokens

        normed = _modulate(self.norm1(hidden_states.float()), scale_msa, shift_msa, boundary).type_as(hidden_states)
        hidden_states = _gated_add(hidden_states, self.attn1(normed, rotary_emb=rotary_emb), gate_msa, boundary)

        if memory is not None and memory.text is not None:
            key_value = memory.text
        else:
            key_value = project_key_value(self.attn2, encoder_hidden_states)
            if memory is not None:
                memory.text = key_value
        normed = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(normed, key_value=key_value)

        normed = _modulate(self.norm3(hidden_states.float()), scale_ffn, shift_ffn, boundary).type_as(hidden_states)
        hidden_states = _gated_add(hidden_states, self.ffn(normed), gate_ffn, boundary)

        if self.audio_injection is not None:
            hidden_states = self.audio_injection(hidden_states, audio_tokens, audio_global, layout, memory)
        return hidden_states


# step caches look the block class up by its exact type
TransformerBlockRegistry.register(
    model_class=WanS2VTransformerBlock,
    metadata=TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
)
