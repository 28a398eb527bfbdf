"""From a picture and a voice to a talking clip, segment by segment (Wan2.2-S2V, commit 42bf4cf is the reference)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, UniPCMultistepScheduler
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from PIL import Image
from transformers import (
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    Wav2Vec2Processor,
)

from .audio import SAMPLE_RATE, AudioFeatures, encode_audio
from .denoise import Sampling, SegmentInputs, denoise_segment
from .frames import MOTION_FRAMES, START_PICTURE_FRAMES, LatentCodec, picture_to_pixels
from .output import WanS2VSegment, WanSpeechToVideoOutput
from .solver import flow_unipc
from .transformer import TEXT_LENGTH, WanS2VTransformer3DModel

FPS = 16
FIRST_FRAMES_LOST = 3  # the first decoded frames of a clip are the reference picture's own and are dropped

StepCallback = Callable[["WanSpeechToVideoPipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]


class WanSpeechToVideoPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Speech to video with Wan2.2-S2V.

    Args:
        transformer: the S2V network.
        vae: Wan's VAE.
        scheduler: a flow solver of diffusers; None takes UniPC as the reference configures it.
        text_encoder, tokenizer: UMT5; may be None when prompt embeddings are given.
        audio_encoder, audio_processor: wav2vec2; may be None when audio features are given.
    """

    model_cpu_offload_seq = "text_encoder->audio_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "noise_pred"]
    _optional_components = ["text_encoder", "tokenizer", "audio_encoder", "audio_processor"]
    _lora_loadable_modules = ["transformer"]

    def __init__(
        self,
        transformer: WanS2VTransformer3DModel,
        vae: AutoencoderKLWan,
        scheduler: UniPCMultistepScheduler | None = None,
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
        self._interrupt = False
        self._inputs: SegmentInputs | None = None

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` from a callback to end after the running step; no further frames are given."""
        return self._interrupt

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """Text embeddings [1, L, text_dim], L ≤ 512, without padding.

        Raises:
            ValueError: the pipeline has no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("This pipeline has no text encoder: pass prompt_embeds, or load it with one.")
        tokens = self.tokenizer(
            prompt_clean(prompt), max_length=TEXT_LENGTH, truncation=True, add_special_tokens=True, return_tensors="pt"
        )
        device = self._execution_device
        return self.text_encoder(tokens.input_ids.to(device), tokens.attention_mask.to(device)).last_hidden_state

    def encode_audio(self, waveform: np.ndarray | torch.Tensor) -> AudioFeatures:
        """wav2vec2's hidden states of a mono waveform [T] at 16 kHz; see `audio.encode_audio`.

        Raises:
            ValueError: the pipeline has no audio encoder, or the waveform does not fit.
        """
        if self.audio_encoder is None or self.audio_processor is None:
            raise ValueError("This pipeline has no audio encoder: pass audio_features, or load it with one.")
        return encode_audio(waveform, self.audio_encoder, self.audio_processor)

    @torch.no_grad()
    def __call__(self, *, output_type: str = "np", return_dict: bool = True, **arguments: Any) -> Any:
        """Make the whole clip; arguments as in `stream`.

        Args:
            output_type: "pt", "np" or "pil".
            return_dict: return a `WanSpeechToVideoOutput` instead of the tuple (frames, start_frame).
        """
        if output_type not in ("pt", "np", "pil"):
            raise ValueError(f"output_type is {output_type!r}; need 'pt', 'np' or 'pil'.")
        segments = list(self.stream(**arguments))
        frames: Any = torch.cat([segment.frames for segment in segments], dim=1) if segments else torch.empty(1, 0)
        if output_type != "pt":
            frames = frames.permute(0, 1, 3, 4, 2).numpy()
        if output_type == "pil":
            frames = [[Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in clip] for clip in frames]
        start_frame = segments[0].start_frame if segments else 0
        if not return_dict:
            return frames, start_frame
        return WanSpeechToVideoOutput(frames=frames, start_frame=start_frame, fps=FPS)

    @torch.no_grad()
    def stream(
        self,
        image: Image.Image | np.ndarray | torch.Tensor,
        audio: np.ndarray | torch.Tensor | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        *,
        height: int,
        width: int,
        audio_features: torch.Tensor | AudioFeatures | None = None,
        audio_start: float = 0.0,
        audio_duration: float | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pose_video: torch.Tensor | None = None,
        pose_start: float = 0.0,
        pose_end: float = 1.0,
        start_from_image: bool = False,
        frames_per_segment: int = 80,
        num_segments: int | None = None,
        motion_frames: int = MOTION_FRAMES,
        num_inference_steps: int = 40,
        guidance_scale: float = 4.5,
        flow_shift: float = 3.0,
        seed: int = 0,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> Iterator[WanS2VSegment]:
        """Make the clip and give it away segment by segment, so that memory does not grow with its length.

        Args:
            image: the reference picture; it is scaled to cover the frame and cut at its centre.
            audio: mono waveform [T] at 16 kHz; or give `audio_features` [layers, T, dim] at 50 Hz instead.
            prompt, negative_prompt: text; or give `prompt_embeds` and `negative_prompt_embeds` [1, L, text_dim].
            height, width: in pixels, multiples of 16.
            audio_start, audio_duration: seconds of the audio to use; None goes to its end.
            pose_video: [F, 3, height, width] in [0, 1] at 16 fps, from the clip's start; frames beyond it are black.
            pose_start, pose_end: share of the denoising steps (0 to 1) between which the pose counts.
            start_from_image: let the clip continue from the picture itself instead of starting freely.
            frames_per_segment: a multiple of 4.
            num_segments: None takes as many as the audio needs; never more.
            motion_frames: frames handed from segment to segment.
            num_inference_steps: denoising steps per segment.
            guidance_scale: classifier-free guidance; 1 or less leaves the second pass out.
            flow_shift: shift of the sigmas; 3 for 480p, 5 for 720p.
            seed: segment r draws its noise from a CPU generator seeded `seed + r`.
            attention_kwargs: `{"scale": s}` scales all adapters.
            callback_on_step_end: `callback(pipe, step, timestep, tensors)`; may return `{"latents": …}`. `tensors` also
                has "segment" and "num_segments".
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` the callback gets.

        Raises:
            ValueError: an argument that does not fit; the text names it.
        """
        _check_sizes(height, width, frames_per_segment, num_inference_steps, motion_frames)
        self._interrupt = False
        device = self._execution_device
        features = self._features(audio, audio_features, audio_start, audio_duration)
        available = features.num_segments(FPS, frames_per_segment)
        count = available if not num_segments else min(num_segments, available)
        sampling = Sampling(num_inference_steps, guidance_scale, flow_shift, (pose_start, pose_end), attention_kwargs)
        texts = [self._text(prompt, prompt_embeds, "prompt").to(device)]
        if guidance_scale > 1:
            texts.append(self._text(negative_prompt, negative_prompt_embeds, "negative_prompt").to(device))

        codec = LatentCodec(self.vae)
        pixels = picture_to_pixels(image, height, width)
        ref_latents = codec.encode(pixels, device)
        last_frames = torch.zeros(1, 3, motion_frames, height, width)
        motion_latents = None
        if start_from_image:
            last_frames[:, :, -START_PICTURE_FRAMES:] = pixels
            motion_latents = codec.encode(last_frames, device)

        start_frame = 0 if start_from_image else FIRST_FRAMES_LOST
        latent_shape = (ref_latents.shape[1], frames_per_segment // 4, *ref_latents.shape[3:])
        try:
            for index in range(count):
                window = slice(index * frames_per_segment, (index + 1) * frames_per_segment)
                self._inputs = SegmentInputs(
                    noise=torch.randn(latent_shape, generator=torch.Generator().manual_seed(seed + index))[None].to(
                        device
                    ),
                    texts=texts,
                    audio_embeds=features.bucket(index, FPS, frames_per_segment)[None].to(device),
                    ref_latents=ref_latents,
                    motion_latents=motion_latents,
                    pose_latents=codec.encode_pose(pose_video, window, (height, width), device),
                    motion_frames=motion_frames,
                )
                on_step = self._step_callback(
                    callback_on_step_end, callback_on_step_end_tensor_inputs, {"segment": index, "num_segments": count}
                )
                latents = denoise_segment(self.transformer, self.scheduler, self._inputs, sampling, on_step)
                if latents is None:
                    return
                # what stands before the new latents sets the state of the causal decoder
                context = ref_latents if motion_latents is None else motion_latents
                decoded = codec.decode(torch.cat([context, latents], dim=2))[:, :, -frames_per_segment:].cpu()
                if motion_latents is None:
                    decoded = decoded[:, :, FIRST_FRAMES_LOST:]
                overlap = min(motion_frames, decoded.shape[2])
                last_frames = torch.cat([last_frames[:, :, overlap:], decoded[:, :, -overlap:]], dim=2)
                yield WanS2VSegment((decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2), index, count, start_frame)
                start_frame += decoded.shape[2]
                if index + 1 < count:
                    motion_latents = codec.encode(last_frames, device)
        finally:
            self._inputs = None
            self.maybe_free_model_hooks()

    def forget_projections(self) -> None:
        """To be called from a step callback that changed adapters or their weights."""
        for memory in self._inputs.memories if self._inputs is not None else []:
            memory.forget_projections()

    def _step_callback(
        self, callback: StepCallback | None, names: tuple[str, ...], facts: dict[str, int]
    ) -> Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]:
        unknown = set(names) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; need some of {self._callback_tensor_inputs}."
            )

        def on_step(
            step: int, timestep: torch.Tensor, latents: torch.Tensor, noise_pred: torch.Tensor
        ) -> torch.Tensor | None:
            if callback is not None:
                tensors = {"latents": latents, "noise_pred": noise_pred}
                answer = callback(self, step, timestep, {**{name: tensors[name] for name in names}, **facts})
                latents = (answer or {}).get("latents", latents)
            return None if self._interrupt else latents

        return on_step

    def _features(
        self,
        audio: np.ndarray | torch.Tensor | None,
        features: torch.Tensor | AudioFeatures | None,
        start: float,
        duration: float | None,
    ) -> AudioFeatures:
        if (audio is None) == (features is None):
            raise ValueError("Pass either audio (a waveform) or audio_features, and not both.")
        stop = None if duration is None else start + duration
        if audio is not None:
            part = audio[round(start * SAMPLE_RATE) : None if stop is None else round(stop * SAMPLE_RATE)]
            return self.encode_audio(part)
        found = features if isinstance(features, AudioFeatures) else AudioFeatures.from_tensor(features)
        part_of = found.part(start, stop)
        if part_of.length < 1:
            raise ValueError(f"audio_start={start} s lies behind the audio's end at {found.duration:.2f} s.")
        return part_of

    def _text(self, text: str | None, embeds: torch.Tensor | None, name: str) -> torch.Tensor:
        if embeds is not None:
            return embeds
        if text is None:
            raise ValueError(f"Pass {name} or {name}_embeds.")
        return self.encode_prompt(text)


def _check_sizes(height: int, width: int, frames_per_segment: int, steps: int, motion_frames: int) -> None:
    for name, value, multiple in (
        ("height", height, 16),
        ("width", width, 16),
        ("frames_per_segment", frames_per_segment, 4),
        ("num_inference_steps", steps, 1),
    ):
        if value < multiple or value % multiple:
            raise ValueError(f"{name} is {value}; need a positive multiple of {multiple}.")
    if motion_frames % 4 != 1:
        raise ValueError(f"motion_frames is {motion_frames}; need 4n + 1, as the VAE groups frames.")
