"""One transformer block of Wan2.2-S2V, with the audio injection inside it.

The injection belongs to the block and not between blocks: step caches replay a block's residual, and what happens
between blocks would be applied a second time.
"""

import torch
import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import AdaLayerNorm, FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

from .attention import WanS2VAttnProcessor, project_key_value
from .layout import TokenLayout
from .memory import BlockMemory


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
