"""A picture and a voice become a talking clip."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from diffusers import FirstBlockCacheConfig
from PIL import Image

from wanavatar_lab import media
from wanavatar_lab.errors import LabError, MediaError
from wanavatar_lab.lora.apply import applied, shares_by_noise, shares_by_progress
from wanavatar_lab.media.pictures import is_picture
from wanavatar_lab.memory import workload_of
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.s2v import WanS2VSegment, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.audio_features import SAMPLE_RATE, SHORTEST_SAMPLES
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.s2v.inpaint import widen_patch_embedding
from wanavatar_lab.s2v.pipeline import FPS
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.latent_preview import LatentPreview, middle_frame
from wanavatar_lab.stages.models import StageModels
from wanavatar_lab.wan.latents import picture_to_pixels
from wanavatar_lab.wan.scheduler import set_flow_timesteps, with_flow_shift

FILE = "talking.mp4"


class Models(StageModels):
    """The S2V models, which can be widened for inpainting."""

    pipeline: WanSpeechToVideoPipeline

    def read(self) -> None:
        """Load the pipeline into main memory."""
        components = load_components(self.folder, torch_dtype=self.dtype, device="cpu", elsewhere=self.elsewhere)
        self.pipeline = WanSpeechToVideoPipeline(**components)

    def widen(self) -> None:
        """Let the network see which pixels are given, before it is placed on a device; others are not affected.

        A network that is placed already may have offload hooks on the layer that is replaced, so it is loaded anew.
        """
        config = self.pipeline.transformer.config
        if config.in_channels == config.out_channels:
            self.read()
            self.choice = None
            widen_patch_embedding(self.pipeline.transformer)


def load(profile: Profile, device: str) -> Models:
    """Load the S2V models of a profile into main memory.

    Raises:
        WeightsError: they are missing, or not what the network needs.
    """
    return Models.load(SpeechToVideo.stage, profile, device)


def run(request: SpeechToVideo, models: Models, context: StageContext) -> list[Artifact]:
    """Make the clip; frames are written segment by segment as they are ready.

    Raises:
        MediaError: an input cannot be read.
        RequestError: there is no LoRA of a name, or the offload that is asked for does not fit.
        LabError: the clip does not fit into the GPU's memory, or no LoRA of the request was trained for inpainting.
        WeightsError: a LoRA does not fit.
        Cancelled: the user has asked for the run to end.
    """
    picture = media.read_picture(request.image)
    width, height = request.size(picture.size)
    voice, waveform, segments = _voice(request)
    if request.inpaint_video is not None:
        models.widen()
    context.say_placement(models.apply_offload(request.offload, workload_of(request, (width, height))))
    pipeline = models.pipeline
    # a pipeline from the model cache still has the last run's step cache
    if pipeline.transformer.is_cache_enabled:
        pipeline.transformer.disable_cache()
    if request.step_cache == "first_block":
        pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=request.step_cache_threshold))
    steps, flow_shift = request.num_inference_steps, request.the_flow_shift()
    scheduler = with_flow_shift(pipeline.scheduler, flow_shift)
    set_flow_timesteps(scheduler, steps, "cpu")
    sigmas: list[float] = scheduler.sigmas.tolist()  # the noise before each step of a segment, and at its end
    # of the LoRAs' low-noise weights, in each step of a segment, 0 to 1
    shares = shares_by_progress(steps) if request.lora_schedule == "progress" else shares_by_noise(sigmas[:steps])
    preview = LatentPreview(context, models.colours)

    def on_step(_: Any, step: int, __: torch.Tensor, facts: dict[str, Any]) -> None:
        context.progress("denoise", step + 1, steps, segment=facts["segment"] + 1, segments=segments)
        context.check()
        # the sample without noise that this step points at
        preview.offer(lambda: middle_frame(facts["latents"] - sigmas[step + 1] * facts["noise_pred"]))
        # after a segment's last step, the weights for the next one's first are set
        if loras.at_step(step + 1):
            pipeline.forget_projections()

    context.progress("denoise", 0, steps, segment=1, segments=segments)
    stream = pipeline.stream(
        image=picture,
        audio=waveform,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=height,
        width=width,
        pose_video=VideoFrames(request.pose_video, height, width) if request.pose_video else None,
        inpaint_video=VideoFrames(request.inpaint_video, height, width) if request.inpaint_video else None,
        inpaint_mask=VideoFrames(request.inpaint_mask, height, width, is_mask=True) if request.inpaint_mask else None,
        start_from_image=request.start_from_image,
        frames_per_segment=request.frames_per_segment,
        num_segments=segments,
        num_inference_steps=steps,
        guidance_scale=request.guidance_scale,
        flow_shift=flow_shift,
        seed=context.seed,
        callback_on_step_end=on_step,
        callback_on_step_end_tensor_inputs=("latents", "noise_pred"),
    )
    with (
        context.cancellable(pipeline.audio_encoder, pipeline.text_encoder, pipeline.vae),
        applied(request, [(pipeline.transformer, shares)], context.log) as loras,
    ):
        if request.inpaint_video is not None:
            _check_trained_for_inpainting(pipeline)
        first = next(stream)
        # the mux reads frames one by one: what is not written yet is at most one segment
        clip = media.write_talking_clip(
            context.folder / FILE,
            _levels(chain([first], stream), context),
            fps=FPS,
            audio=voice,
            start_frame=first.start_frame,
        )
    context.record(
        weights=models.fingerprint,
        loras=loras.record,
        width=width,
        height=height,
        frames=clip.frames,
        seconds=clip.duration,
    )
    return [Artifact(kind=SpeechToVideo.artifact, path=FILE)]


def _voice(request: SpeechToVideo) -> tuple[media.Audio, np.ndarray, int]:
    """The sound for the file, the waveform for the network, and how many segments they need.

    Raises:
        MediaError: it cannot be read, or is too short for the network.
    """
    start, duration = request.audio_start, request.audio_duration
    voice = media.read_audio(request.audio, start=start, duration=duration)
    per_segment = request.frames_per_segment / FPS
    segments = max(1, math.ceil(voice.seconds / per_segment - 1e-6))
    if 0 < request.num_segments < segments:
        # fewer segments than the voice lasts are a preview: the voice ends with the picture
        segments, duration = request.num_segments, request.num_segments * per_segment
        voice = replace(voice, samples=voice.samples[: round(duration * voice.rate)])
    heard = media.read_audio(request.audio, rate=SAMPLE_RATE, mono=True, start=start, duration=duration)
    waveform = heard.samples[:, 0]
    if len(waveform) < SHORTEST_SAMPLES:
        raise MediaError(
            f"{request.audio} has {heard.seconds:.3f} s of sound to speak from {start:g} s on, and at least "
            f"{SHORTEST_SAMPLES / SAMPLE_RATE:g} s are needed. Change audio_start or audio_duration, or the file."
        )
    return voice, waveform, segments


def _levels(segments: Iterable[WanS2VSegment], context: StageContext) -> Iterator[np.ndarray]:
    for segment in segments:
        for frame in segment.frames[0]:
            context.check()
            yield (frame.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _check_trained_for_inpainting(pipeline: WanSpeechToVideoPipeline) -> None:
    """Refuse a network that would ignore the mask: its further input channels are zeros until they are trained."""
    network = pipeline.transformer
    if not bool(network.patch_embedding.weight[:, network.config.out_channels :].any()):
        raise LabError(
            "inpaint_video is given, but no LoRA of this request has a patch embedding that was trained for "
            "inpainting. Add one to loras (docs/training.md says how to train it), or leave inpaint_video and "
            "inpaint_mask empty."
        )


class VideoFrames:
    """The frames of a file, read as segments need them: a slice gives [n, C, height, width] in [0, 1].

    Args:
        path: a video; a mask may be one picture for all frames.
        height, width: to which they are scaled, in pixels.
        is_mask: C is 1, with 1 where the file is white; else it is 3.

    Attributes:
        ndim, shape: as those of a tensor [F, C, height, width].
    """

    ndim: int = 4

    def __init__(self, path: str, height: int, width: int, is_mask: bool = False) -> None:
        self.path, self.size, self.is_mask = path, (height, width), is_mask
        self._still = media.read_picture(path) if is_mask and is_picture(path) else None
        frames = 1 if self._still else media.probe(path).frames or 0
        self.shape: tuple[int, ...] = (frames, 1 if is_mask else 3, height, width)

    def __getitem__(self, window: slice) -> torch.Tensor:
        count = window.stop - window.start
        pictures: Iterable[Image.Image] = [self._still] * count if self._still else self._read(window.start, count)
        pixels = torch.stack([picture_to_pixels(picture, *self.size)[0, :, 0] / 2 + 0.5 for picture in pictures])
        # a compressed video has no pure black and white: what is nearer to white is made anew
        return (pixels.mean(dim=1, keepdim=True) > 0.5).float() if self.is_mask else pixels

    def _read(self, start: int, count: int) -> Iterator[Image.Image]:
        return map(Image.fromarray, media.read_frames(self.path, fps=FPS, start=start / FPS, limit=count))
