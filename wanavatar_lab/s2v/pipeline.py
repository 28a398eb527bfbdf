"""From a picture and a voice to a talking clip, segment by segment (Wan2.2-S2V, commit 42bf4cf is the reference).

    pipe = WanSpeechToVideoPipeline.from_pretrained("weights/Wan2.2-S2V-14B").to("cuda")
    frames = pipe(image, audio, prompt, negative_prompt).frames  # [1, F, H, W, 3]
    for segment in pipe.stream(image, audio, prompt, negative_prompt, height=480, width=832):
        write(segment.frames)  # [1, F, 3, H, W]

A segment is denoised by `denoise_segment`, decoded, and its last frames are what the next one continues from.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.loaders import CogVideoXLoraLoaderMixin, WanLoraLoaderMixin
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import (
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    Wav2Vec2Processor,
)

from wanavatar_lab.s2v.audio_features import AudioFeatures, encode_audio
from wanavatar_lab.s2v.check_inputs import USUAL_AREA, check_arguments, cut_audio, size_of_clip
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.s2v.inpaint import segment_given
from wanavatar_lab.s2v.key_names import has_own_modules, in_our_names
from wanavatar_lab.s2v.recording import RecordedSegment
from wanavatar_lab.s2v.transformer import PUBLISHED_INJECT_LAYERS, SegmentMemory, WanS2VTransformer3DModel
from wanavatar_lab.wan.latents import (
    MOTION_FRAMES,
    Frames,
    LatentCodec,
    Picture,
    check_finite,
    picture_to_pixels,
    to_host,
)
from wanavatar_lab.wan.scheduler import flow_unipc, set_flow_timesteps, with_flow_shift
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

FPS = 16
FIRST_FRAMES_DROPPED = 3  # the first decoded frames of a clip belong to the reference picture
START_PICTURE_FRAMES = 6  # how many motion frames show the picture when a clip starts from it

StepCallback = Callable[["WanSpeechToVideoPipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]

P = ParamSpec("P")
T = TypeVar("T")


def _arguments_of(call: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """A decorator that gives a function the arguments of `call`, as type checkers, editors and `inspect` see them."""

    def give(function: Callable[..., T]) -> Callable[P, T]:
        function.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]
        return function

    return give


@dataclass
class WanS2VSegment:
    """One finished segment.

    Args:
        frames: [1, F, 3, H, W] in [0, 1] on the CPU.
        index: number of the segment, from 0.
        num_segments: how many there will be.
        start_frame: its first frame, counted in frames from the audio's start.
    """

    frames: torch.Tensor
    index: int
    num_segments: int
    start_frame: int


@dataclass
class WanSpeechToVideoOutput(BaseOutput):
    """A finished clip.

    Args:
        frames: [1, F, 3, H, W] in [0, 1] (`output_type="pt"`), [1, F, H, W, 3] (`"np"`) or lists of PIL images.
        start_frame: the first frame belongs to audio time `start_frame / fps`.
        fps: frames per second.
    """

    frames: Any
    start_frame: int
    fps: int


class WanSpeechToVideoPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Speech to video with Wan2.2-S2V.

    Args:
        transformer: the S2V network.
        vae: Wan's VAE.
        scheduler: a flow solver of diffusers; None takes UniPC as the reference configures it.
        text_encoder, tokenizer: UMT5; may be None when prompt embeddings are given.
        audio_encoder, audio_processor: wav2vec2; may be None when audio features are given.

    Attributes:
        usual_area: pixels of a clip whose size is not given, at most.
    """

    # in the order in which they are called: diffusers sends a network away when the one after it is called
    model_cpu_offload_seq = "audio_encoder->text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "noise_pred"]
    # the scheduler too: diffusers takes for a component what has no default, or is listed here
    _optional_components = ["scheduler", "text_encoder", "tokenizer", "audio_encoder", "audio_processor"]
    _lora_loadable_modules = ["transformer"]

    def __init__(
        self,
        transformer: WanS2VTransformer3DModel,
        vae: AutoencoderKLWan,
        scheduler: SchedulerMixin | None = None,
        text_encoder: UMT5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        audio_encoder: Wav2Vec2Model | None = None,
        audio_processor: Wav2Vec2FeatureExtractor | Wav2Vec2Processor | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            scheduler=scheduler if scheduler is not None else flow_unipc(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            audio_encoder=audio_encoder,
            audio_processor=audio_processor,
        )
        self.usual_area = USUAL_AREA
        self._interrupt = False
        self._memories: list[SegmentMemory] = []  # of the running segment, one per prompt

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype = torch.bfloat16,
        vae_dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        device_map: str | int | torch.device | None = None,
        **components: Any,
    ) -> Self:
        """Load the pipeline from a folder, or from the Hub, in any layout that `load_components` reads.

        Args:
            pretrained_model_name_or_path: a folder, or a repository such as `Wan-AI/Wan2.2-S2V-14B`.
            torch_dtype, vae_dtype: see `load_components`.
            revision, token: of the repository, and to open it with.
            variant: see `load_components`.
            device_map: the device that all parts are loaded onto, instead of main memory.
            components: parts of the pipeline that are used instead of those in the folder.

        Raises:
            WeightsError: see `load_components`.
            ValueError: `device_map` is not one device.
        """
        try:
            device = torch.device("cpu" if device_map is None else device_map)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"device_map is {device_map!r}; need one device such as 'cuda'. To share memory between parts, leave "
                "it out and call enable_model_cpu_offload."
            ) from error
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), revision=revision, token=token))
        loaded = load_components(folder, torch_dtype, device, vae_dtype, leave_out=components, variant=variant)
        return cls(**{**loaded, **components})

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: Any,
        *,
        audio_inject_layers: Iterable[int] = PUBLISHED_INJECT_LAYERS,
        return_lora_metadata: bool = False,
        **options: Any,
    ) -> Any:
        """diffusers' own, for files too that reach the modules that only S2V has, as those of `training` do.

        Args:
            pretrained_model_name_or_path_or_dict: tensors, a file, a folder, or the id of a repository on the Hub.
            audio_inject_layers: blocks of the network with an audio injection.
            return_lora_metadata: also return the adapter's metadata in the file.
            options: those of diffusers' `lora_state_dict`: `weight_name`, `subfolder`, `revision` and so on.

        Raises:
            ValueError: a key of the file is not known, or not of a LoRA.
        """
        # CogVideoX's reads and downloads as Wan's does, and leaves the names as they are
        tensors, metadata = CogVideoXLoraLoaderMixin.lora_state_dict(
            pretrained_model_name_or_path_or_dict, return_lora_metadata=True, **options
        )
        if has_own_modules(tensors):
            tensors = in_our_names(tensors, audio_inject_layers)
        else:
            tensors = super().lora_state_dict(tensors)
        return (tensors, metadata) if return_lora_metadata else tensors

    def load_lora_weights(self, pretrained_model_name_or_path_or_dict: Any, *arguments: Any, **options: Any) -> None:
        """diffusers' own, which reads by `lora_state_dict`."""
        layers = self.transformer.config.audio_inject_layers
        super().load_lora_weights(
            pretrained_model_name_or_path_or_dict, *arguments, audio_inject_layers=layers, **options
        )

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` from a callback to stop after the running step; no further frames are returned."""
        return self._interrupt

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """Text embeddings [1, L, text_dim], L ≤ 512, without padding.

        Raises:
            ValueError: the pipeline has no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(NO_TEXT_ENCODER)
        tokens = self.tokenizer(
            prompt_clean(prompt), max_length=TEXT_LENGTH, truncation=True, add_special_tokens=True, return_tensors="pt"
        )
        device = self._execution_device
        return self.text_encoder(tokens.input_ids.to(device), tokens.attention_mask.to(device)).last_hidden_state

    def encode_audio(self, waveform: np.ndarray | torch.Tensor) -> AudioFeatures:
        """wav2vec2's hidden states of a mono waveform [T] at 16 kHz; see `audio_features.encode_audio`.

        Raises:
            ValueError: the pipeline has no audio encoder, or the waveform does not fit.
        """
        if self.audio_encoder is None or self.audio_processor is None:
            raise ValueError(NO_AUDIO_ENCODER)
        return encode_audio(waveform, self.audio_encoder, self.audio_processor)

    def prepare_latents(
        self, seed: int, frames: int, height: int, width: int, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Noise [1, z, frames / 4, height / 8, width / 8] in float32, the same on every device for the same seed.

        Args:
            seed: of a new CPU generator, used without `generator`.
            frames, height, width: of a segment.
            generator: draws the noise, on its own device.
        """
        shape = (1, self.vae.config.z_dim, frames // 4, height // 8, width // 8)
        generator = generator or torch.Generator().manual_seed(seed)
        return randn_tensor(shape, generator, self._execution_device, torch.float32)

    def __call__(
        self,
        image: Picture,
        audio: np.ndarray | torch.Tensor | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        audio_features: torch.Tensor | AudioFeatures | None = None,
        audio_start: float = 0.0,
        audio_duration: float | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pose_video: Frames | None = None,
        pose_start: float = 0.0,
        pose_end: float = 1.0,
        inpaint_video: Frames | None = None,
        inpaint_mask: Frames | None = None,
        video: Frames | None = None,
        mask: Frames | None = None,
        start_from_image: bool = False,
        frames_per_segment: int = 80,
        num_segments: int | None = None,
        motion_frames: int = MOTION_FRAMES,
        num_inference_steps: int = 40,
        guidance_scale: float = 4.5,
        flow_shift: float = 3.0,
        seed: int = 0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Make the whole clip.

        Args:
            image: the reference picture; it is scaled to cover the frame and cropped at its centre.
            audio: mono waveform [T] at 16 kHz; or give `audio_features` [layers, T, dim] at 50 Hz instead.
            prompt, negative_prompt: text; or give `prompt_embeds` and `negative_prompt_embeds` [1, L, text_dim].
            height, width: in pixels, multiples of 16, at least 64. None follows the picture's shape: in multiples
                of 64 within `usual_area`, that of 480 × 832, without both, else at the side that is given.
            audio_start, audio_duration: seconds of the audio to use; None takes all up to its end.
            pose_video: [F, 3, height, width] in [0, 1] at 16 fps, from the clip's start; black beyond its end.
            pose_start, pose_end: share of the denoising steps (0 to 1) between which the pose is used.
            inpaint_video, inpaint_mask: frames [F, 3, height, width] in [0, 1] at 16 fps of which parts are kept, and
                [F, 1, height, width] with 1 where the picture is generated and 0 where it is kept; beyond their end all
                is generated. Both or neither; the network has to be one for inpainting (`in_channels` 36).
            video, mask: a recording to dub [F, 3, height, width] in [0, 1] at 16 fps, from the clip's start, and
                [F, 1, height, width]: 1 where the clip is made anew, 0 where it is the recording, between for a soft
                edge. Pixels where it is 0 are the recording's own; beyond the end all is made anew. Both or neither,
                without `inpaint_video`; any network can do it, and one for inpainting also sees the recording.
            start_from_image: let the clip continue from the picture itself instead of starting freely.
            frames_per_segment: a multiple of 4.
            num_segments: None or 0 takes as many as the audio needs; never more.
            motion_frames: frames that a segment continues from, 4n + 1.
            num_inference_steps: denoising steps per segment.
            guidance_scale: classifier-free guidance; 1 or less leaves the second pass out.
            flow_shift: shift of the sigmas; 3 is published, for every size.
            seed: segment r draws its noise from a CPU generator seeded `seed + r`.
            generator: draws the noise of all segments, one after the other, instead of `seed`.
            latents: noise [S, z, frames_per_segment / 4, height / 8, width / 8] of the first S segments, which is used
                instead of drawing theirs.
            output_type: "pt", "np" or "pil"; "segments" returns what `stream` does.
            return_dict: return a `WanSpeechToVideoOutput` instead of the tuple (frames, start_frame).
            attention_kwargs: `{"scale": s}` scales all adapters.
            callback_on_step_end: `callback(pipe, step, timestep, tensors)`; may return `{"latents": …}`. `tensors` also
                has "segment" and "num_segments".
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` the callback gets.

        Raises:
            ValueError: an argument that does not fit; the text names it.
            NotFinite: latents or frames are NaN or infinite; the text says in which step of which segment.
        """
        # 1. Check everything before anything is computed
        if output_type not in ("pt", "np", "pil", "segments"):
            raise ValueError(f"output_type is {output_type!r}; need 'pt', 'np', 'pil' or 'segments'.")
        height, width = size_of_clip(image, height, width, self.usual_area)
        check_arguments(locals(), self.transformer.config)
        unknown = sorted(set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; need some of {self._callback_tensor_inputs}."
            )
        texts: list[Any] = [prompt_embeds if prompt_embeds is not None else prompt]
        if guidance_scale > 1:
            texts.append(negative_prompt_embeds if negative_prompt_embeds is not None else negative_prompt)
        if any(isinstance(text, str) for text in texts) and (self.text_encoder is None or self.tokenizer is None):
            raise ValueError(NO_TEXT_ENCODER)
        speech = cut_audio(audio, audio_features, audio_start, audio_duration)
        if not isinstance(speech, AudioFeatures) and (self.audio_encoder is None or self.audio_processor is None):
            raise ValueError(NO_AUDIO_ENCODER)
        picture = picture_to_pixels(image, height, width)
        self._interrupt = False

        def segments() -> Iterator[WanS2VSegment]:
            bar: Any = None  # over the steps of all segments

            def after_step(
                step: int, timestep: torch.Tensor, latents: torch.Tensor, noise_pred: torch.Tensor
            ) -> torch.Tensor | None:
                bar.update()
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "noise_pred": noise_pred}
                    wanted = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    place = {"segment": index, "num_segments": count}
                    answer = callback_on_step_end(self, step, timestep, wanted | place)
                    latents = (answer or {}).get("latents", latents)
                return None if self._interrupt else latents

            try:
                # not as a decorator of this generator: that would keep the last segment while the next is computed
                with torch.no_grad():
                    # 2. Encode what the whole clip is made from
                    device, size = self._execution_device, (height, width)
                    features = speech if isinstance(speech, AudioFeatures) else self.encode_audio(speech)
                    count = features.num_segments(FPS, frames_per_segment)
                    count = min(num_segments, count) if num_segments else count
                    bar = self.progress_bar(total=count * num_inference_steps)
                    embeds = [self.encode_prompt(text) if isinstance(text, str) else text.to(device) for text in texts]
                    codec = LatentCodec(self.vae)
                    motion = MotionContext(codec, picture, motion_frames, start_from_image, device)
                    scheduler = with_flow_shift(self.scheduler, flow_shift)

                for index in range(count):
                    with torch.no_grad():
                        # 3. Denoise a segment
                        name = f"Speech to video, segment {index + 1} of {count}"
                        window = slice(index * frames_per_segment, (index + 1) * frames_per_segment)
                        pose = inpaint = recorded = None
                        if pose_video is not None:
                            pose = codec.encode_pose(pose_video, window, size, device)
                        if inpaint_video is not None and inpaint_mask is not None:
                            inpaint = segment_given(codec, inpaint_video, inpaint_mask, window, size, device)
                        if video is not None and mask is not None:
                            recorded = motion.read_recording(video, mask, window)
                            if self.transformer.config.in_channels > self.transformer.config.out_channels:
                                inpaint = recorded.given(codec, device)
                        if latents is not None and index < len(latents):
                            noise = latents[index : index + 1].to(device, torch.float32)
                        else:
                            noise = self.prepare_latents(seed + index, frames_per_segment, *size, generator)
                        self._memories = [SegmentMemory() for _ in embeds]

                        denoised = denoise_segment(
                            self.transformer,
                            scheduler,
                            noise,
                            prompt_embeds=embeds,
                            audio_embeds=features.bucket(index, FPS, frames_per_segment)[None].to(device),
                            ref_latents=motion.ref_latents,
                            motion_latents=motion.motion_latents,
                            pose_latents=pose,
                            inpaint_latents=inpaint,
                            recorded=recorded,
                            motion_frames=motion_frames,
                            num_inference_steps=num_inference_steps,
                            guidance_scale=guidance_scale,
                            pose_range=(pose_start, pose_end),
                            memories=self._memories,
                            attention_kwargs=attention_kwargs,
                            after_step=after_step,
                            label=name,
                        )
                        self._memories = []  # else keys and values of all blocks would be in memory while decoding
                        if denoised is None:
                            return
                        # 4. Decode it
                        segment = WanS2VSegment(motion.decode(denoised, name), index, count, motion.start_frame)
                    length = segment.frames.shape[1]
                    yield segment
                    del segment  # hundreds of megabytes, which must not be in memory beside the next one's
                    if self._interrupt:
                        return
                    if index + 1 < count:
                        motion.advance(length)
            finally:
                if bar is not None:
                    bar.close()
                self._memories = []
                self.maybe_free_model_hooks()

        if output_type == "segments":
            return segments()
        made = list(segments())
        # an interrupted clip may have no segment at all
        frames: Any = torch.cat([torch.empty(1, 0, 3, height, width), *(segment.frames for segment in made)], dim=1)
        if output_type != "pt":
            frames = frames.permute(0, 1, 3, 4, 2).numpy()
        if output_type == "pil":
            frames = [[Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in clip] for clip in frames]
        start_frame = made[0].start_frame if made else 0
        if not return_dict:
            return frames, start_frame
        return WanSpeechToVideoOutput(frames=frames, start_frame=start_frame, fps=FPS)

    @_arguments_of(__call__)
    def stream(self, *arguments: Any, **options: Any) -> Iterator[WanS2VSegment]:
        """Make the clip and yield it segment by segment, so that memory does not grow with its length.

        The arguments are those of `__call__` without `output_type`, and are checked by the call itself; segments are
        computed as they are iterated. Close the iterator to stop early.

        Raises:
            ValueError: an argument that does not fit; the text names it.
        """
        segments: Iterator[WanS2VSegment] = self(*arguments, **options, output_type="segments")
        return segments

    def forget_projections(self) -> None:
        """To be called from a step callback that changed adapters or their weights.

        Drops what this segment keeps of the old ones: embedded conditions, keys and values, and a step cache's
        residuals.
        """
        self.transformer._reset_stateful_cache()
        for memory in self._memories:
            memory.forget_projections()


NO_TEXT_ENCODER = "This pipeline has no text encoder: pass prompt_embeds, or load it with one."
NO_AUDIO_ENCODER = "This pipeline has no audio encoder: pass audio_features, or load it with one."


def denoise_segment(
    transformer: WanS2VTransformer3DModel,
    scheduler: SchedulerMixin,
    latents: torch.Tensor,
    *,
    prompt_embeds: Sequence[torch.Tensor],
    audio_embeds: torch.Tensor,
    motion_latents: torch.Tensor | None = None,
    pose_latents: torch.Tensor | None = None,
    pose_range: tuple[float, float] = (0.0, 1.0),
    num_inference_steps: int = 40,
    guidance_scale: float = 4.5,
    recorded: RecordedSegment | None = None,
    memories: Sequence[SegmentMemory] = (),
    after_step: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None,
    label: str = "The segment",
    **conditions: Any,
) -> torch.Tensor | None:
    """Denoise one segment.

    Args:
        transformer: the S2V network.
        scheduler: a flow solver with the wanted shift; it is restarted.
        latents: noise [1, C, F, h, w] in float32.
        prompt_embeds: [1, L, text_dim] of the prompt, and for guidance of the negative prompt, whose pass gets zeros as
            audio.
        audio_embeds: [1, layers, dim, 4·F].
        motion_latents: [1, C, T, h, w], or None for a first segment.
        pose_latents: [1, C, F, h, w] or None.
        pose_range: the shares of the steps from and up to which the pose is used.
        num_inference_steps, guidance_scale: as in `WanSpeechToVideoPipeline`.
        recorded: a recording of which the latents outside of its mask are kept.
        memories: new ones, one per prompt, for a caller that may drop their contents; else they are made.
        conditions: further arguments of the network, the same in every step: `ref_latents` and so on.
        after_step: called as `after_step(step, timestep, latents, noise_pred)`; returns the latents to continue with,
            or None to stop.
        label: of the segment, for an error.

    Returns:
        Latents [1, C, F, h, w] in float32, or None when `after_step` stopped it.

    Raises:
        NotFinite: a step gave NaN or infinite values.
    """
    dtype = transformer.patch_embedding.weight.dtype
    timesteps = set_flow_timesteps(scheduler, num_inference_steps, latents.device)
    audios = (audio_embeds, torch.zeros_like(audio_embeds))
    memories = memories or [SegmentMemory() for _ in prompt_embeds]
    passes = list(zip(("cond", "uncond"), prompt_embeds, audios, memories, strict=False))
    # a step cache goes by the step before, which must not be the last one of another segment
    transformer._reset_stateful_cache()

    noise = latents
    if recorded is not None:
        latents = recorded.overwrite(latents, noise, float(scheduler.sigmas[0]))
    for step, timestep in enumerate(timesteps):
        posed = pose_range[0] <= step / len(timesteps) < pose_range[1]
        predictions = []
        for name, text, speech, memory in passes:
            facts = {"step_index": step, "sigma": float(scheduler.sigmas[step])}
            with transformer.cache_context(name, num_inference_steps=len(timesteps), **facts):
                prediction = transformer(
                    hidden_states=latents.to(dtype),
                    timestep=timestep.expand(latents.shape[0]),
                    encoder_hidden_states=text,
                    audio_embeds=speech,
                    motion_latents=motion_latents,
                    drop_motion_frames=motion_latents is None,
                    pose_latents=pose_latents if posed else None,
                    memory=memory,
                    return_dict=False,
                    **conditions,
                )[0]
            predictions.append(prediction)
        # not before the last pass: where passes are computed by several processes, it fills the first one too
        predictions = [prediction.float() for prediction in predictions]
        noise_pred = predictions[0]
        if len(predictions) == 2:
            noise_pred = predictions[1] + guidance_scale * (predictions[0] - predictions[1])
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
        if recorded is not None:
            latents = recorded.overwrite(latents, noise, float(scheduler.sigmas[step + 1]))
        check_finite(latents, f"{label}: the latents after step {step + 1} of {len(timesteps)}")
        if after_step is not None:
            replaced = after_step(step, timestep, latents, noise_pred)
            if replaced is None:
                return None
            latents = replaced
    return latents


class MotionContext:
    """The frames before the current segment, which it continues from.

    Attributes:
        ref_latents: latents of the reference picture [1, z, 1, h, w].
        motion_latents: latents of the frames before [1, z, T, h, w]; None before a free start.
        start_frame: the current segment's first frame, counted in frames from the audio's start.

    Args:
        codec: the VAE.
        picture: the reference picture [1, 3, 1, H, W] in [-1, 1].
        motion_frames: how many frames are kept.
        from_picture: whether the clip continues from the picture itself instead of starting freely.
        device: where latents go.
    """

    def __init__(
        self, codec: LatentCodec, picture: torch.Tensor, motion_frames: int, from_picture: bool, device: torch.device
    ) -> None:
        self._codec, self._device, self._picture = codec, device, picture
        self._recorded: RecordedSegment | None = None
        self._frames = torch.zeros(1, 3, motion_frames, *picture.shape[3:])
        self.ref_latents = codec.encode(picture, device)
        self.motion_latents: torch.Tensor | None = None
        self.start_frame = FIRST_FRAMES_DROPPED
        if from_picture:
            self._frames[:, :, -START_PICTURE_FRAMES:] = picture
            self.start_frame = 0
            self.motion_latents = codec.encode(self._frames, device)

    def read_recording(self, video: Frames, mask: Frames, window: slice) -> RecordedSegment:
        """Lay the current segment's frames into these of a recording; see `RecordedSegment.read`."""
        before = self._picture if self.motion_latents is None else self._frames
        self._recorded = RecordedSegment.read(self._codec, video, mask, window, before, self._device)
        return self._recorded

    def decode(self, latents: torch.Tensor, name: str) -> torch.Tensor:
        """The segment's frames [1, F, 3, H, W] in [0, 1] on the CPU; the last of them are kept for the next segment.

        Args:
            name: of the segment, for an error.
        """
        # the latents before the new ones set the state of the causal decoder
        before = self.ref_latents if self.motion_latents is None else self.motion_latents
        decoded = to_host(self._codec.decode(torch.cat([before, latents], dim=2), name, wanted=4 * latents.shape[2]))
        if self._recorded is not None:
            decoded = self._recorded.composite(decoded)
        if self.motion_latents is None:
            decoded = decoded[:, :, FIRST_FRAMES_DROPPED:]
        kept = min(self._frames.shape[2], decoded.shape[2])
        self._frames = torch.cat([self._frames[:, :, kept:], decoded[:, :, -kept:]], dim=2)
        return (decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    @torch.no_grad()
    def advance(self, frames: int) -> None:
        """Continue with the segment after one of `frames` frames."""
        self.start_frame += frames
        self.motion_latents = self._codec.encode(self._frames, self._device)
