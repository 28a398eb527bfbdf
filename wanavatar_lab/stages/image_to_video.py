"""A picture starts to move.

A clip longer than the model was made for comes in segments: `WanImageToVideoPipeline` takes one picture to begin with,
so that each segment goes on from the last frame of the one before.

Joints between the segments of a clip, so that nobody sees them, and colours held where they began.

Each segment begins with a picture that the networks made, so that what the autoencoder and the denoising do to colours
adds up from segment to segment. Means and spreads of red, green and blue are put right, as in E. Reinhard et al.,
"Color transfer between images", 2001: at a segment's beginning to those of the frame that it goes on from, and from
there little by little to those of the clip's first picture.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from wanavatar_lab import media
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.apply import ONLY_HIGH, ONLY_LOW, applied
from wanavatar_lab.memory import workload_of
from wanavatar_lab.memory.apply_offload import OffloadableModels
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.latent_preview import LatentPreview, fit_video_colours, middle_frame
from wanavatar_lab.wan.cpu_convolution import convolve_by_frames
from wanavatar_lab.wan.latents import LatentCodec, picture_to_pixels
from wanavatar_lab.wan.load import is_wan_folder, load_model, load_part, load_wan_folder
from wanavatar_lab.wan.scheduler import NUM_TRAIN_TIMESTEPS, WanUniPCScheduler
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH
from wanavatar_lab.weights import append_download_command, missing_weights
from wanavatar_lab.weights.folders import fingerprint

# the most that is put right: a factor of the spread, and a part of full brightness; what a prompt changes is larger
LARGEST_GAIN = 1.1
LARGEST_SHIFT = 0.04
_LEAST_SPREAD = 1 / 255  # a plain channel has none to compare


def joined(frames: torch.Tensor, before: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """A segment as it goes on from the one before.

    Args:
        frames: of the segment, [1, 3, F, H, W] in [0, 1]; the first one shows what `before` shows.
        before: the frame that it goes on from, [1, 3, H, W].
        first: the picture that the clip began with, [1, 3, H, W].

    Returns:
        Frames [1, 3, F - 1, H, W] in [0, 1], without the one that would be there twice.
    """
    gain_before, shift_before = _correction(frames[:, :, 0], before)
    gain_first, shift_first = _correction(frames[:, :, -1], first)
    part = torch.linspace(0, 1, frames.shape[2]).view(1, 1, -1, 1, 1)
    gain = gain_before + (gain_first - gain_before) * part
    shift = shift_before + (shift_first - shift_before) * part
    mean = frames.mean(dim=(3, 4), keepdim=True)
    return ((frames - mean) * gain + mean + shift)[:, :, 1:].clamp(0, 1)


def _correction(frame: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What takes a frame's colours to those of another: a gain around the mean and a shift, [1, 3, 1, 1, 1] each."""
    spreads = [picture.std(dim=(2, 3)).clamp(min=_LEAST_SPREAD) for picture in (frame, wanted)]
    gain = (spreads[1] / spreads[0]).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    shift = (wanted.mean(dim=(2, 3)) - frame.mean(dim=(2, 3))).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
    return gain[..., None, None, None], shift[..., None, None, None]


FILE = "moving.mp4"
FPS = 16
PARTS = ("vae", "text_encoder", "tokenizer", "transformer", "transformer_2")


@dataclass
class Models(OffloadableModels):
    """What the worker keeps warm.

    Attributes:
        folder: where the weights lie.
        elsewhere: where parts lie that other stages use too, by name.
        dtype: of the experts and the text encoder.
        device: where they compute.
        fingerprint: of the weights, for the manifest.
        pipeline: all components.
        colours: of the VAE's latents, for previews.
    """

    folder: Path
    elsewhere: Mapping[str, Path]
    dtype: torch.dtype
    device: str
    fingerprint: dict[str, str] = field(init=False)
    pipeline: WanImageToVideoPipeline = field(init=False)
    colours: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.folder, self.elsewhere.values())
        self.read()
        self.colours = fit_video_colours(self.pipeline.vae)

    def read(self) -> None:
        """Load the pipeline into main memory."""
        self.pipeline = load_pipeline(self.folder, self.dtype, self.elsewhere)


def load(profile: Profile, device: str) -> Models:
    """Load the I2V models of a profile into main memory.

    Raises:
        WeightsError: they are not there, or not what the pipeline needs.
    """
    weights_dir = read_settings().weights_dir
    folder = profile.weights(ImageToVideo.stage, weights_dir)
    if not folder.is_dir():
        raise missing_weights(ImageToVideo.stage, folder)
    elsewhere = profile.shared_parts(ImageToVideo.stage, weights_dir)
    with append_download_command(folder):
        return Models(folder, elsewhere, getattr(torch, profile.dtype(device)), device)


def load_pipeline(
    folder: Path, dtype: torch.dtype, elsewhere: Mapping[str, Path] | None = None
) -> WanImageToVideoPipeline:
    """Wan's image to video pipeline with both experts, in main memory.

    Args:
        folder: as `save_pretrained` writes it, or as Wan-AI publishes it.
        dtype: of the experts and the text encoder; the VAE is in float32, as Wan's pipelines advise.
        elsewhere: folders of parts that lie outside of `folder`, by name.

    Raises:
        WeightsError: a part is missing or cannot be read, or a tensor is missing or left over.
    """
    if is_wan_folder(folder):
        pipeline = load_wan_folder(folder, dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
    places = {name: folder / name for name in PARTS} | dict(elsewhere or {})
    gone = [str(place) for place in (folder / "model_index.json", *places.values()) if not place.exists()]
    if gone:
        raise WeightsError(
            f"The weights of image_to_video lack {', '.join(gone)}. They are read with both experts, in "
            "diffusers layout or in Wan-AI's: download what is missing."
        )
    parts = {
        "tokenizer": load_part(AutoTokenizer.from_pretrained, places["tokenizer"], trust_remote_code=False),
        "vae": convolve_by_frames(load_model(AutoencoderKLWan, places["vae"], torch.float32)),
        "text_encoder": load_model(UMT5EncoderModel, places["text_encoder"], dtype),
        "transformer": load_model(WanTransformer3DModel, places["transformer"], dtype),
        "transformer_2": load_model(WanTransformer3DModel, places["transformer_2"], dtype),
    }
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline = load_part(WanImageToVideoPipeline.from_pretrained, folder, **parts)
    if pipeline.config.boundary_ratio is None:
        raise WeightsError(
            f"{folder}/model_index.json has no boundary_ratio, so the second expert has no work. Add it."
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(request: ImageToVideo, models: Models, context: StageContext) -> list[Artifact]:
    """Make the clip; frames are written segment by segment as they are ready.

    Raises:
        MediaError: the picture cannot be read.
        RequestError: there is no LoRA of a name, or the offload that is asked for does not fit.
        LabError: the clip does not fit into the GPU's memory.
        WeightsError: a LoRA does not fit.
        Cancelled: the user has asked for the run to end.
    """
    picture = media.read_picture(request.image)
    width, height = request.size(picture.size)
    context.say_placement(models.apply_offload(request.offload, workload_of(request, (width, height))))
    experts = [(models.pipeline.transformer, ONLY_HIGH), (models.pipeline.transformer_2, ONLY_LOW)]
    known = {**request.to_json(), "seed": context.seed}
    metadata = {"Software": "WanAvatar Lab", "Prompt": request.prompt, "Request": json.dumps(known, ensure_ascii=False)}
    start = picture_to_pixels(picture, height, width)[:, :, 0] / 2 + 0.5
    with (
        applied(request, experts, context.log) as loras,
        media.VideoWriter(context.folder / FILE, fps=FPS, metadata=metadata) as writer,
    ):
        for frames in _segments(request, models, context, start):
            for frame in _levels(frames):
                writer.write(frame)
    context.record(
        weights=models.fingerprint,
        loras=loras.record,
        width=width,
        height=height,
        frames=writer.frames,
        seconds=writer.frames / FPS,
        segments=len(request.segments()),
    )
    return [Artifact(kind=ImageToVideo.artifact, path=FILE)]


def _segments(
    request: ImageToVideo, models: Models, context: StageContext, first: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The clip's frames [1, 3, F, H, W] in [0, 1] on the CPU, segment by segment; `first` [1, 3, H, W] begins it."""
    lengths, start, preview = request.segments(), first, LatentPreview(context, models.colours)
    texts: dict[str, torch.Tensor | None] | None = None
    for index, length in enumerate(lengths):
        # one segment is the whole clip, and nothing to count
        place = {"segment": index + 1, "segments": len(lengths)} if len(lengths) > 1 else {}
        context.progress("denoise", 0, request.num_inference_steps, **place)
        texts = texts or _texts(request, models.pipeline)
        latents = _denoise(request, models.pipeline, context, start, length, texts, preview, index, place)
        context.progress("decode", 0, 1, **place)
        frames = (LatentCodec(models.pipeline.vae).decode(latents) / 2 + 0.5).clamp(0, 1).cpu()
        context.check()
        if index > 0:
            # the first frame is the one that the last segment ended with
            frames = joined(frames, start, first)
        start = frames[:, :, -1].clone()
        yield frames
        del frames  # hundreds of megabytes, which must not lie beside the next ones


@torch.no_grad()
def _texts(request: ImageToVideo, pipeline: WanImageToVideoPipeline) -> dict[str, torch.Tensor | None]:
    """Both prompts as the pipeline takes them: encoded once, whatever the number of segments."""
    prompt, negative = pipeline.encode_prompt(
        request.prompt,
        request.negative_prompt,
        do_classifier_free_guidance=max(request.guidance_scale, request.low_noise_guidance_scale()) > 1,
        max_sequence_length=TEXT_LENGTH,
    )
    return {"prompt_embeds": prompt, "negative_prompt_embeds": negative}


def _denoise(
    request: ImageToVideo,
    pipeline: WanImageToVideoPipeline,
    context: StageContext,
    start: torch.Tensor,
    length: int,
    texts: dict[str, torch.Tensor | None],
    preview: LatentPreview,
    index: int,
    place: dict[str, int],
) -> torch.Tensor:
    """Normalised latents [1, z, F, h, w] of segment `index`, `length` frames that begin with `start`."""
    steps, low = request.num_inference_steps, request.low_noise_guidance_scale()
    boundary = pipeline.config.boundary_ratio * NUM_TRAIN_TIMESTEPS

    def on_step(_: Any, step: int, __: torch.Tensor, ___: dict[str, Any]) -> dict[str, Any]:
        context.progress("denoise", step + 1, steps, **place)
        context.check()
        # whether there is a second pass the pipeline asks before every step, and of the first expert's guidance only
        if step + 1 < steps and pipeline.scheduler.timesteps[step + 1] < boundary:
            pipeline._guidance_scale = low
        # the solver has just told the segment's latents [1, z, F, h, w] from the noise
        preview.offer(lambda: middle_frame(pipeline.scheduler.model_outputs[-1]))
        return {}

    # a step depends on the sigmas, so that a warm pipeline gets a solver for each segment
    pipeline.register_modules(scheduler=WanUniPCScheduler.shifted(request.flow_shift))
    return pipeline(
        # the pipeline takes tensors in [0, 1]
        image=start,
        **texts,
        height=start.shape[2],
        width=start.shape[3],
        num_frames=length,
        num_inference_steps=steps,
        guidance_scale=request.guidance_scale,
        guidance_scale_2=low,
        # the noise is drawn on the CPU, so that a seed means the same clip on every device; each segment has its own
        generator=torch.Generator("cpu").manual_seed(context.seed + index),
        output_type="latent",
        callback_on_step_end=on_step,
        callback_on_step_end_tensor_inputs=[],
    ).frames


def _levels(frames: torch.Tensor) -> Iterator[np.ndarray]:
    """Frames [1, 3, F, H, W] in [0, 1] as uint8 [H, W, 3] each."""
    for frame in frames[0].unbind(dim=1):
        yield (frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
