"""What stays the same between the denoising steps of one segment, kept so that it is computed once."""

from dataclasses import dataclass, field

import torch

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
