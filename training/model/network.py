"""The network that is fine-tuned."""

import torch

from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import missing_weights


def network_of(profile: str) -> WanS2VTransformer3DModel:
    """The speech_to_video network of a profile, in float32 for the toy one and in bfloat16 for the published one.

    Raises:
        WeightsError: its weights are not installed.
    """
    folder = PROFILES[profile].weights(SpeechToVideo.stage, read_settings().weights_dir)
    if not folder.is_dir():
        raise missing_weights(SpeechToVideo.stage, folder)
    # the published folder has the network at its top, a diffusers folder in a subfolder
    place = folder / "transformer" if (folder / "transformer").is_dir() else folder
    dtype = torch.float32 if profile == "pocket" else torch.bfloat16
    return WanS2VTransformer3DModel.from_official(place, torch_dtype=dtype)
