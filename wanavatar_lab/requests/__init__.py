"""The parameters of every stage: the only place where a parameter is defined.

    request = SpeechToVideo(image="a.png", audio="v.wav", profile="pocket", seed=1)
    request = parse("speech_to_video", {"image": "a.png", "audio": "v.wav"})

A value that is not allowed raises `RequestError`, with the same message for the Python call, the form, papermill, the
command line and REST. `fields_of(SpeechToVideo)` describes each field in plain values, to build an interface from.
"""

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests.complete import offer_choices
from wanavatar_lab.requests.field_spec import LANGUAGES, FieldView, Words, fields_of
from wanavatar_lab.requests.image_to_video import ImageToVideo
from wanavatar_lab.requests.loras import ImageLoraChoice, LoraChoice
from wanavatar_lab.requests.request import STAGE_REQUESTS, Request, parse, plain_defaults
from wanavatar_lab.requests.speech_to_video import SpeechToVideo
from wanavatar_lab.requests.text_to_image import TextToImage
from wanavatar_lab.requests.text_to_speech import TextToSpeech
from wanavatar_lab.requests.tools import (
    TOOLS,
    Concatenate,
    ExtractAudio,
    ExtractFrame,
    InterpolateFrames,
    NormalizeLoudness,
    Resample,
    SeparateVocals,
    Tool,
    Trim,
)
from wanavatar_lab.requests.upscale import Upscale

STAGE_REQUESTS.update(
    {request.stage: request for request in (TextToImage, Upscale, ImageToVideo, TextToSpeech, SpeechToVideo)}
)
STAGE_REQUESTS.update({tool.stage: tool for tool in TOOLS})

from_json = Request.from_json

offer_choices()

__all__ = [
    "LANGUAGES",
    "STAGE_REQUESTS",
    "TOOLS",
    "Concatenate",
    "ExtractAudio",
    "ExtractFrame",
    "FieldView",
    "ImageLoraChoice",
    "ImageToVideo",
    "InterpolateFrames",
    "LoraChoice",
    "NormalizeLoudness",
    "Request",
    "RequestError",
    "Resample",
    "SeparateVocals",
    "SpeechToVideo",
    "TextToImage",
    "TextToSpeech",
    "Tool",
    "Trim",
    "Upscale",
    "Words",
    "fields_of",
    "from_json",
    "parse",
    "plain_defaults",
]


def __dir__() -> list[str]:
    return __all__
