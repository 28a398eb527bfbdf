"""From a picture and a voice to a talking clip, segment by segment (Wan2.2-S2V, commit 42bf4cf is the reference).

What the S2V pipeline gives back.

What one segment hands to the next: its last frames, as pixels and as latents, and where the next one starts.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.loaders import CogVideoXLoraLoaderMixin, WanLoraLoaderMixin
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import BaseOutput
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
from wanavatar_lab.s2v.check_inputs import TEXT_LENGTH, check_embeds, check_inpainting, check_sizes, cut_audio
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.s2v.denoise import Sampling, SegmentInputs, denoise_segment, prompt_passes
from wanavatar_lab.s2v.inpaint import segment_given
from wanavatar_lab.s2v.key_names import has_own_modules, in_our_names
from wanavatar_lab.s2v.transformer import PUBLISHED_INJECT_LAYERS, WanS2VTransformer3DModel
from wanavatar_lab.wan.latents import MOTION_FRAMES, START_PICTURE_FRAMES, LatentCodec, PoseFrames, picture_to_pixels
from wanavatar_lab.wan.scheduler import flow_unipc


@dataclass
class WanS2VSegment:
    """One finished segment.

    Args:
        frames: [1, F, 3, H, W] in [0, 1] on the CPU.
        index: number of the segment, from 0.
        num_segments: how many there will be.
        start_frame: where its first frame lies, in frames from the audio's start.
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


FIRST_FRAMES_LOST = 3  # the first decoded frames of a clip are the reference picture's own and are dropped


class Continuation:
    """The frames before the current segment.

    Attributes:
        ref_latents: latents of the reference picture [1, z, 1, h, w].
        motion_latents: latents of the frames before [1, z, T, h, w]; None before a free start.
        start_frame: where the current segment's first frame lies, in frames from the audio's start.

    Args:
        codec: the VAE.
        picture: the reference picture [1, 3, 1, H, W] in [-1, 1].
        motion_frames: how many frames are handed on.
        from_picture: whether the clip continues from the picture itself instead of starting freely.
        device: where latents go.
    """

    def __init__(
        self, codec: LatentCodec, picture: torch.Tensor, motion_frames: int, from_picture: bool, device: torch.device
    ) -> None:
        self._codec, self._device = codec, device
        self._frames = torch.zeros(1, 3, motion_frames, *picture.shape[3:])
        self.ref_latents = codec.encode(picture, device)
        self.motion_latents: torch.Tensor | None = None
        self.start_frame = FIRST_FRAMES_LOST
        if from_picture:
            self._frames[:, :, -START_PICTURE_FRAMES:] = picture
            self.start_frame = 0
            self._encode_motion()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The segment's frames [1, F, 3, H, W] in [0, 1] on the CPU; the last of them are kept for the next segment."""
        # what stands before the new latents sets the state of the causal decoder
        before = self.ref_latents if self.motion_latents is None else self.motion_latents
        decoded = self._codec.decode(torch.cat([before, latents], dim=2))[:, :, -4 * latents.shape[2] :].cpu()
        if self.motion_latents is None:
            decoded = decoded[:, :, FIRST_FRAMES_LOST:]
        kept = min(self._frames.shape[2], decoded.shape[2])
        self._frames = torch.cat([self._frames[:, :, kept:], decoded[:, :, -kept:]], dim=2)
        return (decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    def advance(self, frames: int) -> None:
        """Go on to the segment after one of `frames` frames."""
        self.start_frame += frames
        self._encode_motion()

    @torch.no_grad()
    def _encode_motion(self) -> None:
        self.motion_latents = self._codec.encode(self._frames, self._device)


FPS = 16

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

    transformer: WanS2VTransformer3DModel
    vae: AutoencoderKLWan
    scheduler: SchedulerMixin
    text_encoder: UMT5EncoderModel | None
    tokenizer: PreTrainedTokenizerBase | None
    audio_encoder: Wav2Vec2Model | None
    audio_processor: Wav2Vec2FeatureExtractor | Wav2Vec2Processor | None

    # in the order in which they are called: diffusers sends a network away when the one after it is called
    model_cpu_offload_seq = "audio_encoder->text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "noise_pred"]
    _optional_components = ["text_encoder", "tokenizer", "audio_encoder", "audio_processor"]
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
        self._interrupt = False
        self._inputs: SegmentInputs | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype = torch.bfloat16,
        vae_dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        **components: Any,
    ) -> Self:
        """Load the pipeline from a folder, or from the hub, in any layout that `load_components` reads.

        Args:
            pretrained_model_name_or_path: a folder, or a repository such as `Wan-AI/Wan2.2-S2V-14B`.
            torch_dtype, vae_dtype: see `load_components`.
            revision: of the repository.
            components: parts of the pipeline that are used instead of those in the folder.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), revision=revision))
        return cls(**{**load_components(folder, torch_dtype=torch_dtype, vae_dtype=vae_dtype), **components})

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: Any,
        *,
        audio_inject_layers: Iterable[int] = PUBLISHED_INJECT_LAYERS,
        return_lora_metadata: bool = False,
        **options: Any,
    ) -> Any:
        """diffusers' own; a file may also reach the modules that only S2V has, as those of `training` do.

        Args:
            pretrained_model_name_or_path_or_dict: tensors, a file, a folder, or the id of a repository on the hub.
            audio_inject_layers: blocks of the network that hear the audio.
            return_lora_metadata: also return what the file's maker noted of the adapter.
            options: those of diffusers' `lora_state_dict`: `weight_name`, `subfolder`, `revision` and so on.

        Raises:
            ValueError: a key of the file is not known, or not of a LoRA.
        """
        # CogVideoX's reads and fetches as Wan's does, and leaves the names as they are
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
        """Set `_interrupt` from a callback to end after the running step; no further frames are given."""
        return self._interrupt

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> torch.Tensor:
        """Text embeddings [1, L, text_dim], L ≤ 512, without padding.

        Raises:
            ValueError: the pipeline has no text encoder.
        """
        text_encoder, tokenizer = self._text_models()
        tokens = tokenizer(
            prompt_clean(prompt), max_length=TEXT_LENGTH, truncation=True, add_special_tokens=True, return_tensors="pt"
        )
        device = self._execution_device
        return text_encoder(tokens.input_ids.to(device), tokens.attention_mask.to(device)).last_hidden_state

    def encode_audio(self, waveform: np.ndarray | torch.Tensor) -> AudioFeatures:
        """wav2vec2's hidden states of a mono waveform [T] at 16 kHz; see `audio.encode_audio`.

        Raises:
            ValueError: the pipeline has no audio encoder, or the waveform does not fit.
        """
        return encode_audio(waveform, *self._audio_models())

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
        none = torch.empty(1, 0, 3, arguments["height"], arguments["width"])
        frames: Any = torch.cat([none, *(segment.frames for segment in segments)], dim=1)
        if output_type != "pt":
            frames = frames.permute(0, 1, 3, 4, 2).numpy()
        if output_type == "pil":
            frames = [[Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in clip] for clip in frames]
        start_frame = segments[0].start_frame if segments else 0
        if not return_dict:
            return frames, start_frame
        return WanSpeechToVideoOutput(frames=frames, start_frame=start_frame, fps=FPS)

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
        pose_video: torch.Tensor | PoseFrames | None = None,
        pose_start: float = 0.0,
        pose_end: float = 1.0,
        inpaint_video: torch.Tensor | PoseFrames | None = None,
        inpaint_mask: torch.Tensor | PoseFrames | None = None,
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

        The arguments are checked at once; the work is done as segments are asked for. Close the iterator to end early.

        Args:
            image: the reference picture; it is scaled to cover the frame and cut at its centre.
            audio: mono waveform [T] at 16 kHz; or give `audio_features` [layers, T, dim] at 50 Hz instead.
            prompt, negative_prompt: text; or give `prompt_embeds` and `negative_prompt_embeds` [1, L, text_dim].
            height, width: in pixels, multiples of 16, at least 64.
            audio_start, audio_duration: seconds of the audio to use; None goes to its end.
            pose_video: [F, 3, height, width] in [0, 1] at 16 fps, from the clip's start; frames beyond it are black.
            pose_start, pose_end: share of the denoising steps (0 to 1) between which the pose counts.
            inpaint_video, inpaint_mask: frames [F, 3, height, width] in [0, 1] at 16 fps of which parts are kept, and
                [F, 1, height, width] with 1 where the picture is made anew and 0 where it is kept; beyond their end all
                is made. Both or neither; the network has to be one for inpainting (`in_channels` 36).
            start_from_image: let the clip continue from the picture itself instead of starting freely.
            frames_per_segment: a multiple of 4.
            num_segments: None or 0 takes as many as the audio needs; never more.
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
        check_sizes(height, width, frames_per_segment, num_segments, motion_frames, pose_video)
        check_inpainting(inpaint_video, inpaint_mask, height, width, self.transformer.config)
        sampling = Sampling(num_inference_steps, guidance_scale, flow_shift, (pose_start, pose_end), attention_kwargs)
        names = callback_on_step_end_tensor_inputs
        unknown = sorted(set(names) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; need some of {self._callback_tensor_inputs}."
            )
        texts = [self._text(prompt, prompt_embeds, "prompt")]
        if sampling.guided:
            texts.append(self._text(negative_prompt, negative_prompt_embeds, "negative_prompt"))
        heard = cut_audio(audio, audio_features, audio_start, audio_duration)
        if not isinstance(heard, AudioFeatures):
            self._audio_models()
        picture = picture_to_pixels(image, height, width)
        self._interrupt = False

        def on_step(
            facts: dict[str, int], step: int, timestep: torch.Tensor, latents: torch.Tensor, noise_pred: torch.Tensor
        ) -> torch.Tensor | None:
            if callback_on_step_end is not None:
                tensors = {"latents": latents, "noise_pred": noise_pred}
                answer = callback_on_step_end(self, step, timestep, {name: tensors[name] for name in names} | facts)
                latents = (answer or {}).get("latents", latents)
            return None if self._interrupt else latents

        return self._segments(
            picture=picture,
            heard=heard,
            texts=texts,
            size=(height, width),
            pose_video=pose_video,
            inpainting=None if inpaint_video is None or inpaint_mask is None else (inpaint_video, inpaint_mask),
            start_from_image=start_from_image,
            frames_per_segment=frames_per_segment,
            num_segments=num_segments,
            motion_frames=motion_frames,
            seed=seed,
            sampling=sampling,
            on_step=on_step,
        )

    def _segments(
        self,
        *,
        picture: torch.Tensor,
        heard: np.ndarray | torch.Tensor | AudioFeatures,
        texts: list[str | torch.Tensor],
        size: tuple[int, int],
        pose_video: torch.Tensor | PoseFrames | None,
        inpainting: tuple[torch.Tensor | PoseFrames, torch.Tensor | PoseFrames] | None,
        start_from_image: bool,
        frames_per_segment: int,
        num_segments: int | None,
        motion_frames: int,
        seed: int,
        sampling: Sampling,
        on_step: Callable[[dict[str, int], int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None],
    ) -> Iterator[WanS2VSegment]:
        try:
            # not as a decorator of this generator: that would hold the last segment while the next one is computed
            with torch.no_grad():
                device = self._execution_device
                features = heard if isinstance(heard, AudioFeatures) else self.encode_audio(heard)
                count = features.num_segments(FPS, frames_per_segment)
                count = min(num_segments, count) if num_segments else count
                embeds = [self.encode_prompt(text) if isinstance(text, str) else text.to(device) for text in texts]
                codec = LatentCodec(self.vae)
                before = Continuation(codec, picture, motion_frames, start_from_image, device)
            z, _, *latent_size = before.ref_latents.shape[1:]

            for index in range(count):
                with torch.no_grad():
                    window = slice(index * frames_per_segment, (index + 1) * frames_per_segment)
                    noise = torch.Generator().manual_seed(seed + index)
                    self._inputs = SegmentInputs(
                        noise=torch.randn(1, z, frames_per_segment // 4, *latent_size, generator=noise).to(device),
                        passes=prompt_passes(embeds, features.bucket(index, FPS, frames_per_segment)[None].to(device)),
                        ref_latents=before.ref_latents,
                        motion_latents=before.motion_latents,
                        pose_latents=codec.encode_pose(pose_video, window, size, device),
                        motion_frames=motion_frames,
                        inpaint_latents=segment_given(codec, *inpainting, window, size, device) if inpainting else None,
                    )
                    after_step = partial(on_step, {"segment": index, "num_segments": count})
                    latents = denoise_segment(self.transformer, self.scheduler, self._inputs, sampling, after_step)
                    self._inputs = None  # else the keys and values of all blocks lie beside the decoder's peak
                    if latents is None:
                        return
                    segment = WanS2VSegment(before.decode(latents), index, count, before.start_frame)
                length = segment.frames.shape[1]
                yield segment
                del segment  # hundreds of megabytes, which must not lie beside the next one's
                if self._interrupt:
                    return
                if index + 1 < count:
                    before.advance(length)
        finally:
            self._inputs = None
            self.maybe_free_model_hooks()

    def forget_projections(self) -> None:
        """To be called from a step callback that changed adapters or their weights.

        Drops what this segment keeps of the old ones: embedded conditions, keys and values, and a step cache's
        residuals.
        """
        if self.transformer.is_cache_enabled:
            self.transformer._reset_stateful_cache()
        for one in self._inputs.passes if self._inputs is not None else []:
            one.memory.forget_projections()

    def _text_models(self) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("This pipeline has no text encoder: pass prompt_embeds, or load it with one.")
        return self.text_encoder, self.tokenizer

    def _audio_models(self) -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor | Wav2Vec2Processor]:
        if self.audio_encoder is None or self.audio_processor is None:
            raise ValueError("This pipeline has no audio encoder: pass audio_features, or load it with one.")
        return self.audio_encoder, self.audio_processor

    def _text(self, text: str | None, embeds: torch.Tensor | None, name: str) -> str | torch.Tensor:
        if embeds is not None:
            check_embeds(f"{name}_embeds", embeds, self.transformer.config.text_dim)
            return embeds
        if text is None:
            raise ValueError(f"Pass {name} or {name}_embeds.")
        self._text_models()
        return text
