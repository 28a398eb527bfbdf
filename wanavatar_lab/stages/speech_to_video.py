"""A picture, or a recording of a person, and a voice become a talking clip."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from diffusers import FirstBlockCacheConfig
from PIL import Image

from wanavatar_lab import media
from wanavatar_lab.errors import LabError, MediaError
from wanavatar_lab.lora import trained_for_inpainting
from wanavatar_lab.lora.apply import applied, shares_by_noise, shares_by_progress
from wanavatar_lab.memory import workload_of
from wanavatar_lab.memory.workload import LATENT_FRAMES
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.s2v import WanS2VSegment, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.audio_features import SAMPLE_RATE
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.s2v.inpaint import widen_patch_embedding
from wanavatar_lab.s2v.pipeline import FIRST_FRAMES_DROPPED, FPS
from wanavatar_lab.s2v.token_layout import PACKED_SIDE
from wanavatar_lab.stages import kernels
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.dubbing import Recording, open_recording
from wanavatar_lab.stages.latent_preview import LatentPreview, middle_frame
from wanavatar_lab.stages.models import StageModels
from wanavatar_lab.stages.people import say_who_is_in
from wanavatar_lab.stages.segment_progress import SegmentProgress
from wanavatar_lab.stages.shared import shared
from wanavatar_lab.stages.speed import saved_passes
from wanavatar_lab.wan.latents import MOTION_FRAMES, picture_to_pixels
from wanavatar_lab.wan.scheduler import SOLVERS, set_flow_timesteps, with_flow_shift

FILE = "talking.mp4"
# what becomes of the rest of the clip where a video is shorter
BEYOND_ITS_END = {
    "pose_video": "black frames follow, which show no pose",
    "inpaint_video": "after that the whole picture is generated",
    "inpaint_mask": "after that the whole picture is generated",
}
_log = logging.getLogger(__name__)


class Models(StageModels):
    """The S2V models, which can be widened for inpainting."""

    pipeline: WanSpeechToVideoPipeline
    _widened = False

    def read(self) -> None:
        """Load the pipeline into main memory."""
        components = load_components(self.folder, torch_dtype=self.dtype, device="cpu", elsewhere=self.elsewhere)
        self.pipeline = WanSpeechToVideoPipeline(**components)
        self.pipeline.set_progress_bar_config(disable=True)  # the run's status has it
        if self._widened:
            widen_patch_embedding(self.pipeline.transformer)

    def widen(self) -> None:
        """Let the network see which pixels are given, before it is placed on a device; others are not affected.

        A network that is placed already may have offload hooks on the layer that is replaced, so it is loaded anew.
        """
        self._widened = True
        if self._must_reload:  # for its next placement
            return
        config = self.pipeline.transformer.config
        if config.in_channels == config.out_channels:
            self.read_anew()


def load(profile: Profile, device: str) -> Models:
    """Load the S2V models of a profile into main memory.

    Raises:
        WeightsError: they are missing, or not what the network needs.
    """
    models = Models.load(SpeechToVideo.stage, profile, device)
    # for a call of the bare pipeline, as `wanavatar_lab.load` gives it; `run` says the size
    models.pipeline.usual_area = min(models.pipeline.usual_area, profile.auto_area)
    return models


def run(request: SpeechToVideo, models: Models, context: StageContext) -> list[Artifact]:
    """Make the clip; each segment is written beside the making of the next, and kept if the run ends before the last.

    Raises:
        MediaError: an input cannot be read.
        RequestError: there is no LoRA of a name, or the offload that is asked for does not fit.
        LabError: the clip does not fit into the GPU's memory, or no LoRA of the request was trained for inpainting.
        WeightsError: a LoRA does not fit.
        Cancelled: the user has asked for the run to end.
    """
    width, height = request.size(request.source_size())
    # with silence of as many frames in front, the frames that a free start leaves out are none of the voice's
    led = request.video is not None or (request.lead_in and not request.start_from_image)
    lead = FIRST_FRAMES_DROPPED if led else 0
    recording = None if request.video is None else open_recording(request, (width, height), lead, context)
    voice, waveform, segments = _voice(request, lead, recording, context)
    if request.image is not None or recording is None:
        picture = request.read_image()
        say_who_is_in(picture, request, context)
    else:
        picture = recording.picture()
    videos: dict[str, Any] = {
        name: VideoFrames(path, height, width, is_mask=name == "inpaint_mask", lead=lead)
        for name in BEYOND_ITS_END
        if (path := getattr(request, name)) is not None and (recording is None or name == "pose_video")
    }
    _say_what_is_left_out(request, picture.size, (width, height), videos, voice, context)
    if recording is not None:
        videos |= {"video": recording.video, "mask": recording.mask}
    if request.inpaint_video is not None or (recording is not None and trained_for_inpainting(request)):
        models.widen()
    workload = workload_of(request, (width, height))
    choice = models.apply_offload(request.offload, workload, context.ranks, request.quantization)
    models.say_cut_prompts(request, context)
    context.say_placement(choice)
    kernels.prepare(request, models, context)
    pipeline = models.pipeline
    # a pipeline from the model cache still has the last run's step cache
    if pipeline.transformer.is_cache_enabled:
        pipeline.transformer.disable_cache()
    if request.step_cache == "first_block":
        pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=request.step_cache_threshold))
    steps, flow_shift = request.num_inference_steps, request.the_flow_shift()
    pipeline.register_modules(scheduler=SOLVERS[request.sample_solver].shifted(flow_shift))
    scheduler = with_flow_shift(pipeline.scheduler, flow_shift)
    set_flow_timesteps(scheduler, steps, "cpu")
    sigmas: list[float] = scheduler.sigmas.tolist()  # the noise before each step of a segment, and at its end
    # of the LoRAs' low-noise weights, in each step of a segment, 0 to 1
    shares = shares_by_progress(steps) if request.lora_schedule == "progress" else shares_by_noise(sigmas[:steps])
    preview = LatentPreview(context, models.colours)
    progress = SegmentProgress(context, workload, models, segments)
    # each segment is decoded together with the latents before it, which for a free start are the reference alone
    new, before = request.frames_per_segment // LATENT_FRAMES, (MOTION_FRAMES + 3) // LATENT_FRAMES

    def on_step(_: Any, step: int, __: torch.Tensor, facts: dict[str, Any]) -> None:
        progress.denoised(step + 1)
        context.check()
        # the sample without noise that this step points at
        preview.offer(lambda: middle_frame(facts["latents"] - sigmas[step + 1] * facts["noise_pred"]))
        # after a segment's last step, the weights for the next one's first are set
        if loras.at_step(step + 1):
            pipeline.forget_projections()

    progress.begin(new + (before if request.start_from_image else 1))
    stream = pipeline.stream(
        image=picture,
        audio=waveform,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=height,
        width=width,
        pose_start=request.pose_start,
        pose_end=request.pose_end,
        **videos,
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
        progress.watching(pipeline.vae),
        applied(request, [(pipeline.transformer, shares)], context.log) as loras,
        shared(request, workload, [pipeline.transformer], context, pipeline.vae),
        saved_passes(request, pipeline, context),
    ):
        if request.inpaint_video is not None:
            _check_trained_for_inpainting(pipeline)
        first = next(stream)
        with context.writer(
            media.TalkingClipWriter,
            FILE,
            fps=FPS,
            audio=voice,
            start_frame=first.start_frame - lead,
            metadata=context.metadata(request, models.fingerprint, loras.record),
        ) as writer:
            segment: WanS2VSegment | None = first
            del first
            while segment is not None:
                writer.write(_pictures(segment, recording))
                context.check()
                if segment.index + 1 < segments:
                    progress.begin(new + before)
                segment = None  # hundreds of megabytes, which are not kept any longer than the writer needs them
                segment = next(stream, None)
    context.record(
        weights=models.fingerprint,
        loras=loras.record,
        width=width if recording is None else recording.size[0],
        height=height if recording is None else recording.size[1],
        frames=writer.frames,
        seconds=writer.frames / FPS,
    )
    return [Artifact(kind=SpeechToVideo.artifact, path=FILE)]


def _pictures(segment: WanS2VSegment, recording: Recording | None) -> Iterator[np.ndarray]:
    """The frames of a segment as the file has them, uint8 [H, W, 3]: where a recording is dubbed, laid into its own."""
    frames, first = segment.frames[0], segment.start_frame
    for number, frame in enumerate(frames, first):
        made = (frame.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        yield made if recording is None else recording.lay_in(made, number)


def _voice(
    request: SpeechToVideo, lead: int, recording: Recording | None, context: StageContext
) -> tuple[media.Audio, np.ndarray, int]:
    """The sound for the file, the waveform for the network, which has `lead` frames of silence in front, and how many
    segments it needs.

    Raises:
        MediaError: it cannot be read.
    """
    start, duration = request.audio_start, request.audio_duration
    voice = media.read_audio(request.audio, start=start, duration=duration)
    heard = media.read_audio(request.audio, rate=SAMPLE_RATE, mono=True, start=start, duration=duration).samples[:, 0]
    if recording is not None and request.length_by == "video":
        seconds = recording.count / FPS
        _say_other_length(seconds, voice.seconds, context)
        voice = replace(voice, samples=_lasting(voice.samples, round(seconds * voice.rate)))
        heard = _lasting(heard, round(seconds * SAMPLE_RATE))
    heard = np.pad(heard, (lead * SAMPLE_RATE // FPS, 0))
    per_segment = request.frames_per_segment / FPS
    segments = max(1, math.ceil((voice.seconds + lead / FPS) / per_segment - 1e-6))
    if 0 < request.num_segments < segments:
        # a preview is the beginning of the clip: the network hears all of the voice, and the file ends with the picture
        segments = request.num_segments
        voice = replace(voice, samples=voice.samples[: round((segments * per_segment - lead / FPS) * voice.rate)])
    return voice, heard, segments


def _say_other_length(video: float, voice: float, context: StageContext) -> None:
    """Log what becomes of a voice that lasts longer or shorter than the video, in seconds."""
    if abs(voice - video) > 1 / FPS:
        what = "the rest of the voice is left out. length_by voice keeps it" if voice > video else "silence follows"
        context.log(f"video lasts {video:.2f} s and the voice {voice:.2f} s: {what}.")


def _lasting(samples: np.ndarray, count: int) -> np.ndarray:
    """So many samples [T, ...], of which silence are those that are missing."""
    return np.pad(samples[:count], [(0, max(0, count - len(samples))), *[(0, 0)] * (samples.ndim - 1)])


def _say_what_is_left_out(
    request: SpeechToVideo,
    picture: tuple[int, int],
    size: tuple[int, int],
    videos: Mapping[str, "VideoFrames"],
    voice: media.Audio,
    context: StageContext,
) -> None:
    """Log what a clip of this width and height does not show of the inputs, and what has no effect on it."""
    if request.video is None and request.length_by == "video":
        context.log("length_by video has no effect without a video to dub: the clip is as long as the voice.")
    if request.image is None and request.image_box is not None and request.inpaint_mask is not None:
        context.log("image_box has no effect: inpaint_mask says which part of video is made anew.")
    if request.image is not None:
        context.say_crop("image", picture, size, by_choice="x" in request.resolution and request.video is None)
    for name, video in videos.items():
        context.say_crop(name, video.source_size, size)
        if video.seconds < voice.seconds:
            context.log(
                f"{name} lasts {video.seconds:.2f} s and the voice {voice.seconds:.2f} s: {BEYOND_ITS_END[name]}."
            )
    steps = request.num_inference_steps
    posed = sum(request.pose_start <= step / steps < request.pose_end for step in range(steps))
    if request.pose_video is not None and posed < steps:
        context.log(f"pose_video is followed in {posed} of {steps} steps.")
    strips = zip(("right", "bottom"), (side % PACKED_SIDE for side in size), strict=True)
    if lost := " and ".join(f"{pixels} pixels at the {where}" for where, pixels in strips if pixels):
        context.log(
            f"At {size[0]}x{size[1]} the oldest motion frames are packed without {lost}; sides that are multiples of "
            f"{PACKED_SIDE} are packed whole."
        )


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

    Beyond the file's end there are none, so that n may be less than was asked for.

    Args:
        path: a video, an animation, or one picture for all frames.
        height, width: to which they are scaled, in pixels.
        is_mask: C is 1, with 1 where the file is white; else it is 3.
        lead: how often the first frame is shown before the clip begins.

    Attributes:
        ndim, shape: as those of a tensor [F, C, height, width]; F counts the file's own frames.
        source_size: width and height of the file's frames.
        seconds: of the file; infinite for one picture.

    Raises:
        MediaError: it cannot be read, or has no picture.
    """

    ndim: int = 4

    def __init__(self, path: str, height: int, width: int, is_mask: bool = False, lead: int = 0) -> None:
        self.path, self.size, self.is_mask, self.lead = path, (height, width), is_mask, lead
        info = media.probe(path)
        if info.width is None or info.height is None:
            raise MediaError(f"{path} has sound and no picture. Give a video or a picture.")
        if info.hdr:
            _log.warning("%s is HDR (%s); its frames are mapped to SDR, BT.709.", path, info.hdr)
        self.source_size = (info.width, info.height)
        self._still = media.read_picture(path) if info.frames is None else None
        frames = info.frames or 1
        self.seconds = math.inf if self._still else info.picture_seconds or 1 / FPS
        self.shape: tuple[int, ...] = (frames, 1 if is_mask else 3, height, width)
        self._frames: Iterator[np.ndarray] = iter(())
        self._place: float = math.inf  # of the next one of `_frames`; they are not open yet

    def __getitem__(self, window: slice) -> torch.Tensor:
        pictures: Iterable[Image.Image] = [self._still] * (window.stop - window.start) if self._still else ()
        if self._still is None:
            if window.start < self._place:
                frames = media.read_frames(self.path, fps=FPS)
                first = next(frames)
                self._frames, self._place = chain(repeat(first, self.lead + 1), frames), 0
            # as segments ask for them, each window begins where the last one ended
            read = islice(self._frames, window.start - int(self._place), window.stop - int(self._place))
            pictures, self._place = map(Image.fromarray, read), window.stop
        pixels = [picture_to_pixels(picture, *self.size)[0, :, 0] / 2 + 0.5 for picture in pictures]
        found = torch.stack(pixels) if pixels else torch.empty(0, 3, *self.size)
        # a compressed video has no pure black and white: what is nearer to white is made anew
        return (found.mean(dim=1, keepdim=True) > 0.5).float() if self.is_mask else found
