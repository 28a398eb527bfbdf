"""text_to_speech: a voice that speaks a text, or that of a recording."""

from typing import Annotated, ClassVar, Literal

from pydantic import field_validator

from wanavatar_lab.errors import MediaError, RequestError
from wanavatar_lab.requests.field_spec import Words, spec, translated
from wanavatar_lab.requests.fields import Seed
from wanavatar_lab.requests.request import Request, refused, shown

LONGEST_TEXT = 2_000  # characters: some minutes, for which the published model's cache of keys and values has room
# seconds of a recording: its publisher asks for 3 at least, and more than 15 adds nothing but cost
LEAST_REFERENCE, MOST_REFERENCE = 3.0, 15.0

SpokenLanguage = Literal["auto", "en", "ko", "zh"]
LANGUAGES = {"auto": "Automatic", "en": "English", "ko": "Korean", "zh": "Chinese"}
VOICES = {"woman": "Woman", "man": "Man", "deep_woman": "Woman, deep", "deep_man": "Man, deep"}
Speaker = Annotated[Literal["woman", "man", "deep_woman", "deep_man"], spec("Speaker", options=VOICES)]

_HANGUL, _HAN = ("\u1100", "\u11ff", "\u3130", "\u318f", "\uac00", "\ud7af"), ("\u3400", "\u4dbf", "\u4e00", "\u9fff")


class TextToSpeech(Request):
    """A voice that speaks a text in English, Korean or Chinese, with VoxCPM2, as a WAV file."""

    stage: ClassVar[str] = "text_to_speech"
    labels: ClassVar[Words] = translated("Text to speech")
    help: ClassVar[Words] = translated("Speak a text, in a voice of your choice or in that of a recording.")
    artifact: ClassVar[str] = "audio"
    suffix: ClassVar[str] = ".wav"

    text: Annotated[str, spec("Text", widget="textarea", max_length=LONGEST_TEXT)]
    """What is said, up to some minutes of speech."""
    language: Annotated[SpokenLanguage, spec("Language", options=LANGUAGES)] = "auto"
    """The language of the text. Automatic tells it by the letters."""
    voice: Speaker = "woman"
    """Who speaks, unless there is a recording to speak like."""
    speaking_rate: Annotated[float, spec("Speaking rate", ge=0.6, le=2.0)] = 1.0
    """2 is twice as fast as usual, 0.6 not much more than half as fast."""
    manner: Annotated[str | None, spec("Manner", group="advanced", max_length=200)] = None
    """How it is said, in a few words such as cheerful, a little slower. Only the full models follow it."""
    reference_recording: Annotated[str | None, spec("Recording to speak like", widget="audio", group="advanced")] = None
    """3 to 15 seconds of the person whose voice it becomes, without music and noise. Only with the full models."""
    reference_text: Annotated[
        str | None, spec("Text of the recording", widget="textarea", group="advanced", max_length=LONGEST_TEXT)
    ] = None
    """What is said in the recording, word for word: the voice becomes more like it. Optional."""
    consent: Annotated[bool, spec("The person agrees", group="advanced")] = False
    """The person in the recording has agreed that their voice is imitated. Required with a recording."""
    num_inference_steps: Annotated[int, spec("Steps", unit="steps", group="advanced", ge=1, le=100)] = 10
    """Denoising steps for each sixth of a second. Only the full models denoise."""
    guidance_scale: Annotated[float, spec("Guidance scale", group="advanced", ge=1.0, le=10.0)] = 2.0
    """How closely the voice keeps to text and recording. Only the full models are guided."""
    seed: Seed = -1

    @field_validator("text")
    @classmethod
    def _speakable(cls, text: str) -> str:
        if not any(character.isalnum() for character in text):
            raise refused("must have a letter or a digit to speak")
        return text

    def spoken_language(self) -> str:
        """The language to speak: the requested one, or the one whose letters the text has most of."""
        if self.language != "auto":
            return self.language
        # a syllable of Hangul or a Chinese character is as much speech as about three Latin letters
        counts = {"ko": 3 * _count(self.text, _HANGUL), "zh": 3 * _count(self.text, _HAN)}
        counts["en"] = sum(character.isascii() and character.isalpha() for character in self.text)
        found = max(("ko", "zh", "en"), key=lambda language: counts[language])
        return found if counts[found] else "en"  # of digits alone

    def check_inputs(self) -> None:
        """Check the recording: that it can be read, and how long it is.

        Raises:
            RequestError: it is missing, cannot be read, or is too short or too long.
        """
        super().check_inputs()
        if self.reference_recording is None:
            return
        from wanavatar_lab.media import read_audio  # a good part of a second, which a form need not wait for

        try:
            sound = read_audio(self.reference_recording, mono=True, duration=MOST_REFERENCE + 1)
        except MediaError as error:
            raise RequestError([("reference_recording", str(error))]) from error
        # a file of 15 s may have some samples more
        if not LEAST_REFERENCE <= round(sound.seconds, 1) <= MOST_REFERENCE:
            length = f"more than {MOST_REFERENCE:g}" if sound.seconds > MOST_REFERENCE else f"{sound.seconds:.1f}"
            raise RequestError(
                [
                    (
                        "reference_recording",
                        f"{shown(self.reference_recording)} has {length} s of sound; give {LEAST_REFERENCE:g} to "
                        f"{MOST_REFERENCE:g} s of one person who speaks",
                    )
                ]
            )

    def _conflicts(self) -> list[tuple[str, str]]:
        problems = []
        if not self.the_profile().clones_voices:
            problems += [
                (name, f"is not followed by the profile {self.profile}; leave it empty, or choose the profile full")
                for name in ("reference_recording", "manner")
                if getattr(self, name) is not None
            ]
        elif self.reference_recording is not None and not self.consent:
            problems.append(("consent", "is required with reference_recording: the person has to agree"))
        if self.reference_recording is None and self.reference_text is not None:
            problems.append(("reference_recording", "is required with reference_text; give both, or neither"))
        if self.manner is not None and self.reference_text is not None:
            problems.append(
                ("manner", "is not followed with reference_text, which sets the manner; empty one of the two")
            )
        return problems


def _count(text: str, ranges: tuple[str, ...]) -> int:
    """How many characters of a text are in pairs of first and last characters."""
    pairs = [*zip(ranges[::2], ranges[1::2], strict=True)]
    return sum(any(first <= character <= last for first, last in pairs) for character in text)
