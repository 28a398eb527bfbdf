"""What a stage is made of, in bytes. No torch is needed for these figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """One network of a stage.

    Attributes:
        name: what its pipeline calls it: transformer, transformer_2, text_encoder, vae, audio_encoder; for upscale,
            network.
        parameters: how many numbers it has.
        gpu_bytes: of its weights in the number formats in which the stage loads it.
        file_bytes: of the files it comes from; what is published, where they are not there yet. None if unknown.
        fp8_bytes: of its weights when those of linear layers and convolutions are stored in 8 bits; None for what
            is never stored so.
        largest_layer: bytes of the layer with most weights.
        width: channels: of the hidden states of a transformer, of the finest level of an autoencoder.
        layers: blocks of a transformer; 0 for others.
        feed_forward: inner width of a transformer's feed-forward; 0 where that is of no account.
    """

    name: str
    parameters: int
    gpu_bytes: int
    file_bytes: int | None
    fp8_bytes: int | None = None
    largest_layer: int = 0
    width: int = 0
    layers: int = 0
    feed_forward: int = 0
