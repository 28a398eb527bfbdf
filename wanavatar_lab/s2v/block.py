"""One transformer block of Wan2.2-S2V, with the audio injection inside it.

The injection belongs to the block and not between blocks: step caches replay a block's residual, and what happens
between blocks would be applied a second time.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.normalization import AdaLayerNorm, FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

from wanavatar_lab.s2v.token_layout import TokenLayout

KeyValue = tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class BlockMemory:
    """Keys and values of one block's cross-attentions: to the text, and to the audio where the block has an injection.

    A plain object rather than a dict: offload hooks rebuild containers on their way into a module, and what is
    written to the rebuilt one would be lost.
    """

    text: KeyValue | None = None
    audio: KeyValue | None = None


class WanS2VTransformerBlock(nn.Module):
    """Self-attention, text cross-attention, feed-forward and, in some blocks, audio injection.

    Args:
        dim: width of the tokens.
        ffn_dim: inner width of the feed-forward.
        num_heads: attention heads.
        eps: epsilon of the norms.
        inject_audio: whether the block attends to the audio.
    """

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, eps: float, inject_audio: bool) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = _attention(dim, num_heads, eps, cross=False)
        self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.attn2 = _attention(dim, num_heads, eps, cross=True)
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.audio_injection = WanS2VAudioInjection(dim, num_heads, eps) if inject_audio else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        layout: TokenLayout,
        audio_tokens: torch.Tensor,
        audio_global: torch.Tensor,
        memory: BlockMemory | None = None,
    ) -> torch.Tensor:
        """Transform the local tokens; returns them in the shape and dtype of `hidden_states`.

        Args:
            hidden_states: [B, L, C], video tokens first. Their sums keep this dtype; attention and feed-forward
                compute in that of the text.
            encoder_hidden_states: projected text [B, text_len, C].
            temb: [B, 2, 6, C] in float32: modulation of the noisy tokens, and of the clean ones.
            rotary_emb: tables of the local tokens.
            layout: which part of the sequence the local tokens are.
            audio_tokens: [B, F, N, C], N audio tokens per latent frame; used by blocks with an audio injection.
            audio_global: [B, F, C], their summary per latent frame.
            memory: keeps cross-attention keys and values between steps; None computes them every time (training).
        """
        table = self.scale_shift_table.unsqueeze(1) + temb.float()
        shift_msa, scale_msa, gate_msa, shift_ffn, scale_ffn, gate_ffn = table.unbind(dim=2)
        boundary, dtype = layout.video_tokens, encoder_hidden_states.dtype

        normed = _modulate(self.norm1(hidden_states.float()), scale_msa, shift_msa, boundary).to(dtype)
        hidden_states = _gated_add(hidden_states, self.attn1(normed, rotary_emb=rotary_emb), gate_msa, boundary)

        key_value = memory.text if memory is not None else None
        if key_value is None:
            key_value = project_key_value(self.attn2, encoder_hidden_states)
            if memory is not None:
                memory.text = key_value
        normed = self.norm2(hidden_states.float()).to(dtype)
        hidden_states = hidden_states + self.attn2(normed, key_value=key_value)

        normed = _modulate(self.norm3(hidden_states.float()), scale_ffn, shift_ffn, boundary).to(dtype)
        hidden_states = _gated_add(hidden_states, _feed_forward(self.ffn, normed), gate_ffn, boundary)
        del normed  # memory that the injection of the audio needs

        if self.audio_injection is not None:
            hidden_states = self.audio_injection(hidden_states, audio_tokens, audio_global, layout, memory)
        return hidden_states


# step caches look the block class up by its exact type
TransformerBlockRegistry.register(
    model_class=WanS2VTransformerBlock,
    metadata=TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
)


class WanS2VAudioInjection(nn.Module):
    """Cross-attention from each video token to the audio tokens of its own latent frame.

    The frame's summary of the audio sets scale and shift of the norm before it (AdaIN).

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        eps: epsilon of the query and key norms.
    """

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.norm = AdaLayerNorm(dim, output_dim=2 * dim, chunk_dim=1)
        self.attn = _attention(dim, num_heads, eps, cross=True)

    def forward(
        self,
        hidden_states: torch.Tensor,
        audio_tokens: torch.Tensor,
        audio_global: torch.Tensor,
        layout: TokenLayout,
        memory: BlockMemory | None = None,
    ) -> torch.Tensor:
        """Add the attention to the audio to the video tokens of `hidden_states`; shapes as in the block's `forward`."""
        batch, _, channels = hidden_states.shape
        if layout.frames == 0:  # a shard of reference and motion tokens only
            return hidden_states
        video = hidden_states[:, : layout.video_tokens]
        # a shard may begin and end inside a frame: pad to whole frames, attend per frame, cut the padding off
        missing = layout.frames * layout.tokens_per_frame - layout.lead - layout.video_tokens
        whole = F.pad(video, (0, 0, layout.lead, missing)) if layout.lead or missing else video
        frames = slice(layout.first_frame, layout.first_frame + layout.frames)
        per_frame = whole.reshape(batch * layout.frames, layout.tokens_per_frame, channels)

        normed = self.norm(per_frame, temb=audio_global[:, frames].reshape(batch * layout.frames, channels))
        normed = normed.to(audio_tokens.dtype)
        key_value = memory.audio if memory is not None else None
        if key_value is None:
            key_value = project_key_value(self.attn, audio_tokens[:, frames].flatten(0, 1))
            if memory is not None:
                memory.audio = key_value
        update = self.attn(normed, key_value=key_value).reshape(batch, -1, channels)
        update = update[:, layout.lead : layout.lead + layout.video_tokens]
        return torch.cat([video + update, hidden_states[:, layout.video_tokens :]], dim=1)


def apply_rotary_emb(states: torch.Tensor, rotary_emb: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate neighbouring channel pairs of `states` [B, L, heads, D] by the tables [1, L, 1, D/2], in float32."""
    cosine, sine = rotary_emb
    even, odd = states.float().unflatten(-1, (-1, 2)).unbind(-1)
    # rounded before they are joined, since a pass needs most memory here
    rotated = [(even * cosine - odd * sine).type_as(states), (even * sine + odd * cosine).type_as(states)]
    return torch.stack(rotated, dim=-1).flatten(-2)


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

        def headed(states: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
            states = (states if norm is None else norm(states)).unflatten(2, (attn.heads, -1))
            return states if norm is None or rotary_emb is None else apply_rotary_emb(states, rotary_emb)

        if key_value is not None:
            query, (key, value) = headed(_product(attn.to_q, hidden_states), attn.norm_q), key_value
        elif attn.fused_projections:
            projected = attn.to_qkv(hidden_states).chunk(3, dim=-1)
            query, key, value = (
                headed(projected[0], attn.norm_q),
                headed(projected[1], attn.norm_k),
                headed(projected[2]),
            )
        else:
            # values last, since rotation needs most memory
            query = headed(attn.to_q(hidden_states), attn.norm_q)
            key = headed(attn.to_k(hidden_states), attn.norm_k)
            value = headed(attn.to_v(hidden_states))
        hidden_states = dispatch_attention_fn(
            query,
            key,
            value,
            backend=self._attention_backend,
            # every rank has the whole context of a cross-attention: only self-attention is spread over ranks
            parallel_config=self._parallel_config if key_value is None else None,
        )
        hidden_states = hidden_states.flatten(2, 3).type_as(query)
        return attn.to_out[1](_product(attn.to_out[0], hidden_states))


def _product(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """What a linear layer makes of `states`, for a kernel of the compiler's, which adds the bias where there is one."""
    if not _fuses(states) or type(layer) is not nn.Linear or layer.bias is None:
        out: torch.Tensor = layer(states)
        return out
    # With a bias, cuBLAS 13 computes products of some lengths by a kernel that takes 4 % longer on an H200 than the one
    # that it has for the same product without (17,537 x 5120 by 5120: 1.41 ms and 1.36). Not for what is rotated: with
    # one more operand the compiler computes the two halves of a pair apart.
    return F.linear(states, layer.weight) + layer.bias


def _attention(dim: int, num_heads: int, eps: float, cross: bool) -> WanAttention:
    size = dim // num_heads
    across = size if cross else None
    return WanAttention(dim, num_heads, size, eps, cross_attention_dim_head=across, processor=WanS2VAttnProcessor())


def _modulate(states: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, boundary: int) -> torch.Tensor:
    # scale, shift [B, 2, C]: one row for the noisy video tokens, one for the clean ones after `boundary`
    if _fuses(states):
        return states * (1 + _by_token(scale, states, boundary)) + _by_token(shift, states, boundary)
    parts = (states[:, :boundary], states[:, boundary:])
    return torch.cat([part * (1 + scale[:, i : i + 1]) + shift[:, i : i + 1] for i, part in enumerate(parts)], dim=1)


def _gated_add(states: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, boundary: int) -> torch.Tensor:
    if _fuses(states):
        return (states.float() + update.float() * _by_token(gate, states, boundary)).type_as(states)
    halves = ((states[:, :boundary], update[:, :boundary]), (states[:, boundary:], update[:, boundary:]))
    sums = [(x.float() + y.float() * gate[:, i : i + 1]).type_as(states) for i, (x, y) in enumerate(halves)]
    return torch.cat(sums, dim=1)


def _fuses(states: torch.Tensor) -> bool:
    # where it was measured: a training step, and what a CPU computes, are compiled from what is computed uncompiled
    return torch.compiler.is_compiling() and states.is_cuda and not torch.is_grad_enabled()


def _by_token(rows: torch.Tensor, states: torch.Tensor, boundary: int) -> torch.Tensor:
    # of [B, 2, C] the row of each token. Compiled it is an index in the kernel around it, where `torch.cat` keeps norm
    # and modulation apart; else it would be a tensor as large as the states
    of_video = torch.arange(states.shape[1], device=states.device) < boundary
    return torch.where(of_video[None, :, None], rows[:, :1], rows[:, 1:])


def _feed_forward(ffn: FeedForward, states: torch.Tensor) -> torch.Tensor:
    first = ffn.net[0].proj
    # compiled, the activation is computed in the product's kernel; with an adapter the product is not the end
    if not _fuses(states) or type(first) is not nn.Linear:
        out: torch.Tensor = ffn(states)
        return out
    flat = torch._addmm_activation(first.bias, states.flatten(0, 1), first.weight.t(), use_gelu=True)
    hidden: torch.Tensor = flat.unflatten(0, states.shape[:2])
    for layer in ffn.net[1:]:
        hidden = _product(layer, hidden)
    return hidden
