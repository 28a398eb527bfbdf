"""VoxCPM2 (https://github.com/OpenBMB/VoxCPM, arXiv:2509.24650): a language model whose hidden states a small diffusion
transformer turns into latents of speech, a sixth of a second at a time, and an audio VAE that decodes these at 48 kHz.

The classes are its publisher's, from the package `voxcpm` of the extra `voices`; why it is this model: docs/voices.md.
The recording to speak like goes in front of the text. With its own text it is continued as well: the model then also
takes over how it is said.
"""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from wanavatar_lab import media
from wanavatar_lab.errors import LabError, WeightsError, is_out_of_memory
from wanavatar_lab.requests import TextToSpeech
from wanavatar_lab.requests.text_to_speech import MOST_REFERENCE
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.checkpoint_files import (
    compare_names,
    model_shapes,
    name_problems,
    read_state_dict,
    tensor_shapes,
)
from wanavatar_lab.weights.folders import fingerprint
from wanavatar_lab.weights.safetensors_header import read_header

_log = logging.getLogger(__name__)

INSTALL = ".venv/bin/uv pip install -e '.[voices]'"
MODEL, VAE = "model.safetensors", "audiovae.pth"
# what the model reads in brackets before a text: who speaks, and how
SPEAKERS = {
    "woman": "a woman with a clear, warm voice",
    "man": "a man with a clear, warm voice",
    "deep_woman": "a woman with a deep, calm voice",
    "deep_man": "a man with a deep, calm voice",
}
PARTS_PER_TOKEN = 6  # at most; the publisher takes more for a failure, in which the model does not find an end
# characters a second, to predict the end for the progress bar; the model itself decides when it has said all
PACE = {"en": 14.0, "ko": 6.0, "zh": 4.5}


class VoxCPM2:
    """The model, which the worker's model cache keeps.

    Args:
        folder: of the weights, in the layout of openbmb/VoxCPM2.
        device: where it computes: cpu, cuda or cuda:<n>.

    Raises:
        LabError: the package voxcpm is not installed.
        WeightsError: a file is missing or damaged, or of another model.
    """

    def __init__(self, folder: Path, device: str) -> None:
        try:
            from voxcpm.model.voxcpm2 import VoxCPM2Model
        except ModuleNotFoundError as error:
            raise LabError(
                f"The voices of the full models need the extra `voices`, and {error.name} is not installed. Install "
                f"it: {INSTALL}. The profile pocket speaks without it."
            ) from error
        missing = [name for name in ("config.json", MODEL, VAE, "tokenizer.json") if not (folder / name).is_file()]
        if missing:
            raise WeightsError(f"{folder} lacks {', '.join(missing)}.")
        self.fingerprint, self.device = fingerprint(folder), device
        # read here first, which refuses what holds more than tensors; and the package ignores what is missing
        vae = tensor_shapes(read_state_dict(folder / VAE, ("state_dict",)).items())
        found = {**read_header(folder / MODEL).shapes, **{f"audio_vae.{name}": shape for name, shape in vae.items()}}
        try:
            self.model = VoxCPM2Model.from_local(str(folder), optimize=False, device="cpu")
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise WeightsError(f"{folder} is not a checkpoint of VoxCPM2 ({str(error).splitlines()[0]}).") from error
        expected = model_shapes(self.model)
        if unknown := sorted(found.keys() - expected.keys() - dict(self.model.named_buffers()).keys()):
            _log.warning("%s has %s", folder, name_problems({"that VoxCPM2 does not know": unknown}))
        compare_names({name: shape for name, shape in found.items() if name in expected}, expected, str(folder))

    def offload_to_host(self) -> None:
        """Move it to main memory, to free the GPU for another stage."""
        self._move("cpu")

    def host_bytes(self) -> int:
        """Main memory that it takes while it is offloaded, in bytes."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def speak(self, request: TextToSpeech, context: StageContext) -> tuple[NDArray[np.float32], int, dict[str, Any]]:
        """Samples [T], their rate in Hz, and facts for the manifest.

        Raises:
            MediaError: the recording cannot be read.
            Cancelled: the run was cancelled.
        """
        self._move(self.device)
        text = " ".join(request.text.split())
        like: dict[str, str] = {}
        if request.reference_recording is not None:
            # the package reads WAV files, and the run's own copy may be any sound or video
            recording = str(context.folder / ".reference.wav")
            sound = media.read_audio(request.reference_recording, rate=16_000, mono=True, duration=MOST_REFERENCE)
            media.write_audio(recording, sound)
            like["reference_wav_path"] = recording
            if request.reference_text is not None:
                like |= {"prompt_wav_path": recording, "prompt_text": " ".join(request.reference_text.split())}
        described = request.manner or ""
        if request.reference_recording is None:
            described = ", ".join(filter(None, (SPEAKERS[request.voice], request.manner)))
        said = f"({described}){text}" if described else text
        vae = self.model.audio_vae
        part_seconds = self.model.patch_size * vae.decode_chunk_size / self.model.sample_rate
        tokens = len(self.model.text_tokenizer(said))
        # keys and values of text, recording and speech are in one cache
        taken = tokens + len(self.model.text_tokenizer(like.get("prompt_text", ""))) + 2 * MOST_REFERENCE / part_seconds
        most = min(PARTS_PER_TOKEN * tokens + 10, int(self.model.config.max_length - taken) - 10)
        expected = max(2, round(len(text) / PACE[request.spoken_language()] / part_seconds))
        parts: list[torch.Tensor] = []
        with torch.random.fork_rng([self.device] if self.device.startswith("cuda") else []):
            torch.manual_seed(context.seed)
            context.progress("speak", 0, expected)
            for part in self.model.generate_streaming(
                said,
                **like,
                max_len=most,
                inference_timesteps=request.num_inference_steps,
                cfg_value=request.guidance_scale,
                retry_badcase_ratio_threshold=PARTS_PER_TOKEN,
            ):
                parts.append(part)
                context.check()
                context.progress("speak", min(len(parts), expected), expected)
        if len(parts) == most:
            context.log(
                f"The voice did not come to an end by itself, and was stopped after {most * part_seconds:.0f} s: "
                "listen to its last words, or try another seed."
            )
        samples, rate = torch.cat(parts, dim=-1)[0].float().numpy(), int(self.model.sample_rate)
        if not np.isfinite(samples).all():
            raise LabError("The voice has samples that are not numbers (NaN or infinite). Try another seed.")
        return at_tempo(samples, rate, request.speaking_rate), rate, {"engine": "VoxCPM2"}

    def _move(self, device: str) -> None:
        self.model.to(device).device = device
        for language_model in (self.model.base_lm, self.model.residual_lm):
            # a tensor of its own, which is neither parameter nor buffer
            language_model.kv_cache.kv_cache = language_model.kv_cache.kv_cache.to(device)


def at_tempo(samples: NDArray[np.float32], rate: int, factor: float) -> NDArray[np.float32]:
    """Speech [T] at `factor` times its pace and at its pitch, by FFmpeg's filter atempo, which takes 0.5 and more."""
    if factor == 1:
        return samples
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, format="flt", layout="mono", time_base=Fraction(1, rate))
    graph.link_nodes(source, graph.add("atempo", str(factor)), graph.add("abuffersink")).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    graph.push(frame)
    graph.push(None)
    found = []
    while True:
        try:
            found.append(graph.pull().to_ndarray()[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            return np.concatenate(found)
