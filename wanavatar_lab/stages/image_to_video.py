"""A picture starts to move.

A clip that is longer than the model was trained for is made in segments: `WanImageToVideoPipeline` takes one picture
to begin with, so that each segment continues from the last frame of the one before. That picture was made by the
networks, so that what the autoencoder and the denoising do to colours adds up from segment to segment. Mean and spread
of red, green and blue are therefore corrected as in E. Reinhard et al., "Color transfer between images", 2001: at a
segment's beginning to those of the frame that it continues from, and from there gradually to those of the clip's first
picture, or of the last one where it is given.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from PIL import Image

from wanavatar_lab import media
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.apply import ONLY_HIGH, ONLY_LOW, applied
from wanavatar_lab.memory import workload_of
from wanavatar_lab.memory.workload import LATENT_FRAMES
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.stages import kernels
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.latent_preview import LatentPreview, middle_frame
from wanavatar_lab.stages.models import StageModels
from wanavatar_lab.stages.segment_progress import SegmentProgress
from wanavatar_lab.stages.shared import shared
from wanavatar_lab.stages.speed import saved_passes
from wanavatar_lab.wan.latents import LatentCodec, check_finite, picture_to_pixels, to_host
from wanavatar_lab.wan.load import (
    is_wan_folder,
    load_model,
    load_part,
    load_text_encoder,
    load_tokenizer,
    load_vae,
    load_wan_folder,
)
from wanavatar_lab.wan.scheduler import NUM_TRAIN_TIMESTEPS, SOLVERS
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

FILE = "moving.mp4"
FPS = 16
PARTS = ("vae", "text_encoder", "tokenizer", "transformer", "transformer_2")
# the largest correction of a segment's colours: a factor of the spread, and a part of full brightness. The drift of a
# segment is smaller, and a change that the prompt asks for is larger
MAX_GAIN = 1.1
MAX_SHIFT = 0.04
_MIN_SPREAD = 1 / 255  # below this a channel is plain, and its spread is noise


class Models(StageModels):
    """The I2V models: the VAE is in float32, the experts and the text encoder in `dtype`."""

    pipeline: WanImageToVideoPipeline

    def read(self) -> None:
        """Load the pipeline into main memory."""
        self.pipeline = load_pipeline(self.folder, self.dtype, self.elsewhere)
        self.pipeline.set_progress_bar_config(disable=True)


def load(profile: Profile, device: str) -> Models:
    """Load the I2V models of a profile into main memory.

    Raises:
        WeightsError: they are missing, or not what the pipeline needs.
    """
    return Models.load(ImageToVideo.stage, profile, device)


def run(request: ImageToVideo, models: Models, context: StageContext) -> list[Artifact]:
    """Make the clip; each segment is written beside the making of the next, and kept if the run ends before the last.

    Raises:
        MediaError: the picture cannot be read.
        RequestError: a LoRA is not found, or the requested offload mode does not fit.
        LabError: the clip does not fit into the GPU's memory.
        WeightsError: a LoRA does not fit the network.
        Cancelled: the run was cancelled.
    """
    pictures = {
        name: media.read_picture(path)
        for name in ("image", "last_image")
        if (path := getattr(request, name)) is not None
    }
    width, height = request.size(pictures["image"].size)
    for name, picture in pictures.items():
        by_choice = name == "image" and "x" in request.resolution
        context.say_crop(name, picture.size, (width, height), by_choice=by_choice)
    frames = {name: _frame(picture, height, width) for name, picture in pictures.items()}
    workload = workload_of(request, (width, height))
    choice = models.apply_offload(request.offload, workload, context.ranks, request.quantization)
    models.say_cut_prompts(request, context)
    context.say_placement(choice)
    kernels.prepare(request, models, context)
    experts = [(models.pipeline.transformer, ONLY_HIGH), (models.pipeline.transformer_2, ONLY_LOW)]
    lengths = request.segments()
    # a single segment is the whole clip, and nothing to count
    progress = SegmentProgress(context, workload, models, len(lengths) if len(lengths) > 1 else None)
    with (
        context.cancellable(models.pipeline.text_encoder, models.pipeline.vae),
        progress.watching(models.pipeline.vae),
        applied(request, experts, context.log) as loras,
        shared(request, workload, [network for network, _ in experts], context, models.pipeline.vae),
        saved_passes(request, models.pipeline, context),
        context.writer(
            media.VideoWriter,
            FILE,
            fps=FPS,
            metadata=context.metadata(request, models.fingerprint, loras.record),
        ) as writer,
    ):
        for segment in _segments(request, models, context, progress, frames["image"], frames.get("last_image")):
            writer.write(_pictures(segment))
            del segment  # as below
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


def _pictures(frames: torch.Tensor) -> Iterator[np.ndarray]:
    """Frames [1, 3, F, H, W] in [0, 1] as the file has them, each uint8 [H, W, 3]."""
    for frame in frames[0].unbind(dim=1):
        yield (frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _frame(picture: Image.Image, height: int, width: int) -> torch.Tensor:
    """A picture as [1, 3, height, width] in [0, 1], as the pipeline takes one; scaled as by its own processor."""
    return picture_to_pixels(picture, height, width, Image.Resampling.LANCZOS)[:, :, 0] / 2 + 0.5


def _segments(
    request: ImageToVideo,
    models: Models,
    context: StageContext,
    progress: SegmentProgress,
    first: torch.Tensor,
    last: torch.Tensor | None,
) -> Iterator[torch.Tensor]:
    """Frames [1, 3, F, H, W] in [0, 1] on the CPU, segment by segment.

    The clip begins with `first` [1, 3, H, W], and ends with `last` if there is one.
    """
    pipeline, preview = models.pipeline, LatentPreview(context, models.colours)
    lengths, steps, low = request.segments(), request.num_inference_steps, request.low_noise_guidance_scale()
    boundary = pipeline.config.boundary_ratio * NUM_TRAIN_TIMESTEPS

    def on_step(_: Any, step: int, __: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        progress.denoised(step + 1)
        context.check()
        check_finite(tensors["latents"], f"{name}: the latents after step {step + 1} of {steps}")
        # the pipeline decides on a second pass before every step, but by the first expert's guidance only
        if step + 1 < steps and pipeline.scheduler.timesteps[step + 1] < boundary:
            pipeline._guidance_scale = low
        # the solver has just predicted the segment's latents [1, z, F, h, w] without noise
        preview.offer(lambda: middle_frame(pipeline.scheduler.model_outputs[-1]))
        return {}

    start, texts = first, None
    for index, length in enumerate(lengths):
        end = last if index + 1 == len(lengths) else None
        name = f"Image to video, segment {index + 1} of {len(lengths)}"
        # not as a decorator of this generator: that would keep a segment while the next one is made
        with torch.no_grad():
            progress.begin(-(-length // LATENT_FRAMES))
            # encoded once, whatever the number of segments
            texts = texts or pipeline.encode_prompt(
                request.prompt,
                request.negative_prompt,
                do_classifier_free_guidance=max(request.guidance_scale, low) > 1,
                max_sequence_length=TEXT_LENGTH,
            )
            # a step depends on the sigmas, so every segment gets a new solver
            pipeline.register_modules(scheduler=SOLVERS[request.sample_solver].shifted(request.flow_shift))
            latents = pipeline(
                image=start,
                last_image=end,
                prompt_embeds=texts[0],
                negative_prompt_embeds=texts[1],
                height=start.shape[2],
                width=start.shape[3],
                num_frames=length,
                num_inference_steps=steps,
                guidance_scale=request.guidance_scale,
                guidance_scale_2=low,
                # noise of the CPU, so that a seed means the same clip on every device; each segment has its own
                generator=torch.Generator("cpu").manual_seed(context.seed + index),
                output_type="latent",
                callback_on_step_end=on_step,
                callback_on_step_end_tensor_inputs=["latents"],
            ).frames
            frames = to_host((LatentCodec(pipeline.vae).decode(latents, name) / 2 + 0.5).clamp(0, 1))
            context.check()
            if index > 0:
                frames = joined(frames, start, first if end is None else end)
            start = frames[:, :, -1].clone()
        yield frames
        del latents, frames  # hundreds of megabytes, which are not kept any longer than the writer needs them


def joined(frames: torch.Tensor, before: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """A segment as it continues the one before, without a visible joint.

    Args:
        frames: of the segment, [1, 3, F, H, W] in [0, 1]; the first one shows the same as `before`.
        before: the last frame of the segment before, [1, 3, H, W] in [0, 1].
        wanted: has the colours of the last frame: the clip's first picture or its last, [1, 3, H, W] in [0, 1].

    Returns:
        Frames [1, 3, F - 1, H, W] in [0, 1], without the first, which would be shown twice.
    """
    gain_before, shift_before = _correction(frames[:, :, 0], before)
    gain_last, shift_last = _correction(frames[:, :, -1], wanted)
    part = torch.linspace(0, 1, frames.shape[2]).view(1, 1, -1, 1, 1)
    gain = gain_before + (gain_last - gain_before) * part
    shift = shift_before + (shift_last - shift_before) * part
    mean = frames.mean(dim=(3, 4), keepdim=True)
    return ((frames - mean) * gain + mean + shift)[:, :, 1:].clamp(0, 1)


def _correction(frame: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What corrects a frame's colours to those of another: gain around the mean and shift, [1, 3, 1, 1, 1] each."""
    spreads = [picture.std(dim=(2, 3)).clamp(min=_MIN_SPREAD) for picture in (frame, wanted)]
    gain = (spreads[1] / spreads[0]).clamp(1 / MAX_GAIN, MAX_GAIN)
    shift = (wanted.mean(dim=(2, 3)) - frame.mean(dim=(2, 3))).clamp(-MAX_SHIFT, MAX_SHIFT)
    return gain[..., None, None, None], shift[..., None, None, None]


def load_pipeline(
    folder: Path, dtype: torch.dtype, elsewhere: Mapping[str, Path] | None = None
) -> WanImageToVideoPipeline:
    """Wan's image to video pipeline with both experts, in main memory.

    Args:
        folder: in the layout of `save_pretrained`, or in Wan-AI's.
        dtype: of the experts and the text encoder; the VAE is in float32, as Wan's pipelines advise.
        elsewhere: folders of parts that are not in `folder`, by name.

    Raises:
        WeightsError: a part is missing or cannot be read, or a tensor is missing or left over.
    """
    if is_wan_folder(folder):
        return load_wan_folder(folder, dtype)
    places = {name: folder / name for name in PARTS} | dict(elsewhere or {})
    gone = [str(place) for place in (folder / "model_index.json", *places.values()) if not place.exists()]
    if gone:
        raise WeightsError(
            f"The weights of image_to_video lack {', '.join(gone)}. They are read with both experts, in "
            "diffusers layout or in Wan-AI's: download what is missing."
        )
    experts = ("transformer", "transformer_2")
    networks = {name: load_model(WanTransformer3DModel, places[name], dtype).requires_grad_(False) for name in experts}
    pipeline = load_part(
        WanImageToVideoPipeline.from_pretrained,
        folder,
        tokenizer=load_tokenizer(places["tokenizer"]),
        vae=load_vae(places["vae"]),
        text_encoder=load_text_encoder(places["text_encoder"], dtype),
        **networks,
    )
    if pipeline.config.boundary_ratio is None:
        raise WeightsError(
            f"{folder}/model_index.json has no boundary_ratio, so the second expert would never run. Add it."
        )
    return pipeline
