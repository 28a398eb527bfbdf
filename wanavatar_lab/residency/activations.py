"""What a stage needs on the GPU beside its weights, in bytes, while each of its networks works.

A forward pass of a transformer needs so many times its hidden states [tokens, width]; decoding needs so many times the
finest feature maps of the decoder. Those factors are constants here. Measured is one of them:

    SPEECH_UNITS: `python -m wanavatar_lab.bench --height 480 --width 832 --frames 80` peaks at 38.4 GB, all eager in
    bfloat16, of which 33.2 GB are the network's weights.

Estimates are all others: IMAGE_TO_VIDEO's blocks are those of speech to video, so that its factor is taken to be the
same; FLUX's block holds its joint projection, three times as wide; the decoders' and encoders' were counted by hand
from the layers that are alive together. Every estimate is meant to err on the side of too much.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from wanavatar_lab.residency.component import Component

SPEECH_UNITS = 15.0  # measured, see above
IMAGE_TO_VIDEO_UNITS = 15.0  # estimate
TEXT_TO_IMAGE_UNITS = 30.0  # estimate
WAN_DECODER_UNITS = 8.0  # estimate, of 4 frames at full size
FLUX_DECODER_UNITS = 12.0  # estimate
UPSCALE_UNITS = 5.0  # estimate, of feature maps twice as wide and high as the tile
TEXT_UNITS = 100.0  # estimate: hidden states of all layers, and the logits that Qwen3 computes along with them
AUDIO_BYTES_PER_CHANNEL = 2_000_000  # estimate, for a window of a minute

TEXT_TOKENS = 512  # the most that both text encoders are given
TILE_EDGE = 20  # pixels that an upscaler's tile is larger than asked for
_LATENT_FRAMES = 4  # pixel frames of a latent frame
_TOKEN_SIDE = 16  # pixels: stride 8 of the autoencoder times patch size 2


@dataclass(frozen=True)
class Work:
    """What a request asks of a stage.

    Attributes:
        stage: which.
        width, height: pixels of what is made; of a tile for upscale.
        frames: of the clip, or of a segment; 1 for a picture.
        steps: denoising steps of the clip or segment.
        passes: forward passes per step: 2 with guidance.
    """

    stage: str
    width: int
    height: int
    frames: int = 1
    steps: int = 1
    passes: int = 1

    @property
    def tokens(self) -> int:
        """Length of the transformer's sequence."""
        rows, columns = self.height // _TOKEN_SIDE, self.width // _TOKEN_SIDE
        if self.stage == "text_to_image":
            return rows * columns + TEXT_TOKENS
        if self.stage == "image_to_video":
            return ((self.frames - 1) // _LATENT_FRAMES + 1) * rows * columns
        if self.stage == "speech_to_video":
            # the reference picture, and the motion latents in three sizes of patches: see `s2v.layout`
            packed = rows * columns + (rows // 2) * (columns // 2) + 4 * (rows // 4) * (columns // 4)
            return self.frames // _LATENT_FRAMES * rows * columns + rows * columns + packed
        return 0

    @property
    def samples(self) -> int:
        """Pixels of all frames."""
        return self.width * self.height * self.frames


def activation_bytes(work: Work, components: Iterable[Component]) -> dict[str, int]:
    """Bytes beside the weights while each component works, by its name."""
    return {component.name: int(_bytes(work, component)) for component in components}


def _bytes(work: Work, component: Component) -> float:
    itemsize = _itemsize(component)
    match component.name:
        case "transformer" | "transformer_2":
            units = {"text_to_image": TEXT_TO_IMAGE_UNITS, "image_to_video": IMAGE_TO_VIDEO_UNITS}
            hidden = units.get(work.stage, SPEECH_UNITS) * work.tokens * component.width * itemsize
            return hidden + _kept_keys(work, component) * itemsize
        case "text_encoder":
            return TEXT_UNITS * TEXT_TOKENS * component.width * itemsize
        case "audio_encoder":
            return AUDIO_BYTES_PER_CHANNEL * component.width
        case "vae" if work.stage == "text_to_image":
            return FLUX_DECODER_UNITS * work.samples * component.width * itemsize
        case "vae":
            chunk = work.width * work.height * _LATENT_FRAMES * component.width * itemsize
            # the frames lie there in colours too, before and after they are joined
            return WAN_DECODER_UNITS * chunk + 2 * work.samples * 3 * itemsize
        case _:
            feature_map = 4 * (work.width + TILE_EDGE) * (work.height + TILE_EDGE) * component.width
            return UPSCALE_UNITS * feature_map * itemsize


def _kept_keys(work: Work, component: Component) -> int:
    """Numbers in the keys and values of the text, which speech to video keeps for a segment, per pass."""
    if work.stage != "speech_to_video":
        return 0
    return 2 * TEXT_TOKENS * component.width * component.layers * work.passes


def _itemsize(component: Component) -> int:
    """Bytes of a number, which activations share with most of the weights."""
    return 4 if component.gpu_bytes > 3 * component.parameters else 2
