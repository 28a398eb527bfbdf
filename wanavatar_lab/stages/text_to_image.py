"""A prompt becomes a picture, which can be enlarged to twice its width and height."""

from collections import deque
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from PIL import Image
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from wanavatar_lab import media
from wanavatar_lab.lora.apply import ONLY_HIGH, applied
from wanavatar_lab.memory import workload_of
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import TextToImage, Upscale
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.stages import kernels, stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.latent_preview import LatentPreview, fit_colours
from wanavatar_lab.stages.models import StageModels
from wanavatar_lab.stages.shared import shared
from wanavatar_lab.wan.latents import check_finite, checked_decoder
from wanavatar_lab.wan.load import load_model, load_part

FILE = "picture.png"
# the parts with weights, by their folder
NETWORKS = {"vae": AutoencoderKLFlux2, "text_encoder": Qwen3ForCausalLM, "transformer": Flux2Transformer2DModel}


class Models(StageModels):
    """The FLUX.2-klein models.

    Attributes:
        upscaler: the models of the stage upscale, once a request has asked for them.
    """

    pipeline: Flux2KleinPipeline
    upscaler: Any = None

    def read(self) -> None:
        """Load the pipeline into main memory."""
        self.pipeline = load_pipeline(self.folder, self.dtype)

    def fit_colours(self) -> torch.Tensor | None:
        """The map `colours` of the VAE for pictures."""
        vae = self.pipeline.vae
        return fit_colours(lambda pixels: vae.encode(pixels.to(vae.dtype)).latent_dist.mode())

    def offload_to_host(self) -> None:
        """Move all networks to main memory, to free the GPU for another stage."""
        super().offload_to_host()
        if self.upscaler is not None:
            self.upscaler.offload_to_host()


def load(profile: Profile, device: str) -> Models:
    """Load the FLUX.2-klein models of a profile into main memory, from a folder in diffusers layout.

    Raises:
        WeightsError: they are missing, or not what the pipeline needs.
    """
    return Models.load(TextToImage.stage, profile, device)


def load_pipeline(folder: Path, dtype: torch.dtype) -> Flux2KleinPipeline:
    """The pipeline of a folder in the layout of `save_pretrained`, in main memory.

    Raises:
        WeightsError: a part cannot be read, or a tensor is missing or left over.
    """
    networks = {name: load_model(kind, folder / name, dtype).requires_grad_(False) for name, kind in NETWORKS.items()}
    pipeline: Flux2KleinPipeline = load_part(Flux2KleinPipeline.from_pretrained, folder, **networks)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(request: TextToImage, models: Models, context: StageContext) -> list[Artifact]:
    """Make the picture, and an enlarged copy if the request has `upscale`.

    Raises:
        RequestError: a LoRA is not found.
        LabError: the picture does not fit into the GPU's memory.
        WeightsError: a LoRA does not fit the network, or the weights of the upscaler are missing or damaged.
        Cancelled: the run was cancelled.
    """
    upscale = stage_module(Upscale.stage) if request.upscale else None
    if upscale is not None:
        models.upscaler = models.upscaler or upscale.load(request.the_profile(), models.device)
        models.upscaler.network()  # so that a missing or damaged file is reported before the picture is made
    workload = workload_of(request, request.size())
    context.say_placement(models.apply_offload("auto", workload, context.ranks))
    kernels.prepare(request, models, context)
    network = models.pipeline.transformer  # not before, since the pipeline may have been loaded anew
    with (
        applied(request, [(network, ONLY_HIGH)], context.log) as loras,
        shared(request, workload, [network], context),
    ):
        picture = _draw(request, models, context)
    context.check()
    if not context.ranks.leads:
        return []
    path = context.folder / FILE
    made_with = context.metadata(request, models.fingerprint, loras.record)
    media.write_picture(path, picture, metadata=made_with)
    context.record(weights=models.fingerprint, loras=loras.record, width=picture.width, height=picture.height)
    artifacts = [Artifact(kind=TextToImage.artifact, path=FILE)]
    if upscale is not None:
        # both stages record facts of the same names, so the upscaler's get a place of their own
        its_context = StageContext(context.folder, context.seed, context.on_step)
        made = upscale.run(
            Upscale(profile=request.profile, image=str(path)), models.upscaler, its_context, made_with=made_with
        )
        artifacts += [artifact.model_copy(update={"role": "upscaled"}) for artifact in made]
        context.record(upscale=its_context.facts)
    return artifacts


def _draw(request: TextToImage, models: Models, context: StageContext) -> Image.Image:
    pipeline, steps, (width, height) = models.pipeline, request.num_inference_steps, request.size()
    _log_what_is_ignored(request, pipeline, context)
    preview, columns = LatentPreview(context, models.colours), width // (2 * pipeline.vae_scale_factor)
    last: deque[torch.Tensor] = deque(maxlen=2)  # the tokens after the last two steps

    def on_step(_: Any, step: int, __: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        context.progress("denoise", step + 1, steps)
        context.check()
        check_finite(tensors["latents"], f"Text to image: the latents after step {step + 1} of {steps}")
        last.append(tensors["latents"])
        if len(last) == 2:  # a single step has no direction
            preview.offer(lambda: _clean_latents(pipeline, last[0], last[1], step, columns))
        return {}

    context.progress("denoise", 0, steps)
    with (
        checked_decoder(pipeline.vae, "Text to image: the decoded pixels"),
        context.cancellable(pipeline.text_encoder, pipeline.vae),
    ):
        pixels: torch.Tensor = pipeline(
            prompt=request.prompt,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=request.guidance_scale,
            # noise of the CPU, so that a seed means the same picture on every device
            generator=torch.Generator("cpu").manual_seed(context.seed),
            callback_on_step_end=on_step,
            callback_on_step_end_tensor_inputs=["latents"],
            output_type="pt",
        ).images[0]
    # rounded where it was made, which copies a quarter
    return Image.fromarray((pixels.float() * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _clean_latents(
    pipeline: Flux2KleinPipeline, before: torch.Tensor, now: torch.Tensor, step: int, columns: int
) -> torch.Tensor:
    """The sample without noise that a step points at.

    Args:
        before, now: tokens [1, h·w, 4·C] before and after step number `step`.
        columns: w, the width of the picture in tokens.

    Returns:
        Latents [C, 2·h, 2·w] as the VAE decodes them.
    """
    start, end = pipeline.scheduler.sigmas[step : step + 2].tolist()
    clean = now - end / (end - start) * (now - before)
    norm = pipeline.vae.bn
    mean, variance = norm.running_mean.to(clean), norm.running_var.to(clean)
    clean = clean[0] * (variance + pipeline.vae.config.batch_norm_eps).sqrt() + mean
    return functional.pixel_shuffle(clean.unflatten(0, (-1, columns)).permute(2, 0, 1), 2)


def _log_what_is_ignored(request: TextToImage, pipeline: Flux2KleinPipeline, context: StageContext) -> None:
    if request.guidance_scale > 1 and pipeline.config.is_distilled:
        context.log(f"guidance_scale {request.guidance_scale:g} has no effect: guidance is distilled into this model.")
    words = [{"role": "user", "content": request.prompt}]
    text = pipeline.tokenizer.apply_chat_template(
        words, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    context.say_tokens("prompt", len(pipeline.tokenizer(text).input_ids), pipeline.tokenizer_max_length)
