"""Attention of the S2V blocks: rotary self-attention, and cross-attention whose keys and values can be kept."""

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention

from .memory import KeyValue


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
